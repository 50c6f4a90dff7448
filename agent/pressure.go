package agent

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/plan"
)

// Charge is what is used of something that is bounded.
type Charge struct {
	Quota plan.QuotaKind // 0: source ports of Source toward Target
	ID    uint32         // number of an account or connection
	Used  int64          // flow entries, two a flow, or source ports
	Bound uint32

	Source   netip.Addr
	Target   netip.AddrPort
	Protocol uint8
}

// named is whom a charge is about: kind, as metrics have it, and the id of an account or connection.
func (c Charge) named(p *plan.Plan) (kind, id string) {
	if p != nil {
		for _, q := range p.Quotas {
			if q.Kind == c.Quota && q.ID == c.ID {
				id = q.Name
			}
		}
	}
	switch c.Quota {
	case plan.QuotaTable:
		return "table", ""
	case plan.QuotaAccount:
		return "account", id
	case plan.QuotaSent, plan.QuotaReceived:
		return "connection", id
	}
	return "ports", fmt.Sprintf("%s to %s", c.Source, c.Target)
}

// text says it to people.
func (c Charge) text(p *plan.Plan) string {
	kind, id := c.named(p)
	full := c.Used * 100 / int64(max(c.Bound, 1))
	flows := fmt.Sprintf("%d of %d flows (%d %%)", c.Used/2, c.Bound/2, full)
	switch kind {
	case "table":
		return fmt.Sprintf("flow table: %s of what is open to all are in use; --flow-table-entries makes it larger after the next boot", flows)
	case "ports":
		return fmt.Sprintf("source ports: %d of %d (%d %%) from %s are in use; a load balancer in more subnets has more addresses",
			c.Used, c.Bound, full, id)
	}
	return fmt.Sprintf("flow table: %s %s uses %s of its share; beyond it new ones are refused", kind, id, flows)
}

// limitTold is how long a refusal at a limit is said after it.
const limitTold = 2 * time.Minute

// limitTexts say whose packets were refused at a limit of late; how many, metrics and flow records tell.
func limitTexts(all []flow.Limited, now time.Time) (texts []string) {
	for _, l := range all {
		if now.Sub(l.Last) > limitTold {
			continue
		}
		whose := "account " + l.Account
		if l.Endpoint != "" {
			whose = fmt.Sprintf("endpoint %s to %s, account %s", l.Endpoint, l.ServiceName, l.Account)
		}
		texts = append(texts, fmt.Sprintf("limits: packets of %s are refused with %s: culvert flows query --reason %s", whose, l.Reason,
			l.Reason))
	}
	return texts
}
