package agent

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/culvert-net/culvert/internal/netlab"
)

// A server of the host that has the resolver's port on all addresses gets no query of a tenant: the resolver cannot
// listen, the node says so, and nothing is let through. When the other one goes, names are answered.
func TestServeWhilePortIsTaken(t *testing.T) {
	m := newMachineLab(t)
	m.know()
	var udp net.PacketConn
	var tcp net.Listener
	if err := m.node.Do(func() (err error) {
		wildcard := net.JoinHostPort("::", strconv.Itoa(resolverPort))
		if udp, err = net.ListenPacket("udp", wildcard); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp", wildcard)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var stolen atomic.Int64
	go func() {
		for b := make([]byte, 512); ; stolen.Add(1) {
			if _, _, err := udp.ReadFrom(b); err != nil {
				return
			}
		}
	}()
	go func() {
		for ; ; stolen.Add(1) {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	p := m.startReady()
	says := func() bool {
		return slices.ContainsFunc(m.status().Errors, func(e string) bool {
			return strings.Contains(e, "names are not answered") && strings.Contains(e, "address already in use")
		})
	}
	if !says() {
		t.Errorf("status says nothing of it: %v", m.status().Errors)
	}
	if addrs, err := m.resolves("ledger.pay.internal"); err == nil {
		t.Errorf("somebody answered %v", addrs)
	}
	if err := m.cart.Do(func() error {
		c, err := net.DialTimeout("tcp4", "10.0.0.2:53", patience/20)
		if err == nil {
			c.Close()
		}
		return err
	}); err == nil {
		t.Error("the resolver's address takes connections")
	}
	if n := stolen.Load(); n != 0 {
		t.Errorf("the host's own server got %d queries or connections of a tenant", n)
	}

	if err := errors.Join(udp.Close(), tcp.Close()); err != nil {
		t.Fatal(err)
	}
	netlab.Eventually(t, patience, func() bool {
		addrs, err := m.resolves("ledger.pay.internal")
		return err == nil && slices.Equal(addrs, []netip.Addr{netip.MustParseAddr("10.0.1.200")})
	}, "names are answered once the port is free")
	netlab.Eventually(t, patience, func() bool { return !says() }, "the error goes")
	p.Stop()
	if err := p.Wait(); err != nil {
		t.Errorf("asked to end: %v", err)
	}
	m.leave()
}
