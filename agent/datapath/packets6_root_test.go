package datapath

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// ways6 are the same ways in IPv6.
func (m *mesh) ways6() map[string]way {
	return map[string]way{
		"same VPC":            {m.cart, m.shelf, at(six(shop, "10.0.1.6"), 80), ":80"},
		"same VPC, same node": {m.cart, m.desk, at(six(shop, "10.0.1.7"), 80), ":80"},
		"endpoint":            {m.cart, m.ledger, at(six(shop, "10.0.1.200"), 443), ":8443"},
		"endpoint, same node": {m.cart, m.vault, at(six(shop, "10.0.1.201"), 443), ":8443"},
	}
}

func newDualMesh(t *testing.T) *mesh {
	t.Helper()
	m := newMesh(t)
	for _, h := range []*meshHost{m.a, m.b} {
		for _, w := range h.workloads {
			w.dual()
			m.speaks(w, plan.BothFamilies)
		}
	}
	m.routesFound(t)
	return m
}

// Large datagrams and closed ports in IPv6, and where the client and the target speak different families.
func TestPacketsIPv6(t *testing.T) {
	m := newDualMesh(t)
	for name, w := range m.ways6() {
		t.Run(name, func(t *testing.T) {
			inFragments(t, w)
			refused(t, w)
			withExtensions(t, w)
		})
	}
	for families, ways := range map[plan.Families]map[string]way{plan.FamilyIPv6: m.ways(), plan.FamilyIPv4: m.ways6()} {
		m.speaks(m.ledger, families)
		m.speaks(m.vault, families)
		for _, name := range []string{"endpoint", "endpoint, same node"} {
			t.Run(name+", the target has only "+families.String(), func(t *testing.T) {
				inFragments(t, ways[name])
				refused(t, ways[name])
			})
		}
	}
	t.Run("ping", func(t *testing.T) {
		m.cart.Exec("ping", "-6", "-c1", "-W5", "-s", "4000", six(shop, "10.0.1.6").String())
		m.cart.Exec("ping", "-6", "-c1", "-W5", "-s", "4000", six(shop, "10.0.1.7").String())
	})
	reconcile(t, m)
	for _, r := range []bpf.Reason{bpf.ReasonFragment, bpf.ReasonIPOptions, bpf.ReasonNoChecksum} {
		if n := m.refused(r); n != 0 {
			t.Errorf("%d packets refused for %s", n, r)
		}
	}
}

// withExtensions sends datagrams behind a header of destination options, one of them in fragments.
func withExtensions(t *testing.T, w way) {
	t.Helper()
	server := w.server.listenUDP(t, w.listen)
	client := w.client.dialUDP(t, ":0", w.dial)
	raw, err := client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) { // the type is one to skip where it is not known; the first two bytes are the kernel's
		set = unix.SetsockoptString(int(fd), unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, string([]byte{0, 0, 0x1e, 4, 1, 2, 3, 4}))
	}); err != nil || set != nil {
		t.Fatal(err, set)
	}
	for _, size := range []int{100, 5000} {
		if err := send(client, payload(size, 1)); err != nil {
			t.Fatal(err)
		}
		if got, _, err := hear(server); err != nil || !bytes.Equal(got, payload(size, 1)) {
			t.Fatalf("%d bytes of %d, %v", len(got), size, err)
		}
	}
	client.Close()
	server.Close()
}
