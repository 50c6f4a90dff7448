package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

// sick writes targets as one word each: zone, state (unknown, initial, healthy, sick, ended) and, if not 100, weight. It returns the share of each, "-"
// where a target is not listed.
func sick(words string, zone string, minimum api.ViewPoolHealth) (shares, used string, open bool) {
	states := map[string]HealthFact{"u": {}, "i": {State: HealthInitial}, "h": {State: HealthHealthy}, "s": {State: HealthUnhealthy},
		"e": {State: HealthUnhealthy, Ended: true}, "half": {State: HealthHealthy, Weight: 500}}
	p := pool{minimum: minimum}
	for i, word := range strings.Fields(words) {
		parts := strings.Split(word+":100", ":")
		weight := uint16(100)
		reserve := uint16(0)
		if parts[2] != "100" {
			weight = 0
		}
		if parts[2] == "leaving" {
			reserve = 70
		}
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 443)
		p.targets = append(p.targets, zonedTarget{TableTarget{a, weight}, parts[0], reserve})
		p.facts = append(p.facts, states[parts[1]])
	}
	chosen, used, open := p.choose(zone)
	for _, t := range p.targets {
		share := "-"
		if i := slices.IndexFunc(chosen, func(c TableTarget) bool { return c.AddrPort == t.AddrPort }); i >= 0 {
			share = fmt.Sprint(chosen[i].Weight)
		}
		shares += " " + share
	}
	return strings.TrimSpace(shares), used, open
}

func TestHealthDecides(t *testing.T) {
	two, half := api.ViewPoolHealth{MinimumCount: 2}, api.ViewPoolHealth{MinimumCount: 1, MinimumPercentage: 50}
	for _, c := range []struct {
		name, targets, zone string
		minimum             api.ViewPoolHealth
		shares, used        string
		open                bool
	}{
		{"nothing is known", "a:u b:u", "", api.ViewPoolHealth{}, "100 100", "", false},
		{"one is ill", "a:h b:s", "", api.ViewPoolHealth{}, "100 0", "", false},
		{"its flows are ended", "a:h b:e", "", api.ViewPoolHealth{}, "100 -", "", false},
		{"a new one waits", "a:h b:i", "", api.ViewPoolHealth{}, "100 0", "", false},
		{"of which nobody says anything is used", "a:h b:u c:s", "", api.ViewPoolHealth{}, "100 100 0", "", false},
		{"all are ill", "a:s b:e", "", api.ViewPoolHealth{}, "100 100", "", true},
		{"all are new", "a:i b:i", "", api.ViewPoolHealth{}, "100 100", "", true},
		{"the others are ill", "a:i b:s", "", api.ViewPoolHealth{}, "100 100", "", true},
		{"who rests does not help", "a:h:0 b:s", "", api.ViewPoolHealth{}, "0 100", "", true},
		{"slowly", "a:half b:h", "", api.ViewPoolHealth{}, "50 100", "", false},
		{"who leaves is not needed", "a:h b:h:leaving", "", api.ViewPoolHealth{}, "100 0", "", false},
		{"who leaves is all there is", "a:e b:h:leaving", "", api.ViewPoolHealth{}, "- 70", "", false},
		{"who leaves is ill too", "a:s b:s:leaving", "", api.ViewPoolHealth{}, "100 0", "", true},
		{"who leaves helps a zone", "a:s b:h:leaving", "a", api.ViewPoolHealth{}, "0 70", "", false},
		{"two have to be well", "a:h b:s c:s", "", two, "100 100 100", "", true},
		{"two are", "a:h b:s c:h", "", two, "100 0 100", "", false},
		{"there are not two", "a:h", "", two, "100", "", false},
		{"half", "a:h b:s c:s d:h", "", half, "100 0 0 100", "", false},
		{"less than half", "a:h b:s c:s", "", half, "100 100 100", "", true},
		{"growing", "a:h b:s c:i d:i e:i", "", half, "100 0 0 0 0", "", false},
		{"own zone", "a:h b:h", "a", api.ViewPoolHealth{}, "100 0", "a", false},
		{"own zone is ill", "a:s b:h", "a", api.ViewPoolHealth{}, "0 100", "", false},
		{"own zone is ill in part", "a:s a:h b:h", "a", api.ViewPoolHealth{}, "0 100 0", "a", false},
		{"own zone has less than half", "a:s a:s a:h b:h b:h", "a", half, "0 0 100 100 100", "", false},
		{"every zone is ill", "a:s b:e", "a", api.ViewPoolHealth{}, "100 0", "a", true},
		{"every zone is ill, own is empty", "b:s c:e", "a", api.ViewPoolHealth{}, "100 100", "", true},
		{"own zone rests", "a:h:0 b:h", "a", api.ViewPoolHealth{}, "0 100", "", false},
		{"ended in another zone", "a:h b:e b:h", "a", api.ViewPoolHealth{}, "100 - 0", "a", false},
		{"ended where too few are well", "a:h b:e b:s", "a", half, "100 0 0", "a", false},
	} {
		shares, used, open := sick(c.targets, c.zone, c.minimum)
		if shares != c.shares || used != c.used || open != c.open {
			t.Errorf("%s: %s gives %s of zone %q, open %t; want %s of zone %q, open %t", c.name, c.targets, shares, used, open, c.shares, c.used, c.open)
		}
	}
}

