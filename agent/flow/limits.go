package flow

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Limited is whose packets were refused at a limit of decision 0015: of an endpoint, or else of an account inside its VPC.
type Limited struct {
	Side        string // SideConsumer, SideProvider, "" inside a VPC
	Account     string // that opens the flows
	Endpoint    string
	ServiceName string
	Reason      string
	Packets     uint64 // while the collector lives
	Last        time.Time
}

// limitReasons are the reasons that say so.
var limitReasons = map[string]bool{
	"FLOW_TABLE_FULL": true, "SNAT_PORTS_EXHAUSTED": true, "ACCOUNT_FLOWS_FULL": true, "ENDPOINT_FLOWS_FULL": true,
	"CAP_CONNECTIONS": true, "CAP_FLOWS": true, "CAP_BITS": true,
}

// limits sums up refusals at limits, by all but their number and time.
type limits map[Limited]*Limited

func (l limits) add(r *api.FlowRecord) {
	if !limitReasons[r.Reason] {
		return
	}
	k := Limited{Side: r.Side, Account: cmp.Or(r.ConsumerAccount, r.Account), Endpoint: r.Endpoint, ServiceName: r.ServiceName,
		Reason: r.Reason}
	if l[k] == nil && len(l) >= maxTraffic {
		k = Limited{Reason: r.Reason}
	}
	if l[k] == nil {
		sum := k
		l[k] = &sum
	}
	l[k].Packets += r.Packets
	if r.End.After(l[k].Last) {
		l[k].Last = r.End
	}
}

// Limited returns the sums of now, sorted.
func (c *Collector) Limited() []Limited {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agg == nil {
		return nil
	}
	out := make([]Limited, 0, len(c.agg.limits))
	for v := range maps.Values(c.agg.limits) {
		out = append(out, *v)
	}
	slices.SortFunc(out, func(a, b Limited) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Side, b.Side),
			cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
