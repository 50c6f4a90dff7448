// Duckdb runs the SQL statements that standard input has, separated by semicolons, in the working directory, and prints what each gives:
// a line of JSON, a list of rows of strings, null where SQL has it. It is a module of its own so that the product stays free of cgo; the
// tests of audit/query build it.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	_ "github.com/duckdb/duckdb-go/v2"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("duckdb: ")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	err := run(ctx, os.Stdin, os.Stdout)
	cancel()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	db, err := sql.Open("duckdb", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// What the tests show must not depend on extensions that DuckDB would fetch.
	if _, err := db.ExecContext(ctx, "SET autoinstall_known_extensions = false; SET TimeZone = 'UTC'"); err != nil {
		return err
	}
	for statement := range strings.SplitSeq(string(text), ";") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		rows, err := query(ctx, db, statement)
		if err != nil {
			return fmt.Errorf("%w in:\n%s", err, statement)
		}
		if err := json.NewEncoder(out).Encode(rows); err != nil {
			return err
		}
	}
	return nil
}

func query(ctx context.Context, db *sql.DB, statement string) (out [][]*string, err error) {
	rows, err := db.QueryContext(ctx, statement)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	out = [][]*string{}
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		row := make([]*string, len(columns))
		for i, v := range values {
			row[i] = text(v)
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

func text(v any) *string {
	var s string
	switch v := v.(type) {
	case nil:
		return nil
	case time.Time:
		s = v.UTC().Format(time.RFC3339)
	default:
		s = fmt.Sprint(v)
	}
	return &s
}
