package agent

import (
	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/dns"
)

// queryBudget bounds the bytes of questions that wait, queued or in the log, by account. It begins anew with each start of the agent: of what
// lay in the log before nobody knows how much was questions.
type queryBudget struct {
	share   int64            // that each account may have
	kept    map[string]int64 // by account; none are 0
	written []writtenPart    // in the log, oldest first
}

// writtenPart is what was written up to a position.
type writtenPart struct {
	end   flow.Position
	bytes map[string]int64 // by account
	sum   int64
}

func (b *queryBudget) room(account string, size int) bool {
	return b.kept[account]+int64(size) <= b.share
}

// atMostBytes is how long the record of a question is at most, as JSON.
func atMostBytes(q *dns.Query) int {
	const rest, address = 720, 48 // what else may stand in it, measured by a test; an IPv6 address with its quotes
	n := rest + address*len(q.Addresses) + len(q.Endpoint) + len(q.Hosted) + len(q.Rule) + len(q.FirewallRule) + 2*len(q.Upstream)
	for i := range len(q.Name) {
		switch c := q.Name[i]; {
		case c < ' ' || c > '~':
			n += len(`\u0000`)
		case c == '"' || c == '\\':
			n += 2
		default:
			n++
		}
	}
	return n
}
