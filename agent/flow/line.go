package flow

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// Kind is what a line of the log is.
type Kind string

// Kinds.
const (
	KindFlow  Kind = api.KindOfFlow  // a flow record
	KindQuery Kind = api.KindOfQuery // the record of a DNS query
	KindSeal  Kind = api.KindOfSeal  // closes the lines before it; decision 0024
)

// Entry is one line of the log as it was written.
type Entry struct {
	Kind     Kind
	Raw      []byte // without its newline
	Node     string
	Boot     string
	Sequence uint64 // of a seal: of the last line before it
	End      time.Time
	Accounts []string // who may see it; of a flow record only
}

var (
	sealPrefix  = []byte(`{"seal":`)
	queryPrefix = []byte(`{"query":`)
)

// kindOf looks at how a line begins.
func kindOf(raw []byte) Kind {
	switch {
	case bytes.HasPrefix(raw, sealPrefix):
		return KindSeal
	case bytes.HasPrefix(raw, queryPrefix):
		return KindQuery
	}
	return KindFlow
}

// parseFlow reads a line that is a flow record.
func parseFlow(raw []byte) (r api.FlowRecord, ok bool) {
	ok = kindOf(raw) == KindFlow && json.Unmarshal(raw, &r) == nil
	return r, ok
}

// numbered is what lines of records have in common, whatever they tell.
type numbered struct {
	Node     string    `json:"node"`
	Boot     string    `json:"boot"`
	Sequence uint64    `json:"sequence"`
	End      time.Time `json:"end"`
}

// parseLine reads any line; not ok: it is damaged.
func parseLine(raw []byte) (Entry, bool) {
	raw = bytes.TrimSuffix(raw, []byte{'\n'})
	l := Entry{Kind: kindOf(raw), Raw: raw}
	var n numbered
	switch l.Kind {
	case KindSeal:
		s, _, err := seal.Parse(raw)
		if err != nil {
			return l, false
		}
		n = numbered{s.Node, s.Boot, s.Last, s.End}
	case KindQuery:
		var q struct {
			Query numbered `json:"query"`
		}
		if json.Unmarshal(raw, &q) != nil {
			return l, false
		}
		n = q.Query
	default:
		r, ok := parseFlow(raw)
		if !ok {
			return l, false
		}
		n = numbered{r.Node, r.Boot, r.Sequence, r.End}
		l.Accounts = Accounts(&r)
	}
	l.Node, l.Boot, l.Sequence, l.End = n.Node, n.Boot, n.Sequence, n.End
	return l, l.Boot != ""
}
