-- The demo's database: a small shop. Every person, number and key in it is made up; card numbers are the schemes' published test numbers.
CREATE SCHEMA prod;

CREATE TABLE customers (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL UNIQUE,
  password text NOT NULL,
  ssn text NOT NULL,
  note text NOT NULL
);
INSERT INTO customers (name, email, password, ssn, note) VALUES
  ('Ines Berg', 'ines@shop.example', 'correct horse', '219-09-9999', 'paid with 4111 1111 1111 1111'),
  ('Tomas Lund', 'tomas@shop.example', 'battery staple', '457-55-5462', 'prefers mornings'),
  ('Mira Sato', 'mira@shop.example', 'hunter2hunter2', '078-05-1120', 'card 5555-5555-5555-4444 on file');

CREATE TABLE orders (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer_id integer NOT NULL REFERENCES customers (id),
  total numeric(10, 2) NOT NULL
);
INSERT INTO orders (customer_id, total) SELECT 1 + i % 3, i % 100 FROM generate_series(1, 5000) AS i;

CREATE TABLE prod.ledger (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, booked date NOT NULL, amount numeric(12, 2) NOT NULL);
INSERT INTO prod.ledger (booked, amount) SELECT date '2026-01-01' + i, i * 10 FROM generate_series(0, 29) AS i;

GRANT USAGE ON SCHEMA public, prod TO readonly, readwrite;
GRANT SELECT ON ALL TABLES IN SCHEMA public, prod TO readonly, readwrite;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO readwrite;
ALTER TABLE prod.ledger OWNER TO readwrite;
ALTER TABLE orders OWNER TO readwrite;
