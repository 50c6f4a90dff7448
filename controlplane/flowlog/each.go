package flowlog

import (
	"context"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Each calls f for every line that ended in [since, until), in the order in which they came, until f fails or ctx ends. It keeps
// nothing in memory.
func (l *Log) Each(ctx context.Context, since, until time.Time, f func(api.FlowEnvelope) error) error {
	days, err := l.days()
	if err != nil {
		return err
	}
	for _, day := range days {
		if day < since.UTC().Format(dayFormat) || day > until.UTC().Format(dayFormat) {
			continue
		}
		err := l.scan(day, nil, func(e api.FlowEnvelope) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if e.End.Before(since) || !e.End.Before(until) {
				return nil
			}
			return f(e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
