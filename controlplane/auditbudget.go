package controlplane

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/controlplane/store"
)

// auditBudgets bound what accounts add to the audit log, which is kept for ever: what an account does is told with the resources as
// they were and are until that is too much, then by their hashes alone, and where even those are too many it may only take away.
type auditBudgets struct {
	mu sync.Mutex
	by map[string]*auditBudget // by account
}

// auditBudget is in bytes. Both may be overdrawn by a transaction.
type auditBudget struct{ documents, events *rate.Limiter }

const secondsOfDay = 24 * 60 * 60

func (b *auditBudgets) of(account string) *auditBudget {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.by[account]
	if a == nil {
		if b.by == nil {
			b.by = map[string]*auditBudget{}
		}
		a = &auditBudget{
			documents: rate.NewLimiter(api.AuditDocumentsPerDay/secondsOfDay, api.AuditDocumentsBurst),
			events:    rate.NewLimiter(api.AuditBytesPerDay/secondsOfDay, api.AuditBytesBurst),
		}
		b.by[account] = a
	}
	return a
}

// full reports whether nothing is missing that was there at first.
func (a *auditBudget) full(now time.Time) bool {
	return a.documents.TokensAt(now) >= api.AuditDocumentsBurst && a.events.TokensAt(now) >= api.AuditBytesBurst
}

// forget drops those that are full.
func (b *auditBudgets) forget(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.by, func(_ string, a *auditBudget) bool { return a.full(now) })
}

// bounded is the account whose budget a call counts for; "": it is an administrator's, a node's or the server's own, which have none.
func (c *call) bounded() string {
	if c.who.key == nil || c.who.admin() {
		return ""
	}
	return c.account
}

// withinAudit refuses an account's call while it has added too much to the audit log. To take something away stays possible. It says
// how much the call's events may tell.
func (c *call) withinAudit(o operation) error {
	account := c.bounded()
	if account == "" {
		return nil
	}
	b := c.s.budgets.of(account)
	if left := b.events.TokensAt(c.now); left <= 0 && !o.takesAway() {
		wait := time.Duration(-left/float64(b.events.Limit())*float64(time.Second)) + time.Second
		return api.Errorf(api.CodeLimitExceeded, "", fmt.Sprintf("go on in %s, and change less: some %d MiB a day are good for ever",
			wait.Round(time.Second), api.AuditBytesPerDay>>20), "what the account %s changed takes more of the audit log than it may", account)
	}
	c.tx.Tell(int(max(b.documents.TokensAt(c.now), 0)))
	return nil
}

// spend takes what a committed call told off the account's budget.
func (c *call) spend() {
	account := c.bounded()
	if account == "" {
		return
	}
	events, documents, cut := c.tx.Told()
	b := c.s.budgets.of(account)
	b.events.ReserveN(c.now, min(events, api.AuditBytesBurst))
	b.documents.ReserveN(c.now, min(documents, api.AuditDocumentsBurst))
	if cut && documents < store.MaxDocuments { // else it was the transaction that was large
		c.s.problems.set(problemAuditBudget+account, fmt.Sprintf("account %s changes so much that the audit log has its changes by hash alone: "+
			"more than %d MiB a day; ask what it does", account, api.AuditDocumentsPerDay>>20))
	}
}

// problemAuditBudget begins the key of an account's that is over its budget.
const problemAuditBudget = "audit-budget/"

// lookAtBudgets is housekeeping: an account is no problem any more when it has half its budget again.
func (s *Server) lookAtBudgets(context.Context) error {
	now := s.cfg.Now()
	s.problems.keep(problemAuditBudget, func(account string) bool {
		return s.budgets.of(account).documents.TokensAt(now) < api.AuditDocumentsBurst/2
	})
	s.budgets.forget(now)
	return nil
}

// auditGrowth counts what the audit log grew by since the server started, in bytes of the Merkle log, by account. What is of no account
// is under "".
type auditGrowth struct {
	mu sync.Mutex
	by map[string]uint64
}

func (g *auditGrowth) add(account string, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.by == nil {
		g.by = map[string]uint64{}
	}
	g.by[account] += uint64(bytes)
}

func (g *auditGrowth) all() map[string]uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.by)
}

// most are the accounts that added most.
func (g *auditGrowth) most(n int) (out []api.AuditGrowth) {
	for account, bytes := range g.all() {
		out = append(out, api.AuditGrowth{Account: account, Bytes: bytes})
	}
	slices.SortFunc(out, func(a, b api.AuditGrowth) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Account, b.Account))
	})
	return out[:min(len(out), n)]
}

// sealed takes in events that are in the Merkle log now.
func (g *auditGrowth) sealed(batch []leaf.Leaf) {
	for i := range batch {
		if data, err := batch[i].Encode(); err == nil {
			g.add(batch[i].Event.Account, len(data))
		}
	}
}
