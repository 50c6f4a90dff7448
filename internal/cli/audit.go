package cli

import (
	"context"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

const (
	auditPage = 10_000
)

// auditPages reads the newest events, as many answers as that takes.
func auditPages(ctx context.Context, cl *client.Client, f api.AuditFilter, limit int) ([]api.AuditEvent, error) {
	events := []api.AuditEvent{}
	for len(events) < limit {
		f.Limit = min(limit-len(events), auditPage)
		page, err := cl.ListAudit(ctx, client.WithAuditFilter(f))
		if err != nil {
			return nil, err
		}
		events = append(page, events...)
		if len(page) < f.Limit {
			break
		}
		f.Before = page[0].Seq
	}
	return events, nil
}
