package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns"
	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/plan"
)

// resolverPort is where the resolver listens: what the datapath sends queries to.
const resolverPort = 53

// resolver is the node's DNS server as the loop's Names. It listens from the first set of names on: only then the link
// that it is bound to is there for sure.
type resolver struct {
	server *dns.Server
	log    *slog.Logger
	once   sync.Once
	named  chan struct{} // closed by the first Set
}

// newResolver makes one that answers at the node's overlay address, and only what comes by the host's link.
func newResolver(id *state.Identity, log *slog.Logger) *resolver {
	listen := netip.AddrPortFrom(api.NodeAddr(id.Mesh, id.Number), resolverPort)
	return &resolver{log: log, named: make(chan struct{}), server: dns.New(dns.Config{
		Listen: []string{listen.String()},
		Device: host.HostName, Mesh: id.Mesh, Log: log,
	})}
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
	r.once.Do(func() { close(r.named) })
}
