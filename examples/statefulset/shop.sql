-- Run once, when the database is made. Every person, number and key in it is made up; card numbers are the schemes' published test numbers.
\getenv readonly_password READONLY_PASSWORD
\getenv readwrite_password READWRITE_PASSWORD
CREATE ROLE readonly NOLOGIN;
CREATE ROLE readwrite NOLOGIN;
CREATE ROLE sg_readonly LOGIN PASSWORD :'readonly_password' IN ROLE readonly;
CREATE ROLE sg_readwrite LOGIN PASSWORD :'readwrite_password' IN ROLE readwrite;

CREATE TABLE customers (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  password text NOT NULL,
  ssn text NOT NULL,
  note text NOT NULL
);
INSERT INTO customers (name, password, ssn, note) VALUES
  ('Ines Berg', 'correct horse', '219-09-9999', 'paid with 4111 1111 1111 1111'),
  ('Tomas Lund', 'battery staple', '457-55-5462', 'prefers mornings'),
  ('Mira Sato', 'hunter2hunter2', '078-05-1120', 'card 5555-5555-5555-4444 on file');

CREATE TABLE orders (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer_id integer NOT NULL REFERENCES customers (id),
  total numeric(10, 2) NOT NULL
);
INSERT INTO orders (customer_id, total) SELECT 1 + i % 3, i % 100 FROM generate_series(1, 5000) AS i;

GRANT SELECT ON customers, orders TO readonly, readwrite;
GRANT INSERT, UPDATE, DELETE ON orders TO readwrite;
