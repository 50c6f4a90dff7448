package datapath

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/plan"
)

// six is the IPv6 form of an address of a VPC.
func six(vpc uint32, a string) netip.Addr { return api.IPv6Address(testMesh, vpc, addr(a)) }

// dual gives a workload its IPv6 address and waits until it may use it, which is when nobody claimed it.
func (w *workload) dual() {
	a := api.IPv6Address(testMesh, w.vpc, w.address)
	w.Exec("ip", "-6", "addr", "add", a.String()+"/128", "dev", "eni0")
	w.AwaitAddress(a)
}

// speaks sets the families of a workload, at both hosts.
func (m *mesh) speaks(w *workload, f plan.Families) {
	m.t.Helper()
	w.families = f
	m.generation++
	m.apply()
}

// routesFound waits for a router advertisement at every workload.
func (m *mesh) routesFound(t *testing.T) {
	t.Helper()
	for _, h := range []*meshHost{m.a, m.b} {
		for _, w := range h.workloads {
			netlab.Eventually(t, 4*patience, func() bool {
				return strings.Contains(w.Exec("ip", "-6", "route", "show", "default"), "via fe80::1 dev eni0 proto ra")
			}, "a default route of the router advertisement at "+w.name)
		}
	}
}

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
