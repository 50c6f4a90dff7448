//go:build linux

package host

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/culvert-net/culvert/internal/netlab"
)

// fenced is a host with all of our links up, and the names of those that carry tenants' packets.
func fenced(t *testing.T) (*kernelWorld, WorkloadLink, []string) {
	t.Helper()
	w := newKernelWorld(t)
	w.addLink(DefaultTunnel)
	must(w.EnsureTunnel(TunnelSpec{MTU: 1420}))(t)
	must(w.EnsureHostLink(hostSpec()))(t)
	l := must(w.Attach(spec(w.namespace("cart"))))(t)
	names := []string{DefaultTunnel, DatapathName, l.Name}
	for _, name := range names {
		ok(t, w.SetUp(name, true))
	}
	w.Repairs()
	return w, l, names
}

// What the host's other inhabitants do is put back by Fence alone, which needs no plan, and said once.
func TestFencePutsBack(t *testing.T) {
	w, l, names := fenced(t)
	w.ns.Exec("ip", "link", "add", "br-other", "type", "bridge")
	for _, c := range []struct {
		what string
		do   func(name string)
		says string
		host bool // the host's own end is meant too
	}{
		{"nft flush ruleset", func(string) { w.ns.Exec("nft", "flush", "ruleset") }, "the door of ", true},
		{"ip_forward", func(string) {
			w.ns.Exec("sysctl", "-qw", "net.ipv4.ip_forward=0")
			w.ns.Exec("sysctl", "-qw", "net.ipv4.ip_forward=1")
		}, "/forwarding was 1; set to 0", false},
		{"rp_filter", func(name string) { w.ns.Exec("sysctl", "-qw", "net.ipv4.conf."+name+".rp_filter=2") }, "/rp_filter was 2; set to 1", false},
		{"ipv6", func(name string) { w.ns.Exec("sysctl", "-qw", "net.ipv6.conf."+name+".disable_ipv6=0") }, "/disable_ipv6 was 0; set to 1", false},
		{"addresses", func(name string) { w.ns.Exec("ip", "addr", "add", "192.0.2.9/24", "dev", name) }, "the address 192.0.2.9/24", false},
		{"bridge", func(name string) {
			if name != DefaultTunnel { // which is no Ethernet
				w.ns.Exec("ip", "link", "set", name, "master", "br-other")
			}
		}, "made a part of another interface", false},
	} {
		for _, name := range names {
			c.do(name)
		}
		ok(t, w.Fence(DefaultTunnel))
		said := strings.Join(w.Repairs(), "\n")
		if !strings.Contains(said, c.says) || !strings.Contains(said, l.Name) {
			t.Errorf("%s: said %q", c.what, said)
		}
		if c.host && !strings.Contains(said, HostName) {
			t.Errorf("%s: nothing of %s in %q", c.what, HostName, said)
		}
		for _, name := range append(names, HostName) {
			if !must(w.Closed(name))(t) {
				t.Errorf("%s: %s is open", c.what, name)
			}
		}
		for _, name := range names {
			for path, want := range map[string]string{
				"ipv4.conf." + name + ".forwarding": "0", "ipv4.conf." + name + ".rp_filter": "1", "ipv6.conf." + name + ".disable_ipv6": "1",
			} {
				if got := strings.TrimSpace(w.ns.Exec("sysctl", "-n", "net."+path)); got != want {
					t.Errorf("%s: net.%s is %s, want %s", c.what, path, got, want)
				}
			}
			if out := w.ns.Exec("ip", "-o", "-4", "addr", "show", name); strings.TrimSpace(out) != "" {
				t.Errorf("%s: %s", c.what, out)
			}
			if out := w.ns.Exec("ip", "-o", "link", "show", name); strings.Contains(out, "master") {
				t.Errorf("%s: %s", c.what, out)
			}
		}
		ok(t, w.Fence(DefaultTunnel))
		if again := w.Repairs(); len(again) != 0 {
			t.Errorf("%s: nothing was changed, and put back: %q", c.what, again)
		}
	}
	if h := must(w.HostLink())(t); !h.Host.Closed || h.ResolverPort != 0 {
		t.Errorf("a host's door that was gone lets through port %d before EnsureHostLink", h.ResolverPort)
	}
}

// A foreign table stays as it is, whatever of ours is put back.
func TestFenceLeavesOthersAlone(t *testing.T) {
	w, _, _ := fenced(t)
	w.ns.Exec("nft", "add table inet theirs; add chain inet theirs input { type filter hook input priority 0; policy drop; }")
	before := w.ns.Exec("nft", "list", "table", "inet", "theirs")
	w.ns.Exec("nft", "delete", "table", "netdev", "culvert")
	w.ns.Exec("nft", "delete", "table", "inet", "culvert")
	ok(t, w.Fence(DefaultTunnel))
	must(w.EnsureHostLink(hostSpec()))(t)
	if after := w.ns.Exec("nft", "list", "table", "inet", "theirs"); after != before {
		t.Errorf("before %s, after %s", before, after)
	}
}

