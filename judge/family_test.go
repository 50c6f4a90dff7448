package judge_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/judge"
)

func six(r *api.Resources, vpc, address string) netip.Addr {
	return api.IPv6Address(r.Mesh.Number, r.VPCs[vpc].Number, netip.MustParseAddr(address))
}

// TestFamilies: what has a family is reached in it, a rule with a prefix is for that prefix's family, and a target is spoken to
// in the client's family where it has that.
func TestFamilies(t *testing.T) {
	any6 := netip.MustParsePrefix("::/0")
	types := func(cart, till, ledger api.IPAddressType) func(*api.Resources) {
		return func(r *api.Resources) {
			r.ENIs["cart"].IPAddressType, r.ENIs["till"].IPAddressType, r.ENIs["ledger"].IPAddressType = cart, till, ledger
			for _, g := range r.SecurityGroups {
				g.Egress = append(g.Egress, api.Rule{ID: "out6", Protocol: api.All, CIDR: any6})
			}
			g := r.SecurityGroups["sg-lb"]
			g.Ingress = append(g.Ingress, api.Rule{ID: "lb6", Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: any6})
		}
	}
	with := func(f func(*api.Resources), more func(*api.Resources)) func(*api.Resources) {
		return func(r *api.Resources) { f(r); more(r) }
	}
	const v4, v6, both = api.IPv4Only, api.IPv6Only, api.DualStack
	dual := types(both, both, both)
	lbOnly := func(p netip.Prefix) func(*api.Resources) {
		return func(r *api.Resources) { r.SecurityGroups["sg-lb"].Ingress[1].CIDR = p }
	}
	for name, c := range map[string]struct {
		change   func(*api.Resources)
		to       string // IPv4, of the shop
		family   int
		protocol api.Protocol
		reason   string
		source   string // of pay unless local, as the receiver sees it
		sees     int
	}{
		"both, IPv4":            {dual, "10.0.1.7", 4, api.TCP, judge.Forwarded, "10.0.1.5", 4},
		"both, IPv6":            {dual, "10.0.1.7", 6, api.TCP, judge.Forwarded, "10.0.1.5", 6},
		"ping":                  {dual, "10.0.1.7", 6, api.ICMPv6, judge.Forwarded, "10.0.1.5", 6},
		"ICMP in IPv6":          {dual, "10.0.1.7", 6, api.ICMP, judge.Protocol, "", 0},
		"ICMPv6 in IPv4":        {dual, "10.0.1.7", 4, api.ICMPv6, judge.Protocol, "", 0},
		"source has no IPv6":    {types(v4, both, both), "10.0.1.7", 6, api.TCP, judge.NotIP, "", 0},
		"source has no IPv4":    {types(v6, both, both), "10.0.1.7", 4, api.TCP, judge.NotIP, "", 0},
		"neighbour has no IPv6": {types(both, v4, both), "10.0.1.7", 6, api.TCP, judge.NoDestination, "", 0},
		"neighbour has no IPv4": {types(both, v6, both), "10.0.1.7", 4, api.TCP, judge.NoDestination, "", 0},
		"resolver":              {dual, "10.0.0.2", 6, api.UDP, judge.HostNotAdmitted, "", 0}, // not port 53
		"IPv4 to dualstack":     {dual, "10.0.1.200", 4, api.TCP, judge.Forwarded, "10.0.1.9", 4},
		"IPv6 to dualstack":     {dual, "10.0.1.200", 6, api.TCP, judge.Forwarded, "10.0.1.9", 6},
		"IPv4 to IPv6":          {types(v4, v4, v6), "10.0.1.200", 4, api.TCP, judge.Forwarded, "10.0.1.9", 6},
		"IPv6 to IPv4":          {types(v6, v4, v4), "10.0.1.200", 6, api.TCP, judge.Forwarded, "10.0.1.9", 4},
		"LB for IPv4 only":      {with(dual, lbOnly(all)), "10.0.1.200", 6, api.TCP, judge.LBGroupIngress, "", 0},
		"LB for shop":           {with(dual, lbOnly(api.VPCIPv6Block(0x6a7564, 1))), "10.0.1.200", 6, api.TCP, judge.Forwarded, "10.0.1.9", 6},
		"LB for pay":            {with(dual, lbOnly(api.VPCIPv6Block(0x6a7564, 2))), "10.0.1.200", 6, api.TCP, judge.LBGroupIngress, "", 0},
		"LB to IPv4, and IPv6 it": {with(types(v6, v4, v6), func(r *api.Resources) {
			r.SecurityGroups["sg-lb"].Egress = r.SecurityGroups["sg-lb"].Egress[:1]
		}), "10.0.1.200", 6, api.TCP, judge.LBGroupEgress, "", 0},
	} {
		r := mesh()
		c.change(r)
		p := judge.Packet{From: "cart", To: netip.MustParseAddr(c.to), Protocol: c.protocol, Port: 443}
		if c.family == 6 {
			p.To = six(r, "vpc-shop", c.to)
		}
		var source netip.Addr
		if c.source != "" {
			vpc := "vpc-shop"
			if c.source == "10.0.1.9" {
				vpc = "vpc-pay"
			}
			if source = netip.MustParseAddr(c.source); c.sees == 6 {
				source = six(r, vpc, c.source)
			}
		}
		v := judge.Judge(r, p)
		if v.Reason != c.reason || v.Allowed != (c.reason == judge.Forwarded) || v.Source != source {
			t.Errorf("%s: %s from %s, want %s from %s", name, v.Reason, v.Source, c.reason, source)
		}
	}
	r := mesh()
	dual(r)
	p := judge.Packet{From: "cart", To: six(r, "vpc-shop", "10.0.1.2"), Protocol: api.UDP, Port: 53}
	if v := judge.Judge(r, p); !v.Resolver || v.Source != six(r, "vpc-shop", "10.0.1.5") {
		t.Errorf("the resolver's IPv6 address: %+v", v)
	}
}

// TestNamesInBothFamilies: an endpoint's address type says what its names answer with.
func TestNamesInBothFamilies(t *testing.T) {
	r := mesh()
	v4, v6 := netip.MustParseAddr("10.0.1.200"), six(r, "vpc-shop", "10.0.1.200")
	for kind, want := range map[api.IPAddressType][]netip.Addr{
		"": {v4}, api.IPv4Only: {v4}, api.IPv6Only: {v6}, api.DualStack: {v4, v6},
	} {
		r.Endpoints["vpce-1"].IPAddressType = kind
		m := judge.Resolve(r, "vpc-shop", "x.pay.internal")
		if len(m) != 1 || !slices.Equal(m[0].Addresses, want) {
			t.Errorf("%q: %+v, want %v", kind, m, want)
		}
	}
}
