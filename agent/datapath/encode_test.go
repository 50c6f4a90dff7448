package datapath

import (
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// A rule is for the family of its prefix, one with a group for both; an IPv6 prefix is compared by its VPC and IPv4 form.
func TestRulesSayTheirFamily(t *testing.T) {
	six := api.IPv6Block(0x123456, 7, netip.MustParsePrefix("10.0.1.0/24")).String()
	set, err := encodeRules(plan.RuleSet{ID: 1, Text: "a 6 80-80 10.0.0.0/8\nb 6 80-80 " + six + "\nc 6 80-80 ::/0\nd 6 80-80 group:9\n"})
	if err != nil {
		t.Fatal(err)
	}
	net := func(a string) uint32 { return bpf.NetAddr(netip.MustParseAddr(a)) }
	for i, want := range []bpf.Rule{
		{Addr: net("10.0.0.0"), Mask: net("255.0.0.0"), Family: 4},
		{Addr: net("10.0.1.0"), Mask: net("255.255.255.0"), Family: 6, Vpc: 7},
		{Family: 6},
		{Group: 9},
	} {
		want.PortLow, want.PortHigh, want.Protocol, want.Id = 80, 80, 6, set.Rules[i].Id
		if set.Rules[i] != want {
			t.Errorf("rule %d: %+v, want %+v", i, set.Rules[i], want)
		}
	}
	if set.Count != 4 || plan.FamilyIPv4 != plan.Families(bpf.ABIFamilyFAMILY_IPV4) || plan.FamilyIPv6 != plan.Families(bpf.ABIFamilyFAMILY_IPV6) {
		t.Errorf("%d rules; families %d and %d", set.Count, plan.FamilyIPv4, plan.FamilyIPv6)
	}
}
