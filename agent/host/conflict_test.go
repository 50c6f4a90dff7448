package host

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func state(edit func(*spaceState)) spaceState {
	st := spaceState{links: []spaceLink{{1, "lo"}, {2, "eth0"}}}
	st.addresses = []spaceAddress{{1, "lo", netip.MustParsePrefix("127.0.0.1/8")}}
	edit(&st)
	return st
}

func TestWorkloadConflicts(t *testing.T) {
	p := netip.MustParsePrefix
	addr := func(ifindex int, s string) func(*spaceState) {
		return func(st *spaceState) { st.addresses = append(st.addresses, spaceAddress{ifindex, "eth0", p(s)}) }
	}
	rt := func(ifindex int, name, s string, ours bool) func(*spaceState) {
		return func(st *spaceState) { st.routes = append(st.routes, spaceRoute{ifindex, name, p(s), ours}) }
	}
	for _, c := range []struct {
		name   string
		edit   func(*spaceState)
		change func(*WorkloadSpec)
		own    int
		want   string // part of the only conflict; empty: none
	}{
		{name: "nothing", edit: func(*spaceState) {}},
		{name: "name taken", edit: func(*spaceState) {}, change: func(s *WorkloadSpec) { s.Interface = "eth0" }, want: "--interface eni0"},
		{name: "own name", edit: func(*spaceState) {}, change: func(s *WorkloadSpec) { s.Interface = "eth0" }, own: 2},
		{name: "address inside", edit: addr(2, "10.0.9.9/32"), want: "ip address del 10.0.9.9/32 dev eth0"},
		{name: "address whose net is wider", edit: addr(2, "10.200.0.1/8"), want: "address 10.200.0.1/8"},
		{name: "address elsewhere", edit: addr(2, "10.1.0.1/16")},
		{name: "own address", edit: addr(2, "10.0.1.5/32"), own: 2},
		{name: "resolver's address", edit: addr(2, "169.254.169.253/16"), want: "resolver 169.254.169.253"},
		{name: "link-local address", edit: addr(2, "169.254.7.7/16")},
		{name: "same route", edit: rt(2, "eth0", "10.0.0.0/16", false), want: "ip route del 10.0.0.0/16 dev eth0"},
		{name: "another attachment of the VPC", edit: rt(2, "eth0", "10.0.0.0/16", true), want: "10.0.0.0/16"},
		{name: "longer route", edit: rt(2, "eth0", "10.0.7.0/24", false), want: "route 10.0.7.0/24"},
		{name: "shorter route", edit: rt(2, "eth0", "10.0.0.0/8", false), want: "route 10.0.0.0/8"},
		{name: "half of the internet", edit: rt(2, "tun0", "0.0.0.0/1", false), want: "route 0.0.0.0/1 via tun0"},
		{name: "blackhole", edit: rt(0, "", "10.0.0.0/8", false), want: "remove it: ip route del 10.0.0.0/8,"},
		{name: "route elsewhere", edit: rt(2, "eth0", "10.1.0.0/16", false)},
		{name: "own route", edit: rt(2, "eth0", "10.0.0.0/16", true), own: 2},
		{name: "default not asked", edit: rt(2, "eth0", "0.0.0.0/0", false)},
		{
			name: "default asked", edit: rt(2, "eth0", "0.0.0.0/0", false),
			change: func(s *WorkloadSpec) { s.DefaultRoute = true }, want: "--default-route",
		},
		{name: "link-local net", edit: rt(2, "eth0", "169.254.0.0/16", false)},
		{name: "resolver's route", edit: rt(2, "eth0", "169.254.169.253/32", false), want: "169.254.169.253/32"},
		{name: "resolver's route of another attachment", edit: rt(2, "eth0", "169.254.169.253/32", true)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := spec("/run/netns/x")
			if c.change != nil {
				c.change(&s)
			}
			got := workloadConflicts(s, state(c.edit), c.own)
			err := conflictError("namespace x", got)
			switch {
			case c.want == "" && err != nil:
				t.Fatalf("conflict: %v", err)
			case c.want != "" && (len(got) != 1 || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("conflicts %v, want one with %q", err, c.want)
			case c.want != "" && !errors.Is(err, ErrConflict):
				t.Fatalf("%v is not ErrConflict", err)
			}
		})
	}
}

func TestHostConflicts(t *testing.T) {
	p := netip.MustParsePrefix
	st := spaceState{
		addresses: []spaceAddress{{2, "eth0", p("fd12:3456:1::1/64")}, {9, HostName, p("fd12:3456::7:0:1/128")}},
		routes: []spaceRoute{
			{ifindex: 2, name: "eth0", dst: p("::/0")}, {ifindex: 2, name: "wg0", dst: p("fd00::/8")},
			{ifindex: 9, name: HostName, dst: p("fd12:3456::/32"), ours: true}, {ifindex: 2, name: "eth0", dst: p("fe80::/64")},
		},
	}
	got := hostConflicts(hostSpec(), st, 9)
	if len(got) != 2 || !strings.Contains(got[0].What, "fd12:3456:1::1/64") || !strings.Contains(got[1].What, "fd00::/8") {
		t.Fatalf("conflicts %v", got)
	}
}

// An attachment's own routes never collide with it, and any route that shares an address with the VPC collides unless
// it is the default route.
func TestConflictsFollowOverlap(t *testing.T) {
	s := spec("/run/netns/x")
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")
		if rapid.Bool().Draw(t, "near") {
			b[0], b[1] = 10, b[1]&1
		}
		dst := netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), rapid.IntRange(1, 32).Draw(t, "bits")).Masked()
		if dst.Addr() == ResolverAddress {
			return
		}
		st := spaceState{routes: []spaceRoute{{ifindex: 2, name: "eth0", dst: dst}}}
		shares := dst.Contains(s.VPC.Addr()) || s.VPC.Contains(dst.Addr())
		if got := workloadConflicts(s, st, 0); (len(got) > 0) != shares {
			t.Fatalf("route %s: conflicts %v", dst, got)
		}
		if got := workloadConflicts(s, st, 2); len(got) > 0 {
			t.Fatalf("own route %s: conflicts %v", dst, got)
		}
	})
}

func TestWorkloadRoutes(t *testing.T) {
	s := spec("/run/netns/x")
	dsts := func(rs []route) (out []string) {
		for _, r := range rs {
			out = append(out, r.dst.String())
			if r.source != s.Address || r.gateway.IsValid() != (r.dst.Addr() != s.Gateway) {
				t.Errorf("route %+v", r)
			}
		}
		return out
	}
	resolver := spaceRoute{ifindex: 4, name: "eni0", dst: netip.PrefixFrom(ResolverAddress, 32), ours: true}
	st := spaceState{routes: []spaceRoute{resolver}}
	if got, want := dsts(workloadRoutes(s, st, 4)), []string{"10.0.1.1/32", "10.0.0.0/16", "169.254.169.253/32"}; !slices.Equal(got, want) {
		t.Errorf("routes %v, want %v", got, want)
	}
	s.DefaultRoute = true
	if got, want := dsts(workloadRoutes(s, st, 5)), []string{"10.0.1.1/32", "10.0.0.0/16", "0.0.0.0/0"}; !slices.Equal(got, want) {
		t.Errorf("routes %v, want %v", got, want)
	}
}
