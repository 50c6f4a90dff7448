package controlplane

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
)

// TestFamilies follows an account that asks for IPv6: what its resources show, and what the node is told.
func TestFamilies(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, ctx := l.as("shop"), l.as("pay"), l.ctx()
	number := l.s.Resources().Mesh.Number
	v := must(shop.GetVPC(ctx, "shop"))(t)
	if v.IPv6CIDRBlock != api.VPCIPv6Block(number, v.Number) || v.IPv6CIDRBlock.Bits() != 64 {
		t.Errorf("the VPC has %s", v.IPv6CIDRBlock)
	}
	s := must(shop.GetSubnet(ctx, "shop-a"))(t)
	if s.IPv6CIDRBlock.Bits() != 64+24 || !v.IPv6CIDRBlock.Contains(s.IPv6CIDRBlock.Addr()) {
		t.Errorf("the subnet has %s of %s", s.IPv6CIDRBlock, v.IPv6CIDRBlock)
	}
	plain := must(shop.GetENI(ctx, "cart"))(t)
	if plain.IPAddressType != api.IPv4Only || plain.IPv6Address.IsValid() {
		t.Errorf("by default %q, %s", plain.IPAddressType, plain.IPv6Address)
	}
	for _, kind := range []api.IPAddressType{api.DualStack, api.IPv6Only} {
		e := must(shop.CreateENI(ctx, api.CreateENIRequest{Subnet: "shop-a", Name: string(kind), Node: "host-a", IPAddressType: kind}))(t)
		if e.IPAddressType != kind || e.IPv6Address != api.IPv6Address(number, v.Number, e.Address) || !s.IPv6CIDRBlock.Contains(e.IPv6Address) {
			t.Errorf("%s: %+v", kind, e)
		}
		told := view.Compute(l.s.Resources(), e.Node)
		i := slices.IndexFunc(told.ENIs, func(x api.ViewENI) bool { return x.ID == e.ID })
		if told.ENIs[i].IPAddressType != kind {
			t.Errorf("%s: the node is told %q", kind, told.ENIs[i].IPAddressType)
		}
	}
	kind := api.DualStack
	e := must(shop.ModifyENI(ctx, "cart", api.ModifyENIRequest{IPAddressType: &kind}))(t)
	if e.IPAddressType != kind || e.IPv6Address != api.IPv6Address(number, v.Number, e.Address) {
		t.Errorf("changed: %+v", e)
	}
	kind = api.IPv4Only
	if e = must(shop.ModifyENI(ctx, "cart", api.ModifyENIRequest{IPAddressType: &kind}))(t); e.IPv6Address.IsValid() {
		t.Errorf("changed back: %+v", e)
	}
	front := find1(l.s.Resources().LoadBalancers, "ledger")
	for _, id := range front.ENIs {
		if e := must(pay.GetENI(ctx, id))(t); e.IPAddressType != api.DualStack || !e.IPv6Address.IsValid() {
			t.Errorf("of a load balancer: %+v", e)
		}
	}
}

// TestEndpointFamilies: an endpoint's type is what its names answer with, also after it was changed.
func TestEndpointFamilies(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, ctx := l.as("shop"), l.as("pay"), l.ctx()
	e := must(shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger",
		IPAddressType: api.IPv6Only}))(t)
	must(pay.AcceptConnections(ctx, "ledger", []string{"ledger"}))(t)
	r := l.s.Resources()
	node := find1(r.ENIs, "cart").Node
	for _, kind := range []api.IPAddressType{api.IPv6Only, api.DualStack, api.IPv4Only} {
		if got := must(shop.ModifyEndpoint(ctx, e.ID, api.ModifyEndpointRequest{IPAddressType: &kind}))(t); got.IPAddressType != kind {
			t.Errorf("changed to %q: %+v", kind, got)
		}
		var v4, v6 int
		for _, n := range view.Compute(l.s.Resources(), node).Names {
			if n.Name != e.DNSNames[0] {
				continue
			}
			if n.Address.Is4() {
				v4++
			} else if api.VPCIPv6Block(r.Mesh.Number, r.VPCs[e.VPC].Number).Contains(n.Address) {
				v6++
			}
		}
		if (v4 == 2) != kind.HasIPv4() || (v6 == 2) != kind.HasIPv6() || v4+v6 == 0 {
			t.Errorf("%s: %d IPv4 and %d IPv6 addresses", kind, v4, v6)
		}
	}
}

// TestIPv6RulesOfGroups: new groups let everything out in both families; a rule may name a part of a VPC.
func TestIPv6RulesOfGroups(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	v := must(shop.GetVPC(ctx, "shop"))(t)
	g := must(shop.CreateSecurityGroup(ctx, api.CreateSecurityGroupRequest{VPC: "shop", Name: "web"}))(t)
	for _, g := range []*api.SecurityGroup{g, must(shop.GetSecurityGroup(ctx, "default"))(t)} {
		if len(g.Egress) != 2 || g.Egress[0].CIDR != prefix("0.0.0.0/0") || g.Egress[1].CIDR != prefix("::/0") {
			t.Errorf("%s lets out %+v", g.Name, g.Egress)
		}
	}
	one := netip.PrefixFrom(api.IPv6Address(l.s.Resources().Mesh.Number, v.Number, netip.MustParseAddr("10.0.1.9")), 128)
	g = must(shop.AuthorizeIngress(ctx, "web", []api.RuleRequest{{Protocol: api.ICMPv6, CIDR: v.IPv6CIDRBlock},
		{Protocol: api.TCP, FromPort: 80, ToPort: 80, CIDR: one}}))(t)
	if len(g.Ingress) != 2 || g.Ingress[0].CIDR != v.IPv6CIDRBlock || g.Ingress[1].CIDR != one {
		t.Errorf("lets in %+v", g.Ingress)
	}
}
