package host

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/netlab"
)

// world is a host and what goes on beside Culvert on it.
type world interface {
	Host
	namespace(name string) (path string) // makes one that has a name
	removeNamespace(path string)
	addLink(name string)      // on the host, not Culvert's: a TUN
	addWireGuard(name string) // likewise, of the kernel's WireGuard
	addBridge(name string)    // likewise, of a kind that none of Culvert's has
	deleteLink(name string)
	deleteInterface(path, ifname string)
	openDoor(ifname string)
	addInterface(path, ifname string, address netip.Prefix)
	addRoute(path, ifname string, dst netip.Prefix)
	resolverFile(path string) string
	setResolverFile(path, text string)
	inode(path string) uint64
	doors() []string // names of links that have a chain, there or not
}

// patience is for what the kernel does on its own time.
const patience = 30 * time.Second

func spec(netns string) WorkloadSpec {
	return WorkloadSpec{
		ENI: "eni-0cart", Netns: netns, Interface: "eni0", Address: netip.MustParseAddr("10.0.1.5"),
		Gateway: netip.MustParseAddr("10.0.1.1"), Subnet: netip.MustParsePrefix("10.0.1.0/24"),
		VPC: netip.MustParsePrefix("10.0.0.0/16"), MTU: 1392, MAC: WorkloadMAC(7, netip.MustParseAddr("10.0.1.5")),
		Resolver: netip.MustParseAddr("10.0.0.2"), Search: "shop.internal",
	}
}

func hostSpec() HostSpec {
	return HostSpec{
		Address: netip.MustParseAddr("fd12:3456::7:0:1"), Mesh: netip.MustParsePrefix("fd12:3456::/32"), MTU: 1420,
		ResolverPort: 1023,
	}
}

// contract runs the tests that hold for every Host. make gives a fresh world.
func contract(t *testing.T, make func(t *testing.T) world) {
	for _, c := range []struct {
		name string
		test func(*testing.T, world)
	}{
		{"attach and detach", contractAttach},
		{"attach corrects", contractCorrects},
		{"attach refuses what is wrong", contractSpec},
		{"attach refuses conflicts", contractConflicts},
		{"families", contractFamilies},
		{"equal addresses in two namespaces", contractOverlap},
		{"what vanished is noticed", contractVanished},
		{"a replaced namespace", contractReplaced},
		{"another namespace than meant", contractMeant},
		{"sweep", contractSweep},
		{"door", contractDoor},
		{"tunnel", contractTunnel},
		{"host link", contractHostLink},
		{"the host's door", contractHostDoor},
		{"resolver file", contractResolver},
		{"resolver file is shared", contractResolverShared},
		{"watch", contractWatch},
		{"cleanup", contractCleanup},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, make(t)) })
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func contractAttach(t *testing.T, w world) {
	s := spec(w.namespace("cart"))
	first := must(w.Attach(s))(t)
	want := WorkloadLink{
		ENI: s.ENI, Interface: "eni0", Netns: s.Netns, Name: VethName(s.ENI), Ifindex: first.Ifindex, MTU: 1392,
		GatewayMAC: GatewayMAC, Closed: true, PeerPresent: true, PeerIfindex: first.PeerIfindex, PeerUp: true,
		MAC: s.MAC, NetnsInode: first.NetnsInode,
	}
	if first != want || first.Ifindex == 0 || first.PeerIfindex == 0 || first.NetnsInode == 0 {
		t.Fatalf("attached:\n%+v, want\n%+v", first, want)
	}
	if again := must(w.Attach(s))(t); again != first {
		t.Fatalf("attached again:\n%+v, before\n%+v", again, first)
	}
	ok(t, w.SetUp(first.Name, true))
	ok(t, w.SetUp(first.Name, true))
	first.Up = true
	if got := must(w.Attach(s))(t); got != first {
		t.Fatalf("attaching what is up:\n%+v, want\n%+v", got, first)
	}
	if got := must(w.Workloads())(t); !slices.Equal(got, []WorkloadLink{first}) {
		t.Fatalf("workloads %+v, want %+v", got, first)
	}
	if l := must(w.Link(first.Name))(t); l.Ifindex != first.Ifindex || !l.Up || !l.Closed || l.MAC != GatewayMAC {
		t.Fatalf("link %+v", l)
	}
	for range 2 {
		ok(t, w.Detach(s.ENI))
	}
	if got := must(w.Workloads())(t); len(got) != 0 {
		t.Fatalf("workloads after detach: %+v", got)
	}
	if must(w.Closed(first.Name))(t) {
		t.Fatal("an absent link has a closed door")
	}
	if second := must(w.Attach(s))(t); second.Up || !second.Closed {
		t.Fatalf("attached anew: %+v", second)
	}
}

