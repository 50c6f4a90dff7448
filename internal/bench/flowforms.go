package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"

	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/parquetfile"
)

// flowsResult of a run.
type flowsResult struct {
	o        flowsOptions
	where    string
	mesh     *meshFlows // nil: left out
	forms    []formCost
	archives []archive
}

// formCost is what a line costs in one form.
type formCost struct {
	name  string
	bytes float64   // a line
	cpu   []float64 // seconds per million lines, by round
}

// cpuTime is what this process has taken, in seconds.
func cpuTime() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it cannot fail for oneself
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// formLines are written in each form and round.
const formLines = 100_000

// measureForms writes the same lines in every form.
func (r *flowsResult) measureForms() error {
	t := &traffic{rng: rand.New(rand.NewPCG(1, 1))}
	rows := make([]format.Row, formLines)
	for i := range rows {
		rows[i] = t.line(i * archiveHours / formLines)
	}
	for _, f := range []struct {
		name  string
		write func(io.Writer, []format.Field, []format.Row) error
	}{{"Parquet", writeParquet}, {"text, gzip", zippedLines(textLine)}, {"JSON lines, gzip", zippedLines(format.AppendJSON)},
		{"record in an evidence segment", evidenceLines}} {
		for _, fields := range []struct{ name, format string }{{"all fields", format.All}, {"AWS's default", format.Default}} {
			if f.name == "record in an evidence segment" && fields.format == format.Default {
				continue // it has what it has
			}
			list, err := format.Parse(fields.format)
			if err != nil {
				return err
			}
			c := formCost{name: f.name + ", " + fields.name}
			for range r.o.rounds {
				var size counting
				before := cpuTime()
				if err := f.write(&size, list, rows); err != nil {
					return err
				}
				c.cpu = append(c.cpu, (cpuTime()-before)/formLines*1e6)
				c.bytes = float64(size) / formLines
			}
			r.forms = append(r.forms, c)
		}
	}
	return nil
}

type counting int64

func (c *counting) Write(p []byte) (int, error) {
	*c += counting(len(p))
	return len(p), nil
}

func writeParquet(w io.Writer, fields []format.Field, rows []format.Row) error {
	p, err := parquetfile.NewWriter(w, fields)
	if err != nil {
		return err
	}
	if err := p.Write(rows); err != nil {
		return err
	}
	return p.Close()
}

func textLine(dst []byte, fields []format.Field, row *format.Row) ([]byte, error) {
	return format.AppendText(dst, fields, row), nil
}

func zippedLines(line func([]byte, []format.Field, *format.Row) ([]byte, error)) func(io.Writer, []format.Field, []format.Row) error {
	return func(w io.Writer, fields []format.Field, rows []format.Row) (err error) {
		z := gzip.NewWriter(w)
		var b []byte
		for i := range rows {
			if b, err = line(b[:0], fields, &rows[i]); err != nil {
				return err
			}
			if _, err := z.Write(b); err != nil {
				return err
			}
		}
		return z.Close()
	}
}

// evidenceLines are the records themselves, compressed as an hour that is over is.
func evidenceLines(w io.Writer, _ []format.Field, rows []format.Row) error {
	z := gzip.NewWriter(w)
	for i := range rows {
		b, err := json.Marshal(rows[i].FlowRecord)
		if err != nil {
			return err
		}
		if _, err := z.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return z.Close()
}

// markdown is the result as it stands in the document.
func (r *flowsResult) markdown() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s; n = %d rounds, median [least–most].\n\n", r.where, r.o.rounds)
	r.mesh.markdown(&b)
	b.WriteString("What a line costs; an evidence segment has records, of which each makes up to two lines:\n\n" +
		"| form | bytes | CPU, s per million |\n|---|---|---|\n")
	for _, f := range r.forms {
		fmt.Fprintf(&b, "| %s | %.0f | %s |\n", f.name, f.bytes, spreadOf(f.cpu).format(1))
	}
	b.WriteString("\nQuestions to a month of Parquet files with all fields, one an hour, from the page cache; seconds:\n\n| question")
	for _, a := range r.archives {
		fmt.Fprintf(&b, " | %s million lines", strings.TrimSuffix(fmt.Sprintf("%.1f", float64(a.lines)/1e6), ".0"))
	}
	b.WriteString(" |\n|---" + strings.Repeat("|---", len(r.archives)) + "|\n")
	for i, question := range questions {
		b.WriteString("| " + question.name)
		for _, a := range r.archives {
			fmt.Fprintf(&b, " | %s", spreadOf(a.questions[i].seconds).format(2))
		}
		b.WriteString(" |\n")
	}
	b.WriteString("| rows read for the first one")
	for _, a := range r.archives {
		fmt.Fprintf(&b, " | %d", a.questions[0].work.Rows)
	}
	b.WriteString(" |\n\n")
	return b.String()
}