// Another's name for one of our links is taken back, and what one had there stays.
func TestRenamedLinksAreRecalled(t *testing.T) {
	w, _, _ := fenced(t)
	before := must(w.HostLink())(t)
	tunnel := must(w.Link(DefaultTunnel))(t)
	for _, name := range []string{HostName, DatapathName, DefaultTunnel} {
		w.ns.Exec("ip", "link", "set", name, "down")
		w.ns.Exec("ip", "link", "set", name, "name", "theirs-"+name[len(name)-2:])
	}
	h := must(w.EnsureHostLink(hostSpec()))(t)
	if h.Host.Ifindex != before.Host.Ifindex || h.Datapath.Ifindex != before.Datapath.Ifindex || h.Address != before.Address {
		t.Errorf("the pair is %+v, was %+v", h, before)
	}
	if l := must(w.EnsureTunnel(TunnelSpec{MTU: 1420}))(t); l.Ifindex != tunnel.Ifindex || !l.Closed {
		t.Errorf("the tunnel is %+v, was %+v", l, tunnel)
	}
	if said := strings.Join(w.Repairs(), "\n"); strings.Count(said, "had been renamed to theirs-") != 3 {
		t.Errorf("said %q", said)
	}
}

// A link of another kind is not the tunnel, be it by its alias or by its name: it is told, and stays as it is.
func TestTheTunnelIsNoOtherLink(t *testing.T) {
	w := newKernelWorld(t)
	w.ns.Exec("ip", "link", "add", "br-other", "type", "bridge")
	w.ns.Exec("ip", "link", "set", "br-other", "alias", aliasTunnel, "up")
	w.ns.Exec("ip", "addr", "add", "192.0.2.9/24", "dev", "br-other")
	_, err := w.EnsureTunnel(TunnelSpec{MTU: 1420})
	wantErr(t, err, ErrNoLink)
	untouched := func(name string) {
		t.Helper()
		ok(t, w.Fence(DefaultTunnel))
		l := must(w.Link(name))(t)
		if l.Ifindex == 0 || !l.Up || l.Closed || l.MTU != 1500 {
			t.Errorf("%s is %+v", name, l)
		}
		if has := w.ns.Exec("ip", "addr", "show", "dev", name); !strings.Contains(has, "192.0.2.9/24") {
			t.Errorf("%s has lost its address: %s", name, has)
		}
		if said := w.Repairs(); len(said) != 0 {
			t.Errorf("said %q", said)
		}
	}
	untouched("br-other")
	w.ns.Exec("ip", "link", "set", "br-other", "down")
	w.ns.Exec("ip", "link", "set", "br-other", "name", DefaultTunnel)
	w.ns.Exec("ip", "link", "set", DefaultTunnel, "up")
	for _, kernel := range []bool{false, true} {
		_, err = w.EnsureTunnel(TunnelSpec{MTU: 1420, Kernel: kernel})
		wantErr(t, err, ErrForeign)
		if err != nil && !strings.Contains(err.Error(), `of the kind "bridge"`) {
			t.Errorf("kernel %v: %v", kernel, err)
		}
		untouched(DefaultTunnel)
	}
}

// What others do to what is ours wakes at once, and what is not ours does not.
func TestWatchTellsOfFences(t *testing.T) {
	w, l, _ := fenced(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wakes atomic.Int64
	done := make(chan error, 1)
	go func() { done <- w.Watch(ctx, func() { wakes.Add(1) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	netlab.Eventually(t, patience, func() bool { // until it listens
		w.ns.Exec("ip", "link", "set", l.Name, "txqueuelen", "1001")
		w.ns.Exec("ip", "link", "set", l.Name, "txqueuelen", "1000")
		return wakes.Load() > 0
	}, "a change of a link")
	for _, command := range []string{
		"nft flush ruleset", "tc qdisc add dev " + l.Name + " clsact", "sysctl -qw net.ipv4.ip_forward=1",
		"ip addr flush dev " + HostName, "sysctl -qw net.ipv4.conf." + l.Name + ".rp_filter=0",
	} {
		before := wakes.Load()
		w.ns.Exec("sh", "-c", command)
		netlab.Eventually(t, patience, func() bool { return wakes.Load() > before }, "woken by "+command)
	}
	before := wakes.Load()
	for range 20 {
		w.ns.Exec("nft", "add table inet theirs; delete table inet theirs")
	}
	w.ns.Exec("ip", "link", "set", l.Name, "txqueuelen", "1002")
	netlab.Eventually(t, patience, func() bool { return wakes.Load() > before }, "woken")
	if n := wakes.Load() - before; n > 4 {
		t.Errorf("woken %d times by 20 changes of a foreign table and one of a link", n)
	}
}