func contractCorrects(t *testing.T, w world) {
	s := spec(w.namespace("cart"))
	first := must(w.Attach(s))(t)
	ok(t, w.SetUp(first.Name, true))

	s.MTU, s.DefaultRoute, s.Search = 1300, true, "other.internal"
	s.MAC = WorkloadMAC(8, s.Address)
	got := must(w.Attach(s))(t)
	want := first
	want.MTU, want.MAC, want.Up = 1300, s.MAC, true
	if got != want {
		t.Fatalf("corrected:\n%+v, want\n%+v", got, want)
	}
	if f := w.resolverFile(s.Netns); !strings.Contains(f, "search other.internal\n") {
		t.Fatalf("resolver file: %q", f)
	}

	s.Interface = "eth7"
	got = must(w.Attach(s))(t)
	if got.Ifindex == first.Ifindex || got.Up || got.Interface != "eth7" || !got.PeerPresent {
		t.Fatalf("under another name: %+v", got)
	}
	elsewhere := w.namespace("cart2")
	s.Netns = elsewhere
	moved := must(w.Attach(s))(t)
	if moved.Ifindex == got.Ifindex || moved.NetnsInode == got.NetnsInode || !moved.PeerPresent {
		t.Fatalf("in another namespace: %+v, before %+v", moved, got)
	}
	if all := must(w.Workloads())(t); !slices.Equal(all, []WorkloadLink{moved}) {
		t.Fatalf("workloads %+v, want %+v", all, moved)
	}
}

func contractSpec(t *testing.T, w world) {
	path := w.namespace("cart")
	for _, c := range []struct {
		change func(*WorkloadSpec)
		err    error
		names  string
	}{
		{func(s *WorkloadSpec) { s.ENI = "" }, ErrSpec, "ENI"},
		{func(s *WorkloadSpec) { s.ENI = "eni 1" }, ErrSpec, "ENI"},
		{func(s *WorkloadSpec) { s.Netns = "cart" }, ErrSpec, "Netns"},
		{func(s *WorkloadSpec) { s.Netns = path + "-none" }, ErrNoNamespace, path + "-none"},
		{func(s *WorkloadSpec) { s.Interface = "lo" }, ErrSpec, "Interface"},
		{func(s *WorkloadSpec) { s.Interface = "sixteen-letters-" }, ErrSpec, "Interface"},
		{func(s *WorkloadSpec) { s.Address = netip.MustParseAddr("10.0.2.5") }, ErrSpec, "Address"},
		{func(s *WorkloadSpec) { s.Address = s.Gateway }, ErrSpec, "Address"},
		{func(s *WorkloadSpec) { s.Gateway = netip.MustParseAddr("10.0.1.9") }, ErrSpec, "Gateway"},
		{func(s *WorkloadSpec) { s.Subnet = netip.MustParsePrefix("10.0.0.0/8") }, ErrSpec, "Subnet"},
		{func(s *WorkloadSpec) { s.MTU = 1279 }, ErrSpec, "MTU"},
		{func(s *WorkloadSpec) { s.IPv6Only = true }, ErrSpec, "IPv6Address"},
		{func(s *WorkloadSpec) { s.IPv6Address = s.Address }, ErrSpec, "IPv6Address"},
		{func(s *WorkloadSpec) { *s = dual(path); s.IPv6Block = netip.MustParsePrefix("fd12:3456:0:8::/64") }, ErrSpec, "IPv6Block"},
		{func(s *WorkloadSpec) { *s = dual(path); s.IPv6Only = true }, ErrSpec, "Resolver"},
		{func(s *WorkloadSpec) { s.Resolver = only6(path).Resolver }, ErrSpec, "Resolver"},
		{func(s *WorkloadSpec) { s.MAC = MAC{} }, ErrSpec, "MAC"},
		{func(s *WorkloadSpec) { s.Search = "a\nnameserver 6.6.6.6" }, ErrSpec, "Search"},
	} {
		s := spec(path)
		c.change(&s)
		_, err := w.Attach(s)
		wantErr(t, err, c.err)
		if !strings.Contains(err.Error(), c.names) {
			t.Errorf("error %q does not name %s", err, c.names)
		}
	}
	if got := must(w.Workloads())(t); len(got) != 0 {
		t.Fatalf("workloads: %+v", got)
	}
}

