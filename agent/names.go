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
	// Set replaces the rows. mesh are addresses of the underlay that the mesh itself uses: no forwarder may have one.
	Set(zones []plan.Zone, names []plan.Name, mesh []netip.Addr)
	// Problems name what the last Set left out.
	Problems() []error
	// Listening is nil while queries reach it; else it says why not.
	Listening() error
}

// hostSpec lets queries through to the host only while there is a resolver to get them: whoever else of the host listens
// on that port shall not.
func (t *turn) hostSpec() host.HostSpec {
	mesh := t.view.Mesh.Number
	t.open = 0
	if t.edges.Names.Listening() == nil {
		t.open = resolverPort
	}
	return host.HostSpec{
		Address: api.NodeAddr(mesh, t.view.Node.Number), Mesh: api.MeshPrefix(mesh), MTU: t.cfg.TunnelMTU, ResolverPort: t.open,
	}
}

// openResolver looks again whether the resolver listens, which begins with its first names, and says why it does not.
func (t *turn) openResolver() {
	deaf := t.edges.Names.Listening()
	t.fail("resolver", deaf)
	for _, err := range t.edges.Names.Problems() {
		t.fail("names", err)
	}
	if (deaf == nil) != (t.open != 0) && t.facts.Config.HostIfindex != 0 {
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
}

// listenPatience is how long the first Set waits for the resolver to listen, which takes some microseconds.
const listenPatience = time.Second

// newResolver makes one that answers at the node's overlay address, and only what comes by the host's link. wake is
// called when Listening changed. Forwarders may be in allow and on the Internet.
func newResolver(id *state.Identity, allow []netip.Prefix, wake func(), log *slog.Logger) *resolver {
	r := &resolver{allow: allow, named: make(chan struct{}), tried: make(chan struct{}, 1)}
	r.refuse = append(prefixes(ownUnderlay(id)), api.MeshPrefix(id.Mesh))
	listen := netip.AddrPortFrom(api.NodeAddr(id.Mesh, id.Number), resolverPort)
	r.server = dns.New(dns.Config{
		Listen: []string{listen.String()}, Device: host.HostName, Mesh: id.Mesh, Log: log,
		Changed: func() {
			select {
			case r.tried <- struct{}{}:
			default:
			}
			wake()
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

// note keeps what a zone left out, the first maxProblems of it.
func (r *resolver) note(err error) {
	var list []error
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		list = many.Unwrap()
	}
	if more := len(list) - maxProblems; more > 0 {
		list = append(slices.Clone(list[:maxProblems]), fmt.Errorf("%d more", more))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = list
}

// Set builds the zone of these rows. A row that the zone refuses is left out: one tenant's must not hold up the others'.
func (r *resolver) Set(zones []plan.Zone, names []plan.Name, mesh []netip.Addr) {
	vpcs := make([]zone.VPC, 0, len(zones))
	for _, z := range zones {
		v := zone.VPC{Number: z.VPC, ID: z.ID, Account: z.Account, CIDR: z.CIDR, Plain: z.Plain}
		if z.Forwarders != "" {
			v.Forwarders = strings.Split(z.Forwarders, ",")
		}
		vpcs = append(vpcs, v)
	}
	rows := make([]zone.Name, 0, len(names))
	for _, n := range names {
		rows = append(rows, zone.Name{VPC: n.VPC, Name: n.Name, Address: n.Address, Endpoint: n.Endpoint})
	}
	z, err := zone.New(rows, vpcs, zone.Reach{Allow: r.allow, Refuse: slices.Concat(r.refuse, prefixes(mesh))})
	r.note(err)
	r.server.Set(z)
	r.once.Do(func() {
		close(r.named)
		select {
		case <-r.tried:
		case <-time.After(listenPatience):
		}
	})
}
