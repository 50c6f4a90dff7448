package agent

import (
	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/dns"
)

// queryPart is the part of the node's log that questions which wait for the server may take, all accounts' together: flow records, which
// are of all accounts, have the rest.
const queryPart = 8

// writtenEvery is how many bytes of questions are forgotten at once when the server has them.
const writtenEvery = 64 << 10

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

// wrote takes the place of what a queued question was taken for.
func (b *queryBudget) wrote(account string, queued, written int, end flow.Position) {
	b.add(account, int64(written-queued))
	last := len(b.written) - 1
	if last < 0 || b.written[last].sum >= writtenEvery {
		b.written = append(b.written, writtenPart{bytes: map[string]int64{}})
		last++
	}
	p := &b.written[last]
	p.end = end
	p.bytes[account] += int64(written)
	p.sum += int64(written)
}

// shipped gives back what has arrived, or was removed.
func (b *queryBudget) shipped(at flow.Position) {
	for len(b.written) > 0 {
		p := &b.written[0]
		if p.end.Segment > at.Segment || p.end.Segment == at.Segment && p.end.Offset > at.Offset {
			return
		}
		for account, n := range p.bytes {
			b.add(account, -n)
		}
		b.written = b.written[1:]
	}
}

func (b *queryBudget) add(account string, n int64) {
	if b.kept[account] += n; b.kept[account] <= 0 {
		delete(b.kept, account)
	}
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
