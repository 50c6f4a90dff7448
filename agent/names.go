package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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
	Set(zones []plan.Zone, names []plan.Name)
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
	if (deaf == nil) != (t.open != 0) && t.facts.Config.HostIfindex != 0 {
		_, err := t.edges.Host.EnsureHostLink(t.hostSpec())
		t.fail("host link", err)
	}
}

// resolverPort is where the resolver listens: what the datapath sends queries to.
const resolverPort = 53

// resolver is the node's DNS server as the loop's Names. It listens from the first set of names on: only then the link
// that it is bound to is there for sure.
type resolver struct {
	server *dns.Server
	log    *slog.Logger
	once   sync.Once
	named  chan struct{} // closed by the first Set
	tried  chan struct{} // has an element once it listens or failed to
}

// listenPatience is how long the first Set waits for the resolver to listen, which takes some microseconds.
const listenPatience = time.Second

// newResolver makes one that answers at the node's overlay address, and only what comes by the host's link. wake is
// called when Listening changed.
func newResolver(id *state.Identity, wake func(), log *slog.Logger) *resolver {
	r := &resolver{log: log, named: make(chan struct{}), tried: make(chan struct{}, 1)}
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

// Set builds the zone of these rows. A row that the zone refuses is left out: one tenant's must not hold up the others'.
func (r *resolver) Set(zones []plan.Zone, names []plan.Name) {
	vpcs := make([]zone.VPC, 0, len(zones))
	for _, z := range zones {
		v := zone.VPC{Number: z.VPC, CIDR: z.CIDR, Plain: z.Plain}
		if z.Forwarders != "" {
			v.Forwarders = strings.Split(z.Forwarders, ",")
		}
		vpcs = append(vpcs, v)
	}
	rows := make([]zone.Name, 0, len(names))
	for _, n := range names {
		rows = append(rows, zone.Name{VPC: n.VPC, Name: n.Name, Address: n.Address, Endpoint: n.Endpoint})
	}
	z, err := zone.New(rows, vpcs)
	if err != nil {
		r.log.Error("names left out", "error", err)
	}
	r.server.Set(z)
	r.once.Do(func() {
		close(r.named)
		select {
		case <-r.tried:
		case <-time.After(listenPatience):
		}
	})
}