func contractConflicts(t *testing.T, w world) {
	path := w.namespace("cart")
	w.addInterface(path, "eth0", netip.MustParsePrefix("192.0.2.5/24"))
	w.addRoute(path, "eth0", netip.MustParsePrefix("10.0.0.0/8"))
	w.addInterface(path, "eth1", netip.MustParsePrefix("10.0.200.1/32"))
	w.addRoute(path, "eth0", netip.MustParsePrefix("0.0.0.0/0"))
	s := spec(path)
	s.Interface, s.DefaultRoute = "eth0", true
	_, err := w.Attach(s)
	wantErr(t, err, ErrConflict)
	for _, part := range []string{
		"interface eth0 exists", "--interface eni0", "route 10.0.0.0/8 via eth0", "ip route del 10.0.0.0/8 dev eth0",
		"address 10.0.200.1/32 on eth1", "default route", "--default-route",
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q\nlacks %q", err, part)
		}
	}
	if got := must(w.Workloads())(t); len(got) != 0 {
		t.Fatalf("a refused attachment left %+v", got)
	}
	if f := w.resolverFile(path); f != "" {
		t.Fatalf("a refused attachment left a resolver file: %q", f)
	}

	// What does not overlap is no obstacle: same namespace, another VPC, own name.
	s = spec(path)
	s.VPC, s.Subnet = netip.MustParsePrefix("172.16.0.0/16"), netip.MustParsePrefix("172.16.1.0/24")
	s.Address, s.Gateway = netip.MustParseAddr("172.16.1.5"), netip.MustParseAddr("172.16.1.1")
	must(w.Attach(s))(t)
}

func contractOverlap(t *testing.T, w world) {
	a, b := spec(w.namespace("cart")), spec(w.namespace("ledger"))
	b.ENI = "eni-0aledger" // sorts first
	la, lb := must(w.Attach(a))(t), must(w.Attach(b))(t)
	if got := must(w.Workloads())(t); !slices.Equal(got, []WorkloadLink{lb, la}) {
		t.Fatalf("workloads %+v", got)
	}
	ok(t, w.Detach(a.ENI))
	if got := must(w.Workloads())(t); !slices.Equal(got, []WorkloadLink{lb}) {
		t.Fatalf("workloads %+v, want %+v", got, lb)
	}
}

