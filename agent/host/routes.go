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
// address and the mesh (unless another attachment in the namespace has them) and, if asked, everything else. The interface's address
// is a /32, so all traffic passes the gateway. own is the ifindex of the attachment's own interface in st, 0 if it is
// not there. Those of IPv6 name no source: the interface's own is chosen, and the kernel takes no source for a route in
// the moment in which it is still tentative.
func workloadRoutes(s WorkloadSpec, st spaceState, own int) []route {
	var out []route
	if !s.IPv6Only {
		out = ipv4Routes(s, st, own)
	}
	if s.IPv6Address.IsValid() {
		out = append(out, route{dst: s.IPv6Block, gateway: GatewayIPv6})
		if !slices.ContainsFunc(st.routes, func(r spaceRoute) bool { return r.dst == s.mesh() && r.ours && r.ifindex != own }) {
			out = append(out, route{dst: s.mesh(), gateway: GatewayIPv6})
		}
		if s.DefaultRoute {
			out = append(out, route{dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), gateway: GatewayIPv6})
		}
	}
	return out
}

func ipv4Routes(s WorkloadSpec, st spaceState, own int) []route {
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
