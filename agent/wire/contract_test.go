package wire_test

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
)

// contract is what every [wire.Device] must do; open returns a device that holds nothing.
func contract(t *testing.T, open func(t *testing.T) wire.Device) {
	for name, check := range map[string]func(*testing.T, wire.Device){
		"fresh device holds nothing":         checkFresh,
		"key and port":                       checkSetKey,
		"add, update, remove":                checkLifecycle,
		"update replaces prefixes":           checkReplace,
		"prefix moves between peers":         checkMove,
		"peer removed and added in one step": checkRecreate,
		"unknown underlay keeps the known":   checkUnderlay,
		"refused change changes nothing":     checkRefused,
		"cancelled call fails":               checkCancelled,
	} {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
}

func checkFresh(t *testing.T, d wire.Device) {
	want(t, d, wire.State{})
	apply(t, d, wire.Change{})
	apply(t, d, wire.Change{Remove: []wire.PublicKey{testKey(t)}})
	want(t, d, wire.State{})
}

func checkSetKey(t *testing.T, d wire.Device) {
	k, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is set already
		if err := d.SetKey(t.Context(), k, 40001); err != nil {
			t.Fatal(err)
		}
		want(t, d, wire.State{PublicKey: k.Public(), ListenPort: 40001})
	}
	if err := d.SetKey(t.Context(), k, 0); err != nil {
		t.Fatal(err)
	}
	want(t, d, wire.State{PublicKey: k.Public(), ListenPort: 40001})
	if err := d.SetKey(t.Context(), wire.PrivateKey{}, 40001); err == nil {
		t.Error("the zero key is taken")
	}
	other, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	apply(t, d, wire.Change{Add: []wire.Peer{{PublicKey: other.Public()}}})
	if err := d.SetKey(t.Context(), other, 40002); err != nil {
		t.Fatal(err)
	}
	want(t, d, wire.State{PublicKey: other.Public(), ListenPort: 40002}) // a device is no peer of itself
}

func checkLifecycle(t *testing.T, d wire.Device) {
	a := wire.Peer{
		PublicKey: testKey(t), Underlay: netip.MustParseAddrPort("127.0.0.1:9"),
		AllowedIPs: prefixes("fd00::/92", "fd00:1::5/128"), Keepalive: 25 * time.Second,
	}
	b := wire.Peer{
		PublicKey: testKey(t), Underlay: netip.MustParseAddrPort("[::1]:9"), AllowedIPs: prefixes("fd00:2::/64"),
	}
	for range 2 { // adding twice is as adding once
		apply(t, d, wire.Change{Add: []wire.Peer{a, b}})
		want(t, d, peers(a, b))
	}
	b.Keepalive, b.Underlay = time.Second, netip.MustParseAddrPort("127.0.0.1:10")
	apply(t, d, wire.Change{Update: []wire.Peer{b}})
	want(t, d, peers(a, b))
	a.Keepalive = 0
	apply(t, d, wire.Change{Update: []wire.Peer{a}, Remove: []wire.PublicKey{b.PublicKey}})
	want(t, d, peers(a))
	apply(t, d, wire.Change{Update: []wire.Peer{b}}) // absent: created
	want(t, d, peers(a, b))
	for range 2 { // the second time both are absent
		apply(t, d, wire.Change{Remove: []wire.PublicKey{a.PublicKey, b.PublicKey}})
		want(t, d, wire.State{})
	}
}

func checkReplace(t *testing.T, d wire.Device) {
	a := wire.Peer{PublicKey: testKey(t), AllowedIPs: prefixes("fd00::/92", "fd00:1::5/128", "10.0.0.0/8")}
	apply(t, d, wire.Change{Add: []wire.Peer{a}})
	want(t, d, peers(a))
	a.AllowedIPs = prefixes("fd00:1::5/128", "fd00::/96", "fd00::/92", "fd00::/92")
	apply(t, d, wire.Change{Update: []wire.Peer{a}})
	a.AllowedIPs = prefixes("fd00::/92", "fd00::/96", "fd00:1::5/128")
	want(t, d, peers(a))
	a.AllowedIPs = nil
	apply(t, d, wire.Change{Update: []wire.Peer{a}})
	want(t, d, peers(a))
}

func checkMove(t *testing.T, d wire.Device) {
	moving, rest := prefixes("fd00:7::1/128"), prefixes("fd00:8::/64")
	for _, giverFirst := range []bool{true, false} {
		a := wire.Peer{PublicKey: testKey(t), AllowedIPs: slices.Concat(moving, rest)}
		b := wire.Peer{PublicKey: testKey(t)}
		apply(t, d, wire.Change{Add: []wire.Peer{a, b}})
		a.AllowedIPs, b.AllowedIPs = rest, moving
		change := wire.Change{Update: []wire.Peer{a, b}}
		if !giverFirst {
			slices.Reverse(change.Update)
		}
		apply(t, d, change)
		want(t, d, peers(a, b))
		a.AllowedIPs, b.AllowedIPs = slices.Concat(moving, rest), nil
		apply(t, d, wire.Change{Update: []wire.Peer{a}}) // the taker alone is named
		want(t, d, peers(a, b))
		b.AllowedIPs = moving // the giver goes away in the same step
		apply(t, d, wire.Change{Update: []wire.Peer{b}, Remove: []wire.PublicKey{a.PublicKey}})
		want(t, d, peers(b))
		apply(t, d, wire.Change{Remove: []wire.PublicKey{b.PublicKey}})
	}
}