func contractVanished(t *testing.T, w world) {
	s := spec(w.namespace("cart"))
	gone := func(l WorkloadLink) func() bool {
		return func() bool {
			for _, x := range must(w.Workloads())(t) {
				if x.Ifindex == l.Ifindex && x.PeerPresent {
					return false
				}
			}
			return true
		}
	}
	l := must(w.Attach(s))(t)
	w.deleteInterface(s.Netns, "eni0")
	netlab.Eventually(t, patience, gone(l), "a deleted interface still counts")

	l = must(w.Attach(s))(t)
	w.deleteLink(l.Name)
	netlab.Eventually(t, patience, gone(l), "a deleted link still counts")

	l = must(w.Attach(s))(t)
	if l.Up || !l.Closed || !l.PeerPresent {
		t.Fatalf("attached anew: %+v", l)
	}
	w.removeNamespace(s.Netns)
	netlab.Eventually(t, patience, gone(l), "a link into a namespace that is gone still counts")
	_, err := w.Attach(s)
	wantErr(t, err, ErrNoNamespace)
	ok(t, w.Detach(s.ENI))
	if f := w.resolverFile(s.Netns); f != "" {
		t.Fatalf("resolver file after detach: %q", f)
	}
}

func contractReplaced(t *testing.T, w world) {
	s := spec(w.namespace("cart"))
	l := must(w.Attach(s))(t)
	w.removeNamespace(s.Netns)
	if w.namespace("cart") != s.Netns {
		t.Fatal("the path of a namespace is not stable")
	}
	netlab.Eventually(t, patience, func() bool {
		all := must(w.Workloads())(t)
		return len(all) == 0 || !all[0].PeerPresent
	}, "a link into the old namespace counts as attached to the new one")
	now := must(w.Attach(s))(t)
	if !now.PeerPresent || now.Ifindex == l.Ifindex || now.Up || !now.Closed {
		t.Fatalf("attached to the new namespace: %+v, before %+v", now, l)
	}
}

func contractMeant(t *testing.T, w world) {
	s := spec(w.namespace("cart"))
	s.NetnsInode = w.inode(s.Netns)
	l := must(w.Attach(s))(t)
	if l.NetnsInode != s.NetnsInode {
		t.Fatalf("attached in %d, meant %d", l.NetnsInode, s.NetnsInode)
	}
	other := s
	other.Netns = w.namespace("other")
	_, err := w.Attach(other)
	wantErr(t, err, ErrNoNamespace)
	if got := must(w.Workloads())(t); len(got) != 1 || got[0].NetnsInode != s.NetnsInode {
		t.Fatalf("after it was refused: %+v", got)
	}
}

func contractSweep(t *testing.T, w world) {
	s := spec(w.namespace("cart"))
	far := s
	far.ENI, far.Netns, far.Address = "eni-0far", w.namespace("far"), netip.MustParseAddr("10.0.1.6")
	there := far
	there.ENI, there.Netns, there.Address = "eni-0there", w.namespace("there"), netip.MustParseAddr("10.0.1.7")
	must(w.EnsureHostLink(hostSpec()))(t)
	for _, x := range []WorkloadSpec{s, far, there} {
		must(w.Attach(x))(t)
	}
	w.removeNamespace(s.Netns)
	w.removeNamespace(far.Netns)
	netlab.Eventually(t, patience, func() bool { return len(must(w.Workloads())(t)) == 1 }, "links go with their namespaces")
	all := w.doors()
	for _, name := range []string{VethName(there.ENI), DatapathName} {
		if !slices.Contains(all, name) {
			t.Fatalf("doors %v, want one of %s, too", all, name)
		}
	}
	// Linux 6.1 takes a door with its link, later ones leave it.
	if left := slices.Contains(all, VethName(s.ENI)); left != slices.Contains(all, VethName(far.ENI)) {
		t.Fatalf("doors %v: of two links that went the same way one has a door", all)
	}
	ok(t, w.Sweep([]string{far.ENI}))
	want := slices.DeleteFunc(all, func(name string) bool { return name == VethName(s.ENI) })
	if got := w.doors(); !slices.Equal(got, want) {
		t.Fatalf("doors after a sweep %v, want %v", got, want)
	}
	ok(t, w.Sweep(nil))
	if got := w.doors(); !slices.Contains(got, VethName(there.ENI)) || slices.Contains(got, VethName(far.ENI)) {
		t.Fatalf("doors after the second sweep %v", got)
	}
}

