package host

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// dual is spec with IPv6.
func dual(netns string) WorkloadSpec {
	s := spec(netns)
	s.IPv6Address, s.IPv6Block = netip.MustParseAddr("fd12:3456:0:7:a00:105:0:dba2"), netip.MustParsePrefix("fd12:3456:0:7::/64")
	return s
}

// only6 is spec with IPv6 alone.
func only6(netns string) WorkloadSpec {
	s := dual(netns)
	s.IPv6Only, s.Resolver = true, netip.MustParseAddr("fd12:3456:0:7:a00:2:0:dba2")
	return s
}

// Families are turned on and off without making the interface anew, and what is in the way of a family that an interface does
// not have is not in its way.
func contractFamilies(t *testing.T, w world) {
	path := w.namespace("cart")
	first := must(w.Attach(spec(path)))(t)
	for _, s := range []WorkloadSpec{dual(path), only6(path), dual(path), spec(path)} {
		if got := must(w.Attach(s))(t); got != first {
			t.Fatalf("another family:\n%+v, before\n%+v", got, first)
		}
		if f := w.resolverFile(path); !strings.Contains(f, "nameserver "+s.Resolver.String()+"\n") {
			t.Fatalf("resolver file: %q, want %s", f, s.Resolver)
		}
	}
	ok(t, w.Detach(first.ENI))

	w.addInterface(path, "eth0", netip.MustParsePrefix("10.0.200.5/24"))
	must(w.Attach(only6(path)))(t)
	ok(t, w.Detach(first.ENI))
	w.deleteInterface(path, "eth0")
	w.addInterface(path, "eth0", netip.MustParsePrefix("fd12:3456:0:7:a00:109:0:dba2/128"))
	must(w.Attach(spec(path)))(t)
	_, err := w.Attach(dual(path))
	wantErr(t, err, ErrConflict)
	if !strings.Contains(err.Error(), "overlaps the VPC's range fd12:3456:0:7::/64") {
		t.Errorf("%v", err)
	}
}

func TestIPv6Conflicts(t *testing.T) {
	p := netip.MustParsePrefix
	for _, c := range []struct {
		name, dst, dev string
		def            bool
		want           string
	}{
		{name: "same range", dst: "fd12:3456:0:7::/64", dev: "eth0", want: "ip -6 route del fd12:3456:0:7::/64 dev eth0"},
		{name: "whole mesh", dst: "fd12:3456::/32", dev: "eth0", want: "fd12:3456::/32"},
		{name: "another VPC", dst: "fd12:3456:0:8::/64", dev: "eth0"},
		{name: "the link", dst: "fe80::/64", dev: "eth0"},
		{name: "default not asked", dst: "::/0", dev: "eth0"},
		{name: "default asked", dst: "::/0", dev: "eth0", def: true, want: "ip -6 route del default dev eth0"},
		{name: "the kernel's refusal", dst: "::/0", dev: "lo", def: true},
	} {
		st := state(func(st *spaceState) { st.routes = append(st.routes, spaceRoute{2, c.dev, p(c.dst), false}) })
		s := dual("/run/netns/x")
		s.DefaultRoute = c.def
		got := workloadConflicts(s, st, 0)
		if (c.want == "") != (len(got) == 0) || len(got) == 1 && !strings.Contains(got[0].What+got[0].Remedy, c.want) || len(got) > 1 {
			t.Errorf("%s: %+v, want %q", c.name, got, c.want)
		}
		if got := workloadConflicts(spec("/run/netns/x"), st, 0); len(got) != 0 {
			t.Errorf("%s, without IPv6: %+v", c.name, got)
		}
	}
}

func TestIPv6Routes(t *testing.T) {
	s := dual("/run/netns/x")
	s.DefaultRoute = true
	v4, v6 := split(workloadRoutes(s, spaceState{}, 0))
	want := []route{{dst: s.IPv6Block, gateway: GatewayIPv6}, {dst: netip.MustParsePrefix("fd12:3456::/32"), gateway: GatewayIPv6},
		{dst: netip.MustParsePrefix("::/0"), gateway: GatewayIPv6}}
	if len(v4) != 4 || !slices.Equal(v6, want) {
		t.Errorf("routes %v and %v", v4, v6)
	}
	s = only6("/run/netns/x")
	if v4, v6 = split(workloadRoutes(s, spaceState{}, 0)); len(v4) != 0 || !slices.Equal(v6, want[:2]) {
		t.Errorf("IPv6 only: routes %v and %v", v4, v6)
	}
	first := spaceState{routes: []spaceRoute{{ifindex: 4, name: "eni0", dst: want[1].dst, ours: true}}}
	if _, v6 = split(workloadRoutes(s, first, 5)); !slices.Equal(v6, want[:1]) || len(workloadConflicts(s, first, 5)) != 0 {
		t.Errorf("a second attachment: routes %v, %v", v6, workloadConflicts(s, first, 5))
	}
	if _, v6 = split(workloadRoutes(s, first, 4)); !slices.Equal(v6, want[:2]) {
		t.Errorf("the first, again: routes %v", v6)
	}
	if got := linkLocal(MAC{0x02, 0x11, 0x22, 0x33, 0x44, 0x55}); got != netip.MustParseAddr("fe80::11:22ff:fe33:4455") {
		t.Errorf("link-local address %s", got)
	}
}
