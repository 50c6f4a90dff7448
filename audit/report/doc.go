// Package report makes the ready reports on flows, of what a query answers and of the resources that there are. It is pure: who asks
// the query is handed in.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/culvert-net/culvert/audit/query"
)

// Ask answers a query, from files or from a server.
type Ask func(query.Query) (*query.Answer, error)

// Report is a table. Values are strings, integers, or times, of which the zero time is a missing one.
type Report struct {
	Kind    string
	Since   time.Time // zero: from the first record on
	Until   time.Time // zero: to the last
	Columns []string
	Rows    [][]any
	Notes   []string // what a reader has to know to read it right
}

// MarshalJSON gives rows as objects.
func (r Report) MarshalJSON() ([]byte, error) {
	type head struct {
		Kind  string            `json:"kind"`
		Since time.Time         `json:"since,omitzero"`
		Until time.Time         `json:"until,omitzero"`
		Notes []string          `json:"notes,omitempty"`
		Rows  []json.RawMessage `json:"rows"`
	}
	out := head{r.Kind, r.Since, r.Until, r.Notes, make([]json.RawMessage, len(r.Rows))}
	for i, row := range r.Rows {
		var b bytes.Buffer
		b.WriteByte('{')
		for j, v := range row {
			if t, ok := v.(time.Time); ok && t.IsZero() {
				v = nil
			}
			value, err := json.Marshal(v)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.Columns[j], err)
			}
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%q:%s", r.Columns[j], value)
		}
		b.WriteByte('}')
		out.Rows[i] = b.Bytes()
	}
	return json.Marshal(out)
}

// Text is the table's cells as text; times are RFC 3339 in UTC.
func (r Report) Text() [][]string {
	out := make([][]string, len(r.Rows))
	for i, row := range r.Rows {
		out[i] = make([]string, len(row))
		for j, v := range row {
			out[i][j] = text(v)
		}
	}
	return out
}

func text(v any) string {
	if t, ok := v.(time.Time); ok {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	return fmt.Sprint(v)
}

func unix(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}
