package plan_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// typed gives an ENI of a view an address type.
func typed(v api.View, id string, t api.IPAddressType) api.View {
	v.ENIs, v.Addresses = slices.Clone(v.ENIs), slices.Clone(v.Addresses)
	for i := range v.ENIs {
		if v.ENIs[i].ID == id {
			v.ENIs[i].IPAddressType = t
		}
	}
	for i := range v.Addresses {
		if v.Addresses[i].ENI == id {
			v.Addresses[i].IPAddressType = t
		}
	}
	return v
}

// The address type of an interface is in its three rows; endpoints and load balancers always have both families.
func TestFamiliesOfRows(t *testing.T) {
	v := plantest.View(1, plantest.OnNode(1))
	v = typed(typed(v, "eni-cart", api.DualStack), "eni-till", api.IPv6Only)
	p := compiled(t, v)
	want := map[string]plan.Families{
		"eni-cart": plan.BothFamilies, "eni-till": plan.FamilyIPv6, "eni-stock": plan.FamilyIPv4, "eni-ledger-1": plan.FamilyIPv4,
		"eni-ledger-2": plan.FamilyIPv4, "eni-vpce": plan.BothFamilies, "eni-lb": plan.BothFamilies,
	}
	for _, e := range p.ENIs {
		if e.Families != want[e.ID] {
			t.Errorf("enis: %s has %s, want %s", e.ID, e.Families, want[e.ID])
		}
	}
	for _, a := range p.Addresses {
		f := want[a.ENI]
		if a.Type == plan.AddressResolver {
			f = plan.BothFamilies
			if a.Address == plan.LinkLocalResolver {
				f = plan.FamilyIPv4
			}
		}
		if a.Families != f {
			t.Errorf("addresses: %s %s has %s, want %s", a.Address, a.ENI, a.Families, f)
		}
	}
	six := func(a netip.Addr) netip.Addr { return api.IPv6Address(plantest.Mesh, plantest.Shop, a) }
	for _, l := range p.Links {
		address, resolver := netip.Addr{}, plantest.Resolver
		if want[l.ENI]&plan.FamilyIPv6 != 0 {
			address = six(l.Address)
		}
		if l.ENI == "eni-till" {
			resolver = six(resolver)
		}
		if l.Families != want[l.ENI] || l.IPv6Address != address || l.Resolver != resolver ||
			l.IPv6Block.IsValid() != address.IsValid() || address.IsValid() && !l.IPv6Block.Contains(address) {
			t.Errorf("links: %s is %s, %s in %s, resolver %s", l.ENI, l.Families, l.IPv6Address, l.IPv6Block, l.Resolver)
		}
	}
}

// A rule for IPv6 keeps its prefix; another mesh's, or one of the wrong family, makes the view invalid.
func TestIPv6Rules(t *testing.T) {
	v := plantest.View(1, plantest.OnNode(1))
	shop := api.VPCIPv6Block(plantest.Mesh, plantest.Shop)
	cart := api.IPv6Address(plantest.Mesh, plantest.Shop, netip.MustParseAddr("10.0.1.5"))
	v.Groups = slices.Clone(v.Groups)
	rules := func(r ...api.Rule) (*plan.Plan, error) {
		v.Groups[0].Ingress = r
		return plan.Compile(v, plantest.Facts(v))
	}
	p, err := rules(api.Rule{ID: "sgr-1", Protocol: api.ICMPv6, CIDR: shop},
		api.Rule{ID: "sgr-2", Protocol: api.TCP, FromPort: 80, ToPort: 80, CIDR: netip.PrefixFrom(cart, 128)},
		api.Rule{ID: "sgr-3", Protocol: api.All, CIDR: netip.MustParsePrefix("::/0")})
	if err != nil {
		t.Fatal(err)
	}
	type match struct {
		family uint8
		vpc    uint32
		peers  string
	}
	got := map[string]match{}
	for _, set := range p.RuleSets {
		if !strings.Contains(set.Text, "sgr-1") {
			continue
		}
		list, err := plan.ParseRules(set.Text)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			vpc, peers := r.Match()
			got[r.Name] = match{r.Family(), vpc, peers.String()}
		}
	}
	for name, want := range map[string]match{
		"sgr-1": {6, plantest.Shop, "0.0.0.0/0"}, "sgr-2": {6, plantest.Shop, "10.0.1.5/32"}, "sgr-3": {6, 0, "0.0.0.0/0"},
	} {
		if got[name] != want {
			t.Errorf("%s matches %v, want %v", name, got[name], want)
		}
	}
	for says, r := range map[string]api.Rule{
		"not of mesh":       {ID: "sgr-1", Protocol: api.All, CIDR: api.VPCIPv6Block(plantest.Mesh+1, plantest.Shop)},
		"IPv6 range":        {ID: "sgr-1", Protocol: api.All, CIDR: netip.MustParsePrefix("2001:db8::/32")},
		"of another family": {ID: "sgr-1", Protocol: api.ICMP, CIDR: shop},
	} {
		if _, err := rules(r); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s from %s: %v, want %q", r.Protocol, r.CIDR, err, says)
		}
	}
}

// A name may lead to the IPv6 form of an address of its VPC, and to no other IPv6 address.
func TestIPv6Names(t *testing.T) {
	v := plantest.View(1, plantest.OnNode(1))
	name := v.Names[0]
	for _, a := range []struct {
		address netip.Addr
		good    bool
	}{
		{api.IPv6Address(plantest.Mesh, plantest.Shop, plantest.Endpoint), true},
		{api.IPv6Address(plantest.Mesh, plantest.Pay, plantest.Endpoint), false},
		{api.IPv6Address(plantest.Mesh+1, plantest.Shop, plantest.Endpoint), false},
		{api.IPv6Address(plantest.Mesh, plantest.Shop, netip.MustParseAddr("10.9.1.5")), false},
		{netip.MustParseAddr("2001:db8::1"), false},
	} {
		name.Address = a.address
		v.Names = append(slices.Clone(v.Names[:1]), name)
		if _, err := plan.Compile(v, plantest.Facts(v)); (err == nil) != a.good {
			t.Errorf("%s: %v", a.address, err)
		}
	}
}
