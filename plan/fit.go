package plan

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// limits are how many rows of each table a plan may have.
type limits struct {
	Zones, Links, Addresses, Peers, AllowedIPs, RuleSets, Services, TargetTables, Grants, GrantTargets, Probes, Paths, Names int
}

var nodeLimits = limits{
	Zones: MaxVPCs, Links: MaxENIs, Addresses: MaxAddresses, Peers: MaxPeers, AllowedIPs: MaxAllowedIPs,
	RuleSets: MaxRuleSets, Services: MaxServices, TargetTables: MaxTargetTables, Grants: MaxGrants,
	GrantTargets: MaxGrantTargets, Probes: MaxProbes, Paths: MaxPaths, Names: MaxNames,
}

// fit leaves out of the plan what exceeds a limit. A view is never refused for its size: what one tenant fills must not
// keep another's revocation from a node.
//
// Accounts take turns: each puts in its oldest row, then each its second, until the table is full. So what an account has
// fits up to an even share whatever the others do, a table is used to its end, and within an account the newest is left
// out and what worked before goes on. Shared by VPC instead, or first come, first served, one account could fill the table
// alone. Every row that stays is the view's; those that refer to what is left out go too.
func (c *compiler) fit(l limits) {
	c.fitNames(l)
	c.fitPeers(l)
	c.fitLinks(l)
	c.fitAddresses(l)
	c.fitServices(l)
	c.fitGrants(l)
	c.fitProbes(l)
	c.fitRuleSets(l)
	c.paths(l)
	c.plan.Problems = append(c.plan.Problems, c.excess.texts()...)
	slices.Sort(c.plan.Problems)
}

// takingTurns puts first everybody's first row, then everybody's second, and so on, each owner's rows in their order.
func takingTurns[R any](rows []R, owner func(R) string) []R {
	type turn struct {
		n     int
		owner string
		row   R
	}
	next := map[string]int{}
	turns := make([]turn, 0, len(rows))
	for _, r := range rows {
		o := owner(r)
		turns = append(turns, turn{next[o], o, r})
		next[o]++
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(a.owner, b.owner)) })
	out := make([]R, 0, len(rows))
	for _, t := range turns {
		out = append(out, t.row)
	}
	return out
}

// shared keeps room rows of a table, of each account the oldest; age must be unique.
func shared[R any](c *compiler, table string, rows []R, room int, vpc func(R) uint32, age, name func(R) string) []R {
	if len(rows) <= room {
		return rows
	}
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b R) int { return cmp.Compare(age(a), age(b)) })
	rows = takingTurns(rows, func(r R) string { return c.account(vpc(r)) })
	for _, r := range rows[room:] {
		c.leave(table, vpc(r), fullText(room), name(r))
	}
	return rows[:room]
}

func fullText(room int) string {
	return fmt.Sprintf("a node has room for %d, shared among the accounts that need it", room)
}

// account is whose VPC it is.
func (c *compiler) account(vpc uint32) string {
	if v := c.vpcs[vpc]; v != nil && v.Account != "" {
		return v.Account
	}
	return fmt.Sprintf("of VPC %d", vpc)
}

func (c *compiler) fitNames(l limits) {
	all := len(c.plan.Zones)
	c.plan.Zones = shared(c, "vpcs", c.plan.Zones, l.Zones, func(z Zone) uint32 { return z.VPC }, Zone.Key,
		func(z Zone) string { return c.vpcs[z.VPC].ID })
	if len(c.plan.Zones) < all {
		kept := map[uint32]bool{}
		for _, z := range c.plan.Zones {
			kept[z.VPC] = true
		}
		c.plan.Names = slices.DeleteFunc(c.plan.Names, func(n Name) bool { return !kept[n.VPC] })
	}
	connection := map[string]uint32{}
	for _, e := range c.view.Endpoints {
		connection[e.ID] = e.ConnectionNumber
	}
	c.plan.Names = shared(c, "names", c.plan.Names, l.Names, func(n Name) uint32 { return n.VPC },
		func(n Name) string { return pad(uint64(connection[n.Endpoint])) + "/" + n.Key() },
		func(n Name) string { return n.Name })
}

// fitPeers keeps the oldest nodes, and of their prefixes first those of the nodes themselves.
func (c *compiler) fitPeers(l limits) {
	if len(c.plan.Peers) > l.Peers {
		number := map[string]uint32{}
		for _, p := range c.view.Peers {
			number[p.PublicKey] = p.Number
		}
		slices.SortFunc(c.plan.Peers, func(a, b Peer) int {
			return cmp.Or(cmp.Compare(number[a.PublicKey], number[b.PublicKey]), cmp.Compare(a.PublicKey, b.PublicKey))
		})
		gone := map[string]bool{}
		for _, p := range c.plan.Peers[l.Peers:] {
			gone[p.PublicKey] = true
			c.excess.add(excess{table: "peers", of: "the mesh", why: fmt.Sprintf("a node has room for %d", l.Peers)}, p.Node)
		}
		c.plan.Peers = c.plan.Peers[:l.Peers]
		c.plan.AllowedIPs = slices.DeleteFunc(c.plan.AllowedIPs, func(a AllowedIP) bool { return gone[a.PublicKey] })
	}
	if len(c.plan.AllowedIPs) <= l.AllowedIPs {
		return
	}
	var nodes, tenants []AllowedIP
	for _, a := range c.plan.AllowedIPs {
		if prefixVPC(a) == 0 {
			nodes = append(nodes, a)
		} else {
			tenants = append(tenants, a)
		}
	}
	c.plan.AllowedIPs = append(nodes, shared(c, "peers.allowedIPs", tenants, max(0, l.AllowedIPs-len(nodes)), prefixVPC,
		func(a AllowedIP) string { return a.Prefix.Addr().StringExpanded() + "/" + pad(uint64(a.Prefix.Bits())) },
		func(a AllowedIP) string { return a.Prefix.String() })...)
}

