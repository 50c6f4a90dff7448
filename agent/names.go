package agent

import (
	"log/slog"
	"strings"

	"github.com/culvert-net/culvert/dns"
	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/plan"
)

// resolver is the node's DNS server as the loop's Names.
type resolver struct {
	server *dns.Server
	log    *slog.Logger
}

// Set builds the zone of these rows. A row that the zone refuses is left out: one tenant's must not hold up the others'.
func (r resolver) Set(zones []plan.Zone, names []plan.Name) {
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
}
