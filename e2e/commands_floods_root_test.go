package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/internal/plantest"
)

// sender writes packets of a workload at its interface.
type sender struct {
	fd, index int
	mac       [6]byte
}

func (m *commandMesh) sender(t *testing.T, workload string) *sender {
	t.Helper()
	s := &sender{fd: packetSocket(t, commandNS(workload), "eni0")}
	t.Cleanup(func() { unix.Close(s.fd) })
	if err := netns.Do(netns.Path(commandNS(workload)), func() error {
		ifi, err := net.InterfaceByName("eni0")
		if err == nil {
			s.index, s.mac = ifi.Index, [6]byte(ifi.HardwareAddr)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// send writes n packets, so many a second, until ctx ends.
func (s *sender) send(ctx context.Context, perSecond, n int, packet func(i int) plantest.IP) (sent int, err error) {
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; ctx.Err() == nil && sent < n; <-tick.C {
		for due := int(time.Since(began).Seconds() * float64(perSecond)); sent < min(due, n) && ctx.Err() == nil; sent++ {
			frame := plantest.Frame([6]byte{2}, s.mac, unix.ETH_P_IP, packet(sent).Bytes())
			err := unix.Sendto(s.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: s.index})
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return sent, err
			}
		}
	}
	return sent, nil
}

// neighbours are the flows of a tenant beside one that floods.
type neighbours struct {
	live  []*talks
	asked []*net.UDPConn
	homes []netip.AddrPort // of asked, as the target sees them
}

func (m *commandMesh) settle(t *testing.T, to netip.AddrPort) *neighbours {
	t.Helper()
	n := &neighbours{}
	for _, client := range []string{"cart", "till"} {
		n.live = append(n.live, m.converse(t, client, to, 12, true))
		for range 8 {
			c := m.datagrams(t, client, to, false)
			_, home, err := answer(c, []byte("here"), slack*10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			n.asked, n.homes = append(n.asked, c), append(n.homes, home)
		}
	}
	return n
}

// check: nothing of theirs has ended or moved, and new flows are let in.
func (n *neighbours) check(t *testing.T, m *commandMesh, to netip.AddrPort, when string) {
	t.Helper()
	for range 5 {
		for _, client := range []string{"cart", "till"} {
			c, err := m.dial(client, to, slack*10*time.Second)
			if err != nil {
				t.Errorf("%s: a new connection of %s: %v", when, client, err)
				continue
			}
			c.Close()
			if _, _, err := answer(m.datagrams(t, client, to, false), []byte("new"), slack*10*time.Second); err != nil {
				t.Errorf("%s: a new flow of %s: %v", when, client, err)
			}
		}
	}
	for i, c := range n.asked {
		if _, home, err := answer(c, []byte("still here"), slack*10*time.Second); err != nil || home != n.homes[i] {
			t.Errorf("%s: UDP flow %d was %s, is %s, %v", when, i, n.homes[i], home, err)
		}
	}
	for _, x := range n.live {
		if err := x.whole(""); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// whileGrowing waits for a condition as long as something grows toward it: not longer than 20 s without, nor than the bound in all.
func whileGrowing(t *testing.T, bound time.Duration, what string, figure func() int, ok func() error) {
	t.Helper()
	began, most, grew := time.Now(), -1, time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		err, now := ok(), time.Now()
		if err == nil {
			return
		}
		if n := figure(); n > most {
			most, grew = n, now
		}
		if now.Sub(grew) > 20*time.Second*slowness() || now.Sub(began) > bound*slowness() {
			t.Fatalf("%s: not within %s, and at %d since %s: %v", what, now.Sub(began), most, now.Sub(grew), err)
		}
	}
}

// floods: a tenant that fills its part of the flow table, and of source ports, is refused, told and named; nobody else loses a flow or
// waits for a new one, and nothing is let in that was not before.
func (m *commandMesh) floods(t *testing.T) {
	m.offer(t, "flood", 7020, "tcp,udp", "--target t1")
	target := m.greet(t, "t1", 7020)
	closed := m.greet(t, "t1", 7021) // which no listener leads to
	shop := netip.AddrPortFrom(m.connect(t, "shop", "flood", "")["z1"], 7020)
	noisy := m.connect(t, "noisy", "flood", "")
	account := described[api.Account](t, m, "", "account describe noisy").ID
	n := m.settle(t, shop)
	for _, hog := range []string{"hog", "hog-c"} { // whose kernel knows nothing of these connections
		if out, err := m.in(t.Context(), hog, "nft", "add table ip mute { chain out { type filter hook output priority 0; tcp flags rst drop; "+
			"icmp type destination-unreachable drop; }; }").CombinedOutput(); err != nil {
			t.Fatalf("nft: %v: %s", err, out)
		}
	}
	const ports = 60_000 // that a flood comes from
	flood := func(hog string, perSecond int, packet func(i int) plantest.IP, until func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		from, over := m.sender(t, hog), make(chan error, 1)
		go func() {
			_, err := from.send(ctx, perSecond, math.MaxInt, packet) // again and again: a busy machine loses most of it
			over <- err
		}()
		n.check(t, m, shop, hog+" floods")
		until()
		n.check(t, m, shop, hog+" floods on")
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
		n.check(t, m, shop, hog+" has flooded")
	}

	// The table of host-c: SYNs through the endpoint, inside the VPC, and to a port without a listener.
	source, inside := netip.MustParseAddr("10.0.2.5"), netip.MustParseAddr("10.0.1.5")
	flood("hog-c", 3000, func(i int) plantest.IP {
		p := plantest.IP{Source: source, Dest: noisy["z2"], Protocol: 6, Flags: plantest.SYN, SourcePort: uint16(1024 + i/3%ports), DestPort: 7020}
		switch i % 3 {
		case 1:
			p.Dest = inside
		case 2:
			p.DestPort = 7021
		}
		return p
	}, func() { m.alarmed(t, "host-c", "flow table: account "+account) })
	for _, reason := range []string{"ENDPOINT_FLOWS_FULL", "ACCOUNT_FLOWS_FULL"} {
		if m.counted(t, "host-c", "workload", reason) == 0 {
			t.Errorf("host-c refused nothing as %s", reason)
		}
	}
	m.refused(t, "noisy", "ENDPOINT_FLOWS_FULL", "workload", "flood")

	// Source ports of the load balancer's address, at host-b: hog's own node lets more through.
	source = netip.MustParseAddr("10.0.1.5")
	flood("hog", 12_000, func(i int) plantest.IP {
		return plantest.IP{Source: source, Dest: noisy["z1"], Protocol: 17, SourcePort: uint16(1024 + i%ports), DestPort: 7020, Payload: []byte("flood")}
	}, func() {
		// A machine that is busy with other things takes 1,500 of these a second, with most of the flood lost before the tunnel.
		whileGrowing(t, 3*time.Minute, "host-b says that source ports are in use", func() int {
			flows, _ := target.clients()
			return flows
		}, func() error { return m.alarm(t, "host-b", "source ports:", "of 38502") })
		eventually(t, 20*time.Second, "want of source ports", func() error {
			if m.counted(t, "host-b", "tunnel", "SNAT_PORTS_EXHAUSTED") == 0 {
				return errors.New("host-b has refused nothing")
			}
			return nil
		})
		if r := m.figure(t, "host-b", `culvert_share_used_ratio\{id="[^"]*",kind="ports"\}`); r < 0.8 {
			t.Errorf("metrics have %v of the ports used", r)
		}
	})
	m.refused(t, "pay", "SNAT_PORTS_EXHAUSTED", "tunnel", "flood")
	if datagrams, _ := closed.clients(); datagrams != 0 || closed.connections() != 0 {
		t.Errorf("a port without a listener was reached")
	}
}

// resets: whoever sends for flows that are not there is told so, at a rate.
func (m *commandMesh) resets(t *testing.T) {
	fd := packetSocket(t, commandNS("cart"), "eni0")
	defer unix.Close(fd)
	to := netip.MustParseAddr("10.0.2.5") // till's
	lost := m.figure(t, "host-a", `culvert_datapath_uncounted_total\{kind="resets"\}`)
	const n = 1500
	began := time.Now()
	if _, err := m.sender(t, "cart").send(t.Context(), 10_000, n, func(i int) plantest.IP {
		return plantest.IP{Source: netip.MustParseAddr("10.0.1.5"), Dest: to, Protocol: 6, Flags: plantest.ACK, SourcePort: uint16(3000 + i), DestPort: 9}
	}); err != nil {
		t.Fatal(err)
	}
	got, buf := 0, make([]byte, 2048)
	eventually(t, 10*time.Second, "the resets that were not sent to be counted", func() error {
		now := m.figure(t, "host-a", `culvert_datapath_uncounted_total\{kind="resets"\}`)
		for {
			size, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if err != nil {
				break
			}
			if size >= 54 && buf[14] == 0x45 && buf[23] == 6 && buf[47]&plantest.RST != 0 && netip.AddrFrom4([4]byte(buf[26:30])) == to {
				got++
			}
		}
		if int(now-lost) != n-got {
			return fmt.Errorf("%v of %d", now-lost, n-got)
		}
		return nil
	})
	// 200 at once, 100 a second.
	took := time.Since(began).Seconds()
	if most := 200 + 100*took; float64(got) < 200 || float64(got) > most+5 {
		t.Errorf("%d packets without a flow in %.2f s were answered by %d resets, want 200 to %.0f", n, took, got, most)
	}
}

// silence are connections on which nothing is said: for longer than one listener allows, and not as long as another's.
type silence struct {
	m           *commandMesh
	began       time.Time
	short, long []*talk
	datagrams   *net.UDPConn
	seen        netip.AddrPort // of datagrams, by the target
	target      *greeter
}

func (m *commandMesh) beginSilence(t *testing.T) *silence {
	t.Helper()
	m.offer(t, "silent", 7030, "tcp,udp", "--target t1")
	m.run(t, "pay", "listener create --load-balancer silent --port 7032 --target-group silent-tcp --idle-timeout 60s")
	s := &silence{m: m, target: m.greet(t, "t1", 7030)}
	vip := m.connect(t, "shop", "silent", "")["z1"]
	for range 3 {
		for port, list := range map[uint16]*[]*talk{7032: &s.short, 7030: &s.long} {
			c, err := m.dial("cart", netip.AddrPortFrom(vip, port), slack*10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			*list = append(*list, c)
		}
	}
	s.datagrams = m.datagrams(t, "cart", netip.AddrPortFrom(vip, 7030), false)
	var err error
	if _, s.seen, err = answer(s.datagrams, []byte("once"), slack*10*time.Second); err != nil {
		t.Fatal(err)
	}
	s.began = time.Now()
	return s
}

// closed waits until the consumer's node has recorded the end of a flow of that client's port.
func (s *silence) closed(t *testing.T, client net.Addr, after int) {
	t.Helper()
	port := netip.MustParseAddrPort(client.String()).Port()
	line := fmt.Sprintf("flows query --action ACCEPT --port %d --service pay/silent -o json", port)
	eventually(t, time.Duration(after)*time.Second+30*time.Second, "the end of the flow from "+client.String(), func() error {
		out, err := s.m.try(t, "shop", "", line)
		if err == nil && !strings.Contains(out, `"state":"`+api.FlowClosed+`"`) {
			err = fmt.Errorf("records: %s", out)
		}
		return err
	})
	if d := time.Since(s.began); d < time.Duration(after)*time.Second {
		t.Errorf("the flow from %s ended after %s, its idle timeout is %d s", client, d, after)
	}
	t.Logf("n=1: recorded as closed after %s of silence", time.Since(s.began).Round(time.Second))
}

// tcpEnds: after its listener's idle timeout a connection is gone, and both ends are told by resets.
func (s *silence) tcpEnds(t *testing.T) {
	for _, c := range s.short {
		s.closed(t, c.LocalAddr(), 60)
	}
	eventually(t, 30*time.Second, "the target to be told", func() error {
		if n := s.target.connections(); n != len(s.long) {
			return fmt.Errorf("it has %d connections", n)
		}
		return nil
	})
	for _, c := range s.short {
		began := time.Now()
		if err := c.ask(); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) || time.Since(began) > slack*3*time.Second*slowness() {
			t.Errorf("after a minute of silence, %s later: %v", time.Since(began), err)
		}
	}
	for _, c := range s.long {
		if err := c.ask(); err != nil {
			t.Errorf("at a listener with the default timeout, after a minute: %v", err)
		}
	}
}

// udpEnds: so is a flow of UDP after two minutes; what its target still sends is refused, and the client's next datagram is a new flow.
func (s *silence) udpEnds(t *testing.T) {
	s.closed(t, s.datagrams.LocalAddr(), api.UDPIdleTimeout)
	// While the port is in quarantine it is an answer without a flow, afterwards a datagram to a port without a listener.
	refused := func() uint64 {
		return s.m.counted(t, "host-b", "workload", "NO_FLOW") + s.m.counted(t, "host-b", "workload", "NO_LISTENER")
	}
	before := refused()
	eventually(t, 30*time.Second, "the late answer to be refused", func() error { // its node may not have let go of the flow yet
		if _, err := s.target.p.WriteTo([]byte("late"), net.UDPAddrFromAddrPort(s.seen)); err != nil {
			return err
		}
		if refused() == before {
			return errors.New("it is not")
		}
		return nil
	})
	_ = s.datagrams.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := s.datagrams.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes came, %v", n, err)
	}
	if _, _, err := answer(s.datagrams, []byte("again"), slack*10*time.Second); err != nil {
		t.Errorf("a new flow: %v", err)
	}
}
