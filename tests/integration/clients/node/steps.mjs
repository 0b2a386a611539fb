// The fixed script of steps for node-postgres: each step's result goes into one JSON object on stdout, an error as its SQLSTATE and
// message. Arguments: host, port, user, database; the password is in PGPASSWORD. The database is a copy of the shop, used by this run alone.
import { once } from "node:events";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import pg from "pg";
import copyStreams from "pg-copy-streams";
import Cursor from "pg-cursor";
import QueryStream from "pg-query-stream";

const [host, port, user, database] = process.argv.slice(2);
const address = { host, port: Number(port), user, database, password: process.env.PGPASSWORD };
const results = {};

// A gate finds syntax errors itself and says so in its own words: the SQLSTATE is what must be the same.
const failure = (error) =>
  error instanceof pg.DatabaseError
    ? error.code === "42601" ? [error.code] : [error.severity, error.code, error.message, error.detail ?? null, error.constraint ?? null, error.position ?? null]
    : `other error: ${error}`;

const attempt = async (work) => {
  try {
    return await work();
  } catch (error) {
    return failure(error);
  }
};

const shown = (answer) =>
  Array.isArray(answer)
    ? answer.map(shown)
    : { command: answer.command, count: answer.rowCount, fields: answer.fields.map((f) => [f.name, f.dataTypeID, f.format]), rows: answer.rows };

async function step(name, work, extra = {}) {
  const client = new pg.Client({ ...address, ...extra });
  client.on("error", () => {});
  try {
    await client.connect();
    results[name] = await attempt(() => work(client));
  } catch (error) {
    results[name] = `not connected: ${error}`;
  } finally {
    await client.end();
  }
}

await step("simple query", async (c) => [
  shown(await c.query("SELECT id, name, tags, settings, created_at FROM customers ORDER BY id LIMIT 3")),
  shown(await c.query("SELECT 1 AS one; UPDATE accounts SET balance = balance WHERE id < 4; SELECT 'x' AS two")),
  shown(await c.query("")),
  shown(await c.query({ text: "SELECT 1 AS a, 2 AS a", rowMode: "array" })),
]);

for (const binary of [false, true]) {
  await step(`values as ${binary ? "binary" : "text"}`, async (c) => {
    const third = binary ? "float4" : "numeric"; // pg-types takes many seconds for a binary numeric
    const text = `SELECT $1::int2 AS a, $2::int8 AS b, $3::${third} AS c, $4::float8 AS d, $5::text AS e, $6::bytea AS f, $7::bool AS g, $8::timestamptz AS h, $9::int4[] AS i, $10::text[] AS j, $11::text AS k`;
    const values = [-7, "9223372036854775807", "1234567890.0001", 0.5, "ž'\\ \n 🐘", Buffer.from([0, 1, 255]), true, new Date("2026-11-25T01:02:03Z"), [1, null, 3], ["a,b", 'q"', ""], null];
    return shown(await c.query({ text, values, binary }));
  });
}

await step("parameters", async (c) => {
  const found = [];
  for (let n = 1; n < 8; n++) found.push(shown(await c.query("SELECT id, status, total_with_tax FROM orders WHERE customer_id = $1 ORDER BY id LIMIT 2", [n])));
  return found;
});

await step("named statements", async (c) => {
  const found = [];
  for (let n = 1; n < 8; n++) found.push((await c.query({ name: "by-id", text: "SELECT name FROM customers WHERE id = $1", values: [n] })).rows);
  found.push(await attempt(() => c.query({ name: "by-id", text: "SELECT something else", values: [] })));
  return found;
});

await step("queued queries", async (c) => {
  const answers = await Promise.all(Array.from({ length: 100 }, (_, n) => attempt(async () => (await c.query("SELECT 100 / $1::int AS n", [n % 10])).rows[0])));
  return answers;
});

await step("errors", async (c) => {
  const found = [];
  const bad = ["SELEC 1", "SELECT nothing FROM customers", "SELECT 1/0", "INSERT INTO accounts (id, owner) VALUES (1, 'x')", "UPDATE orders SET total = -1 WHERE id = 1", "SELECT 'x'::int"];
  for (const text of bad) {
    for (const values of [undefined, []]) {
      found.push(await attempt(() => c.query(text, values)), (await c.query("SELECT 'alive' AS still")).rows);
    }
  }
  return found;
});

