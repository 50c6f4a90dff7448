package exchange

import (
	"slices"

	"github.com/culvert-net/culvert/agent/health"
)

const (
	// maxProbes is the room for probes that run at the same time; others wait, and their timeouts begin when they do. An account
	// gets no more of it than it leaves free: half when it is alone, a third each when there are two.
	maxProbes = 256
	// ownProbes of an account run whether there is room or not: accounts that take much of it keep nobody waiting.
	ownProbes = 8
)

// queue has the probes that wait for room. Accounts take turns; of one, suspected targets are before others. What makes it long is
// a node's number of targets (health.Monitor.Due).
type queue struct {
	free     int // of the room; negative when accounts' own ones take more
	accounts map[string]*share
	turns    []string // accounts whose probes wait, the next one first
}

// share is an account's.
type share struct {
	running          int
	hurried, waiting []health.Probe
}

func newQueue() queue { return queue{free: maxProbes, accounts: map[string]*share{}} }

func (s *share) waits() bool { return len(s.hurried)+len(s.waiting) > 0 }

// add has a probe wait.
func (q *queue) add(p health.Probe) {
	s := q.accounts[p.Check.Account]
	if s == nil {
		s = &share{}
		q.accounts[p.Check.Account] = s
	}
	if !s.waits() {
		q.turns = append(q.turns, p.Check.Account)
	}
	if p.Hurry {
		s.hurried = append(s.hurried, p)
	} else {
		s.waiting = append(s.waiting, p)
	}
}

// next takes out a probe that may run; ok is false when none may. The caller says when it is done.
func (q *queue) next() (p health.Probe, ok bool) {
	for i, account := range q.turns {
		s := q.accounts[account]
		if s.running >= max(q.free, ownProbes) {
			continue
		}
		if len(s.hurried) > 0 {
			p, s.hurried = s.hurried[0], s.hurried[1:]
		} else {
			p, s.waiting = s.waiting[0], s.waiting[1:]
		}
		s.running++
		q.free--
		q.turns = slices.Delete(q.turns, i, i+1)
		if s.waits() {
			q.turns = append(q.turns, account)
		}
		return p, true
	}
	return p, false
}

// done gives the room of a probe back.
func (q *queue) done(p health.Probe) {
	s := q.accounts[p.Check.Account]
	s.running--
	q.free++
	if s.running == 0 && !s.waits() {
		delete(q.accounts, p.Check.Account)
	}
}