func contractDoor(t *testing.T, w world) {
	s := spec(w.namespace("cart"))
	l := must(w.Attach(s))(t)
	w.openDoor(l.Name)
	if must(w.Closed(l.Name))(t) {
		t.Fatal("a door that lets everything through counts as closed")
	}
	wantErr(t, w.SetUp(l.Name, true), ErrOpenDoor)
	if got := must(w.Link(l.Name))(t); got.Up {
		t.Fatalf("link went up with an open door: %+v", got)
	}
	if got := must(w.Workloads())(t); len(got) != 1 || got[0].Closed {
		t.Fatalf("workloads %+v", got)
	}
	if got := must(w.Attach(s))(t); got != l {
		t.Fatalf("closed again: %+v, before %+v", got, l)
	}
	ok(t, w.SetUp(l.Name, true))
	ok(t, w.SetUp(l.Name, false))
	if got := must(w.Link(l.Name))(t); got.Up {
		t.Fatalf("put down: %+v", got)
	}
	w.addLink("other0")
	wantErr(t, w.SetUp("other0", true), ErrOpenDoor)
	wantErr(t, w.SetUp("none0", true), ErrNoLink)
	ok(t, w.SetUp("none0", false))
}

func contractTunnel(t *testing.T, w world) {
	_, err := w.EnsureTunnel(TunnelSpec{MTU: 1420})
	wantErr(t, err, ErrNoLink)
	if l := must(w.Link(DefaultTunnel))(t); l != (Link{Name: DefaultTunnel}) {
		t.Fatalf("absent tunnel: %+v", l)
	}
	_, err = w.EnsureTunnel(TunnelSpec{MTU: 1000})
	wantErr(t, err, ErrSpec)

	w.addLink(DefaultTunnel)
	l := must(w.EnsureTunnel(TunnelSpec{MTU: 1420, TxQueueLen: 777}))(t)
	want := Link{Name: DefaultTunnel, Ifindex: l.Ifindex, MTU: 1420, TxQueueLen: 777, MAC: l.MAC, Closed: true}
	if l != want || l.Ifindex == 0 {
		t.Fatalf("tunnel %+v, want %+v", l, want)
	}
	ok(t, w.SetUp(DefaultTunnel, true))
	want.Up = true
	want.MTU = 1300
	if got := must(w.EnsureTunnel(TunnelSpec{MTU: 1300}))(t); got != want {
		t.Fatalf("tunnel %+v, want %+v", got, want)
	}
	w.deleteLink(DefaultTunnel)
	if l := must(w.Link(DefaultTunnel))(t); l != (Link{Name: DefaultTunnel}) {
		t.Fatalf("deleted tunnel: %+v", l)
	}
	w.addLink(DefaultTunnel)
	if l := must(w.EnsureTunnel(TunnelSpec{MTU: 1300}))(t); !l.Closed || l.Up {
		t.Fatalf("tunnel made anew: %+v", l)
	}
	w.deleteLink(DefaultTunnel)
	ok(t, w.Cleanup()) // its door
	w.addBridge(DefaultTunnel)
	before := must(w.Link(DefaultTunnel))(t)
	_, err = w.EnsureTunnel(TunnelSpec{MTU: 1420})
	wantErr(t, err, ErrForeign)
	ok(t, w.Fence(DefaultTunnel))
	if l := must(w.Link(DefaultTunnel))(t); l != before || !l.Foreign || l.Closed || l.Ifindex == 0 {
		t.Fatalf("a bridge with the tunnel's name: %+v, was %+v", l, before)
	}
	w.deleteLink(DefaultTunnel)
}