await step("transactions", async (c) => {
  const found = [];
  await c.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
  await c.query("UPDATE accounts SET balance = 1 WHERE id = 1");
  await c.query("SAVEPOINT here");
  found.push(await attempt(() => c.query("SELECT 1/0")), await attempt(() => c.query("SELECT 1")));
  await c.query("ROLLBACK TO SAVEPOINT here");
  found.push((await c.query("SELECT balance FROM accounts WHERE id = 1")).rows);
  await c.query("ROLLBACK");
  found.push((await c.query("SELECT balance FROM accounts WHERE id = 1")).rows);
  return found;
});

await step("cursor", async (c) => {
  const cursor = c.query(new Cursor("SELECT id FROM accounts WHERE id > $1 ORDER BY id LIMIT 250", [10]));
  const found = [];
  for (;;) {
    const rows = await cursor.read(100);
    found.push([rows.length, rows.at(-1)?.id ?? null]);
    if (rows.length === 0) break;
  }
  await cursor.close();
  const early = c.query(new Cursor("SELECT id FROM accounts ORDER BY id"));
  found.push(await early.read(3));
  await early.close();
  found.push(await attempt(() => c.query(new Cursor("SELECT 1 / (3 - n) AS q FROM generate_series(1, 5) AS n")).read(10)));
  found.push((await c.query("SELECT 'alive' AS still")).rows);
  return found;
});

await step("stream", async (c) => {
  let count = 0;
  let sum = 0;
  for await (const row of c.query(new QueryStream("SELECT id FROM accounts ORDER BY id", [], { batchSize: 90 }))) {
    count++;
    sum += row.id;
  }
  return [count, sum];
});

await step("copy", async (c) => {
  const found = [];
  const into = c.query(copyStreams.from("COPY audit_trail (what) FROM STDIN"));
  await pipeline(Readable.from(Array.from({ length: 3000 }, (_, n) => `copied ${n} ž\n`)), into);
  found.push(into.rowCount);
  let bytes = 0;
  const out = c.query(copyStreams.to("COPY (SELECT what FROM audit_trail ORDER BY id) TO STDOUT"));
  for await (const chunk of out) bytes += chunk.length;
  found.push(bytes);
  found.push(await attempt(() => pipeline(Readable.from(["bad\tline\n"]), c.query(copyStreams.from("COPY accounts FROM STDIN")))));
  found.push((await c.query("DELETE FROM audit_trail")).rowCount);
  return found;
});

await step("notices and notifications", async (c) => {
  const heard = [];
  c.on("notice", (notice) => heard.push([notice.severity, notice.message]));
  await c.query("SELECT warn('node')");
  const note = once(c, "notification");
  await c.query("LISTEN node");
  await c.query("SELECT pg_notify('node', $1)", ["payload"]);
  const [{ channel, payload }] = await note;
  return [...heard, channel, payload];
});

await step("large values", async (c) => {
  const blob = Buffer.alloc(3_000_000, "x");
  const { rows } = await c.query("SELECT $1::bytea AS blob, length($2) AS length, repeat('y', 2000000) AS y", [blob, "ž".repeat(1_000_000)]);
  return [blob.equals(rows[0].blob), rows[0].length, rows[0].y.length];
});

await step(
  "settings at start-up",
  async (c) => (await c.query("SELECT current_setting('statement_timeout') AS s, current_setting('lock_timeout') AS l, current_setting('application_name') AS a, current_setting('idle_in_transaction_session_timeout') AS i")).rows,
  { statement_timeout: 12345, lock_timeout: 54321, idle_in_transaction_session_timeout: 55555, application_name: "node steps" },
);

await step("statement timeout", async (c) => [await attempt(() => c.query("SELECT pg_sleep(60)")), (await c.query("SELECT 'alive' AS still")).rows], { statement_timeout: 100 });

const pool = new pg.Pool({ ...address, max: 5 });
const answers = await Promise.all(Array.from({ length: 60 }, (_, n) => pool.query("SELECT $1::int AS n", [n])));
results.pool = answers.map(({ rows }) => rows[0].n);
await pool.end();

console.log(JSON.stringify(results, null, 1));
