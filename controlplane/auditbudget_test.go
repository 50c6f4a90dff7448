package controlplane

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// TestAuditBudget: an account that changes much has its changes told by hash alone, and then may only take away, until time has gone by;
// others and administrators go on, and the status says who it is.
func TestAuditBudget(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	l := startLab(t, func(c *Config) { c.Tick, c.Now = 20*time.Millisecond, func() time.Time { return *now.Load() } })
	shop, pay, admin := l.as("shop"), l.as("pay"), l.admin()
	id := l.account("shop")
	vpc := must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "a", CIDR: prefix("10.0.0.0/16")}))(t)
	b := l.s.budgets.of(id)
	last := func() api.AuditChange {
		events := l.audited()
		return events[len(events)-1].Changes[0]
	}
	if c := last(); c.After == nil || b.documents.TokensAt(at) >= api.AuditDocumentsBurst || b.events.TokensAt(at) >= api.AuditBytesBurst {
		t.Fatalf("nothing was spent: %+v", c)
	}
	b.documents.ReserveN(at, api.AuditDocumentsBurst)
	must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "b", CIDR: prefix("10.0.0.0/16")}))(t)
	if c := last(); c.After != nil || len(c.AfterHash) != 64 || !slices.Equal(c.Cut, []string{"*"}) {
		t.Errorf("over the budget: %+v", c)
	}
	problem := func() bool {
		return slices.ContainsFunc(must(admin.Status(l.ctx()))(t).Problems, func(p string) bool { return strings.Contains(p, id) })
	}
	if !problem() {
		t.Error("nobody is told")
	}
	must(pay.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "a", CIDR: prefix("10.0.0.0/16")}))(t)
	if c := last(); c.After == nil {
		t.Errorf("another account's: %+v", c)
	}
	must(l.client(l.adminKey, id).CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "c", CIDR: prefix("10.0.0.0/16")}))(t)
	if c := last(); c.After == nil {
		t.Errorf("an administrator's: %+v", c)
	}

	b.events.ReserveN(at, api.AuditBytesBurst)
	_, err := shop.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "d", CIDR: prefix("10.0.0.0/16")})
	wantCode(t, err, api.CodeLimitExceeded)
	if !strings.Contains(err.Error(), "go on in ") {
		t.Errorf("it does not say when: %v", err)
	}
	must(shop.DeleteVPC(l.ctx(), vpc.ID))(t)

	later := at.Add(12 * time.Hour)
	now.Store(&later)
	l.eventually("the account is no problem any more", func() bool { return !problem() })
	must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "d", CIDR: prefix("10.0.0.0/16")}))(t)
	if c := last(); c.After == nil {
		t.Errorf("half a day later: %+v", c)
	}
	// The Merkle log grew, and by whom.
	l.eventually("growth", func() bool {
		g := must(admin.Status(l.ctx()))(t).AuditGrowth
		i := slices.IndexFunc(g, func(g api.AuditGrowth) bool { return g.Account == id })
		return i >= 0 && g[i].Bytes > 2000 && g[i].Bytes < 50_000
	})
	if g := must(shop.Status(l.ctx()))(t).AuditGrowth; g != nil {
		t.Errorf("an account hears of others: %+v", g)
	}
}
