package zone

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// slow answers by going over all rows and all suffixes of the name: obvious, and with no part in common with the Zone.
func slow(rows []Name, labels []string) (kind Kind, addresses []netip.Addr) {
	for skip := range labels {
		apex := strings.Join(labels[skip:], ".")
		known := false
		for _, r := range rows {
			switch r.Name {
			case apex:
				known = true
				if skip == 0 {
					addresses = append(addresses, r.Address)
				}
			case "*." + apex:
				known = true
				if skip > 0 {
					addresses = append(addresses, r.Address)
				}
			}
		}
		switch {
		case !known:
		case len(addresses) > 0:
			return Found, addresses
		case skip == 0:
			return NoData, nil
		case slices.ContainsFunc(rows, func(r Name) bool { return strings.HasSuffix(r.Name, "."+strings.Join(labels, ".")) }):
			return NoData, nil // names are below
		default:
			return NXDomain, nil
		}
	}
	return Forward, nil
}

func TestLookupAgreesWithSlow(t *testing.T) {
	label := rapid.SampledFrom([]string{"a", "b", "c"})
	rapid.Check(t, func(t *rapid.T) {
		var rows []Name
		for i := range rapid.IntRange(0, 8).Draw(t, "rows") {
			name := strings.Join(rapid.SliceOfN(label, 1, 4).Draw(t, "name"), ".")
			if rapid.Bool().Draw(t, "wild") {
				name = "*." + name
			}
			rows = append(rows, Name{VPC: 1, Name: name, Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})})
		}
		vpc := VPC{Number: 1, CIDR: netip.MustParsePrefix("10.0.0.0/16"), Forwarders: []string{"tls://192.0.2.1"}}
		z, err := New(rows, []VPC{vpc}, documentation)
		if err != nil {
			t.Fatal(err)
		}
		labels := rapid.SliceOfN(label, 1, 6).Draw(t, "question")
		kind, addresses := slow(rows, labels)
		got := z.Lookup(1, strings.Join(labels, ".")+".", TypeA)
		if got.Kind != kind || !slices.Equal(got.Addresses, addresses) {
			t.Fatalf("%v of %v: %v %v, want %v %v", labels, rows, got.Kind, got.Addresses, kind, addresses)
		}
		if got.Private != (kind != Forward) {
			t.Fatalf("%v: private %v", labels, got.Private)
		}
	})
}

// FuzzLookup: no name makes it fail, and none below a private name is ever forwarded.
func FuzzLookup(f *testing.F) {
	for _, name := range []string{
		"ledger.pay.internal.", `x\.ledger.pay.internal.`, `\`, `\1`, "..", "9.1.0.10.in-addr.arpa", "A.wild.internal",
	} {
		f.Add(name, uint16(1))
	}
	z := testZone(f)
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		for _, vpc := range []uint32{shop, pay, barren} {
			a := z.Lookup(vpc, name, qtype)
			if (a.Kind == Found) != (len(a.Addresses)+len(a.Pointers) > 0) {
				t.Errorf("vpc %d, %q: %+v", vpc, name, a)
			}
		}
		if a := z.Lookup(pay, "x."+name+".ledger.pay.internal.", qtype); a.Kind == Forward && !strings.Contains(name, `\`) {
			t.Errorf("%q below a private name: %+v", name, a)
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	z := testZone(b)
	for b.Loop() {
		if z.Lookup(shop, "ledger.pay.internal.", TypeA).Kind != Found {
			b.Fatal("not found")
		}
	}
}
