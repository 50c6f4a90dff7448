package query

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/parquetfile"
)

// collector gathers what one worker finds.
type collector struct {
	q       *Query
	total   *atomic.Int64 // groups or records of all workers, for the bound
	groups  map[string]*Sums
	records []record
	work    Work
}

type record struct {
	end    int64
	values []string
}

func newCollector(q *Query, total *atomic.Int64) *collector {
	return &collector{q: q, total: total, groups: map[string]*Sums{}}
}

// add takes what the query selects of a batch.
func (c *collector) add(b *batch) error {
	c.work.Rows += int64(b.rows)
	keep := c.q.match(b)
	if c.q.once != nil {
		again, err := c.q.once.mark(b, keep)
		if err != nil {
			return err
		}
		c.work.Matched, c.work.Again = c.work.Matched+again, c.work.Again+again
	}
	if len(c.q.Group) == 0 {
		return c.addRecords(b, keep)
	}
	return c.addGroups(b, keep)
}

func (c *collector) addRecords(b *batch, keep []bool) error {
	for i, ok := range keep {
		if !ok {
			continue
		}
		c.work.Matched++
		r := record{end: number(b.columns["end"], i), values: make([]string, len(c.q.Fields))}
		for j, f := range c.q.Fields {
			r.values[j] = text(b.columns[f], i)
		}
		c.records = append(c.records, r)
		if c.q.Limit > 0 {
			if len(c.records) >= 2*c.q.Limit+1024 {
				c.records = newest(c.records, c.q.Limit)
			}
			continue
		}
		if err := c.bound(1); err != nil {
			return err
		}
	}
	return nil
}

// newest keeps the n records that ended last, oldest first; of equal ends those whose values come last, so that the answer does not
// depend on which worker was quicker.
func newest(records []record, n int) []record {
	slices.SortFunc(records, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.end, b.end), slices.Compare(a.values, b.values))
	})
	if n > 0 && len(records) > n {
		records = slices.Clone(records[len(records)-n:])
	}
	return records
}

// bound refuses an answer that would not fit into memory.
func (c *collector) bound(n int64) error {
	most := int64(cmp.Or(c.q.MaxGroups, defaultMaxGroups))
	if c.total.Add(n) <= most {
		return nil
	}
	return api.Errorf(api.CodeLimitExceeded, "--group-by", "narrow the filter or the time, group by fewer fields, give --limit, or raise "+
		"--max-groups; DuckDB does the same on disk", "the answer has more than %d rows", most)
}

// addGroups sums a batch. Within it a row's group is told by codes, which are turned into words once per group.
func (c *collector) addGroups(b *batch, keep []bool) error {
	columns := make([]*parquetfile.Column, len(c.q.Group))
	for i, f := range c.q.Group {
		columns[i] = b.columns[f]
	}
	packets, bytes, start, end := b.columns["packets"], b.columns["bytes"], b.columns["start"], b.columns["end"]
	seen := map[string]*Sums{}
	key := make([]byte, 0, 9*len(columns))
	for i, ok := range keep {
		if !ok {
			continue
		}
		c.work.Matched++
		key = key[:0]
		for _, col := range columns {
			key = appendCode(key, col, i)
		}
		s := seen[string(key)]
		if s == nil {
			var err error
			if s, err = c.group(columns, i); err != nil {
				return err
			}
			seen[string(key)] = s
		}
		s.add(Sums{1, number(packets, i), number(bytes, i), number(start, i), number(end, i)})
	}
	return nil
}

// appendCode adds what tells the row's value from others of the batch.
func appendCode(key []byte, c *parquetfile.Column, i int) []byte {
	if !c.IsInt() {
		return binary.LittleEndian.AppendUint32(key, uint32(c.Codes[i]))
	}
	if c.Missing(i) {
		return append(key, 0)
	}
	return binary.LittleEndian.AppendUint64(append(key, 1), uint64(c.Ints[i]))
}

// separator of the words of a group's key; no field holds it.
const separator = "\x00"

func (c *collector) group(columns []*parquetfile.Column, i int) (*Sums, error) {
	words := make([]string, len(columns))
	for j, col := range columns {
		words[j] = text(col, i)
	}
	k := strings.Join(words, separator)
	s := c.groups[k]
	if s == nil {
		if err := c.bound(1); err != nil {
			return nil, err
		}
		s = &Sums{}
		c.groups[k] = s
	}
	return s, nil
}

// merge makes the answer of what the workers found.
func merge(q *Query, all []*collector) *Answer {
	out := &Answer{}
	groups := map[string]*Sums{}
	var records []record
	for _, c := range all {
		out.Work.add(c.work)
		records = append(records, c.records...)
		for k, s := range c.groups {
			if have := groups[k]; have != nil {
				have.add(*s)
			} else {
				groups[k] = s
			}
		}
	}
	for _, r := range newest(records, q.Limit) {
		out.Records = append(out.Records, r.values)
	}
	for k, s := range groups {
		out.Groups = append(out.Groups, Group{Key: strings.Split(k, separator), Sums: *s})
	}
	slices.SortFunc(out.Groups, func(a, b Group) int { return slices.Compare(a.Key, b.Key) })
	return out
}

func (w *Work) add(o Work) {
	w.Files += o.Files
	w.Skipped += o.Skipped
	w.Beside += o.Beside
	w.Rows += o.Rows
	w.Pruned += o.Pruned
	w.Matched += o.Matched
	w.Again += o.Again
}

// String tells what was done for an answer.
func (w Work) String() string {
	out := fmt.Sprintf("%d files read, %d left out by time; %d rows read, %d left out by statistics; %d match",
		w.Files, w.Skipped, w.Rows, w.Pruned, w.Matched)
	if w.Again > 0 {
		out += fmt.Sprintf(", %d of them had come before and count once", w.Again)
	}
	if w.Beside > 0 {
		out += fmt.Sprintf("; %d files passed over for evidence or another copy beside them", w.Beside)
	}
	return out
}