// prefixVPC is the number of the VPC that an overlay prefix is in, 0 for a node's own address.
func prefixVPC(a AllowedIP) uint32 {
	b := a.Prefix.Addr().As16()
	return binary.BigEndian.Uint32(b[4:8])
}

func (c *compiler) fitLinks(l limits) {
	all := len(c.plan.Links)
	c.plan.Links = shared(c, "enis", c.plan.Links, l.Links, func(x Link) uint32 { return x.VPC },
		func(x Link) string { return pad(uint64(x.Number)) }, Link.Key)
	if len(c.plan.Links) == all {
		return
	}
	kept := map[string]bool{}
	for _, x := range c.plan.Links {
		kept[x.ENI] = true
	}
	c.plan.ENIs = slices.DeleteFunc(c.plan.ENIs, func(e ENI) bool { return !kept[e.ID] })
}

// fitAddresses keeps those of what is attached here, which no other can push out, then the resolvers', then the oldest.
func (c *compiler) fitAddresses(l limits) {
	if len(c.plan.Addresses) <= l.Addresses {
		return
	}
	here := map[string]bool{}
	for _, x := range c.plan.Links {
		here[x.ENI] = true
	}
	var kept, others []Address
	for _, a := range c.plan.Addresses {
		if a.Type == AddressWorkload && here[a.ENI] {
			kept = append(kept, a)
		} else {
			others = append(others, a)
		}
	}
	c.plan.Addresses = append(kept, shared(c, "addresses", others, max(0, l.Addresses-len(kept)),
		func(a Address) uint32 { return a.VPC },
		func(a Address) string { return pad(uint64(a.Number)) + "/" + a.Key() },
		func(a Address) string { return cmp.Or(a.ENI, "the resolver "+a.Address.String()) })...)
	has := map[vpcAddr]bool{}
	for _, a := range c.plan.Addresses {
		has[vpcAddr{a.VPC, a.Address}] = true
	}
	c.plan.Services = slices.DeleteFunc(c.plan.Services, func(s Service) bool { return !has[vpcAddr{s.VPC, s.Address}] })
}

// fitServices keeps what fits both the services and the tables that they lead to.
func (c *compiler) fitServices(l limits) {
	if len(c.plan.Services) <= l.Services && len(c.plan.TargetTables) <= l.TargetTables {
		return
	}
	slices.SortFunc(c.plan.Services, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Connection, b.Connection), cmp.Compare(a.EndpointENI, b.EndpointENI), byKey(a, b))
	})
	var kept []Service
	tables := map[uint32]bool{}
	for _, s := range takingTurns(c.plan.Services, func(s Service) string { return c.account(s.VPC) }) {
		switch {
		case len(kept) == l.Services:
			c.leave("endpoints: services", s.VPC, fullText(l.Services), s.Endpoint)
		case s.Table != 0 && !tables[s.Table] && len(tables) == l.TargetTables:
			c.leave("endpoints: target tables", s.VPC, fullText(l.TargetTables), s.Endpoint)
		default:
			kept = append(kept, s)
			if s.Table != 0 {
				tables[s.Table] = true
			}
		}
	}
	c.plan.Services = kept
	c.plan.TargetTables = slices.DeleteFunc(c.plan.TargetTables, func(t TargetTable) bool { return !tables[t.ID] })
}

// grantedTarget is one target of a grant, or a grant that has none.
type grantedTarget struct {
	grant  *Grant
	target *GrantTarget
}

// fitGrants counts targets, and a grant with its first one: grants differ in how many they have. They are the provider's,
// who shares its part evenly among its consumers.
func (c *compiler) fitGrants(l limits) {
	if len(c.plan.Grants) <= l.Grants && len(c.plan.GrantTargets) <= l.GrantTargets {
		return
	}
	var kept []Grant
	var targets []GrantTarget
	in := map[string]bool{}
	for _, a := range c.grantedTargets() {
		key := a.grant.Key()
		switch {
		case !in[key] && len(kept) == l.Grants:
			c.leave("grants", a.grant.ProviderVPC, fullText(l.Grants), a.grant.ConnectionID)
			continue
		case a.target != nil && len(targets) == l.GrantTargets:
			c.leave("grants.targets", a.grant.ProviderVPC, fullText(l.GrantTargets), a.grant.ConnectionID)
			continue
		}
		if !in[key] {
			in[key] = true
			kept = append(kept, *a.grant)
		}
		if a.target != nil {
			targets = append(targets, *a.target)
		}
	}
	c.plan.Grants, c.plan.GrantTargets = kept, targets
}

