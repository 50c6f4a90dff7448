package wire

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"pgregory.net/rapid"
)

// obey does to a device in memory what the kernel does for the edits.
func obey(m *Mem, edits []edit) {
	if m.peers == nil {
		m.peers, m.owner = make(map[PublicKey]*PeerStatus), make(map[netip.Prefix]PublicKey)
	}
	for _, e := range edits {
		if e.remove {
			m.remove(e.key)
			continue
		}
		p := m.peers[e.key]
		if p == nil {
			p = &PeerStatus{Peer: Peer{PublicKey: e.key}}
			m.peers[e.key] = p
		}
		if e.underlay.IsValid() {
			p.Underlay = e.underlay
		}
		if e.keepalive != nil {
			p.Keepalive = *e.keepalive
		}
		if e.unshare {
			p.Preshared = false
		}
		for _, prefix := range e.prefixes {
			m.owner[prefix] = e.key
		}
	}
}

// TestEditsMakeTheChange draws changes: what the kernel is told must come to what memory holds, and must not touch a
// prefix that stays where it is.
func TestEditsMakeTheChange(t *testing.T) {
	keys := []PublicKey{{1}, {2}, {3}, {4}}
	var all []netip.Prefix
	for i := range 6 {
		all = append(all, netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", i)))
	}
	peer := rapid.Custom(func(t *rapid.T) Peer {
		return Peer{
			PublicKey:  rapid.SampledFrom(keys).Draw(t, "key"),
			Underlay:   rapid.SampledFrom([]netip.AddrPort{{}, netip.MustParseAddrPort("127.0.0.1:9")}).Draw(t, "underlay"),
			AllowedIPs: rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 4, rapid.ID).Draw(t, "prefixes"),
			Keepalive:  time.Duration(rapid.IntRange(0, 2).Draw(t, "keepalive")) * time.Second,
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		var kernel, mem Mem
		for range 4 {
			meddled := rapid.SampledFrom(keys).Draw(rt, "preshared")
			kernel.Meddle(meddled, 0)
			mem.Meddle(meddled, 0)
			change := Change{
				Add:    rapid.SliceOfN(peer, 0, 2).Draw(rt, "add"),
				Update: rapid.SliceOfN(peer, 0, 2).Draw(rt, "update"),
				Remove: rapid.SliceOfN(rapid.SampledFrom(keys), 0, 2).Draw(rt, "remove"),
			}
			if change.Validate(PublicKey{}) != nil {
				continue
			}
			before, _ := kernel.Observe(t.Context())
			if err := mem.Apply(t.Context(), change); err != nil {
				rt.Fatal(err)
			}
			edits, err := editsOf(change, before)
			if err != nil {
				rt.Fatal(err)
			}
			obey(&kernel, edits)
			want, _ := mem.Observe(t.Context())
			got, _ := kernel.Observe(t.Context())
			if !reflect.DeepEqual(got, want) {
				rt.Fatalf("kernel holds\n%+v\nwant\n%+v", got, want)
			}
			checkUntouched(rt, change, before, got, edits)
		}
	})
}

// checkUntouched demands that no edit names a prefix that its peer had and has, unless the peer was made anew.
func checkUntouched(t *rapid.T, change Change, before, after State, edits []edit) {
	for _, b := range before.Peers {
		if slices.Contains(change.Remove, b.PublicKey) {
			continue
		}
		for _, a := range after.Peers {
			for _, prefix := range a.AllowedIPs {
				touched := slices.ContainsFunc(edits, func(e edit) bool { return slices.Contains(e.prefixes, prefix) })
				if a.PublicKey == b.PublicKey && slices.Contains(b.AllowedIPs, prefix) && touched {
					t.Fatalf("prefix %s stays with its peer, and is taken from it meanwhile", prefix)
				}
			}
		}
	}
}

// TestMessagesHoldWhatTheyAreMadeOf has peers with more prefixes than one message takes: what is read back is whole,
// and no message is longer than an attribute may be.
func TestMessagesHoldWhatTheyAreMadeOf(t *testing.T) {
	keepalive := 25 * time.Second
	var edits []edit
	var want State
	for i := range 70 {
		p := Peer{
			PublicKey: PublicKey{byte(i), 1}, Keepalive: keepalive,
			Underlay: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), uint16(1000+i)),
		}
		if i%2 == 1 {
			p.Underlay = netip.MustParseAddrPort("[2001:db8::7]:51820")
		}
		for n := range i * i {
			p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i), byte(n >> 8), byte(n)}), 128))
		}
		p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16))
		p.AllowedIPs = sortedPrefixes(p.AllowedIPs)
		edits = append(edits, edit{key: p.PublicKey, underlay: p.Underlay, keepalive: &keepalive, prefixes: p.AllowedIPs})
		want.Peers = append(want.Peers, PeerStatus{Peer: p})
	}
	messages, err := applyMessages("culvert0", edits)
	if err != nil {
		t.Fatal(err)
	}
	if len(messages) < 10 {
		t.Errorf("%d messages: the case is too small", len(messages))
	}
	for _, m := range messages {
		if len(m) > math.MaxUint16 {
			t.Errorf("a message of %d bytes", len(m))
		}
	}
	got, err := parseDump(messages)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("what is read back differs")
	}
}

