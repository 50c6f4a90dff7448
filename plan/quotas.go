package plan

import (
	"cmp"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// QuotaKind says whose part of what is bounded a Quota is; values are the datapath's.
type QuotaKind uint32

// Kinds of quotas. Source ports have no rows: a GrantTarget says what its connection is guaranteed.
const (
	QuotaTable    QuotaKind = 1 // flow entries of all
	QuotaAccount  QuotaKind = 2 // of the account that opens
	QuotaSent     QuotaKind = 3 // of an endpoint connection's consumer's half
	QuotaReceived QuotaKind = 4 // of its provider's half
)

// Quota bounds the flow entries of all, of one account, or of one half of an endpoint connection; two a flow. Decision 0015.
type Quota struct {
	Kind                 QuotaKind
	ID                   uint32 // number of the account or connection
	Guaranteed           uint32 // entries that it may have whatever the others below the same bound have
	Ceiling              uint32 // entries
	Open                 uint32 // entries from which on only those below it get one that have less than they are guaranteed
	Most                 uint32 // entries: the service's cap; 0 any
	ConnectionsPerSecond uint32 // 0 any
	BitsPerSecond        uint64 // in each direction; 0 any
	Name                 string // id of the account or connection
}

// Key is kind and number.
func (q Quota) Key() string { return pad(uint64(q.Kind)) + "/" + pad(uint64(q.ID)) }

// Shares are how the flow table is shared, in percent of its entries; zero fields get the defaults named.
type Shares struct {
	Entries uint32 // that the table has room for; default DefaultFlowEntries
	Account uint32 // at most for one account; default DefaultAccountShare
	Reserve uint32 // for accounts that have less than their even part of it; default DefaultReserve
}

// Defaults of Shares.
const (
	DefaultFlowEntries  = 524_288
	DefaultAccountShare = 50
	DefaultReserve      = 25
)

// promisedPorts is half of the source ports that are kept, toward one target, for connections that have few: so a search
// among them finds one.
const promisedPorts = (PortOpen - PortSpare) / 2

// quotas fills Quotas, and what grant targets say of source ports, from the rows that are left after fit.
func (c *compiler) quotas() {
	s := c.facts.Shares
	s.Entries, s.Account, s.Reserve = cmp.Or(s.Entries, DefaultFlowEntries), cmp.Or(s.Account, DefaultAccountShare), cmp.Or(s.Reserve, DefaultReserve)
	caps := map[string]api.Caps{}
	for _, e := range c.view.Endpoints {
		caps[pad(uint64(QuotaSent))+"/"+pad(uint64(e.ConnectionNumber))] = e.Caps
	}
	for _, g := range c.view.Grants {
		caps[pad(uint64(QuotaReceived))+"/"+pad(uint64(g.ConnectionNumber))] = g.Caps
	}
	accounts, connections := c.openers()
	part := func(n, percent uint32) uint32 { return uint32(uint64(n) * uint64(percent) / 100) }
	c.plan.Quotas = []Quota{{
		Kind: QuotaTable, Ceiling: s.Entries, Open: s.Entries - part(s.Entries, s.Reserve), Name: "all",
	}}
	ceiling := part(s.Entries, s.Account)
	for account, id := range accounts {
		kept := ceiling / 4 // for connections that have few
		own := connections[account]
		if len(own) == 0 {
			kept = 0
		}
		q := Quota{
			Kind: QuotaAccount, ID: id, Ceiling: ceiling, Open: ceiling - kept, Name: account,
			Guaranteed: min(ceiling, part(s.Entries, s.Reserve)/uint32(len(accounts))),
		}
		c.plan.Quotas = append(c.plan.Quotas, q)
		for _, row := range own {
			row.Guaranteed = kept / uint32(len(own))
			row.Ceiling = max(q.Open, row.Guaranteed)
			capped := caps[row.Key()]
			row.Most = uint32(min(uint64(capped.MaxFlows)*2, 1<<31))
			row.ConnectionsPerSecond, row.BitsPerSecond = capped.MaxConnectionsPerSecond, capped.MaxBitsPerSecond
			c.plan.Quotas = append(c.plan.Quotas, row)
		}
	}
	c.sharePorts()
}

// openers numbers the accounts that flows are charged to here, writes the numbers into ENIs and grants, and lists each
// account's halves of connections.
func (c *compiler) openers() (accounts map[string]uint32, connections map[string][]Quota) {
	names := map[string]bool{}
	for _, e := range c.plan.ENIs {
		names[c.account(e.VPC)] = true
	}
	for _, g := range c.plan.Grants {
		names[c.account(g.ConsumerVPC)] = true
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	book := newIDBook(textHash)
	for _, name := range sorted {
		book.id("account " + name)
	}
	accounts, connections = map[string]uint32{}, map[string][]Quota{}
	for _, name := range sorted {
		accounts[name] = book.id("account " + name)
	}
	for i := range c.plan.ENIs {
		c.plan.ENIs[i].Account = accounts[c.account(c.plan.ENIs[i].VPC)]
	}
	c.lanes()
	seen := map[string]bool{}
	half := func(kind QuotaKind, id, vpc uint32, name string) {
		row := Quota{Kind: kind, ID: id, Name: name}
		if owner := c.account(vpc); accounts[owner] != 0 && !seen[row.Key()] {
			seen[row.Key()] = true
			connections[owner] = append(connections[owner], row)
		}
	}
	ids := map[string]string{}
	for _, e := range slices.Concat(c.view.Endpoints, c.view.LoadBalancers) {
		ids[e.ID] = e.Connection
	}
	for _, s := range c.plan.Services {
		half(QuotaSent, s.Connection, s.VPC, ids[s.Endpoint])
	}
	for i := range c.plan.Grants {
		g := &c.plan.Grants[i]
		g.Account = accounts[c.account(g.ConsumerVPC)]
		half(QuotaReceived, g.Connection, g.ConsumerVPC, g.ConnectionID)
	}
	return accounts, connections
}

// sharePorts promises each connection an even part of the source ports that are kept toward a target.
func (c *compiler) sharePorts() {
	type pool struct {
		source   vpcAddr
		target   vpcAddr
		port     uint16
		protocol uint8
	}
	grants := map[[2]uint32]*Grant{}
	for i := range c.plan.Grants {
		g := &c.plan.Grants[i]
		grants[[2]uint32{g.ConsumerVPC, uint32(g.Tag)}] = g
	}
	of := func(t *GrantTarget) (pool, uint32) {
		g := grants[[2]uint32{t.ConsumerVPC, uint32(t.Tag)}]
		if g == nil {
			return pool{}, 0
		}
		return pool{
			vpcAddr{g.ProviderVPC, t.Source}, vpcAddr{g.ProviderVPC, t.Address}, t.Port, g.Protocol,
		}, g.Connection
	}
	members := map[pool]map[uint32]bool{}
	for i := range c.plan.GrantTargets {
		p, connection := of(&c.plan.GrantTargets[i])
		if members[p] == nil {
			members[p] = map[uint32]bool{}
		}
		members[p][connection] = true
	}
	for i := range c.plan.GrantTargets {
		p, _ := of(&c.plan.GrantTargets[i])
		c.plan.GrantTargets[i].Ports = promisedPorts / uint32(len(members[p]))
	}
}
