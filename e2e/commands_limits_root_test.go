package e2e

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// crowd tries to open n connections at once and tells which came about.
func (m *commandMesh) crowd(t *testing.T, workload string, to netip.AddrPort, n int) (open []*talk) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			c, err := m.dial(workload, to, 5*time.Second)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				open = append(open, c)
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, c := range open {
			c.Close()
		}
	})
	return open
}

// capOfFlows: a consumer's two nodes have half of it each, and the provider's nodes what their targets are of all.
func (m *commandMesh) capOfFlows(t *testing.T) {
	m.offer(t, "capflows", 7010, "tcp", "--target t1 --target t2")
	m.greet(t, "t1", 7010)
	m.greet(t, "t2", 7010)
	m.run(t, "pay", "service modify capflows --max-flows 20")
	vip := netip.AddrPortFrom(m.connect(t, "shop", "capflows", "")["z1"], 7010)
	cart := m.crowd(t, "cart", vip, 16)
	till := m.crowd(t, "till", vip, 16)
	if len(cart) != 10 || len(till) != 10 {
		t.Errorf("of 16 connections %d and %d of two nodes came through, want 10 each", len(cart), len(till))
	}
	m.refused(t, "shop", "CAP_FLOWS", "workload", "capflows")
	m.alarmed(t, "host-a", "connection vpce-con-", "10 of 10 flows")
	if n := m.figure(t, "host-a", `culvert_endpoint_packets_dropped_total\{service_name="pay/capflows",.*\}`); n < 6 {
		t.Errorf("the endpoint's metrics count %v packets dropped, want 6 at least", n)
	}
	if n := m.figure(t, "host-a", `culvert_datapath_packets_total\{hook="workload",reason="CAP_FLOWS"\}`); n < 6 {
		t.Errorf("the node's metrics count %v refusals, want 6 at least", n)
	}
	for _, c := range cart {
		if err := c.ask(); err != nil {
			t.Errorf("what was there first: %v", err)
		}
		c.Close()
	}
	eventually(t, 30*time.Second, "room for others", func() error {
		c, err := m.dial("cart", vip, time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})

	// Half of what the targets weigh is on host-b, so it has half of the cap, exactly; all flows go there, to the zone that is dialled.
	m.offer(t, "capexact", 7015, "tcp", "--target t1 --target t3")
	m.greet(t, "t1", 7015)
	m.run(t, "pay", "load-balancer modify capexact --cross-zone=false")
	m.run(t, "pay", "service modify capexact --max-flows 20")
	vip = netip.AddrPortFrom(m.connect(t, "shop", "capexact", "")["z1"], 7015)
	if n := len(m.crowd(t, "cart", vip, 7)); n != 7 {
		t.Errorf("%d of 7 connections came through", n)
	}
	if n := len(m.crowd(t, "till", vip, 7)); n != 3 {
		t.Errorf("the targets' node has a part of 10 and let in 7 and %d", n)
	}
	if r := m.refused(t, "pay", "CAP_FLOWS", "tunnel", "capexact"); r.Side != "provider" || r.Lost != 0 {
		t.Errorf("the record of a refusal at the targets' node: %+v", r)
	}
	m.alarmed(t, "host-b", "connection vpce-con-", "10 of 10 flows")
	if n := m.figure(t, "host-b", `culvert_service_packets_dropped_total\{service_id="[^"]*",service_name="pay/capexact",.*\}`); n < 4 {
		t.Errorf("the service's metrics count %v packets dropped, want 4 at least", n)
	}
}

// capOfConnections: in a second each node's part of them, and one second's worth at once.
func (m *commandMesh) capOfConnections(t *testing.T) {
	m.offer(t, "capconn", 7011, "udp", "--target t1 --target t2")
	one, two := m.greet(t, "t1", 7011), m.greet(t, "t2", 7011)
	m.run(t, "pay", "service modify capconn --max-connections-per-second 40")
	vip := netip.AddrPortFrom(m.connect(t, "shop", "capconn", "")["z1"], 7011)
	const n = 200
	began := time.Now()
	var wg sync.WaitGroup
	for _, client := range []string{"cart", "till"} {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for range n {
				c, err := openDatagrams(commandNS(client), vip, false)
				if err == nil {
					_, err = c.Write([]byte("new"))
					c.Close()
				}
				if err != nil {
					t.Error(err)
					return
				}
				<-tick.C
			}
		})
	}
	wg.Wait()
	took := time.Since(began).Seconds()
	came := func() int {
		a, _ := one.clients()
		b, _ := two.clients()
		return a + b
	}
	most := 2 * (20 + 20*took)
	eventually(t, 5*time.Second, "what was let in to arrive", func() error {
		if got := float64(came()); got < least*most {
			return fmt.Errorf("%v of %d flows arrived in %.1f s, a cap of 40 lets in %.0f", got, 2*n, took, most)
		}
		return nil
	})
	if got := float64(came()); got > most+4 {
		t.Errorf("%v of %d flows arrived in %.1f s, a cap of 40 lets in %.0f", got, 2*n, took, most)
	}
	t.Logf("%d of n=%d flows arrived in %.1f s, a cap of 40 a second lets in %.0f", came(), 2*n, took, most)
	m.refused(t, "shop", "CAP_CONNECTIONS", "workload", "capconn")
}

