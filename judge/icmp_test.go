package judge_test

import (
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/judge"
)

// A rule with another type of ICMP, or another code, lets no echo request in.
func TestICMPTypes(t *testing.T) {
	for name, c := range map[string]struct {
		rule api.Rule
		want bool
	}{
		"any":           {api.Rule{Protocol: api.ICMP}, true},
		"echo":          {api.Rule{Protocol: api.ICMP, ICMPType: api.ICMPOf(8)}, true},
		"echo, code":    {api.Rule{Protocol: api.ICMP, ICMPType: api.ICMPOf(8), ICMPCode: api.ICMPOf(0)}, true},
		"another code":  {api.Rule{Protocol: api.ICMP, ICMPType: api.ICMPOf(8), ICMPCode: api.ICMPOf(1)}, false},
		"unreachable":   {api.Rule{Protocol: api.ICMP, ICMPType: api.ICMPOf(3)}, false},
		"all protocols": {api.Rule{Protocol: api.All}, true},
		"tcp":           {api.Rule{Protocol: api.TCP, FromPort: 1, ToPort: 65535}, false},
	} {
		r := mesh()
		c.rule.ID, c.rule.CIDR = "sgr", all
		r.SecurityGroups["sg-shop"].Ingress = []api.Rule{c.rule}
		v := judge.Judge(r, judge.Packet{From: "cart", To: netip.MustParseAddr("10.0.1.7"), Protocol: api.ICMP})
		if v.Allowed != c.want {
			t.Errorf("%s: %+v", name, v)
		}
	}
}
