package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
)

// TestCommands changes a mesh by command lines under live connections, and demands of them what the commands promise. What takes
// long is begun first and judged last.
func TestCommands(t *testing.T) {
	beside(t)
	m := newCommandMesh(t)
	silent := m.beginSilence(t)
	t.Run("stickiness", m.stickiness) // restarts an agent
	t.Run("together", func(t *testing.T) {
		few := make(chan bool, 3)
		for name, test := range map[string]func(*testing.T){
			"draining": m.draining, "weights": m.weights, "zones": m.zones, "flows stay": m.flowsStay, "inside": m.inside,
			"families": m.families, "addresses": m.addressesOfClients, "headers": m.headersOfClients, "cap of flows": m.capOfFlows,
			"cap of connections": m.capOfConnections, "cap of bits": m.capOfBits, "groups": m.groups, "icmp": m.icmp, "health": m.health,
			"slow start": m.slowStart, "distrust": m.distrust, "selectors": m.selectors,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				few <- true
				defer func() { <-few }()
				test(t)
			})
		}
	})
	t.Run("silence tcp", silent.tcpEnds)
	t.Run("floods", m.floods)
	t.Run("resets", m.resets)
	t.Run("silence udp", silent.udpEnds)
}

// draining: a deregistered target keeps its connections and gets no new ones; until the delay is over where the group ends them.
func (m *commandMesh) draining(t *testing.T) {
	m.offer(t, "drain", 7001, "tcp", "--target t1 --target t2 --target t3")
	vip := netip.AddrPortFrom(m.connect(t, "shop", "drain", "")["z1"], 7001)
	greeters := map[string]*greeter{}
	for _, target := range []string{"t1", "t2", "t3"} {
		greeters[target] = m.greet(t, target, 7001)
	}
	live := m.converse(t, "cart", vip, 32, true)
	for target := range greeters {
		if n := len(live.to(target)); n < 3 {
			t.Fatalf("%d of 32 connections are with %s", n, target)
		}
	}
	m.change(t, "pay", "target-group deregister drain-tcp t1")
	if out := m.run(t, "pay", "target-group list"); !strings.Contains(out, ":7001 draining") {
		t.Errorf("the list does not say that t1 drains:\n%s", out)
	}
	if got := m.shares(t, "cart", vip, 40); whose(got) != "t2 t3" {
		t.Errorf("t1 is deregistered, new connections go to %v", got)
	}
	if err := live.whole(""); err != nil {
		t.Errorf("t1 was deregistered: %v", err)
	}
	m.change(t, "pay", "target-group register drain-tcp t1")
	if got := m.shares(t, "cart", vip, 60); whose(got) != "t1 t2 t3" {
		t.Errorf("t1 is registered again, new connections go to %v", got)
	}
	m.change(t, "pay", "target-group modify drain-tcp --connection-termination --deregistration-delay 3s")
	told := time.Now()
	m.run(t, "pay", "target-group deregister drain-tcp t2")
	eventually(t, 30*time.Second, "t2's connections to end", func() error {
		for _, c := range live.to("t2") {
			if _, err := c.broken(); err == nil {
				return fmt.Errorf("%s goes on", c.LocalAddr())
			}
		}
		if n := greeters["t2"].connections(); n != 0 {
			return fmt.Errorf("%d go on at the target", n)
		}
		return nil
	})
	first, last := time.Hour, time.Duration(0)
	for _, c := range live.to("t2") {
		at, err := c.broken()
		first, last = min(first, at.Sub(told)), max(last, at.Sub(told))
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s ended without a reset: %v", c.LocalAddr(), err)
		}
	}
	t.Logf("n=%d connections with a delay of 3 s ended after %s to %s", len(live.to("t2")), first.Round(time.Millisecond), last.Round(time.Millisecond))
	if first < 2900*time.Millisecond || last > 15*time.Second*slowness() {
		t.Errorf("with a delay of 3 s connections ended after %s to %s", first, last)
	}
	if err := live.whole("t2"); err != nil {
		t.Errorf("others than t2's ended: %v", err)
	}
	if got := m.shares(t, "cart", vip, 40); whose(got) != "t1 t3" {
		t.Errorf("t2 is gone, new connections go to %v", got)
	}
}

// weights: shares of new connections follow them, and what is open stays.
func (m *commandMesh) weights(t *testing.T) {
	m.offer(t, "weights", 7002, "tcp", "--target t1 --target t3")
	m.greet(t, "t1", 7002)
	m.greet(t, "t3", 7002)
	vip := netip.AddrPortFrom(m.connect(t, "shop", "weights", "")["z1"], 7002)
	live := m.converse(t, "cart", vip, 12, false)
	const n = 240
	for _, c := range []struct {
		one, three string
		want       float64 // t1's part
	}{{"100", "100", 0.5}, {"300", "100", 0.75}, {"5", "95", 0.05}, {"100", "0", 1}} {
		m.run(t, "pay", "target-group register weights-tcp t1 --weight "+c.one)
		m.change(t, "pay", "target-group register weights-tcp t3 --weight "+c.three)
		got := m.shares(t, "cart", vip, n)
		part := float64(got["t1"]) / n
		t.Logf("weights %s and %s: %v of n=%d", c.one, c.three, got, n)
		// Five standard deviations of a fair draw.
		if d := part - c.want; d*d*n > 25*max(c.want*(1-c.want), 1e-9) {
			t.Errorf("weights %s and %s: %v", c.one, c.three, got)
		}
	}
	if err := live.whole(""); err != nil {
		t.Errorf("weights changed: %v", err)
	}
}

