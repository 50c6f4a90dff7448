package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// Names answer with those of an endpoint's interfaces behind which targets are well, and with all when none is.
func TestNamesAnswerWithWhatIsWell(t *testing.T) {
	const a, b = "10.0.1.5", "10.0.1.6"
	for name, c := range map[string]struct {
		crossZone bool
		ill       []string
		alone     bool // the target in zone b is none
		want      []string
	}{
		"all well":                     {want: []string{"a", "b"}},
		"one zone ill":                 {ill: []string{a}, want: []string{"b"}},
		"the other zone ill":           {ill: []string{b}, want: []string{"a"}},
		"all ill":                      {ill: []string{a, b}, want: []string{"a", "b"}},
		"one zone ill, cross-zone":     {crossZone: true, ill: []string{a}, want: []string{"a", "b"}},
		"a zone without targets":       {alone: true, want: []string{"a", "b"}},
		"no zone has a target that is": {alone: true, ill: []string{a}, want: []string{"a", "b"}},
	} {
		v := plantest.View(1, plantest.Workloads())
		e := &v.Endpoints[0]
		second := v.Addresses[0]
		for _, x := range v.Addresses {
			if x.VPC == e.VPC && x.Type == api.ENIEndpoint {
				second = x
			}
		}
		first := e.ENIs[0]
		second.ENI, second.Number, second.Address = "eni-second", 60_000, netip.MustParseAddr("10.0.2.200")
		v.Addresses = append(v.Addresses, second)
		e.ENIs = append(e.ENIs, api.ViewEndpointENI{ENI: second.ENI, Number: second.Number, Address: second.Address, Zone: "b"})
		e.Listeners = e.Listeners[:1]
		l := &e.Listeners[0]
		l.Zonal, l.Health = !c.crossZone, &api.ViewPoolHealth{MinimumCount: 1}
		l.Targets = slices.Clone(l.Targets)
		l.Targets[0].Zone, l.Targets[1].Zone = "a", "b"
		if c.alone {
			l.Targets = l.Targets[:1]
		}
		one := v.Names[0].Name
		v.Names = []api.ViewName{}
		zoneOf := map[netip.Addr]string{first.Address: "a", second.Address: "b"}
		for address := range zoneOf {
			v.Names = append(v.Names, api.ViewName{VPC: e.VPC, Name: one, Address: address, Endpoint: e.ID},
				api.ViewName{VPC: e.VPC, Name: one, Address: api.IPv6Address(v.Mesh.Number, e.VPC, address), Endpoint: e.ID})
		}
		v.Names = append(v.Names, api.ViewName{VPC: e.VPC, Name: "zonal-a.internal", Address: first.Address, Endpoint: e.ID})
		f := plantest.Facts(v)
		f.Health = map[plan.HealthKey]plan.HealthFact{}
		for _, target := range l.Targets {
			fact := plan.HealthFact{State: plan.HealthHealthy}
			if slices.Contains(c.ill, target.Address.String()) {
				fact.State = plan.HealthUnhealthy
			}
			f.Health[plan.HealthKey{TargetGroup: l.TargetGroup, Target: netip.AddrPortFrom(target.Address, target.Port)}] = fact
		}
		p, err := plan.Compile(v, f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var v4, v6 []string
		zonal := false
		for _, n := range p.Names {
			address, list := n.Address, &v4
			if !address.Is4() {
				_, _, address, _ = api.IPv4Form(address)
				list = &v6
			}
			if n.Name == one {
				*list = append(*list, zoneOf[address])
			}
			zonal = zonal || n.Name == "zonal-a.internal"
		}
		slices.Sort(v4)
		slices.Sort(v6)
		if !slices.Equal(v4, c.want) || !slices.Equal(v6, c.want) || !zonal {
			t.Errorf("%s: answers %v and %v, zonal name %t; want %v", name, v4, v6, zonal, c.want)
		}
	}
}

// A name that several endpoints have is answered by the first of them behind which something is well. One is passed over only for
// targets that are known to be ill, and only if another one has some that are not.
func TestNamesGoToTheNextEndpoint(t *testing.T) {
	const shared = "shared.internal"
	well, ill := plan.HealthHealthy, plan.HealthUnhealthy
	for name, c := range map[string]struct {
		states [3]plan.HealthState // of all targets behind each endpoint, in their order
		want   int
	}{
		"all well":           {[3]plan.HealthState{well, well, well}, 0},
		"nothing known":      {[3]plan.HealthState{}, 0},
		"the first ill":      {[3]plan.HealthState{ill, well, well}, 1},
		"not asked yet":      {[3]plan.HealthState{plan.HealthInitial, well, well}, 0},
		"two ill":            {[3]plan.HealthState{ill, ill, well}, 2},
		"the second unknown": {[3]plan.HealthState{ill, plan.HealthUnknown, well}, 1},
		"a later one ill":    {[3]plan.HealthState{well, ill, ill}, 0},
		"all ill":            {[3]plan.HealthState{ill, ill, ill}, 0},
	} {
		v := plantest.View(1, plantest.Workloads())
		f := plantest.Facts(v)
		f.Health = map[plan.HealthKey]plan.HealthFact{}
		first := v.Endpoints[0]
		first.Listeners = slices.Clone(first.Listeners[:1])
		first.Listeners[0].Health = &api.ViewPoolHealth{MinimumCount: 1}
		v.Endpoints, v.Names = nil, nil
		var addresses [3]netip.Addr
		for i := range addresses {
			e, l, eni := first, first.Listeners[0], first.ENIs[0]
			e.ID, e.ConnectionNumber, e.Connection = fmt.Sprintf("vpce-%d", i+1), first.ConnectionNumber+uint32(i), fmt.Sprintf("con-%d", i)
			l.TargetGroup += uint32(100 * i)
			if i > 0 {
				eni.ENI, eni.Number, eni.Address = fmt.Sprintf("eni-more-%d", i), uint32(60_000+i), netip.AddrFrom4([4]byte{10, 0, 2, byte(200 + i)})
				v.Addresses = append(v.Addresses, api.ViewAddress{VPC: e.VPC, Address: eni.Address, Type: api.ENIEndpoint, ENI: eni.ENI,
					Number: eni.Number, Groups: e.Groups})
			}
			l.TagNumbers = []api.TagNumber{{ENI: eni.ENI, Listener: l.Listener, Number: uint16(500 + i)}}
			e.ENIs, e.Listeners = []api.ViewEndpointENI{eni}, []api.ViewListenerPool{l}
			v.Endpoints = append(v.Endpoints, e)
			addresses[i] = eni.Address
			for _, t := range l.Targets {
				f.Health[plan.HealthKey{TargetGroup: l.TargetGroup, Target: netip.AddrPortFrom(t.Address, t.Port)}] = plan.HealthFact{State: c.states[i]}
			}
			n := api.ViewName{VPC: e.VPC, Name: shared, Address: eni.Address, Endpoint: e.ID, Rank: uint16(i)}
			six := n
			six.Address = api.IPv6Address(v.Mesh.Number, e.VPC, n.Address)
			if i == 0 {
				v.Names = append(v.Names, n, six)
			} else {
				v.StandbyNames = append([]api.ViewName{n, six}, v.StandbyNames...)
			}
		}
		p, err := plan.Compile(v, f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []netip.Addr
		for _, n := range p.Names {
			if n.Endpoint != fmt.Sprintf("vpce-%d", c.want+1) || n.Name != shared {
				t.Errorf("%s: %s is of %s", name, n.Name, n.Endpoint)
			}
			got = append(got, n.Address)
		}
		want := []netip.Addr{addresses[c.want], api.IPv6Address(v.Mesh.Number, first.VPC, addresses[c.want])}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s is %v, want %v", name, shared, got, want)
		}
	}
}

// What of standby names contradicts the view is an error, and what is no name is left out.
func TestStandbyNamesAreNotTrusted(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	n := v.Names[0]
	n.Name, n.Rank = "Not a name", 1
	v.StandbyNames = []api.ViewName{n}
	p, err := plan.Compile(v, plantest.Facts(v))
	if err != nil || !slices.ContainsFunc(p.Problems, func(s string) bool { return strings.HasPrefix(s, "standbyNames: 1 of ") }) {
		t.Errorf("problems %v, %v", p.Problems, err)
	}
	for what, change := range map[string]func(*api.ViewName){
		"address": func(n *api.ViewName) { n.Address = netip.MustParseAddr("192.0.2.1") },
		"vpc":     func(n *api.ViewName) { n.VPC = 77 },
	} {
		n := v.Names[0]
		change(&n)
		v.StandbyNames = []api.ViewName{n}
		if _, err := plan.Compile(v, plantest.Facts(v)); err == nil || !strings.Contains(err.Error(), "standbyNames") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A name stays where new flows get to a target that is well, in another zone or on a draining node, and where one is left that nobody
// knows to be ill.
func TestNameStaysWhileSomethingIsLeft(t *testing.T) {
	const shared = "shared.internal"
	for name, c := range map[string]struct {
		second           plan.HealthState // of the first endpoint's second target; the first is ill
		zonal, resting   bool
		unhealthyMinimum bool // both would have to be well
		want             string
	}{
		"a healthy target in another zone":     {second: plan.HealthHealthy, zonal: true, want: "vpce-1"},
		"a healthy target on a draining node":  {second: plan.HealthHealthy, resting: true, want: "vpce-1"},
		"a target that nobody has asked yet":   {second: plan.HealthInitial, want: "vpce-1"},
		"a target without word":                {second: plan.HealthUnknown, want: "vpce-1"},
		"too few are well, but one is":         {second: plan.HealthHealthy, unhealthyMinimum: true, want: "vpce-1"},
		"nothing left in any zone":             {second: plan.HealthUnhealthy, zonal: true, want: "vpce-2"},
		"nothing left, and one on its way out": {second: plan.HealthUnhealthy, resting: true, want: "vpce-2"},
	} {
		v := plantest.View(1, plantest.Workloads())
		f := plantest.Facts(v)
		f.Health = map[plan.HealthKey]plan.HealthFact{}
		first := v.Endpoints[0]
		v.Endpoints, v.Names = nil, nil
		for i := range 2 {
			e, l, eni := first, first.Listeners[0], first.ENIs[0]
			e.ID, e.ConnectionNumber, e.Connection = fmt.Sprintf("vpce-%d", i+1), first.ConnectionNumber+uint32(i), fmt.Sprintf("con-%d", i)
			l.TargetGroup += uint32(100 * i)
			l.Health, l.Zonal = &api.ViewPoolHealth{MinimumCount: 1}, c.zonal
			if c.unhealthyMinimum {
				l.Health.MinimumCount = 2
			}
			eni.Zone = "a"
			if i > 0 {
				eni.ENI, eni.Number, eni.Address = "eni-more", 60_000, netip.MustParseAddr("10.0.2.201")
				v.Addresses = append(v.Addresses, api.ViewAddress{VPC: e.VPC, Address: eni.Address, Type: api.ENIEndpoint, ENI: eni.ENI,
					Number: eni.Number, Groups: e.Groups})
			}
			l.TagNumbers = []api.TagNumber{{ENI: eni.ENI, Listener: l.Listener, Number: uint16(500 + i)}}
			l.Targets = slices.Clone(l.Targets[:2])
			l.Targets[0].Zone, l.Targets[1].Zone = "a", "b"
			for n, target := range l.Targets {
				state := plan.HealthHealthy
				if i == 0 {
					state = [2]plan.HealthState{plan.HealthUnhealthy, c.second}[n]
				}
				f.Health[plan.HealthKey{TargetGroup: l.TargetGroup, Target: netip.AddrPortFrom(target.Address, target.Port)}] =
					plan.HealthFact{State: state}
			}
			if i == 0 && c.resting {
				leaving := l.Targets[1]
				leaving.Leaving = true
				l.Targets, l.Resting = l.Targets[:1], []api.ViewTarget{leaving}
			}
			e.ENIs, e.Listeners = []api.ViewEndpointENI{eni}, []api.ViewListenerPool{l}
			v.Endpoints = append(v.Endpoints, e)
			n := api.ViewName{VPC: e.VPC, Name: shared, Address: eni.Address, Endpoint: e.ID, Rank: uint16(i)}
			if i == 0 {
				v.Names = []api.ViewName{n}
			} else {
				v.StandbyNames = []api.ViewName{n}
			}
		}
		p, err := plan.Compile(v, f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(p.Names) != 1 || p.Names[0].Endpoint != c.want {
			t.Errorf("%s: %v, want %s", name, p.Names, c.want)
		}
	}
}