// least is the part of what a cap lets through that has to arrive: where the machine stands still for a moment, what was let through
// then is lost to whoever did not send.
const least = 1.0 / 5

// capOfBits: what a consumer's node sends is held to its part.
func (m *commandMesh) capOfBits(t *testing.T) {
	m.offer(t, "capbits", 7012, "udp", "--target t1")
	g := m.greet(t, "t1", 7012)
	vip := netip.AddrPortFrom(m.connect(t, "shop", "capbits", "")["z1"], 7012)
	endpoint := described[api.Endpoint](t, m, "shop", "endpoint describe capbits").ID
	m.change(t, "pay", "service cap capbits "+endpoint+" --max-bits-per-second 8000000")
	c := m.datagrams(t, "cart", vip, false)
	const size, header = 1200, 28
	began, sent := time.Now(), 0
	for tick := time.NewTicker(2 * time.Millisecond); time.Since(began) < 3*time.Second; <-tick.C {
		for ; sent < int(time.Since(began).Seconds()*2000); sent++ { // 20 Mbit/s
			_, _ = c.Write(make([]byte, size))
		}
	}
	took := time.Since(began).Seconds()
	most := 4e6*took + 8*128<<10 // at once, too
	bits := func() float64 { _, b := g.clients(); return float64(b) / size * (size + header) * 8 }
	eventually(t, 5*time.Second, "what was let through to arrive", func() error {
		if bits() < least*most {
			return fmt.Errorf("%.1f of %.1f Mbit that its part of the cap allows in %.1f s, %d datagrams were sent", bits()/1e6, most/1e6, took, sent)
		}
		return nil
	})
	if bits() > 1.02*most {
		t.Errorf("%.1f Mbit came through, its part of the cap allows %.1f in %.1f s", bits()/1e6, most/1e6, took)
	}
	t.Logf("%.1f of %.1f Mbit arrived, the cap allows %.1f", bits()/1e6, float64(sent)*(size+header)*8/1e6, most/1e6)
	m.refused(t, "shop", "CAP_BITS", "workload", "capbits")
	m.change(t, "pay", "service cap capbits "+endpoint+" --none")
	_, before := g.clients()
	for range 200 {
		_, _ = c.Write(make([]byte, size))
	}
	eventually(t, 5*time.Second, "without a cap everything to arrive", func() error {
		if _, now := g.clients(); now-before != 200*size {
			return fmt.Errorf("%d of 200 arrived", (now-before)/size)
		}
		return nil
	})
}
