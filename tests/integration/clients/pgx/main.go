// The fixed script of steps for pgx: each step's result goes into one JSON object on stdout, an error as its SQLSTATE and message.
// Arguments: host, port, user, database; the password is in PGPASSWORD. The database is a copy of the shop, used by this run alone.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

type step func(ctx context.Context, c *pgx.Conn) any

var results = map[string]any{}

func address(extra string) string {
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=prefer %s", os.Args[1], os.Args[2], os.Args[3], os.Args[4], extra)
}

func failure(err error) any {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if pg.Code == "42601" { // a gate finds syntax errors itself and says so in its own words
			return []any{pg.Code}
		}
		return []any{pg.Severity, pg.Code, pg.Message, pg.Detail, pg.ConstraintName, pg.Position}
	}
	if err == nil {
		return "no error"
	}
	return "other error: " + err.Error()
}

func run(name, extra string, s step) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, address(extra))
	if err != nil {
		results[name] = "not connected: " + err.Error()
		return
	}
	defer c.Close(ctx)
	results[name] = s(ctx, c)
}

func all(rows pgx.Rows, err error) any {
	if err != nil {
		return failure(err)
	}
	defer rows.Close()
	found := []any{}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return failure(err)
		}
		row := []any{}
		for _, value := range values {
			row = append(row, fmt.Sprintf("%v", value))
		}
		found = append(found, row)
	}
	if rows.Err() != nil {
		return append(found, failure(rows.Err()))
	}
	return append(found, rows.CommandTag().String())
}

func values(ctx context.Context, c *pgx.Conn) any {
	query := "SELECT $1::int2, $2::int8, $3::numeric, $4::float8, $5::text, $6::bytea, $7::bool, $8::date, $9::timestamptz, $10::uuid, $11::int4[], $12::text[], $13::jsonb, $14::text"
	at := time.Date(2026, 11, 25, 1, 2, 3, 4000, time.UTC)
	found := []any{}
	for range 3 {
		found = append(found, all(c.Query(ctx, query, int16(-7), int64(1)<<62, pgtype.Numeric{Int: nil, Valid: false}, 0.1, "ž'\\ \n 🐘", []byte{0, 1, 255}, true, at, at,
			"12345678-1234-5678-1234-567812345678", []int32{1, 2, 3}, []string{"a,b", "q\"", ""}, map[string]any{"a": []int{1, 2}}, nil)))
	}
	return found
}

func queries(ctx context.Context, c *pgx.Conn) any {
	found := []any{all(c.Query(ctx, "SELECT id, name, tags, settings FROM customers ORDER BY id LIMIT 3"))}
	for n := 1; n < 8; n++ {
		found = append(found, all(c.Query(ctx, "SELECT id, status, total_with_tax FROM orders WHERE customer_id = $1 ORDER BY id LIMIT 2", n)))
	}
	tag, err := c.Exec(ctx, "UPDATE accounts SET balance = balance + $1 WHERE id <= $2", 1, 10)
	found = append(found, tag.String(), failure(err))
	tag, err = c.Exec(ctx, "UPDATE accounts SET balance = balance - 1 WHERE id <= 10")
	return append(found, tag.String(), failure(err))
}

func failures(ctx context.Context, c *pgx.Conn) any {
	found := []any{}
	for _, query := range []string{
		"SELEC 1", "SELECT nothing FROM customers", "SELECT 1/0", "INSERT INTO accounts (id, owner) VALUES (1, 'x')", "UPDATE orders SET total = -1 WHERE id = 1", "SELECT 'x'::int",
	} {
		_, err := c.Exec(ctx, query)
		found = append(found, failure(err), all(c.Query(ctx, "SELECT 'alive'")))
	}
	return found
}

func prepared(ctx context.Context, c *pgx.Conn) any {
	description, err := c.Prepare(ctx, "by_id", "SELECT name, id FROM customers WHERE id = $1")
	if err != nil {
		return failure(err)
	}
	found := []any{fmt.Sprint(description.ParamOIDs), len(description.Fields)}
	for n := range 5 {
		found = append(found, all(c.Query(ctx, "by_id", n)))
	}
	found = append(found, failure(c.Deallocate(ctx, "by_id")))
	_, err = c.Exec(ctx, "EXECUTE by_id(1)")
	return append(found, failure(err))
}