// contractKernelTunnel needs a kernel that has WireGuard.
func contractKernelTunnel(t *testing.T, w world) {
	spec := TunnelSpec{MTU: 1420, Kernel: true}
	l := must(w.EnsureTunnel(spec))(t)
	want := Link{Name: DefaultTunnel, Ifindex: l.Ifindex, MTU: 1420, TxQueueLen: l.TxQueueLen, Closed: true}
	if l != want || l.Ifindex == 0 {
		t.Fatalf("tunnel %+v, want %+v", l, want)
	}
	ok(t, w.SetUp(DefaultTunnel, true))
	want.Up, want.MTU, spec.MTU = true, 1300, 1300
	if got := must(w.EnsureTunnel(spec))(t); got != want {
		t.Fatalf("tunnel %+v, want %+v", got, want)
	}
	w.openDoor(DefaultTunnel)
	if got := must(w.EnsureTunnel(spec))(t); got != want {
		t.Fatalf("tunnel whose door was open %+v, want %+v", got, want)
	}
	w.deleteLink(DefaultTunnel)
	if got := must(w.EnsureTunnel(spec))(t); got.Ifindex == l.Ifindex || got.Up || !got.Closed {
		t.Fatalf("tunnel made anew: %+v", got)
	}
	spec.Kernel = false
	_, err := w.EnsureTunnel(spec)
	wantErr(t, err, ErrNoLink)
	if got := must(w.Link(DefaultTunnel))(t); got.Ifindex != 0 {
		t.Fatalf("a TUN is asked for, but there is still %+v", got)
	}
	w.addLink(DefaultTunnel)
	spec.Kernel = true
	_, err = w.EnsureTunnel(spec)
	wantErr(t, err, ErrKind)
	w.deleteLink(DefaultTunnel)
	w.addWireGuard(DefaultTunnel)
	for _, spec.Kernel = range []bool{true, false} {
		_, err = w.EnsureTunnel(spec)
		wantErr(t, err, ErrForeign)
	}
	ok(t, w.Cleanup())
	if got := must(w.Link(DefaultTunnel))(t); got.Ifindex == 0 {
		t.Fatal("cleanup took a tunnel that is not Culvert's")
	}
	w.deleteLink(DefaultTunnel)
	must(w.EnsureTunnel(TunnelSpec{MTU: 1420, Kernel: true}))(t)
	ok(t, w.Cleanup())
	if got := must(w.Link(DefaultTunnel))(t); got.Ifindex != 0 || len(w.doors()) != 0 {
		t.Fatalf("cleanup left %+v, doors %v", got, w.doors())
	}
}

// contractNoWireGuard needs a kernel that has none.
func contractNoWireGuard(t *testing.T, w world) {
	_, err := w.EnsureTunnel(TunnelSpec{MTU: 1420, Kernel: true})
	wantErr(t, err, ErrNoWireGuard)
	if l := must(w.Link(DefaultTunnel))(t); l.Ifindex != 0 {
		t.Fatalf("tunnel %+v", l)
	}
}

func contractHostLink(t *testing.T, w world) {
	if h := must(w.HostLink())(t); h.Host.Ifindex != 0 || h.Datapath.Ifindex != 0 || h.Address.IsValid() {
		t.Fatalf("host link before it was made: %+v", h)
	}
	ok(t, w.RemoveHostLink())
	bad := hostSpec()
	bad.Address = netip.MustParseAddr("fd00::1")
	_, err := w.EnsureHostLink(bad)
	wantErr(t, err, ErrSpec)

	h := must(w.EnsureHostLink(hostSpec()))(t)
	want := HostLink{
		Host: Link{
			Name: HostName, Ifindex: h.Host.Ifindex, MTU: 1420, TxQueueLen: 1000, MAC: HostMAC, Up: true, Closed: true,
		},
		Datapath: Link{
			Name: DatapathName, Ifindex: h.Datapath.Ifindex, MTU: 1420, TxQueueLen: 1000, MAC: DatapathMAC, Closed: true,
		},
		Address: hostSpec().Address, ResolverPort: 1023,
	}
	if h != want || h.Host.Ifindex == 0 || h.Datapath.Ifindex == 0 {
		t.Fatalf("host link\n%+v, want\n%+v", h, want)
	}
	ok(t, w.SetUp(DatapathName, true))
	want.Datapath.Up = true
	if again := must(w.EnsureHostLink(hostSpec()))(t); again != want {
		t.Fatalf("made again\n%+v, want\n%+v", again, want)
	}
	other := hostSpec()
	other.Address, other.MTU, other.ResolverPort = netip.MustParseAddr("fd12:3456::9:0:1"), 1400, 0
	want.Address, want.Host.MTU, want.Datapath.MTU, want.ResolverPort = other.Address, 1400, 1400, 0
	if got := must(w.EnsureHostLink(other))(t); got != want {
		t.Fatalf("corrected\n%+v, want\n%+v", got, want)
	}
	w.deleteLink(DatapathName)
	if h := must(w.HostLink())(t); h.Host.Ifindex != 0 || h.Datapath.Ifindex != 0 {
		t.Fatalf("one end deleted: %+v", h)
	}
	if h := must(w.EnsureHostLink(other))(t); h.Datapath.Up || !h.Datapath.Closed || h.Address != other.Address {
		t.Fatalf("made anew: %+v", h)
	}
	for range 2 {
		ok(t, w.RemoveHostLink())
	}
	w.addLink(HostName)
	_, err = w.EnsureHostLink(other)
	wantErr(t, err, ErrForeign)
	wantErr(t, w.RemoveHostLink(), ErrForeign)
}

