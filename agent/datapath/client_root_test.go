package datapath

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/plan"
)

// newMeshIPv6 is a mesh whose workloads have both families, and whose targets have a route to clients' own addresses.
func newMeshIPv6(t *testing.T) *mesh {
	t.Helper()
	m := newMesh(t)
	for _, h := range []*meshHost{m.a, m.b} {
		for _, w := range h.workloads {
			w.families = plan.BothFamilies
			w.dual()
		}
	}
	m.generation++
	m.apply()
	for _, w := range []*workload{m.cart, m.desk, m.ledger, m.vault} {
		netlab.Eventually(t, 4*patience, func() bool {
			return strings.Contains(w.Exec("ip", "-6", "route", "show", "default"), "via fe80::1 dev eni0 proto ra")
		}, "a default route in "+w.name)
	}
	return m
}

// The header in every combination of the families of client and target; it has the client's.
func TestProxyProtocolFamilies(t *testing.T) {
	m := newMeshIPv6(t)
	for _, target := range []*workload{m.ledger, m.vault} {
		for _, f := range []plan.Families{plan.FamilyIPv4, plan.FamilyIPv6, plan.BothFamilies} {
			target.families = f
			m.tellTargets()
			endpoint := map[*workload]string{m.ledger: "10.0.1.200", m.vault: "10.0.1.201"}[target]
			for _, dialed := range []string{endpoint + ":443", at(six(shop, endpoint), 443)} {
				t.Run(fmt.Sprintf("%s %s from %s", target.name, f, dialed), func(t *testing.T) {
					const size = 8 << 20
					converse(t, m.cart, target, dialed, func(c *net.TCPConn) error { return both(c, size, 2, 1) },
						func(c *told) error { return both(c, size, 1, 2) })
				})
			}
		}
	}
	reconcile(t, m)
	m.ledger.noBadChecksum(t)
}

// A target that has IPv6 sees each client's own address, which says whose it is: of equal addresses in equal VPCs no two are
// taken for one. One that has not sees the load balancer.
func TestClientAddress(t *testing.T) {
	m := newMeshIPv6(t)
	show := func(f plan.Families) {
		m.ledger.families, m.vault.families = f, f
		m.grantWith(func(g *plan.Grant) { g.ClientAddress = true })
	}
	for _, f := range []plan.Families{plan.FamilyIPv6, plan.BothFamilies} {
		show(f)
		for i, target := range []*workload{m.ledger, m.vault} {
			for _, client := range []*workload{m.cart, m.desk} {
				for _, dialed := range []netip.Addr{addr(fmt.Sprintf("10.0.1.%d", 200+i)), six(shop, fmt.Sprintf("10.0.1.%d", 200+i))} {
					t.Run(fmt.Sprintf("%s, %s to %s, dials %s", f, client.name, target.name, dialed), func(t *testing.T) {
						want := api.Overlay{Mesh: testMesh, VPC: shop, Host: api.AddrHost(client.address), Tag: uint16(7 + 2*i)}
						if dialed.Is4() {
							want.Tag |= api.TagFamilyIPv4
						}
						peer := transfer(t, client, target, at(dialed, 443), ":8443", 10<<20)
						if seen := peer.(*net.TCPAddr).AddrPort().Addr(); seen != want.Addr() {
							t.Errorf("the target saw %s, want %s", seen, want.Addr())
						}
						want.Tag++ // the UDP listener's
						if seen := datagram(t, client, target, at(dialed, 443)); seen != want.Addr() {
							t.Errorf("a datagram of %s, want %s", seen, want.Addr())
						}
						segments(t, client, target, at(dialed, 443), 8443)
					})
				}
			}
		}
	}
	t.Run("nobody else is heard there", func(t *testing.T) {
		cart := api.Overlay{Mesh: testMesh, VPC: shop, Host: api.AddrHost(m.cart.address), Tag: api.TagFamilyIPv4 | 7}
		for _, w := range []*workload{m.ledger, m.vault, m.desk} { // the target opens nothing, others all the less
			if c, err := w.dial(at(cart.Addr(), 8443)); err == nil {
				c.Close()
				t.Errorf("%s reaches the client", w.name)
			}
		}
	})
	t.Run("targets without IPv6", func(t *testing.T) {
		show(plan.FamilyIPv4)
		peer := transfer(t, m.cart, m.ledger, "10.0.1.200:443", ":8443", 1<<20)
		if host, _, _ := net.SplitHostPort(peer.String()); host != "10.0.1.9" {
			t.Errorf("the target saw %s, want the load balancer", peer)
		}
	})
	reconcile(t, m)
}

// datagram sends one from client to target and back, and says whom the target saw.
func datagram(t *testing.T, client, target *workload, dialed string) netip.Addr {
	t.Helper()
	in := listenUDP(t, target, 8443)
	defer in.Close()
	asked := make(chan error, 1)
	go func() { asked <- ask(client, dialed, 1200) }()
	if err := in.SetDeadline(time.Now().Add(patience * netlab.Slowness())); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	n, from, err := in.ReadFromUDPAddrPort(buf)
	if err == nil {
		_, err = in.WriteToUDPAddrPort(buf[:n], from)
	}
	if err != nil {
		t.Error(err)
	}
	if err := <-asked; err != nil {
		t.Error(err)
	}
	return from.Addr()
}