// zones: without cross-zone balancing the zone of the address that was dialled gives the targets, while it has any.
func (m *commandMesh) zones(t *testing.T) {
	m.offer(t, "zones", 7003, "tcp", "--target t1 --target t2 --target t3")
	for _, target := range []string{"t1", "t2", "t3"} {
		m.greet(t, target, 7003)
	}
	at := m.connect(t, "shop", "zones", "")
	for _, c := range []struct{ command, z1, z2 string }{
		{"load-balancer modify zones --cross-zone=false", "t1 t2", "t3"},
		{"load-balancer modify zones --cross-zone=true", "t1 t2 t3", "t1 t2 t3"},
		{"load-balancer modify zones --cross-zone=false", "t1 t2", "t3"},
		{"target-group register zones-tcp t3 --weight 0", "t1 t2", "t1 t2"},
		{"target-group register zones-tcp t3 --weight 1", "t1 t2", "t3"},
	} {
		m.change(t, "pay", c.command)
		for _, consumer := range []string{"cart", "till"} { // in z1 and z2: their own zone does not count
			for zone, want := range map[string]string{"z1": c.z1, "z2": c.z2} {
				if got := m.shares(t, consumer, netip.AddrPortFrom(at[zone], 7003), 40); whose(got) != want {
					t.Errorf("%s: %s to the address in %s comes to %v, want %s", c.command, consumer, zone, got, want)
				}
			}
		}
	}
}

// stickiness: a client comes to one target from all its ports, at all listeners, whichever agent was started when.
func (m *commandMesh) stickiness(t *testing.T) {
	targets := []string{"t1", "t2", "t3"}
	m.offer(t, "sticky", 7004, "tcp", "--target t1 --target t2 --target t3")
	m.run(t, "pay", "listener create --load-balancer sticky --port 7014 --target-group sticky-tcp")
	for _, target := range targets {
		m.greet(t, target, 7004)
	}
	address := m.connect(t, "shop", "sticky", "")
	first, second := netip.AddrPortFrom(address["z1"], 7004), netip.AddrPortFrom(address["z2"], 7014)
	if got := m.shares(t, "cart", first, 60); len(got) != len(targets) {
		t.Errorf("without stickiness: %v", got)
	}
	m.change(t, "pay", "target-group modify sticky-tcp --stickiness source_ip")
	home := map[string]string{}
	check := func(when string) {
		t.Helper()
		for _, client := range []string{"cart", "till"} {
			got := m.shares(t, client, first, 20)
			for target, n := range m.shares(t, client, second, 20) {
				got[target] += n
			}
			if len(got) != 1 || home[client] != "" && got[home[client]] == 0 {
				t.Errorf("%s: %s came to %v, before to %q", when, client, got, home[client])
			}
			home[client] = whose(got)
		}
	}
	check("sticky")
	live := m.converse(t, "cart", first, 4, false)
	for _, host := range []string{"host-a", "host-b", "host-c"} {
		if err := errors.Join(m.lab.Kill(host, "agent", false), m.lab.Start(context.WithoutCancel(t.Context()), host, "agent")); err != nil {
			t.Fatal(err)
		}
	}
	check("after agents were killed and started")
	if err := live.whole(""); err != nil {
		t.Errorf("agents were killed and started: %v", err)
	}
	m.run(t, "pay", "target-group modify sticky-tcp --stickiness= --wait")
	if got := m.shares(t, "cart", first, 60); len(got) != len(targets) {
		t.Errorf("without stickiness again: %v", got)
	}
}

