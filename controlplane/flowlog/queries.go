package flowlog

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Queries is Query for records of DNS questions, which have their numbers and places among those of flows.
func (l *Log) Queries(ctx context.Context, account string, q api.QueriesQuery, each func(*api.QueryRecord) error,
	idle func() error, wake <-chan struct{}) error {
	if q.Follow {
		q.Until = time.Time{}
	}
	show := func(e api.FlowEnvelope) (api.FlowEnvelope, bool) {
		if e.Kind != api.KindOfQuery || account != "" && !slices.Contains(e.Accounts, account) {
			return e, false
		}
		var line api.QueryLine
		return e, json.Unmarshal(e.Record, &line) == nil && q.Match(&line.Query)
	}
	times := api.FlowQuery{FlowFilter: api.FlowFilter{Since: q.Since, Until: q.Until, Limit: q.Limit}, Follow: q.Follow}
	words := [][]byte{[]byte(`"kind":"query"`)}
	for _, s := range []string{account, q.VPC, q.Interface, q.Client, q.Address} {
		if s != "" {
			words = append(words, strconv.AppendQuote(nil, s))
		}
	}
	return l.read(ctx, times, sieve{words, show}, func(e api.FlowEnvelope) error {
		var line api.QueryLine
		if err := json.Unmarshal(e.Record, &line); err != nil {
			return err
		}
		return each(&line.Query)
	}, idle, wake)
}
