package query

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/parquetfile"
)

// spanRows is how many rows of a Parquet file are read at once, per CPU.
const spanRows = 64 << 10

// parallelSize is from which size on a Parquet file is shared by all CPUs, in bytes.
const parallelSize = 4 << 20

// task is a file to read, or of a large Parquet file every parts-th row group, from part on.
type task struct {
	File
	part, parts int
}

// Run answers a query from the files of a source. Errors name the file.
func Run(ctx context.Context, src Source, q Query) (*Answer, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	files, err := src.Files(ctx)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, api.Errorf(api.CodeInvalidParameter, "--from", "give a folder of delivered files or of evidence",
			"there are no flow records: no .parquet, .log.gz or .ndjson file")
	}
	c, err := q.choose(files)
	if err != nil {
		return nil, err
	}
	files = c.files
	if !c.once {
		q.once = newSeen()
	}
	late := cmp.Or(q.Late, defaultLate)
	total := &atomic.Int64{}
	skipped := 0
	work := make(chan task)
	g, ctx := errgroup.WithContext(ctx)
	collectors := make([]*collector, runtime.GOMAXPROCS(0))
	for i := range collectors {
		worker := newCollector(&q, total)
		collectors[i] = worker
		g.Go(func() error {
			for t := range work {
				if err := worker.file(ctx, src, t); err != nil {
					return named(t.File, err)
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(work)
		for _, f := range files {
			if !q.wanted(f.Name, late) {
				skipped++
				continue
			}
			parts := 1
			if kindOf(f.Name) == kindParquet && f.Size > parallelSize {
				parts = len(collectors)
			}
			for i := range parts {
				select {
				case work <- task{f, i, parts}:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := merge(&q, collectors)
	out.Work.Skipped, out.Work.Beside = skipped, c.beside
	return out, nil
}

// Records answers a query from records that are at hand, such as those that a server sent.
func Records(records func(yield func(*api.FlowRecord) error) error, q Query) (*Answer, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	c := newCollector(&q, &atomic.Int64{})
	r := &jsonReader{q: &q, full: c.add}
	r.start(func(f string) bool { _, ok := format.Lookup(f); return ok })
	err := records(func(rec *api.FlowRecord) error {
		rows := format.Rows(rec, 1)
		for i := range rows {
			if err := r.b.addRow(&rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = r.b.flush()
	}
	if err != nil {
		return nil, err
	}
	return merge(&q, []*collector{c}), nil
}

// check refuses fields that no format has.
func (q *Query) check() error {
	known := func(field string) bool {
		_, ok := format.Lookup(field)
		return ok || field == NameField && q.Names != nil
	}
	refuse := func(param, field string) error {
		return api.Errorf(api.CodeInvalidParameter, param, "see the fields in docs/FLOWLOGS.md", "there is no field %q", api.Shortened(field))
	}
	for _, f := range q.Group {
		if !known(f) {
			return refuse("--group-by", f)
		}
	}
	for _, f := range q.Fields {
		if !known(f) {
			return refuse("--fields", f)
		}
	}
	for _, c := range q.Where {
		for _, cond := range c {
			if !known(cond.Field) {
				return refuse("--where", cond.Field)
			}
		}
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return api.Errorf(api.CodeInvalidCombination, "--until", "give an end behind --since", "the time ends before it begins, or when it does")
	}
	return nil
}

// named adds the file's name to an error, and keeps what the error tells a machine.
func named(f File, err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		out := *e
		out.Message = f.Name + ": " + out.Message
		return &out
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", f.Name, err)
}

func (c *collector) file(ctx context.Context, src Source, f task) (err error) {
	r, err := src.Open(ctx, f.File)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if f.part == 0 {
		c.work.Files++
	}
	if f.Size == 0 {
		return nil
	}
	add := func(b *batch) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return c.add(b)
	}
	if kindOf(f.Name) == kindParquet {
		return c.parquet(r, f, add)
	}
	in, err := open(r, f.Size)
	if err != nil {
		return err
	}
	if kindOf(f.Name) == kindText {
		return c.q.readText(in, add)
	}
	return c.q.readJSON(in, add)
}

// parquet reads what statistics do not leave out, span by span, filter columns first: the others only where something matched.
func (c *collector) parquet(r io.ReaderAt, t task, add func(*batch) error) error {
	p, err := parquetfile.Open(r, t.Size)
	if err != nil {
		return err
	}
	if f := c.q.missing(p.Has); f != "" {
		return noField(f)
	}
	for _, f := range []string{"start", "end"} {
		if p.Has(f) && !p.IsInt(f) {
			return fmt.Errorf("its column %s does not hold numbers", f)
		}
	}
	tests := c.q.pruning(p.Has)
	for g := t.part; g < p.Groups(); g += t.parts {
		spans, err := p.Select(g, tests)
		if err != nil {
			return err
		}
		left := p.Rows(g)
		for _, s := range spans {
			for from := s.From; from < s.To; from += spanRows {
				part := parquetfile.Span{From: from, To: min(from+spanRows, s.To)}
				if err := c.span(p, g, part, add); err != nil {
					return err
				}
				left -= part.To - part.From
			}
		}
		c.work.Pruned += left
	}
	return nil
}

func (c *collector) span(p *parquetfile.Reader, group int, s parquetfile.Span, add func(*batch) error) error {
	b := &batch{rows: int(s.To - s.From), columns: map[string]*parquetfile.Column{}}
	read := func(fields []string) error {
		for _, f := range fields {
			if b.columns[f] != nil {
				continue
			}
			col, err := p.Read(group, s, f)
			if err != nil {
				return err
			}
			b.columns[f] = col
		}
		return nil
	}
	if err := read(c.q.filtering(p.Has)); err != nil {
		return err
	}
	if len(b.columns) > 0 && !slices.Contains(c.q.match(b), true) {
		c.work.Rows += int64(b.rows)
		return nil
	}
	if err := read(c.q.needs(p.Has)); err != nil {
		return err
	}
	return add(b)
}
