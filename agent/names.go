package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns"
	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/plan"
)

// Names answers the node's workloads. A nil set of rows is not an empty one: callers pass what the plan holds.
type Names interface {
	// Set replaces what is answered from. mesh are addresses of the underlay that the mesh itself uses: no forwarder may have one.
	Set(naming plan.Naming, mesh []netip.Addr)
	// Problems name what the last Set left out.
	Problems() []error
	// Listening is nil while queries reach it; else it says why not.
	Listening() error
	// Zone is what is answered from, never nil.
	Zone() *zone.Zone
}

// doors are what the mesh may reach of the host.
type doors struct {
	resolver, node uint16 // ports; 0: shut
	probes         bool   // answers to this node's own
}

// doors are open only while there is somebody to get what comes: whoever else of the host listens on these ports shall not.
func (t *turn) doors() (d doors) {
	if t.edges.Names.Listening() == nil {
		d.resolver = resolverPort
	}
	if t.edges.Health.Listening() == nil {
		d.node = plan.NodePort
	}
	d.probes = len(t.view.HealthChecks) > 0
	return d
}

func (t *turn) hostSpec() host.HostSpec {
	mesh := t.view.Mesh.Number
	t.open = t.doors()
	return host.HostSpec{
		Address: api.NodeAddr(mesh, t.view.Node.Number), Mesh: api.MeshPrefix(mesh), MTU: t.cfg.TunnelMTU,
		ResolverPort: t.open.resolver, NodePort: t.open.node, Probes: t.open.probes,
	}
}

// openDoors looks again whether the resolver listens, which begins with its first names, and says why it does not.
func (t *turn) openDoors() {
	t.fail("resolver", t.edges.Names.Listening())
	if err := t.edges.Health.Listening(); err != nil && time.Since(t.made) > viewPatience {
		t.fail("health", fmt.Errorf("other nodes are not heard: %w", err))
	}
	for _, err := range t.edges.Names.Problems() {
		t.fail("names", err)
	}
	t.outOfReach(t.edges.Names.Zone())
	if t.doors() != t.open && t.facts.Config.HostIfindex != 0 {
		_, err := t.edges.Host.EnsureHostLink(t.hostSpec())
		t.fail("host link", err)
	}
}

// resolverPort is where the resolver listens: what the datapath sends queries to.
const resolverPort = plan.ResolverPort

// resolver is the node's DNS server as the loop's Names. It listens from the first set of names on: only then the link
// that it is bound to is there for sure.
type resolver struct {
	server *dns.Server
	allow  []netip.Prefix // of forwarders
	refuse []netip.Prefix // of forwarders: what the node knows without a view
	once   sync.Once
	named  chan struct{} // closed by the first Set
	tried  chan struct{} // has an element once it listens or failed to

	mu       sync.Mutex
	problems []error // of the last Set
	last     plan.Naming
	mesh     []netip.Addr
}

// resolverEdges are what a resolver needs of the rest of the agent. Each may be nil, or zero.
type resolverEdges struct {
	guard   queryGuard
	queried func(dns.Query)        // gets questions of VPCs with a query log
	dialVPC dns.DialFunc           // reaches forwarders inside VPCs
	reaches func(vpc uint32) error // why they may not be asked now
	wake    func()                 // is called when Listening changed
}

// queryGuard has the kernel drop what one workload asks above its rate. The zero value has none.
type queryGuard struct {
	attach  func(fd uintptr) error
	dropped func() uint64
}

// listenPatience is how long the first Set waits for the resolver to listen, which takes some microseconds.
const listenPatience = time.Second

// newResolver makes one that answers at the node's overlay address, and only what comes by the host's link.
// Forwarders may be in allow, on the Internet, and inside the VPC.
func newResolver(id *state.Identity, allow []netip.Prefix, e resolverEdges, log *slog.Logger) *resolver {
	r := &resolver{allow: allow, named: make(chan struct{}), tried: make(chan struct{}, 1)}
	r.refuse = append(prefixes(ownUnderlay(id)), api.MeshPrefix(id.Mesh))
	listen := netip.AddrPortFrom(api.NodeAddr(id.Mesh, id.Number), resolverPort)
	r.server = dns.New(dns.Config{
		Listen: []string{listen.String()}, Device: host.HostName, Mesh: id.Mesh, Log: log,
		Guard: e.guard.attach, GuardDropped: e.guard.dropped, QueryLog: e.queried, DialVPC: e.dialVPC, Reaches: e.reaches,
		Changed: func() {
			select {
			case r.tried <- struct{}{}:
			default:
			}
			if e.wake != nil {
				e.wake()
			}
		},
	})
	return r
}

