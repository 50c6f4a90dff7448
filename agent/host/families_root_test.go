//go:build linux

package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// ipv6Of are the IPv6 addresses of eni0 that may be used, sorted.
func ipv6Of(w *kernelWorld, path string) []string {
	var out []string
	for line := range strings.Lines(w.spaces[path].Exec("ip", "-6", "-o", "address", "show", "dev", "eni0", "-tentative")) {
		out = append(out, strings.Fields(line)[3])
	}
	slices.Sort(out)
	return out
}

// A workload has its IPv6 address at once, without looking for duplicates, and one way: the gateway's link-local address.
func TestNetlinkIPv6(t *testing.T) {
	w := newKernelWorld(t)
	s := dual(w.namespace("cart"))
	ns := w.spaces[s.Netns]
	// As container engines leave namespaces whose network they make without IPv6.
	ns.Exec("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	s.DefaultRoute = true
	l := must(w.Attach(s))(t)
	want := []string{s.IPv6Address.String() + "/128", fmt.Sprintf("%s/64", linkLocal(s.MAC))}
	slices.Sort(want)
	if got := ipv6Of(w, s.Netns); !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	ok(t, w.SetUp(l.Name, true))
	for _, dst := range []string{"fd12:3456:0:7:a00:106::", "2001:db8::1"} {
		got := ns.Exec("ip", "-6", "route", "get", dst)
		if !strings.Contains(got, "via fe80::1 dev eni0") || !strings.Contains(got, "src "+s.IPv6Address.String()) {
			t.Errorf("route to %s: %s", dst, got)
		}
	}
	if got := ipv6Of(w, s.Netns); !slices.Equal(got, want) {
		t.Errorf("up: addresses %v, want %v", got, want)
	}

	s.DefaultRoute = false
	must(w.Attach(s))(t)
	if out, err := ns.Try("ip", "-6", "route", "get", "2001:db8::1"); err == nil {
		t.Errorf("a way out of the VPC remains: %s", out)
	}
	six := only6(s.Netns)
	must(w.Attach(six))(t)
	if out := ns.Exec("ip", "-4", "address", "show", "dev", "eni0") + ns.Exec("ip", "-4", "route"); out != "" {
		t.Errorf("IPv4 of what is IPv6 only: %s", out)
	}
	four := spec(s.Netns)
	must(w.Attach(four))(t)
	if out := ns.Exec("ip", "-6", "route", "show", "proto", "197"); out != "" || slices.Contains(ipv6Of(w, s.Netns), want[0]) {
		t.Errorf("IPv6 of what is IPv4 only: %s %v", out, ipv6Of(w, s.Netns))
	}
}

func TestNetlinkIPv6Repairs(t *testing.T) {
	w := newKernelWorld(t)
	s := dual(w.namespace("cart"))
	l := must(w.Attach(s))(t)
	ok(t, w.SetUp(l.Name, true))
	must(w.Attach(s))(t)
	if got := w.Repairs(); len(got) != 0 {
		t.Errorf("repaired what was as it should be: %v", got)
	}
	ns := w.spaces[s.Netns]
	before := ipv6Of(w, s.Netns)
	for _, damage := range []string{
		"-6 address flush dev eni0", "-6 route flush dev eni0 proto 197", "link set eni0 down",
		"-6 address add fd12:3456:0:7::9/128 dev eni0",
	} {
		ns.Exec("ip", strings.Fields(damage)...)
		must(w.Attach(s))(t)
		notes := w.Repairs()
		if len(notes) == 0 && !strings.Contains(damage, "add") {
			t.Errorf("after ip %s: no word of it", damage)
		}
		got := ns.Exec("ip", "-6", "route", "get", "fd12:3456:0:7:a00:106::")
		if !strings.Contains(got, "via fe80::1 dev eni0") || !slices.Equal(ipv6Of(w, s.Netns), before) {
			t.Errorf("after ip %s: %s %v", damage, got, ipv6Of(w, s.Netns))
		}
	}
}

func TestNetlinkIPv6LeavesNoTrace(t *testing.T) {
	w := newKernelWorld(t)
	s := dual(w.namespace("cart"))
	ns := w.spaces[s.Netns]
	w.addInterface(s.Netns, "eth0", netip.MustParsePrefix("192.0.2.5/24"))
	before := picture(ns)
	l := must(w.Attach(s))(t)
	ok(t, w.SetUp(l.Name, true))
	if picture(ns) == before {
		t.Fatal("the picture does not show an attachment")
	}
	ok(t, w.Detach(s.ENI))
	if after := picture(ns); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
