package plan_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

func TestHostedZoneRows(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	number := uint32(0)
	for _, p := range v.VPCs {
		if p.Local {
			number = p.Number
		}
	}
	sets := []api.RecordSet{
		{Name: "*.corp.internal", Type: "TXT", TTLSeconds: 0, Values: []string{`"a b" c`, "plain text"}},
		{Name: "corp.internal", Type: "MX", TTLSeconds: 300, Values: []string{"10 mail.corp.internal"}},
		{Name: "www.corp.internal", Type: "A", TTLSeconds: 60, Values: []string{"10.0.1.5", "10.0.1.6"}},
		{Name: "www.corp.internal", Type: "AAAA", TTLSeconds: 60, Values: []string{"2001:db8::1"}},
	}
	good := api.ViewHostedZone{ID: "hz-1", Account: "1", Domain: "corp.internal", VPCs: []uint32{number}, RecordSets: sets}
	left := api.ViewHostedZone{ID: "hz-2", Domain: "big.internal", VPCs: []uint32{number}, LeftOut: "no room"}
	v.HostedZones = []api.ViewHostedZone{good, left}
	p := compiled(t, v)
	if len(p.HostedZones) != 2 || p.HostedZones[1].Text != "" || !strings.Contains(strings.Join(p.Problems, "\n"), "hz-2") {
		t.Fatalf("%+v, problems %v", p.HostedZones, p.Problems)
	}
	back, err := p.HostedZones[0].RecordSets()
	if err != nil || !reflect.DeepEqual(back, sets) || !reflect.DeepEqual(p.HostedZones[0].Numbers(), good.VPCs) {
		t.Errorf("read back: %+v, %v, VPCs %v", back, err, p.HostedZones[0].Numbers())
	}
	if n := p.Naming(); !n.Equal(compiled(t, v).Naming()) || n.Equal(plan.Naming{Zones: n.Zones, Names: n.Names}) {
		t.Error("what is the same differs, or what differs is the same")
	}
	for name, change := range map[string]func(*api.ViewHostedZone){
		"id":          func(z *api.ViewHostedZone) { z.ID = "" },
		"id twice":    func(z *api.ViewHostedZone) { z.ID = "hz-2" },
		"foreign VPC": func(z *api.ViewHostedZone) { z.VPCs = []uint32{4_000_000} },
		"no VPC":      func(z *api.ViewHostedZone) { z.VPCs = nil },
	} {
		bad := good
		change(&bad)
		v.HostedZones = []api.ViewHostedZone{bad, left}
		if _, err := plan.Compile(v, plantest.Facts(v)); err == nil || !strings.Contains(err.Error(), "hostedZones") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What one tenant wrote and a node cannot take is left out, and named; everything else of the view is in force.
func TestMalformedNamesAreLeftOut(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	clean := compiled(t, v)
	number := v.Names[0].VPC
	www := api.RecordSet{Name: "www.corp.internal", Type: "A", TTLSeconds: 60, Values: []string{"10.0.1.5"}}
	zone := api.ViewHostedZone{ID: "hz-1", Domain: "corp.internal", VPCs: []uint32{number}, RecordSets: []api.RecordSet{www}}
	set := func(s api.RecordSet) func(*api.View, *api.ViewHostedZone) {
		return func(_ *api.View, z *api.ViewHostedZone) { z.RecordSets = append(z.RecordSets, s) }
	}
	name := func(text string) func(*api.View, *api.ViewHostedZone) {
		return func(v *api.View, _ *api.ViewHostedZone) {
			n := v.Names[0]
			n.Name = text
			v.Names = append(slices.Clone(v.Names), n)
		}
	}
	long := strings.Repeat(strings.Repeat("a", 61)+".", 4)
	for what, c := range map[string]struct {
		change  func(*api.View, *api.ViewHostedZone)
		problem string
		zones   int
	}{
		"wildcard of 254 bytes": {name("*." + long + "paya"), "names: ", 1}, // 252 without its "*."
		"name in upper case":    {name("Ledger"), "names: ", 1},
		"name with a newline":   {name("a\nb.internal"), "names: ", 1},
		"domain":                {func(_ *api.View, z *api.ViewHostedZone) { z.Domain = "Corp.internal" }, "hostedZones: ", 0},
		"domain with wildcard":  {func(_ *api.View, z *api.ViewHostedZone) { z.Domain = "*.internal" }, "hostedZones: ", 0},
		"record elsewhere":      {set(api.RecordSet{Name: "x.internal", Type: "A", Values: []string{"10.0.1.5"}}), "hostedZones: record sets: ", 1},
		"record's type":         {set(api.RecordSet{Name: "x.corp.internal", Type: "NS", Values: []string{"x"}}), "hostedZones: record sets: ", 1},
		"record's lines": {set(api.RecordSet{Name: "x.corp.internal", Type: "TXT", Values: []string{"a\nb"}}),
			"hostedZones: record sets: ", 1},
		"one domain twice": {func(v *api.View, z *api.ViewHostedZone) {
			twin := *z
			twin.ID = "hz-2"
			v.HostedZones = []api.ViewHostedZone{twin}
		}, "hostedZones: ", 1},
	} {
		bad, z := v, zone
		z.RecordSets = slices.Clone(zone.RecordSets)
		c.change(&bad, &z)
		bad.HostedZones = append(bad.HostedZones, z)
		p, err := plan.Compile(bad, plantest.Facts(bad))
		if err != nil {
			t.Errorf("%s freezes the node: %v", what, err)
			continue
		}
		if len(p.Problems) != 1 || !strings.HasPrefix(p.Problems[0], c.problem) || strings.Contains(p.Problems[0], "\n") {
			t.Errorf("%s: problems %q", what, p.Problems)
		}
		if len(p.HostedZones) != c.zones || c.zones > 0 && p.HostedZones[0].Text != "www.corp.internal 60 A 10.0.1.5\n" {
			t.Errorf("%s: hosted zones %+v", what, p.HostedZones)
		}
		p.Problems, p.HostedZones = nil, nil
		if p.Dump() != clean.Dump() {
			t.Errorf("%s: something else differs:\n%s", what, p.Dump())
		}
	}
}