// flowsStay: UDP, which nothing but the flow entry keeps at its target, stays there while targets, weights and zones change.
func (m *commandMesh) flowsStay(t *testing.T) {
	m.offer(t, "stay", 7005, "udp", "--target t1 --target t2")
	for _, target := range []string{"t1", "t2", "t3"} {
		m.greet(t, target, 7005)
	}
	vip := netip.AddrPortFrom(m.connect(t, "shop", "stay", "")["z1"], 7005)
	type flow struct {
		ask  func() (string, netip.AddrPort, error)
		home string
		seen netip.AddrPort
	}
	var flows []*flow
	open := func(n int) map[string]int {
		got := map[string]int{}
		for i := range n {
			c := m.datagrams(t, []string{"cart", "till"}[i%2], vip, false)
			f := &flow{ask: func() (string, netip.AddrPort, error) { return answer(c, []byte("where?"), slack*10*time.Second) }}
			var err error
			if f.home, f.seen, err = f.ask(); err != nil {
				t.Fatal(err)
			}
			flows = append(flows, f)
			got[f.home]++
		}
		return got
	}
	if got := open(24); whose(got) != "t1 t2" {
		t.Fatalf("24 flows: %v", got)
	}
	for _, c := range []struct{ command, fresh string }{
		{"target-group register stay-udp t3", "t1 t2 t3"},
		{"target-group register stay-udp t1 --weight 0", "t2 t3"},
		{"target-group deregister stay-udp t2", "t3"},
		{"target-group register stay-udp t1 --weight 900", "t1 t3"},
		{"target-group deregister stay-udp t3", "t1"},
		{"target-group register stay-udp t2 t3", "t1 t2 t3"},
	} {
		m.change(t, "pay", c.command)
		for i, f := range flows {
			if home, seen, err := f.ask(); err != nil || home != f.home || seen != f.seen {
				t.Errorf("%s: flow %d went from %s (%s) to %s (%s), %v", c.command, i, f.home, f.seen, home, seen, err)
			}
		}
		n := 10
		if strings.HasPrefix(c.fresh, "t1 t") { // one of them has nine tenths
			n = 40
		}
		for home := range open(n) {
			if !slices.Contains(strings.Fields(c.fresh), home) {
				t.Errorf("%s: a new flow went to %s", c.command, home)
			}
		}
	}
}

// inside: a load balancer is reached in its own VPC, by a target of its own too, and its groups say by whom.
func (m *commandMesh) inside(t *testing.T) {
	m.run(t, "pay", "sg create front --vpc pay")
	m.run(t, "pay", "sg authorize front --ingress --port 7006 --sg default")
	m.run(t, "pay", "sg authorize front --ingress --protocol udp --port 7006 --sg default")
	for _, protocol := range []string{"tcp", "udp"} {
		m.run(t, "pay", "target-group create inside-"+protocol+" --vpc pay --port 7006 --health-check=false --target t1 --target t3 --protocol "+protocol)
	}
	m.change(t, "pay", "load-balancer create inside --subnet pay-1 --subnet pay-2 --sg front --listener 7006:inside-tcp --listener 7006/udp:inside-udp")
	at := m.addresses(t, "pay", described[api.LoadBalancer](t, m, "pay", "load-balancer describe inside").ENIs)
	m.greet(t, "t1", 7006)
	m.greet(t, "t3", 7006)
	vip := netip.AddrPortFrom(at["z1"], 7006)
	for _, client := range []string{"clerk", "t2", "t1"} { // from another node, from the target's, and a target itself
		got := m.shares(t, client, vip, 24)
		if whose(got) != "t1 t3" {
			t.Errorf("%s in the VPC comes to %v", client, got)
		}
		c, err := m.dial(client, vip, slack*5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if c.source.Addr() != at["z1"] && c.source.Addr() != at["z2"] {
			t.Errorf("the target sees %s as %s", client, c.source)
		}
		c.Close()
		if target, source, err := answer(m.datagrams(t, client, vip, false), []byte("x"), slack*5*time.Second); err != nil ||
			source.Addr() != at["z1"] && source.Addr() != at["z2"] {
			t.Errorf("UDP from %s: %s sees %s, %v", client, target, source, err)
		}
	}
	live := m.converse(t, "clerk", vip, 4, false)
	front := described[api.SecurityGroup](t, m, "pay", "sg describe front")
	m.change(t, "pay", "sg revoke front "+front.Ingress[0].ID+" "+front.Ingress[1].ID)
	ends(t, live, "the load balancer's group lets nothing in")
	if _, err := m.dial("clerk", vip, time.Second); err == nil {
		t.Error("the load balancer's group lets nothing in, and it is reached")
	}
	m.change(t, "pay", "sg authorize front --ingress --port 7006 --cidr 10.0.1.9/32")
	if got := m.shares(t, "clerk", vip, 4); len(got) == 0 {
		t.Error("let in again, clerk comes nowhere")
	}
	if _, err := m.dial("t2", vip, time.Second); err == nil {
		t.Error("the load balancer's group lets in clerk, and t2 reaches it")
	}
}

// cut waits until nothing is answered on any of the connections.
func cut(t *testing.T, live *talks, what string) {
	t.Helper()
	eventually(t, 30*time.Second, what, func() error {
		for _, c := range live.all {
			if _, err := c.broken(); err == nil {
				return fmt.Errorf("%s to %s goes on", c.LocalAddr(), c.target)
			}
		}
		return nil
	})
}

// ends waits for all of the connections to be reset.
func ends(t *testing.T, live *talks, what string) {
	t.Helper()
	eventually(t, 20*time.Second, what, func() error {
		for _, c := range live.all {
			if _, err := c.broken(); !errors.Is(err, unix.ECONNRESET) {
				return fmt.Errorf("%s to %s: %w", c.LocalAddr(), c.target, err)
			}
		}
		return nil
	})
}