func batch(ctx context.Context, c *pgx.Conn) any {
	send := func(bad bool) any {
		b := &pgx.Batch{}
		for n := range 200 {
			b.Queue("INSERT INTO audit_trail (what) VALUES ($1)", fmt.Sprintf("batch %d", n))
		}
		b.Queue("SELECT count(*) FROM audit_trail")
		if bad {
			b.Queue("SELECT 1 / $1::int", 0)
			b.Queue("SELECT 'never'")
		}
		found := []any{}
		answers := c.SendBatch(ctx, b)
		for range 200 {
			if _, err := answers.Exec(); err != nil {
				found = append(found, failure(err))
				break
			}
		}
		for range b.Len() - 200 {
			found = append(found, all(answers.Query()))
		}
		answers.Close()
		return found
	}
	return []any{send(false), send(true), all(c.Query(ctx, "SELECT count(*) FROM audit_trail")), all(c.Query(ctx, "DELETE FROM audit_trail"))}
}

func transactions(ctx context.Context, c *pgx.Conn) any {
	found := []any{}
	err := pgx.BeginTxFunc(ctx, c, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
		tx.Exec(ctx, "UPDATE accounts SET balance = 1 WHERE id = 1")
		inner := pgx.BeginFunc(ctx, tx, func(nested pgx.Tx) error {
			nested.Exec(ctx, "UPDATE accounts SET balance = 2 WHERE id = 1")
			_, err := nested.Exec(ctx, "SELECT 1/0")
			found = append(found, failure(err))
			_, err = nested.Exec(ctx, "SELECT 1")
			found = append(found, failure(err))
			return err
		})
		found = append(found, failure(inner), all(tx.Query(ctx, "SELECT balance, current_setting('transaction_isolation') FROM accounts WHERE id = 1")))
		return errors.New("roll back")
	})
	return append(found, fmt.Sprint(err), all(c.Query(ctx, "SELECT balance FROM accounts WHERE id = 1")))
}

func copies(ctx context.Context, c *pgx.Conn) any {
	rows := [][]any{}
	for n := range 3000 {
		rows = append(rows, []any{fmt.Sprintf("copied %d ž", n)})
	}
	count, err := c.CopyFrom(ctx, pgx.Identifier{"audit_trail"}, []string{"what"}, pgx.CopyFromRows(rows))
	found := []any{count, failure(err)}
	var out strings.Builder
	tag, err := c.PgConn().CopyTo(ctx, &out, "COPY (SELECT what FROM audit_trail ORDER BY id) TO STDOUT")
	found = append(found, tag.String(), failure(err), out.Len())
	tag, err = c.PgConn().CopyFrom(ctx, strings.NewReader("bad\tline\n"), "COPY accounts FROM STDIN")
	found = append(found, tag.String(), failure(err))
	return append(found, all(c.Query(ctx, "DELETE FROM audit_trail")))
}

func pipeline(ctx context.Context, c *pgx.Conn) any {
	p := c.PgConn().StartPipeline(ctx)
	p.SendPrepare("one", "SELECT $1::int + 1", nil)
	p.SendQueryPrepared("one", [][]byte{[]byte("1")}, nil, nil)
	p.SendQueryParams("SELECT 1 / $1::int", [][]byte{[]byte("0")}, nil, nil, nil)
	p.SendQueryParams("SELECT 'void'", nil, nil, nil, nil)
	p.SendPipelineSync()
	p.SendQueryPrepared("one", [][]byte{[]byte("41")}, nil, nil)
	p.SendPipelineSync()
	if err := p.Flush(); err != nil {
		return failure(err)
	}
	found := []any{}
	for {
		answer, err := p.GetResults()
		if err != nil {
			found = append(found, failure(err))
			continue
		}
		if answer == nil {
			break
		}
		switch r := answer.(type) {
		case *pgconn.ResultReader:
			read := r.Read()
			for _, row := range read.Rows {
				found = append(found, string(row[0]))
			}
			found = append(found, failure(read.Err))
		case *pgconn.StatementDescription:
			found = append(found, "described")
		case *pgconn.PipelineSync:
			found = append(found, "sync")
			if len(found) > 0 && countOf(found, "sync") == 2 {
				return append(found, failure(p.Close()))
			}
		}
	}
	return append(found, failure(p.Close()))
}

