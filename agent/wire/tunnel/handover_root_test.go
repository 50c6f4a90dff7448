package tunnel_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/internal/netlab"
)

// TestUpgrade replaces both processes under traffic: connections live on, and what is lost is a matter of milliseconds.
func TestUpgrade(t *testing.T) {
	a, b := tunneltest.Pair(t, false, nil)
	stream := startStream(t, a, b)
	for _, c := range []struct {
		name string
		node *tunneltest.Node
		do   func(*tunneltest.Node) error
	}{
		{"the sender, asked on its socket", a, func(n *tunneltest.Node) error { return n.Device.Upgrade(t.Context()) }},
		{"the receiver, asked on its socket", b, func(n *tunneltest.Node) error { return n.Device.Upgrade(t.Context()) }},
		{"the receiver, by signal", b, func(n *tunneltest.Node) error { return n.Process.Signal(syscall.SIGUSR2) }},
	} {
		before, since := stateOf(t, c.node), startedAt(t, c.node)
		probe := startProbe(t, a, b)
		netlab.Eventually(t, 5*time.Second, func() bool { return probe.received() > 100 }, "probes arrive")
		if err := c.do(c.node); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		netlab.Eventually(t, 5*time.Second, func() bool { return startedAt(t, c.node).After(since) }, "a new process")
		n := probe.received()
		netlab.Eventually(t, 10*time.Second, func() bool { return probe.received() > n+300 }, "probes go on arriving")
		lost, gap := probe.stop()
		t.Logf("%s: %d of %d datagrams lost, longest gap %v", c.name, lost, probe.sent, gap)
		if gap > 15*time.Second*netlab.Slowness() { // milliseconds, and as long as a machine with other things to do takes to start a process
			t.Errorf("%s: a gap of %v", c.name, gap)
		}
		if after := stateOf(t, c.node); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%s: configuration was\n%v\nand is\n%v", c.name, before, after)
		}
		select {
		case <-c.node.Process.Done():
			t.Fatalf("%s: the process ended: %s", c.name, c.node.Process.Output())
		default:
		}
	}
	stream.check(t)
	if text, err := os.ReadFile(a.Config.ReadyFile); err != nil || string(text) != fmt.Sprintln(a.Process.Pid()) {
		t.Errorf("ready file: %q, %v", text, err)
	}
	a.Process.Stop()
	if err := a.Process.Wait(); err != nil {
		t.Errorf("clean stop after an upgrade: %v", err)
	}
}

// TestUpgradesAtOnce: whoever asks while another upgrade is under way gets one, too.
func TestUpgradesAtOnce(t *testing.T) {
	n := tunneltest.NewNode(t, netlab.New(t).Namespace("a"), 1)
	n.Start()
	for round := range 5 {
		since := startedAt(t, n)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := n.Device.Upgrade(t.Context()); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		if !startedAt(t, n).After(since) {
			t.Errorf("round %d: the process is the same", round)
		}
	}
}

// TestUpgradeThatFailsGoesOn has no program to upgrade to, and then one that is none.
func TestUpgradeThatFailsGoesOn(t *testing.T) {
	lab := netlab.New(t)
	n := tunneltest.NewNode(t, lab.Namespace("a"), 1)
	n.Program = filepath.Join(t.TempDir(), "program")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(exe, n.Program); err != nil {
		copyFile(t, exe, n.Program)
	}
	n.Start()
	n.Feed(tunneltest.NewNode(t, n.Namespace, 2).Peer(netip.MustParseAddr("198.18.0.2")))
	before := stateOf(t, n)
	for want, replace := range map[string]func(){
		"no such file": func() { os.Remove(n.Program) },
		"could not be started": func() {
			if err := os.WriteFile(n.Program, []byte("no program"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		os.Remove(n.Program)
		replace()
		if err := n.Device.Upgrade(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v: want one with %q", err, want)
		}
		if after := stateOf(t, n); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("configuration was\n%v\nand is\n%v", before, after)
		}
	}
	n.Process.Stop()
	if err := n.Process.Wait(); err != nil {
		t.Errorf("clean stop after a failed upgrade: %v\n%s", err, n.Process.Output())
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// stateOf is what must survive: all but the counters and times.
func stateOf(t *testing.T, n *tunneltest.Node) wire.State {
	t.Helper()
	state, err := n.Device.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range state.Peers {
		state.Peers[i] = wire.PeerStatus{Peer: state.Peers[i].Peer}
	}
	return state
}

func startedAt(t *testing.T, n *tunneltest.Node) time.Time {
	t.Helper()
	c, err := n.Device.Counters(t.Context())
	if err != nil {
		return time.Time{} // between two processes
	}
	return c.Started
}

// stream is a TCP connection that carries data all the time.
type stream struct {
	conn net.Conn
	mu   sync.Mutex
	n    int64
	err  error
}

func startStream(t *testing.T, a, b *tunneltest.Node) *stream {
	t.Helper()
	l := listenTCP(t, b)
	t.Cleanup(func() { l.Close() })
	s := &stream{}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for buf := make([]byte, 1<<16); ; {
			n, err := c.Read(buf)
			s.mu.Lock()
			s.n += int64(n)
			s.err = err
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	s.conn = dialTCP(t, a, l.Addr().String())
	t.Cleanup(func() { s.conn.Close() })
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for block := make([]byte, 8192); ; <-tick.C {
			if _, err := s.conn.Write(block); err != nil {
				return
			}
		}
	}()
	return s
}

// check demands that the stream still moves.
func (s *stream) check(t *testing.T) {
	t.Helper()
	read := func() (int64, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.n, s.err
	}
	n, _ := read()
	netlab.Eventually(t, 10*time.Second, func() bool {
		now, err := read()
		return err == nil && now > n+1<<20
	}, "the stream goes on")
}

// probe sends a numbered datagram each millisecond.
type probe struct {
	from, to *net.UDPConn
	quit     chan struct{}
	wg       sync.WaitGroup
	sent     int

	mu     sync.Mutex
	count  int
	last   time.Time
	gap    time.Duration
	latest uint64
}

func startProbe(t *testing.T, a, b *tunneltest.Node) *probe {
	t.Helper()
	p := &probe{to: b.UDP(netip.AddrPort{}), quit: make(chan struct{})}
	p.from = a.UDP(p.to.LocalAddr().(*net.UDPAddr).AddrPort())
	p.wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-p.quit:
				return
			case <-tick.C:
				p.sent++
				_, _ = p.from.Write(binary.BigEndian.AppendUint64(nil, uint64(p.sent)))
			}
		}
	})
	p.wg.Go(func() {
		for buf := make([]byte, 8); ; {
			if _, err := io.ReadFull(p.to, buf); err != nil {
				return
			}
			p.arrived(binary.BigEndian.Uint64(buf))
		}
	})
	return p
}

func (p *probe) arrived(number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.count > 0 {
		p.gap = max(p.gap, now.Sub(p.last))
	}
	p.count, p.last, p.latest = p.count+1, now, max(p.latest, number)
}

func (p *probe) received() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// stop returns how many of those sent before the last that arrived were lost, and the longest time without one.
func (p *probe) stop() (lost int, gap time.Duration) {
	close(p.quit)
	p.to.Close()
	p.wg.Wait()
	p.from.Close()
	return int(p.latest) - p.count, p.gap
}
