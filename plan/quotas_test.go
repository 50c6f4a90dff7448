package plan_test

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/internal/worlds"
	"github.com/culvert-net/culvert/plan"
)

// What is promised is there: to accounts of the table, to connections of their account's share, of ports toward a target. All
// that flows are charged to has a row, and a service's caps are in it.
func TestQuotas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "world"), 0))
		r := worlds.New(rng, worlds.Small)
		for _, s := range r.Services {
			s.Caps = api.Caps{MaxFlows: 10, MaxConnectionsPerSecond: 20, MaxBitsPerSecond: 1_000_000}
		}
		shares := plan.Shares{
			Entries: rapid.Uint32Range(0, 1<<24).Draw(t, "entries"), Account: rapid.Uint32Range(0, 100).Draw(t, "account"),
			Reserve: rapid.Uint32Range(0, 90).Draw(t, "reserve"),
		}
		index := view.NewIndex(r)
		for id := range r.Nodes {
			v := index.View(id)
			f := plantest.Facts(*v)
			f.Shares = shares
			p, err := plan.Compile(*v, f)
			if err != nil {
				t.Fatal(err)
			}
			checkQuotas(t, p)
		}
	})
}

func checkQuotas(t *rapid.T, p *plan.Plan) {
	if p.Generation == 0 {
		return
	}
	rows := map[[2]uint32]plan.Quota{}
	for _, q := range p.Quotas {
		if q.Name == "" {
			t.Errorf("quota %s has no name", q.Key())
		}
		rows[[2]uint32{uint32(q.Kind), q.ID}] = q
	}
	table := rows[[2]uint32{uint32(plan.QuotaTable), 0}]
	var promised uint64
	owners := map[[2]uint32]uint32{}
	promisedBy := map[uint32]uint64{}
	own := func(kind plan.QuotaKind, connection, account uint32) {
		key := [2]uint32{uint32(kind), connection}
		q, ok := rows[key]
		if _, seen := owners[key]; !seen {
			owners[key] = account
			promisedBy[account] += uint64(q.Guaranteed)
		}
		if !ok || owners[key] != account || q.Most != 2*min(q.Most/2, 10) || q.Most == 0 || q.ConnectionsPerSecond == 0 || q.BitsPerSecond == 0 {
			t.Fatalf("connection %d of account %d: %+v, %t", connection, account, q, ok)
		}
	}
	accounts := map[uint32]uint32{} // by VPC
	for _, e := range p.ENIs {
		accounts[e.VPC] = e.Account
	}
	for _, s := range p.Services {
		if s.Tag != 0 && accounts[s.VPC] != 0 && s.VPC != s.ProviderVPC {
			own(plan.QuotaSent, s.Connection, accounts[s.VPC])
		}
	}
	for _, g := range p.Grants {
		if g.ConsumerVPC != g.ProviderVPC {
			own(plan.QuotaReceived, g.Connection, g.Account)
		}
	}
	for _, q := range p.Quotas {
		if q.Kind != plan.QuotaAccount {
			continue
		}
		promised += uint64(q.Guaranteed)
		if promisedBy[q.ID]+uint64(q.Open) > uint64(q.Ceiling) || q.Ceiling > table.Ceiling {
			t.Fatalf("account %+v promises its connections %d", q, promisedBy[q.ID])
		}
	}
	if promised+uint64(table.Open) > uint64(table.Ceiling) {
		t.Fatalf("table %+v promises %d", table, promised)
	}
}