func countOf(found []any, what string) int {
	count := 0
	for _, item := range found {
		if item == what {
			count++
		}
	}
	return count
}

func several(ctx context.Context, c *pgx.Conn) any {
	found := []any{}
	reader := c.PgConn().Exec(ctx, "SELECT 1; UPDATE accounts SET balance = 5 WHERE id < 4; SELECT 'x' UNION ALL SELECT 'y' ORDER BY 1; SELECT 1/0")
	for reader.NextResult() {
		read := reader.ResultReader().Read()
		found = append(found, len(read.Rows), read.CommandTag.String())
	}
	return append(found, failure(reader.Close()), all(c.Query(ctx, "SELECT balance FROM accounts WHERE id = 1")))
}

func cursor(ctx context.Context, c *pgx.Conn) any {
	tx, err := c.Begin(ctx)
	if err != nil {
		return failure(err)
	}
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, "DECLARE walk SCROLL CURSOR FOR SELECT id FROM accounts ORDER BY id")
	return []any{failure(err), all(tx.Query(ctx, "FETCH 3 FROM walk")), all(tx.Query(ctx, "FETCH LAST FROM walk")), all(tx.Query(ctx, "FETCH BACKWARD 2 FROM walk")), all(tx.Query(ctx, "CLOSE walk"))}
}

func notices(ctx context.Context, _ *pgx.Conn) any {
	config, _ := pgx.ParseConfig(address(""))
	heard := []any{}
	config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) { heard = append(heard, notice.Message) }
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return failure(err)
	}
	defer c.Close(ctx)
	c.Exec(ctx, "SELECT warn('pgx')")
	c.Exec(ctx, "LISTEN pgx")
	c.Exec(ctx, "NOTIFY pgx, 'payload'")
	note, err := c.WaitForNotification(ctx)
	if err != nil {
		return failure(err)
	}
	return append(heard, note.Channel, note.Payload)
}

func cancelled(ctx context.Context, c *pgx.Conn) any {
	timer := time.AfterFunc(300*time.Millisecond, func() { c.PgConn().CancelRequest(ctx) })
	defer timer.Stop()
	_, err := c.Exec(ctx, "SELECT pg_sleep(60)")
	return []any{failure(err), all(c.Query(ctx, "SELECT 'alive'"))}
}

func large(ctx context.Context, c *pgx.Conn) any {
	blob := make([]byte, 3_000_000)
	var back []byte
	var length int
	err := c.QueryRow(ctx, "SELECT $1::bytea, length($2)", blob, strings.Repeat("ž", 1_000_000)).Scan(&back, &length)
	return []any{failure(err), len(back), length}
}

func pool(ctx context.Context, _ *pgx.Conn) any {
	p, err := pgxpool.New(ctx, address("pool_max_conns=4"))
	if err != nil {
		return failure(err)
	}
	defer p.Close()
	var wait sync.WaitGroup
	var lock sync.Mutex
	sum := 0
	for n := range 40 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			var value int
			err := p.QueryRow(ctx, "SELECT $1::int", n).Scan(&value)
			lock.Lock()
			defer lock.Unlock()
			if err != nil {
				sum = -1_000_000
			}
			sum += value
		}()
	}
	wait.Wait()
	return sum
}

func settings(ctx context.Context, c *pgx.Conn) any {
	return all(c.Query(ctx, "SELECT current_setting('application_name'), current_setting('statement_timeout'), current_setting('TimeZone')"))
}

func main() {
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		extra := "default_query_exec_mode=" + mode
		if mode != "exec" && mode != "simple_protocol" {
			run("values in mode "+mode, extra, values)
		}
		run("queries in mode "+mode, extra, queries)
		run("errors in mode "+mode, extra, failures)
		run("batch in mode "+mode, extra, batch)
	}
	run("prepared", "", prepared)
	run("transactions", "", transactions)
	run("copy", "", copies)
	run("pipeline", "", pipeline)
	run("several statements", "", several)
	run("cursor", "", cursor)
	run("notices and notifications", "", notices)
	run("cancel", "", cancelled)
	run("large values", "", large)
	run("pool", "", pool)
	run("settings at start-up", "application_name=steps statement_timeout=12345 timezone=Asia/Tokyo", settings)
	run("protocol 3.2", "max_protocol_version=3.2", settings)
	out, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		panic(err)
	}
	fmt.Println(string(out))
}
