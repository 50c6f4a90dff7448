package datapath

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// dial connects host b itself to its ledger.
func (m *mesh) dial(d *Dialer, to netip.AddrPort, within time.Duration) (c net.Conn, err error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), within)
	defer cancel()
	err = m.b.Do(func() (err error) { c, err = d.Dial(ctx, pay, to); return err })
	return c, err
}

// A probe is a connection of the node's to its own target, which sees the load balancer, in either family, and closes it by a RST. It
// is in no flow record, and its port stays taken for a while.
func TestProbeOfATarget(t *testing.T) {
	m := newMesh(t)
	t.Run("IPv4", func(t *testing.T) { m.probeLedger(t, addr("10.0.1.9")) })
	m.ledger.dual()
	m.routesFound(t)
	m.speaks(m.ledger, plan.FamilyIPv6)
	t.Run("IPv6", func(t *testing.T) { m.probeLedger(t, six(pay, "10.0.1.9")) })
}

// probeLedger probes the ledger, which must see the probe from an address.
func (m *mesh) probeLedger(t *testing.T, source netip.Addr) {
	ln := m.ledger.listen(t)
	peers, ends := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		peers <- c.RemoteAddr()
		if err := receive(c, []byte("alive?")); err != nil {
			ends <- err
			return
		}
		_ = send(c, []byte("yes"))
		_, err = c.Read(make([]byte, 1))
		ends <- err
	}()
	d := &Dialer{Mesh: testMesh, Node: m.b.node, Device: "culvert-host"}
	to := netip.AddrPortFrom(m.ledger.address, 8443)
	c, err := m.dial(d, to, patience*netlab.Slowness())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(send(c, []byte("alive?")), receive(c, []byte("yes")), c.Close()); err != nil {
		t.Fatal(err)
	}
	peer := (<-peers).(*net.TCPAddr)
	if got := peer.AddrPort(); got.Port() >= plan.PortSpare || got.Addr().Unmap() != source {
		t.Errorf("the target sees %s, want %s and a port below %d", got, source, plan.PortSpare)
	}
	if err := <-ends; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the target's connection ended with %v, want a RST", err)
	}
	recorded := 0
	if err := NewSource(m.b.dp).Flows(t.Context(), func(flow.Flow) bool { recorded++; return true }); err != nil || recorded != 0 {
		t.Errorf("%d flows recorded, %v", recorded, err)
	}
	if swept := m.b.sweep(t, 30*time.Second); len(swept.Removed) != 0 || swept.Left != 2 {
		t.Errorf("a probe's entries after half a minute: %+v", swept)
	}
	if swept := m.b.sweep(t, 61*time.Second); len(swept.Removed) != 1 || swept.Left != 0 {
		t.Errorf("a probe's entries after a minute: %+v", swept)
	}
}

// Only the prober's sockets reach targets, and no process without privileges has such a one; only targets that the plan names, and
// by the rules that hold for the load balancer. A connection to a port where nobody listens is refused at once.
func TestProbesThatAreRefused(t *testing.T) {
	m := newMesh(t)
	const silence = 300 * time.Millisecond
	d := &Dialer{Mesh: testMesh, Node: m.b.node, Device: "culvert-host"}
	to := netip.AddrPortFrom(m.ledger.address, 8443)
	if _, err := m.dial(d, to, patience*netlab.Slowness()); err == nil || os.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a target without a listener: %v, want it refused", err)
	}
	m.ledger.listen(t)
	before := m.b.counter(t, bpf.HookHost, bpf.ReasonHostNotAdmitted)
	silent := func(what string, d *Dialer, to netip.AddrPort) {
		t.Helper()
		if c, err := m.dial(d, to, silence); err == nil {
			c.Close()
			t.Errorf("%s reaches the target", what)
		}
	}
	silent("another port", d, netip.AddrPortFrom(m.ledger.address, 22))
	silent("another node's number", &Dialer{Mesh: testMesh, Node: 9, Device: "culvert-host"}, to)
	if after := m.b.counter(t, bpf.HookHost, bpf.ReasonHostNotAdmitted); after <= before {
		t.Errorf("%d packets refused, want more than %d", after, before)
	}
	if c, err := m.dial(d, to, patience*netlab.Slowness()); err != nil {
		t.Errorf("the target that is probed: %v", err)
	} else {
		c.Close()
	}
	unmarked := net.Dialer{Timeout: silence}
	if err := m.b.Do(func() error {
		c, err := unmarked.DialContext(t.Context(), "tcp6", at(plantest.InMesh(testMesh, pay, m.ledger.address, 0).Addr(), 8443))
		if err == nil {
			c.Close()
		}
		return err
	}); err == nil {
		t.Error("any process of the host reaches the target")
	}
	m.generation++
	p := m.plan(m.b)
	for i := range p.ENIs {
		p.ENIs[i].IngressRules = 0
	}
	m.applyPlan(m.b, p)
	silent("a load balancer that the target's groups do not admit", d, to)
	refusals, err := m.b.dp.DrainRefusals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told := false
	for _, r := range refusals {
		told = told || bpf.Reason(r.Key.Reason) == bpf.ReasonGroupIngress && r.Key.Vpc == pay && r.Key.Eni == m.ledger.number &&
			bpf.Addr(r.Key.Saddr) == addr("10.0.1.9")
	}
	if !told {
		t.Errorf("refusals %+v do not say that the target's groups refuse the load balancer", refusals)
	}
}
