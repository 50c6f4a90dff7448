package agent

import (
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/culvert-net/culvert/dns"
)

// decisions are what the query firewall did for an account's workloads where nothing else is recorded, and when each was recorded last.
type decisions struct {
	last  map[decision]time.Time
	swept time.Time // when old ones were removed last
}

// decision is what the query firewall did for one workload.
type decision struct {
	vpc        uint32
	client     netip.Addr
	name, rule string
}

const (
	// decidedAgain is how long the same decision is not recorded again, where the VPC has no query log.
	decidedAgain = time.Minute
	// maxDecided is how many decisions are remembered, of an account an even part.
	maxDecided = 8_192
)

// again says whether a decision was recorded of late. What it cannot remember is recorded.
func (l *queryLog) again(q *dns.Query, account string) bool {
	of := l.decided[account]
	if of == nil {
		of = &decisions{last: map[decision]time.Time{}}
		l.decided[account] = of
	}
	d := decision{q.VPC, q.Client, strings.ToLower(q.Name), q.FirewallRule}
	if last, ok := of.last[d]; ok && q.Time.Sub(last) < decidedAgain {
		return true
	}
	if len(of.last) >= l.partDecided && q.Time.Sub(of.swept) >= time.Second {
		of.swept = q.Time
		maps.DeleteFunc(of.last, func(_ decision, last time.Time) bool { return q.Time.Sub(last) >= decidedAgain })
	}
	if len(of.last) < l.partDecided {
		of.last[d] = q.Time
	}
	return false
}