func drawPool(rt *rapid.T) pool {
	p := pool{minimum: api.ViewPoolHealth{
		MinimumCount: rapid.Uint32Range(0, 10).Draw(rt, "count"), MinimumPercentage: rapid.Uint32Range(0, 100).Draw(rt, "percentage"),
	}}
	for i := range rapid.IntRange(1, 12).Draw(rt, "targets") {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 443)
		p.targets = append(p.targets, zonedTarget{
			TableTarget{a, rapid.SampledFrom([]uint16{0, 1, 100, 999}).Draw(rt, "weight")}, rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "zone"),
			rapid.SampledFrom([]uint16{0, 0, 50}).Draw(rt, "reserve"),
		})
		f := HealthFact{State: HealthState(rapid.IntRange(0, 3).Draw(rt, "state")), Weight: rapid.SampledFrom([]uint16{0, 1, 500, 999}).Draw(rt, "part")}
		f.Ended = f.State == HealthUnhealthy && rapid.Bool().Draw(rt, "ended")
		p.facts = append(p.facts, f)
	}
	return p
}

// Incidents: a checker that finds everything ill, or everything but one, takes no capacity away that is needed; and whatever is
// known, a group never loses its last target.
func TestHealthNeverEmptiesAGroup(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPool(rt)
		zone := rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(rt, "zone")
		unknown := p
		unknown.facts = make([]HealthFact, len(p.facts))
		before, usedBefore, _ := unknown.choose(zone)
		got, used, open := p.choose(zone)
		if tableWidth(before) > 0 && tableWidth(got) == 0 {
			rt.Fatalf("no target is left of %v: %v", before, got)
		}
		if open && (!slices.Equal(got, before) || used != usedBefore) {
			rt.Fatalf("too few are well, and %v of zone %q became %v of zone %q", before, usedBefore, got, used)
		}
		for i, target := range p.targets {
			j := slices.IndexFunc(got, func(c TableTarget) bool { return c.AddrPort == target.AddrPort })
			switch {
			case j < 0 && !p.facts[i].Ended:
				rt.Fatalf("%s is not listed: its flows are lost", target)
			case j >= 0 && !open && got[j].Weight > 0 && !p.takes(i, used):
				rt.Fatalf("%s gets flows, and is %+v", target, p.facts[i])
			case j >= 0 && !open && got[j].Weight == 0 && p.takes(i, used):
				rt.Fatalf("%s of zone %q gets none, and is %+v", target, used, p.facts[i])
			}
		}
	})
}

// Incident: Facebook, October 2021. Every place found its own checks failing and withdrew, all at once. If everything looks dead, or so
// much that less than the group wants is left, the checks are not believed: the table is what it is when nothing is known.
func TestIncidentEverythingLooksDead(t *testing.T) {
	for n := 1; n <= 20; n++ {
		for well := range (n + 1) / 2 { // less than half
			for _, zone := range []string{"", "a"} {
				dead, unknown := "", ""
				for i := range n {
					state := []string{"s", "e", "e"}[i%3]
					if i < well {
						state = "h"
					}
					dead, unknown = dead+" "+[]string{"a", "b"}[i%2]+":"+state, unknown+" "+[]string{"a", "b"}[i%2]+":u"
				}
				minimum := api.ViewPoolHealth{MinimumCount: uint32(n/2 + 1)}
				want, wantUsed, _ := sick(unknown, zone, minimum)
				if got, used, open := sick(dead, zone, minimum); got != want || used != wantUsed || !open {
					t.Errorf("%d of %d are well, zone %q: %s of zone %q, open %t; want %s of zone %q", well, n, zone, got, used, open, want, wantUsed)
				}
			}
		}
	}
}

// A slot moves from a target that falls ill to others, and back as it was; of the others' hardly any moves.
func TestIllTargetMovesItsSlotsOnly(t *testing.T) {
	const n, ill = 20, 7
	p := pool{}
	for i := range n {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 443)
		p.targets = append(p.targets, zonedTarget{TableTarget{a, 100}, "a", 0})
		p.facts = append(p.facts, HealthFact{State: HealthHealthy})
	}
	well, _, _ := p.choose("")
	p.facts[ill].State = HealthUnhealthy
	less, _, _ := p.choose("")
	moved := 0
	before, after := spread(well), spread(less)
	for slot := range before {
		switch {
		case after[slot] == ill:
			t.Fatalf("slot %d is of the target that is ill", slot)
		case before[slot] != ill && before[slot] != after[slot]:
			moved++
		}
	}
	if moved*1000 > TableSlots*6 {
		t.Errorf("%d of %d slots moved needlessly", moved, TableSlots)
	}
}

// What a target gets that starts slowly: the judgement of agent/health says which part.
func TestSlowStart(t *testing.T) {
	for _, c := range [][3]uint16{{100, 0, 100}, {100, 500, 50}, {1, 100, 1}, {999, 900, 899}, {100, 1000, 100}} {
		if got := slowed(c[0], c[1]); got != c[2] {
			t.Errorf("weight %d at %d ‰ is %d, want %d", c[0], c[1], got, c[2])
		}
	}
}
