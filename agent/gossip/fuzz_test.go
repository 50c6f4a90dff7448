package gossip

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/hashicorp/memberlist"

	"github.com/culvert-net/culvert/api"
)

// FuzzMembers: who is in the list of the view is one that can be sent to, and whoever says to be alive is believed only if in
// the list, at the address that all advertise.
func FuzzMembers(f *testing.F) {
	f.Add("node-1", "192.0.2.1:7946", "node-1", []byte(dummy), uint16(dummyPort))
	f.Add("node-1", "192.0.2.1:0", "node-2", []byte{192, 0, 2, 1}, uint16(7946))
	f.Add("node-1", "[fe80::1%eth0]:7946", "", []byte{}, uint16(0))
	f.Add("", "[::ffff:192.0.2.1]:7946", "self", []byte(dummy.To16()), uint16(dummyPort))
	f.Fuzz(func(t *testing.T, node, address, said string, ip []byte, port uint16) {
		g := New(Config{Node: "self", Wake: func() {}, Log: slog.New(slog.DiscardHandler)})
		_, err := g.list.set([]api.ViewMember{{Node: node, Address: address}})
		where, ok := g.list.of(node)
		if ok != (err == nil) {
			t.Fatalf("%q at %q: in the list %t, %v", node, address, ok, err)
		}
		if to, err := netip.ParseAddrPort(where); ok && (err != nil || to.Port() == 0 || !g.list.has(to.Addr().Unmap())) {
			t.Errorf("%q at %q is sent to at %q", node, address, where)
		}
		s := &session{gossip: g, states: map[string]string{}}
		n := &memberlist.Node{Name: said, Addr: net.IP(ip), Port: port}
		member := said == "self" || ok && said == node
		if err := s.NotifyAlive(n); (err == nil) != (member && net.IP(ip).Equal(dummy) && port == dummyPort) {
			t.Errorf("%q at %v:%d, with %q in the list: %v", said, net.IP(ip), port, node, err)
		} else if err == nil {
			s.NotifyJoin(n)
		}
		for name := range s.states {
			if _, ok := g.list.of(name); !ok {
				t.Errorf("the state of %q is kept, who is not in the list", name)
			}
		}
	})
}