func checkRecreate(t *testing.T, d wire.Device) {
	a := wire.Peer{PublicKey: testKey(t), AllowedIPs: prefixes("fd00::/92"), Keepalive: time.Second}
	apply(t, d, wire.Change{Add: []wire.Peer{a}})
	a.AllowedIPs, a.Keepalive = prefixes("fd00::/92", "fd01::/92"), 0
	apply(t, d, wire.Change{Remove: []wire.PublicKey{a.PublicKey}, Add: []wire.Peer{a}})
	want(t, d, peers(a))
}

func checkUnderlay(t *testing.T, d wire.Device) {
	known := netip.MustParseAddrPort("127.0.0.1:9")
	a := wire.Peer{PublicKey: testKey(t)}
	apply(t, d, wire.Change{Add: []wire.Peer{a}})
	want(t, d, peers(a))
	a.Underlay = known
	apply(t, d, wire.Change{Update: []wire.Peer{a}})
	want(t, d, peers(a))
	a.Underlay = netip.AddrPort{}
	apply(t, d, wire.Change{Update: []wire.Peer{a}})
	a.Underlay = known
	want(t, d, peers(a))
}

func checkRefused(t *testing.T, d wire.Device) {
	own, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetKey(t.Context(), own, 40003); err != nil {
		t.Fatal(err)
	}
	a := wire.Peer{PublicKey: testKey(t), AllowedIPs: prefixes("fd00::/92")}
	apply(t, d, wire.Change{Add: []wire.Peer{a}})
	before := observe(t, d)
	fresh := func(edit func(*wire.Peer)) wire.Change {
		p := wire.Peer{PublicKey: testKey(t), AllowedIPs: prefixes("fd00:9::/64")}
		edit(&p)
		return wire.Change{Add: []wire.Peer{{PublicKey: testKey(t)}, p}, Remove: []wire.PublicKey{a.PublicKey}}
	}
	for wantText, change := range map[string]wire.Change{
		"must be set":        fresh(func(p *wire.Peer) { p.PublicKey = wire.PublicKey{} }),
		"device's own":       fresh(func(p *wire.Peer) { p.PublicKey = own.Public() }),
		"address and port":   fresh(func(p *wire.Peer) { p.Underlay = netip.MustParseAddrPort("127.0.0.1:0") }),
		"whole seconds":      fresh(func(p *wire.Peer) { p.Keepalive = 1500 * time.Millisecond }),
		"to 65535":           fresh(func(p *wire.Peer) { p.Keepalive = 65536 * time.Second }),
		"seconds from 0":     fresh(func(p *wire.Peer) { p.Keepalive = -time.Second }),
		"without host bits":  fresh(func(p *wire.Peer) { p.AllowedIPs = prefixes("fd00::1/64") }),
		"::ffff:10.0.0.0/10": fresh(func(p *wire.Peer) { p.AllowedIPs = prefixes("::ffff:10.0.0.0/104") }),
		"declared twice":     {Add: []wire.Peer{a}, Update: []wire.Peer{a}},
		"given to peer": {Add: []wire.Peer{
			a, {PublicKey: testKey(t), AllowedIPs: a.AllowedIPs},
		}},
	} {
		if err := d.Apply(t.Context(), change); err == nil || !strings.Contains(err.Error(), wantText) {
			t.Errorf("error %v: want one with %q", err, wantText)
		}
	}
	want(t, d, before)
}

func checkCancelled(t *testing.T, d wire.Device) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Observe(ctx); err == nil {
		t.Error("Observe succeeds after cancel")
	}
	if err := d.Apply(ctx, wire.Change{Add: []wire.Peer{{PublicKey: testKey(t)}}}); err == nil {
		t.Error("Apply succeeds after cancel")
	}
	want(t, d, wire.State{})
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}

func testKey(t *testing.T) wire.PublicKey {
	t.Helper()
	k, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

// peers is the state of a device that has these peers, and no key; it sorts as Observe does.
func peers(list ...wire.Peer) wire.State {
	var s wire.State
	for _, p := range list {
		p.AllowedIPs = slices.Clone(p.AllowedIPs)
		slices.SortFunc(p.AllowedIPs, netip.Prefix.Compare)
		if len(p.AllowedIPs) == 0 {
			p.AllowedIPs = nil
		}
		s.Peers = append(s.Peers, wire.PeerStatus{Peer: p})
	}
	slices.SortFunc(s.Peers, func(a, b wire.PeerStatus) int { return a.PublicKey.Compare(b.PublicKey) })
	return s
}

func apply(t *testing.T, d wire.Device, c wire.Change) {
	t.Helper()
	if err := d.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func observe(t *testing.T, d wire.Device) wire.State {
	t.Helper()
	s, err := d.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Peers { // a device that is up may have sent something
		s.Peers[i].RxBytes, s.Peers[i].TxBytes = 0, 0
	}
	return s
}

func want(t *testing.T, d wire.Device, w wire.State) {
	t.Helper()
	if got := observe(t, d); !reflect.DeepEqual(got, w) {
		t.Fatalf("device holds\n%+v\nwant\n%+v", got, w)
	}
}
