package plan

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

func TestRulesReadBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(drawRule), 0, 40).Draw(rt, "rules")
		book := ruleBook{newIDBook(textHash)}
		id, err := book.id(rules)
		if err != nil {
			rt.Fatal(err)
		}
		if again, _ := book.id(rapid.Permutation(rules).Draw(rt, "order")); again != id {
			rt.Fatalf("another order, another id: %d, %d", id, again)
		}
		if len(rules) == 0 {
			if id != 0 {
				rt.Fatalf("the empty set has id %d", id)
			}
			return
		}
		rows := book.rows()
		if len(rows) != 1 || rows[0].ID != id || id == 0 {
			rt.Fatalf("rows %v, id %d", rows, id)
		}
		got, err := ParseRules(rows[0].Text)
		if err != nil {
			rt.Fatal(err)
		}
		if want := canonicalRules(rules); !slices.Equal(got, want) {
			rt.Fatalf("read back %v, want %v", got, want)
		}
	})
}

func drawRule(rt *rapid.T) Rule {
	name := rapid.SampledFrom([]string{"sgr-a", "sgr-b", "sgr-c"}).Draw(rt, "name")
	low := rapid.Uint16().Draw(rt, "low")
	r := Rule{
		Name: name, ID: RuleNumber(name), Protocol: rapid.SampledFrom([]uint16{1, 6, 17, 256}).Draw(rt, "protocol"),
		PortLow: low, PortHigh: rapid.Uint16Range(low, 65535).Draw(rt, "high"),
	}
	if rapid.Bool().Draw(rt, "by group") {
		r.Group = rapid.Uint32Range(1, 1<<32-1).Draw(rt, "group")
		return r
	}
	b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(rt, "address")
	a, _ := netip.AddrFromSlice(b)
	r.Prefix = netip.PrefixFrom(a, rapid.IntRange(0, 32).Draw(rt, "bits")).Masked()
	return r
}

func TestMergedRulesMatchTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var rules []Rule
		for range rapid.IntRange(0, 40).Draw(rt, "rules") {
			a := netip.AddrFrom4([4]byte{10, 0, 0, rapid.ByteMax(31).Draw(rt, "address")})
			r := Rule{
				Name: rapid.SampledFrom([]string{"sgr-a", "sgr-b"}).Draw(rt, "name"), Protocol: 6, PortLow: 1, PortHigh: 9,
				Prefix: netip.PrefixFrom(a, rapid.IntRange(27, 32).Draw(rt, "bits")).Masked(),
			}
			if rapid.Bool().Draw(rt, "six") {
				r.Prefix = api.IPv6Block(0xabcdef, rapid.Uint32Range(1, 2).Draw(rt, "vpc"), r.Prefix)
			}
			if rapid.IntRange(0, 9).Draw(rt, "group") == 0 {
				r.Prefix, r.Group = netip.Prefix{}, 7
			}
			rules = append(rules, r)
		}
		got := merged(rules)
		if len(got) > len(rules) {
			rt.Fatalf("%d rules became %d", len(rules), len(got))
		}
		matches := func(list []Rule, name string, a netip.Addr) bool {
			return slices.ContainsFunc(list, func(r Rule) bool { return r.Name == name && (r.Group == 7 || r.Prefix.Contains(a)) })
		}
		for i := range byte(40) {
			a := netip.AddrFrom4([4]byte{10, 0, 0, i})
			for _, name := range []string{"sgr-a", "sgr-b"} {
				for _, a := range []netip.Addr{a, api.IPv6Address(0xabcdef, 1, a), api.IPv6Address(0xabcdef, 2, a)} {
					if matches(got, name, a) != matches(rules, name, a) {
						rt.Fatalf("%s %s: %v became %v", name, a, rules, got)
					}
				}
			}
		}
	})
	var whole []Rule
	for i := range 256 {
		whole = append(whole, Rule{Name: "x", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)})
	}
	if got := merged(whole); len(got) != 1 || got[0].Prefix.String() != "10.0.0.0/24" {
		t.Errorf("256 neighbours became %v", got)
	}
	vpcs := []Rule{{Prefix: api.VPCIPv6Block(1, 2)}, {Prefix: api.VPCIPv6Block(1, 3)}}
	if got := merged(vpcs); len(got) != 2 {
		t.Errorf("two VPCs became %v, which no rule may say", got)
	}
	if got := merged(append(vpcs, Rule{Prefix: netip.MustParsePrefix("::/0")})); len(got) != 1 {
		t.Errorf("two VPCs and all became %v", got)
	}
}

func TestParseRulesRefuses(t *testing.T) {
	for _, text := range []string{
		"\n", "a 6 1-2", "a x 1-2 0.0.0.0/0", "a 257 1-2 0.0.0.0/0", "a 6 2-1 0.0.0.0/0", "a 6 1 0.0.0.0/0", "a 6 1-70000 0.0.0.0/0",
		"a 6 1-2 group:0", "a 6 1-2 group:x", "a 6 1-2 fd00::/8", "a 6 1-2 10.0.0.0", "a 6 1-2 0.0.0.0/0\n\n",
	} {
		if rules, err := ParseRules(text); err == nil {
			t.Errorf("%q gives %v", text, rules)
		}
	}
}

func TestCollidingTextsGetDifferentIDs(t *testing.T) {
	b := newIDBook(func(string) uint32 { return 1<<32 - 1 })
	first, second, third := b.id("a"), b.id("b"), b.id("c")
	if first != 1<<32-1 || second != 1 || third != 2 || b.id("b") != second {
		t.Errorf("ids %d, %d, %d: want the hash, then the next free ones but 0", first, second, third)
	}
}

func TestDiffAppliedGivesWant(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		have, want := drawZones(rt, "have"), drawZones(rt, "want")
		add, remove := Diff(slices.Collect(maps.Values(have)), slices.Collect(maps.Values(want)))
		for _, order := range [][2]int{{0, 1}, {1, 0}} {
			got := maps.Clone(have)
			for _, step := range order {
				if step == 0 {
					for _, r := range add {
						got[r.Key()] = r
					}
					continue
				}
				for _, r := range remove {
					delete(got, r.Key())
				}
			}
			if !maps.Equal(got, want) {
				rt.Fatalf("order %v gives %v, want %v", order, got, want)
			}
		}
		if !slices.IsSortedFunc(add, byKey) || !slices.IsSortedFunc(remove, byKey) {
			rt.Fatal("not sorted")
		}
		for _, r := range add {
			if have[r.Key()] == r {
				rt.Fatalf("row %v is there already", r)
			}
		}
	})
}

func drawZones(rt *rapid.T, label string) map[string]Zone {
	zones := map[string]Zone{}
	for _, z := range rapid.SliceOf(rapid.Custom(func(rt *rapid.T) Zone {
		return Zone{VPC: rapid.Uint32Range(1, 8).Draw(rt, "vpc"), Plain: rapid.Bool().Draw(rt, "plain")}
	})).Draw(rt, label) {
		zones[z.Key()] = z
	}
	return zones
}