// What takes a prefix from everybody is one message: a peer of nobody must not be left.
func TestNobodyIsNotLeft(t *testing.T) {
	var state State
	var change Change
	for i := range 4 {
		p := Peer{PublicKey: PublicKey{byte(i + 1)}}
		status := PeerStatus{Peer: p}
		for n := range 700 {
			status.AllowedIPs = append(status.AllowedIPs,
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i), byte(n >> 8), byte(n)}), 128))
		}
		state.Peers, change.Update = append(state.Peers, status), append(change.Update, p)
	}
	edits, err := editsOf(change, state)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := applyMessages("culvert0", edits)
	if err != nil || len(messages) < 3 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	in := func(m []byte, key PublicKey) bool { return bytes.Contains(m, key[:]) }
	removes := 0
	for i, e := range edits {
		if e.remove {
			removes++
			if edits[i-1].key != e.key || len(edits[i-1].prefixes)*sizePrefix+sizeEdit > maxBatch {
				t.Errorf("edit %d removes a peer that the one before it did not make whole", i)
			}
			if n := len(slices.DeleteFunc(slices.Clone(messages), func(m []byte) bool { return !in(m, e.key) })); n != 1 {
				t.Errorf("peer %s is in %d messages", e.key, n)
			}
		}
	}
	if removes < 4 {
		t.Errorf("%d removals: the case is too small", removes)
	}
}

// What root gave the device by hand is seen, and the messages that take it away say so.
func TestMeddlingIsTakenAway(t *testing.T) {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(deviceMark, 0xca6c)
	ae.Nested(devicePeers, func(list *netlink.AttributeEncoder) error {
		for i := range byte(2) {
			list.Nested(0, func(ae *netlink.AttributeEncoder) error {
				ae.Bytes(peerPublicKey, bytes.Repeat([]byte{i + 1}, KeyLen))
				ae.Bytes(peerPresharedKey, bytes.Repeat([]byte{i}, KeyLen)) // the kernel tells one of zeros for none
				return nil
			})
		}
		return nil
	})
	dump, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	have, err := parseDump([][]byte{dump})
	if err != nil || have.Mark != 0xca6c || len(have.Peers) != 2 || have.Peers[0].Preshared || !have.Peers[1].Preshared {
		t.Fatalf("%+v, %v", have, err)
	}
	want := []Peer{have.Peers[0].Peer, have.Peers[1].Peer}
	change := Diff(want, have, time.Now())
	if len(change.Update) != 1 || change.Update[0].PublicKey != want[1].PublicKey || len(change.Add)+len(change.Remove) != 0 {
		t.Fatalf("change %+v", change)
	}
	edits, err := editsOf(change, have)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := applyMessages("culvert0", edits)
	if err != nil || len(messages) != 1 || !bytes.Contains(messages[0], append([]byte{KeyLen + 4, 0, peerPresharedKey, 0}, make([]byte, KeyLen)...)) {
		t.Errorf("messages %x, %v", messages, err)
	}
	key, err := keyMessage("culvert0", PrivateKey{8}, 0, true)
	if err != nil || !bytes.Contains(key, []byte{8, 0, deviceMark, 0, 0, 0, 0, 0}) {
		t.Errorf("message %x, %v", key, err)
	}
}

func TestParseDumpRefuses(t *testing.T) {
	for name, message := range map[string][]byte{
		"cut off":      {9, 0, 1, 0},
		"short psk":    {16, 0, devicePeers, 0, 12, 0, 0, 0, 8, 0, peerPresharedKey, 0, 1, 2, 3, 4},
		"short key":    {8, 0, devicePublicKey, 0, 1, 2, 3, 4},
		"wrong port":   {5, 0, deviceListenPort, 0, 1, 0, 0, 0},
		"cut off peer": {12, 0, devicePeers, 0, 8, 0, 0, 0, 9, 0, 1, 0},
	} {
		if s, err := parseDump([][]byte{message}); err == nil {
			t.Errorf("%s: read as %+v", name, s)
		}
	}
}