func contractHostDoor(t *testing.T, w world) {
	spec := hostSpec()
	want := must(w.EnsureHostLink(spec))(t)
	w.openDoor(HostName)
	if h := must(w.HostLink())(t); h.Host.Closed || h.ResolverPort != 0 {
		t.Fatalf("a door that lets everything through counts as closed: %+v", h)
	}
	ok(t, w.SetUp(HostName, false))
	wantErr(t, w.SetUp(HostName, true), ErrOpenDoor)
	for _, open := range []struct {
		resolver, node uint16
		probes         bool
	}{{1023, 0, false}, {0, 0, false}, {53, 0, false}, {0, 1022, false}, {0, 0, true}, {1023, 1022, true}, {0, 1022, true}, {1023, 0, false}} {
		spec.ResolverPort, spec.NodePort, spec.Probes = open.resolver, open.node, open.probes
		want.ResolverPort, want.NodePort, want.Probes = open.resolver, open.node, open.probes
		if h := must(w.EnsureHostLink(spec))(t); h != want {
			t.Fatalf("%+v: %+v, want %+v", open, h, want)
		}
		if h := must(w.HostLink())(t); h != want {
			t.Fatalf("%+v, observed: %+v, want %+v", open, h, want)
		}
	}
	if !must(w.Closed(HostName))(t) {
		t.Fatal("the host's door is open")
	}
	ok(t, w.RemoveHostLink())
	if must(w.Closed(HostName))(t) {
		t.Fatal("an absent link has a closed door")
	}
	w.addLink(HostName)
	if must(w.Closed(HostName))(t) {
		t.Fatal("the door is still there after the link was removed")
	}
}

func contractResolver(t *testing.T, w world) {
	s := spec(w.namespace("cart"))
	must(w.Attach(s))(t)
	f := w.resolverFile(s.Netns)
	if !strings.HasSuffix(f, "\nsearch shop.internal\nnameserver 10.0.0.2\n") {
		t.Fatalf("resolver file: %q", f)
	}
	ok(t, w.Detach(s.ENI))
	if f := w.resolverFile(s.Netns); f != "" {
		t.Fatalf("resolver file after detach: %q", f)
	}

	const mine = "nameserver 192.0.2.53\n"
	w.setResolverFile(s.Netns, mine)
	for range 2 {
		must(w.Attach(s))(t)
	}
	if f := w.resolverFile(s.Netns); !strings.Contains(f, "nameserver 10.0.0.2\n") {
		t.Fatalf("resolver file: %q", f)
	}
	for range 2 {
		ok(t, w.Detach(s.ENI))
	}
	if f := w.resolverFile(s.Netns); f != mine {
		t.Fatalf("the file that was there became %q", f)
	}

	// A file that a person wrote meanwhile stays.
	must(w.Attach(s))(t)
	const edited = "nameserver 192.0.2.54\n"
	w.setResolverFile(s.Netns, edited)
	ok(t, w.Detach(s.ENI))
	if f := w.resolverFile(s.Netns); f != edited {
		t.Fatalf("a person's file became %q", f)
	}

	s.Resolver = netip.Addr{}
	must(w.Attach(s))(t)
	if f := w.resolverFile(s.Netns); f != edited {
		t.Fatalf("without a resolver the file became %q", f)
	}
}

