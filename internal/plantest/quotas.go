package plantest

import "github.com/culvert-net/culvert/plan"

// Unbounded adds the quotas that a plan of hand-made rows needs: everything belongs to one account, number 0, and nothing is
// bounded but by the table itself.
func Unbounded(p *plan.Plan) {
	p.Quotas = nil
	seen := map[plan.Quota]bool{}
	add := func(kind plan.QuotaKind, id uint32) {
		q := plan.Quota{Kind: kind, ID: id, Ceiling: 1 << 30, Open: 1 << 30}
		if !seen[q] {
			seen[q] = true
			p.Quotas = append(p.Quotas, q)
		}
	}
	add(plan.QuotaTable, 0)
	add(plan.QuotaAccount, 0)
	for _, s := range p.Services {
		add(plan.QuotaSent, s.Connection)
	}
	for _, g := range p.Grants {
		add(plan.QuotaReceived, g.Connection)
	}
	for i := range p.GrantTargets {
		p.GrantTargets[i].Ports = 1_000
	}
}