// Listening implements Names.
func (r *resolver) Listening() error {
	err := r.server.Listening()
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("names are not answered: %w: which server of this host has port %d? (ss -lnptu)", err, resolverPort)
	} else if err != nil {
		return fmt.Errorf("names are not answered: %w", err)
	}
	return nil
}

// run answers until ctx ends; an error means that it could not listen.
func (r *resolver) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.named:
	}
	return r.server.Run(ctx)
}

// ownUnderlay are the addresses of the servers, and those where other nodes reach this one, as far as they are written as
// addresses.
func ownUnderlay(id *state.Identity) (out []netip.Addr) {
	for _, s := range id.Servers {
		if u, err := url.Parse(s); err == nil {
			out = appendAddr(out, u.Hostname())
		}
	}
	for _, s := range id.Underlay {
		out = appendAddr(out, s)
	}
	return out
}

// underlay are the addresses of the nodes that a view knows.
func underlay(v *api.View) (out []netip.Addr) {
	for _, p := range v.Peers {
		for _, s := range p.Underlay {
			out = appendAddr(out, s)
		}
	}
	for _, m := range v.Members {
		out = appendAddr(out, m.Address)
	}
	return out
}

// appendAddr appends what is written as ADDRESS or ADDRESS:PORT.
func appendAddr(list []netip.Addr, text string) []netip.Addr {
	if a, err := netip.ParseAddr(text); err == nil {
		return append(list, a.Unmap())
	}
	if a, err := netip.ParseAddrPort(text); err == nil {
		return append(list, a.Addr().Unmap())
	}
	return list
}

func prefixes(list []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list)+1)
	for _, a := range list {
		out = append(out, netip.PrefixFrom(a.WithZone(""), a.BitLen()))
	}
	return out
}

// maxProblems bounds how many rows are named; each tenant can have some.
const maxProblems = 10

// Problems implements Names.
func (r *resolver) Problems() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problems
}

// Zone implements Names.
func (r *resolver) Zone() *zone.Zone { return r.server.Zone() }

// note keeps what was left out, the first maxProblems of it.
func (r *resolver) note(list []error) {
	if more := len(list) - maxProblems; more > 0 {
		list = append(slices.Clone(list[:maxProblems]), fmt.Errorf("%d more", more))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = list
}

// Set builds the zone of these rows. A row that the zone refuses is left out: one tenant's must not hold up the others'.
func (r *resolver) Set(naming plan.Naming, mesh []netip.Addr) {
	defer r.once.Do(func() {
		close(r.named)
		select {
		case <-r.tried:
		case <-time.After(listenPatience):
		}
	})
	if r.same(naming, mesh) {
		return
	}
	z, problems := zoneOf(naming, zone.Reach{Allow: r.allow, Refuse: slices.Concat(r.refuse, prefixes(mesh))})
	r.note(problems)
	r.server.Set(z)
}

// zoneOf builds what is answered from, and tells what it leaves out.
func zoneOf(naming plan.Naming, reach zone.Reach) (*zone.Zone, []error) {
	hosted, problems := hostedZones(naming.HostedZones)
	rules := resolverRules(naming.Rules)
	firewalls, errs := firewallRules(naming.Firewalls)
	problems = append(problems, errs...)
	vpcs := make([]zone.VPC, 0, len(naming.Zones))
	for _, z := range naming.Zones {
		v := zone.VPC{Number: z.VPC, ID: z.ID, Account: z.Account, CIDR: z.CIDR, Plain: z.Plain, Hosted: hosted[z.VPC],
			Rules: rules[z.VPC], Firewall: firewalls[z.VPC], Forwarders: commaSeparated(z.Forwarders), QueryLog: z.QueryLog}
		vpcs = append(vpcs, v)
	}
	rows := make([]zone.Name, 0, len(naming.Names))
	for _, n := range naming.Names {
		rows = append(rows, zone.Name{VPC: n.VPC, Name: n.Name, Address: n.Address, Endpoint: n.Endpoint})
	}
	z, err := zone.New(rows, vpcs, reach)
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		problems = append(problems, many.Unwrap()...)
	}
	return z, problems
}

// same reports whether nothing has changed since the last Set, and remembers what this one has.
func (r *resolver) same(naming plan.Naming, mesh []netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := r.mesh != nil && r.last.Equal(naming) && slices.Equal(r.mesh, mesh)
	r.last = plan.Naming{Zones: slices.Clone(naming.Zones), Names: slices.Clone(naming.Names), HostedZones: slices.Clone(naming.HostedZones),
		Rules: slices.Clone(naming.Rules), Firewalls: slices.Clone(naming.Firewalls)}
	r.mesh = append([]netip.Addr{}, mesh...)
	return same
}

