package host

import (
	"net/netip"
	"slices"
)

// route is one route that this package wants. An invalid gateway means on-link.
type route struct {
	dst     netip.Prefix
	gateway netip.Addr
	source  netip.Addr
}

// workloadRoutes are the routes of an attachment: the gateway on-link, and by it the VPC, the resolver's link-local
// address (unless another attachment in the namespace has it) and, if asked, everything else. The interface's address
// is a /32, so all traffic passes the gateway. own is the ifindex of the attachment's own interface in st, 0 if it is
// not there.
func workloadRoutes(s WorkloadSpec, st spaceState, own int) []route {
	out := []route{
		{dst: netip.PrefixFrom(s.Gateway, 32), source: s.Address},
		{dst: s.VPC, gateway: s.Gateway, source: s.Address},
	}
	resolver := netip.PrefixFrom(ResolverAddress, 32)
	if !slices.ContainsFunc(st.routes, func(r spaceRoute) bool { return r.dst == resolver && r.ifindex != own }) {
		out = append(out, route{dst: resolver, gateway: s.Gateway, source: s.Address})
	}
	if s.DefaultRoute {
		out = append(out, route{
			dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway: s.Gateway, source: s.Address,
		})
	}
	return out
}
