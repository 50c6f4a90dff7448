package cli

import (
	"context"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/names"
	"github.com/culvert-net/culvert/audit/query"
)

// recordPlace tells a record of a node's log from all others.
type recordPlace struct {
	node, boot string
	seq        uint64
}

// everyFlow gives each record that the filter selects, however many there are: page gives the newest f.Limit of them, oldest first.
func everyFlow(page func(api.FlowFilter, func(api.FlowEnvelope) error) error, f api.FlowFilter, each func(api.FlowEnvelope) error) error {
	return everyRecord(f.Limit, f.Until, func(until time.Time, each func(api.FlowEnvelope) error) error {
		f.Until = until
		return page(f, each)
	}, func(e api.FlowEnvelope) (recordPlace, time.Time) { return recordPlace{e.Node, e.Boot, e.Seq}, e.End }, each)
}

// everyRecord gives each record before until (zero: to the last), however many there are: page gives the newest limit of them, oldest
// first, which is repeated with what is older. Records of the time at which a page begins are asked for again, and those that it had are
// passed over.
func everyRecord[T any](limit int, until time.Time, page func(until time.Time, each func(T) error) error,
	where func(T) (recordPlace, time.Time), each func(T) error) error {
	had := map[recordPlace]bool{}
	for {
		edge := map[recordPlace]bool{}
		var first time.Time
		n, fresh := 0, 0
		err := page(until, func(r T) error {
			at, end := where(r)
			if n++; n == 1 {
				first = end
			}
			if end.Equal(first) {
				edge[at] = true
			}
			if had[at] {
				return nil
			}
			fresh++
			return each(r)
		})
		switch {
		case err != nil:
			return err
		case n < limit:
			return nil
		case fresh == 0:
			return api.Errorf(api.CodeInvalidParameter, "--until", "narrow the filter, or ask files: --from",
				"%d records or more end at %s", limit, stamp(first))
		}
		until, had = first.Add(1), edge
	}
}

// askNames takes from the server what workloads asked their resolvers, as far as the account may know of it.
func askNames(ctx context.Context, c *client.Client, q query.Query) (*names.Index, error) {
	since, until := q.Asked()
	b := names.NewBuilder()
	page := func(until time.Time, each func(*api.QueryRecord) error) error {
		return c.Queries(ctx, api.QueriesQuery{QueryFilter: api.QueryFilter{Since: since, Until: until, Limit: serverLimit}}, each)
	}
	where := func(r *api.QueryRecord) (recordPlace, time.Time) {
		return recordPlace{r.Node, r.Boot, r.Sequence}, r.End
	}
	err := everyRecord(serverLimit, until, page, where, func(r *api.QueryRecord) error {
		b.Add(r)
		return query.TooManyQuestions(b.Len())
	})
	if err != nil {
		return nil, err
	}
	return b.Index(), nil
}
