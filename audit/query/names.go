package query

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/names"
	"github.com/culvert-net/culvert/audit/parquetfile"
)

// NameField is the name that the client of a flow asked its resolver for before, as [names.Index] has it. No file has it: it is made of
// fields of the line and of Query.Names.
const NameField = "queried-name"

const (
	// nameLookback is how long before the query's time questions are looked at: names of a day ago are not used any more, but by flows
	// that are open for longer.
	nameLookback = 24 * time.Hour
	// maxAnswers bounds the answers of questions that are held: some hundred bytes each.
	maxAnswers = 4_000_000
)

// nameFields are what a name is found by: the flow as its client opened it, and when.
var nameFields = []string{"vpc-id", "srcaddr", "dstaddr", "pkt-srcaddr", "pkt-dstaddr", "flow-direction", "reply", "state", "start-micros"}

// IsNamed tells whether the query has to do with names.
func (q *Query) IsNamed() bool {
	return slices.Contains(q.Group, NameField) || slices.Contains(q.Fields, NameField) || slices.ContainsFunc(q.Where, func(c Clause) bool {
		return slices.ContainsFunc(c, func(cond Condition) bool { return cond.Field == NameField })
	})
}

// stored are the fields of files that these are made of.
func stored(fields []string) []string {
	out := make([]string, 0, len(fields))
	for _, f := range fields {
		if f == NameField {
			out = append(out, nameFields...)
			continue
		}
		out = append(out, f)
	}
	return out
}

// name adds the column of names to a batch that has what it is made of.
func (q *Query) name(b *batch) {
	if q.Names == nil || b.columns[NameField] != nil {
		return
	}
	for _, f := range nameFields {
		if b.columns[f] == nil {
			return
		}
	}
	out := &parquetfile.Column{Codes: make([]int32, b.rows)}
	codes := map[string]int32{}
	for i := range b.rows {
		name, ok := q.Names.Of(opened(b, i))
		code, had := codes[name]
		switch {
		case !ok:
			code = -1
		case !had:
			code = int32(len(out.Dict))
			codes[name] = code
			out.Dict = append(out.Dict, name)
		}
		out.Codes[i] = code
	}
	b.columns[NameField] = out
}

// opened is the flow of a line as it entered at the line's node. The interface saw that itself where it opened the flow; else it stands on
// the other side of the translation.
func opened(b *batch, i int) *api.FlowRecord {
	reply := number(b.columns["reply"], i) != 0
	src, dst := "pkt-srcaddr", "pkt-dstaddr"
	if (text(b.columns["flow-direction"], i) == "egress") != reply {
		src, dst = "srcaddr", "dstaddr"
	}
	if reply {
		src, dst = dst, src
	}
	return &api.FlowRecord{VPC: text(b.columns["vpc-id"], i), State: text(b.columns["state"], i),
		Start: time.UnixMicro(number(b.columns["start-micros"], i)),
		Tuple: api.FlowTuple{SrcAddr: text(b.columns[src], i), DstAddr: text(b.columns[dst], i)}}
}

// Asked is the time of the questions that names of a query come from. Zero: no bound.
func (q *Query) Asked() (since, until time.Time) {
	if !q.Since.IsZero() {
		since = q.Since.Add(-nameLookback)
	}
	return since, q.Until
}

// TooManyQuestions refuses what would not fit into memory.
func TooManyQuestions(held int) error {
	if held <= maxAnswers {
		return nil
	}
	return api.Errorf(api.CodeLimitExceeded, "--names", "narrow the time", "workloads were given more than %d addresses in it", maxAnswers)
}

// Questions gives names of what nodes' resolvers answered, from the evidence of a source: there the questions stand among the records
// of flows. Of other files, which have none, names are not known, and that is an error.
func Questions(ctx context.Context, src Source, q Query) (*names.Index, error) {
	files, err := src.Files(ctx)
	if err != nil {
		return nil, err
	}
	b := &questions{names: names.NewBuilder()}
	b.since, b.until = q.Asked()
	asked := Query{Since: b.since, Until: b.until}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	c, err := q.choose(files)
	if err != nil {
		return nil, err
	}
	for _, f := range c.files {
		if kindOf(f.Name) != kindJSON || !asked.wanted(f.Name, cmp.Or(q.Late, defaultLate)) {
			continue
		}
		g.Go(func() error {
			if err := b.file(ctx, src, f); err != nil {
				return named(f, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if !b.evidence {
		return nil, api.Errorf(api.CodeInvalidParameter, "--names", "give evidence with --from (culvert flows export), or ask the server",
			"questions to the resolver stand in evidence only, and the files of this time are none")
	}
	return b.names.Index(), nil
}

// questions gathers those of several files.
type questions struct {
	since, until time.Time

	mu       sync.Mutex
	names    *names.Builder
	evidence bool // some file is
}

func (b *questions) file(ctx context.Context, src Source, f File) (err error) {
	r, err := src.Open(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if f.Size == 0 {
		return nil
	}
	in, err := open(r, f.Size)
	if err != nil {
		return err
	}
	return lines(in, func(n int, line []byte, whole bool) error {
		if n%batchRows == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		question := bytes.HasPrefix(line, queryLine)
		if !question {
			if n == 1 && (bytes.HasPrefix(line, sealLine) || bytes.Contains(line, recordWord)) {
				b.found()
			}
			return nil
		}
		var l api.QueryLine
		if err := json.Unmarshal(line, &l); err != nil {
			if !whole {
				return nil // being written just now
			}
			return fmt.Errorf("no record of a question: %w", err)
		}
		return b.add(&l.Query)
	})
}

func (b *questions) found() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.evidence = true
}

func (b *questions) add(r *api.QueryRecord) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.evidence = true
	if (api.QueryFilter{Since: b.since, Until: b.until}).Match(r) {
		b.names.Add(r)
	}
	return TooManyQuestions(b.names.Len())
}
