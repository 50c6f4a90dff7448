package wire

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// FuzzParseDump: whatever a listing says, it is refused, or what is read is sorted, valid and no more than was there; and it can be
// written and read again.
func FuzzParseDump(f *testing.F) {
	keepalive := 25 * time.Second
	whole, err := peersMessage("culvert0", []edit{
		{key: PublicKey{1}, underlay: netip.MustParseAddrPort("192.0.2.1:7000"), keepalive: &keepalive,
			prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64")}},
		{key: PublicKey{2}, underlay: netip.MustParseAddrPort("[2001:db8::1]:7000")},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, whole)
	f.Add([]byte{9, 0, 1, 0}, []byte{})
	f.Add([]byte{16, 0, devicePeers, 0, 12, 0, 0, 0, 8, 0, peerPresharedKey, 0, 1, 2, 3, 4}, []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		s, err := parseDump([][]byte{first, second})
		if err != nil {
			if !reflect.DeepEqual(s, State{}) {
				t.Fatalf("refused (%v), and yet %+v", err, s)
			}
			return
		}
		const attribute = 4 // header, in bytes: each peer and each prefix has one
		most := (len(first) + len(second)) / attribute
		n := len(s.Peers)
		var edits []edit
		for i, p := range s.Peers {
			if i > 0 && s.Peers[i-1].PublicKey.Compare(p.PublicKey) > 0 {
				t.Fatalf("peers are not sorted: %+v", s.Peers)
			}
			for j, prefix := range p.AllowedIPs {
				if !prefix.IsValid() || j > 0 && p.AllowedIPs[j-1].Compare(prefix) > 0 {
					t.Fatalf("prefixes are not valid and sorted: %v", p.AllowedIPs)
				}
			}
			n += len(p.AllowedIPs)
			edits = append(edits, edit{key: p.PublicKey, underlay: p.Underlay, keepalive: &p.Keepalive, prefixes: p.AllowedIPs})
		}
		if n > most {
			t.Fatalf("%d peers and prefixes of %d bytes", n, len(first)+len(second))
		}
		messages, err := applyMessages("culvert0", edits)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseDump(messages)
		if err != nil {
			t.Fatalf("written and read again: %v", err)
		}
		have := map[PublicKey]int{}
		for _, p := range again.Peers {
			have[p.PublicKey] += len(p.AllowedIPs)
		}
		for _, p := range s.Peers {
			have[p.PublicKey] -= len(p.AllowedIPs)
		}
		for key, n := range have {
			if n != 0 {
				t.Fatalf("%s: %d prefixes more or fewer when read again", key, n)
			}
		}
	})
}