func contractResolverShared(t *testing.T, w world) {
	a := spec(w.namespace("cart"))
	b := a
	b.ENI, b.Interface, b.Search = "eni-0second", "eni1", "second.internal"
	b.VPC, b.Subnet = netip.MustParsePrefix("172.16.0.0/16"), netip.MustParsePrefix("172.16.1.0/24")
	b.Address, b.Gateway = netip.MustParseAddr("172.16.1.5"), netip.MustParseAddr("172.16.1.1")
	b.Resolver = netip.MustParseAddr("172.16.0.2")
	must(w.Attach(a))(t)
	lb := must(w.Attach(b))(t)
	if again := must(w.Attach(b))(t); again != lb {
		t.Fatalf("second interface attached again:\n%+v, before\n%+v", again, lb)
	}
	if f := w.resolverFile(a.Netns); !strings.Contains(f, "shop.internal") {
		t.Fatalf("resolver file: %q", f)
	}
	if all := must(w.Workloads())(t); len(all) != 2 {
		t.Fatalf("workloads %+v", all)
	}
	ok(t, w.Detach(a.ENI))
	must(w.Attach(b))(t) // takes over
	if f := w.resolverFile(a.Netns); !strings.Contains(f, "second.internal") {
		t.Fatalf("resolver file after detaching the first: %q", f)
	}
	ok(t, w.Detach(b.ENI))
	if f := w.resolverFile(a.Netns); f != "" {
		t.Fatalf("resolver file after detaching both: %q", f)
	}
}

func contractWatch(t *testing.T, w world) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wakes atomic.Int64
	done := make(chan error, 1)
	go func() { done <- w.Watch(ctx, func() { wakes.Add(1) }) }()
	s := spec(w.namespace("cart"))
	netlab.Eventually(t, patience, func() bool { // the subscription begins on its own time
		must(w.Attach(s))(t)
		ok(t, w.Detach(s.ENI))
		return wakes.Load() > 0
	}, "no wake after attach and detach")
	must(w.Attach(s))(t)
	netlab.Eventually(t, patience, func() bool { // quiet again
		before := wakes.Load()
		must(w.Workloads())(t)
		return wakes.Load() == before
	}, "wakes without end")
	before := wakes.Load()
	w.deleteInterface(s.Netns, "eni0")
	netlab.Eventually(t, patience, func() bool { return wakes.Load() > before }, "no wake after a hand's deletion")
	cancel()
	ok(t, <-done)
}

func contractCleanup(t *testing.T, w world) {
	ok(t, w.Cleanup())
	s := spec(w.namespace("cart"))
	w.addLink(DefaultTunnel)
	w.addLink("other0")
	must(w.EnsureTunnel(TunnelSpec{MTU: 1420}))(t)
	must(w.EnsureHostLink(hostSpec()))(t)
	l := must(w.Attach(s))(t)
	ok(t, w.SetUp(l.Name, true))
	for range 2 {
		ok(t, w.Cleanup())
	}
	for _, name := range []string{l.Name, HostName, DatapathName} {
		if x := must(w.Link(name))(t); x.Ifindex != 0 {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range []string{DefaultTunnel, "other0"} {
		if x := must(w.Link(name))(t); x.Ifindex == 0 || x.Closed {
			t.Errorf("%s: %+v", name, x)
		}
	}
	if f := w.resolverFile(s.Netns); f != "" {
		t.Errorf("resolver file: %q", f)
	}
	if all := must(w.Workloads())(t); len(all) != 0 {
		t.Errorf("workloads %+v", all)
	}
}