// resolverRules are the rules of each VPC.
func resolverRules(rows []plan.ResolverRule) map[uint32][]zone.Rule {
	by := map[uint32][]zone.Rule{}
	for _, row := range rows {
		rule := zone.Rule{ID: row.ID, Domain: row.Domain, Forwarders: commaSeparated(row.Forwarders), Plain: row.Plain}
		for _, vpc := range row.Numbers() {
			by[vpc] = append(by[vpc], rule)
		}
	}
	return by
}

// firewallRules are the query firewall of each VPC, one slice for all VPCs that have it. Where rules are not known nothing is answered.
func firewallRules(rows []plan.Firewall) (by map[uint32][]zone.FirewallRule, problems []error) {
	by = map[uint32][]zone.FirewallRule{}
	for _, row := range rows {
		rules, err := row.Rules()
		if err != nil {
			problems = append(problems, err)
		}
		var list []zone.FirewallRule
		if row.Closed || err != nil {
			list = append(list, zone.FirewallRule{ID: row.ID, Action: zone.Block, Domains: []string{"*"}, Response: zone.BlockFailure})
		}
		for _, r := range rules {
			list = append(list, zone.FirewallRule{ID: r.Rule, Action: firewallActions[r.Action], Domains: r.Domains,
				Response: blockResponses[r.BlockResponse], Override: r.BlockOverrideDomain, TTL: r.BlockOverrideTTLSeconds})
		}
		for _, vpc := range row.Numbers() {
			by[vpc] = list
		}
	}
	return by, problems
}

var (
	firewallActions = map[api.FirewallAction]zone.Action{api.FirewallAllow: zone.Allow, api.FirewallBlock: zone.Block, api.FirewallAlert: zone.Alert}
	blockResponses  = map[api.BlockResponse]zone.Response{api.BlockNoData: zone.BlockNoData, api.BlockNXDomain: zone.BlockNXDomain,
		api.BlockOverride: zone.BlockOverride}
)

// commaSeparated is a row's list; of "" none.
func commaSeparated(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// hostedZones are the zones of each VPC, one value for all VPCs that have it.
func hostedZones(rows []plan.HostedZone) (by map[uint32][]*zone.Hosted, problems []error) {
	by = map[uint32][]*zone.Hosted{}
	for _, row := range rows {
		sets, err := row.RecordSets()
		if err != nil {
			problems = append(problems, err)
		}
		h := &zone.Hosted{ID: row.ID, Domain: row.Domain}
		for _, s := range sets {
			h.Sets = append(h.Sets, zone.Set{Name: s.Name, Type: s.Type, TTL: s.TTLSeconds, Values: s.Values})
		}
		for _, vpc := range row.Numbers() {
			by[vpc] = append(by[vpc], h)
		}
	}
	return by, problems
}

// between are the names to answer with while the datapath goes from one plan to the next: none whose path goes, and none whose path
// is only to come. A name that moves from one endpoint to another is answered all the while: with the new endpoint's addresses if
// the old plan has their path, too, else with the old one's if the new plan still does.
func between(old, next []plan.Name) []plan.Name {
	type place struct {
		vpc  uint32
		name string
	}
	type path struct {
		vpc     uint32
		address netip.Addr
	}
	paths := func(rows []plan.Name) map[path]bool { // every endpoint has a name of its own, so a path that stays is named
		set := make(map[path]bool, len(rows))
		for _, n := range rows {
			set[path{n.VPC, n.Address}] = true
		}
		return set
	}
	had, has := paths(old), paths(next)
	answered, wanted := map[place]bool{}, map[place]bool{}
	var out []plan.Name
	for _, n := range next {
		wanted[place{n.VPC, n.Name}] = true
		if had[path{n.VPC, n.Address}] {
			answered[place{n.VPC, n.Name}] = true
			out = append(out, n)
		}
	}
	known := make(map[place]bool, len(old))
	for _, n := range old {
		at := place{n.VPC, n.Name}
		known[at] = true
		if wanted[at] && !answered[at] && has[path{n.VPC, n.Address}] {
			out = append(out, n)
		}
	}
	// What is new altogether comes last, with everything else that is.
	out = slices.DeleteFunc(out, func(n plan.Name) bool { return !known[place{n.VPC, n.Name}] })
	slices.SortFunc(out, func(a, b plan.Name) int { return strings.Compare(a.Key(), b.Key()) })
	return out
}
