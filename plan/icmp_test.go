package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// Type and code stand in the place of ports.
func TestICMPRules(t *testing.T) {
	for want, r := range map[string]api.Rule{
		"0-65535":   {},
		"2048-2303": {ICMPType: api.ICMPOf(8)},
		"769-769":   {ICMPType: api.ICMPOf(3), ICMPCode: api.ICMPOf(1)},
		"0-0":       {ICMPType: api.ICMPOf(0), ICMPCode: api.ICMPOf(0)},
	} {
		v := plantest.View(1, plantest.Workloads())
		r.ID, r.Protocol, r.Group = "sgr-ping", api.ICMP, "sg-shop"
		v.Groups[0].Ingress = []api.Rule{r}
		p := compiled(t, v)
		i := slices.IndexFunc(p.RuleSets, func(s plan.RuleSet) bool { return s.ID == p.ENIs[0].IngressRules })
		if line := fmt.Sprintf("sgr-ping 1 %s group:101\n", want); i < 0 || p.RuleSets[i].Text != line {
			t.Errorf("%+v is not %q:\n%s", r, line, p.Dump())
		}
	}
	for name, r := range map[string]api.Rule{
		"any protocol": {Protocol: api.All, ICMPType: api.ICMPOf(8)},
		"code only":    {Protocol: api.ICMP, ICMPCode: api.ICMPOf(8)},
		"no type":      {Protocol: api.ICMP, ICMPType: 300},
	} {
		v := plantest.View(1, plantest.Workloads())
		r.ID, r.Group = "sgr-ping", "sg-shop"
		v.Groups[0].Ingress = []api.Rule{r}
		if p, err := plan.Compile(v, plantest.Facts(v)); err == nil || !strings.Contains(err.Error(), "icmpType") {
			t.Errorf("%s: %v\n%s", name, err, p.Dump())
		}
	}
}