// grantedTargets are in the order in which they are given room.
func (c *compiler) grantedTargets() []grantedTarget {
	targets := map[[2]uint32][]*GrantTarget{}
	slices.SortFunc(c.plan.GrantTargets, byKey)
	for i := range c.plan.GrantTargets {
		t := &c.plan.GrantTargets[i]
		key := [2]uint32{t.ConsumerVPC, uint32(t.Tag)}
		targets[key] = append(targets[key], t)
	}
	var list []grantedTarget
	for _, g := range c.grantsByTurns() {
		own := targets[[2]uint32{g.ConsumerVPC, uint32(g.Tag)}]
		if len(own) == 0 {
			own = []*GrantTarget{nil}
		}
		for _, t := range own {
			list = append(list, grantedTarget{g, t})
		}
	}
	list = takingTurns(list, func(a grantedTarget) string { return c.account(a.grant.ConsumerVPC) })
	return takingTurns(list, func(a grantedTarget) string { return c.account(a.grant.ProviderVPC) })
}

// grantsByTurns are the grants with their consumers taking turns, each with its oldest connection first.
func (c *compiler) grantsByTurns() []*Grant {
	slices.SortFunc(c.plan.Grants, func(a, b Grant) int { return cmp.Or(cmp.Compare(a.Connection, b.Connection), byKey(a, b)) })
	list := make([]*Grant, len(c.plan.Grants))
	for i := range c.plan.Grants {
		list[i] = &c.plan.Grants[i]
	}
	return takingTurns(list, func(g *Grant) string { return c.account(g.ConsumerVPC) })
}

// claim is a row's use of a rule set.
type claim struct {
	set   *uint32
	vpc   uint32
	field string
	name  string
}

// fitRuleSets takes from rows the sets that do not fit: they are then as if they had no rules, and nothing passes by them.
func (c *compiler) fitRuleSets(l limits) {
	if len(c.sets.ids.byText) <= l.RuleSets {
		return
	}
	kept := map[uint32]bool{}
	for _, x := range takingTurns(c.claims(), func(x claim) string { return c.account(x.vpc) }) {
		switch {
		case *x.set == 0 || kept[*x.set]:
		case len(kept) < l.RuleSets:
			kept[*x.set] = true
		default:
			*x.set = 0
			c.leave(x.field+": rule sets", x.vpc, fullText(l.RuleSets), x.name)
		}
	}
	c.sets.keep(kept)
}

// claims lists, for every account, first its workloads', then its endpoints' and load balancers', then its grants'.
func (c *compiler) claims() []claim {
	var list []claim
	slices.SortFunc(c.plan.ENIs, func(a, b ENI) int { return cmp.Compare(a.Number, b.Number) })
	for i := range c.plan.ENIs {
		e := &c.plan.ENIs[i]
		list = append(list, claim{&e.IngressRules, e.VPC, "enis", e.ID}, claim{&e.EgressRules, e.VPC, "enis", e.ID})
	}
	slices.SortFunc(c.plan.Addresses, func(a, b Address) int { return cmp.Or(cmp.Compare(a.Number, b.Number), byKey(a, b)) })
	for i := range c.plan.Addresses {
		a := &c.plan.Addresses[i]
		list = append(list, claim{&a.Rules, a.VPC, "addresses", a.ENI}, claim{&a.EgressRules, a.VPC, "addresses", a.ENI})
	}
	for _, g := range c.grantsByTurns() {
		for _, set := range []*uint32{&g.Admitted, &g.LBRules, &g.LBEgressRules} {
			list = append(list, claim{set, g.ProviderVPC, "grants", g.ConnectionID})
		}
	}
	return slices.DeleteFunc(list, func(x claim) bool { return *x.set == 0 })
}

// excess is what of an account was left out of a table, and why.
type excess struct{ table, of, why string }

// excesses count what was left out, by name.
type excesses map[excess]map[string]bool

func (x excesses) add(e excess, name string) {
	if x[e] == nil {
		x[e] = map[string]bool{}
	}
	x[e][name] = true
}

// leave notes that something in a VPC is left out.
func (c *compiler) leave(table string, vpc uint32, why, name string) {
	c.excess.add(excess{table, "account " + c.account(vpc), why}, name)
}

// named bounds how many of those that are left out a text names.
const named = 5

// texts are one line for each table and account.
func (x excesses) texts() []string {
	var out []string
	for e, set := range x {
		names := make([]string, 0, len(set))
		for name := range set {
			names = append(names, name)
		}
		slices.Sort(names)
		count := len(names)
		if count > named {
			names = append(names[:named], "…")
		}
		out = append(out, fmt.Sprintf("%s: %d of %s left out (%s): %s", e.table, count, e.of, strings.Join(names, ", "), e.why))
	}
	return out
}
