package tunnel_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/internal/netlab"
)

const (
	fairTurns  = 15
	fairTurn   = 200 * time.Millisecond
	fairSettle = time.Second // in which a stream finds its speed
	// leastShare is of a fair share: a fifth of the goal, 0.9, which two busy CPUs for all of it miss, others' work still more. Without
	// lanes: 0.0 to 0.15. How fair the tunnel is shows `go run ./internal/bench -only share`.
	leastShare = 0.9 / 5
)

// fairFloods are what one account does to its neighbour.
var fairFloods = []load{
	{Name: "datagrams of 64 B", Senders: 3, Size: 64, Lane: 1},
	{Name: "datagrams of 1200 B", Senders: 3, Size: 1200, Lane: 1},
	{Name: "64 streams", Streams: 64, Lane: 1},
}

// fairPair are two nodes that know their own addresses, as those that an agent feeds do.
func fairPair(t *testing.T) (a, b *tunneltest.Node) {
	t.Helper()
	a, b = tunneltest.Pair(t, false, nil)
	for _, n := range []*tunneltest.Node{a, b} {
		if _, err := n.Meter().PathMTUs(t.Context(), n.Overlay, 0); err != nil {
			t.Fatal(err)
		}
	}
	if !a.Reach(b.Echo(), 64, tunneltest.Patience) {
		t.Fatal("no traffic")
	}
	return a, b
}

// TestFairness: who floods the tunnel leaves a neighbour its share, which is what that asks for, or half of what both get.
func TestFairness(t *testing.T) {
	a, b := fairPair(t)
	place(a, 0, -3)
	place(b, 1, -10)
	for _, flood := range fairFloods {
		t.Run(flood.Name, func(t *testing.T) {
			f := flood.start(t, a, b)
			defer f.stop()
			for _, own := range []load{
				{Name: "a stream", Streams: 1, Lane: 2, Nice: -5},
				{Name: "20,000 datagrams of 1200 B a second", Senders: 1, Size: 1200, Rate: 20_000, Lane: 2, Nice: -5},
			} {
				s := own.beside(t, f, a, b)
				t.Logf("%s beside %s: %.2f of its share; in turns, n = %d: %.2f", own.Name, flood.Name, s.whole, len(s.turns), s.turns)
				wantShare(t, own, flood, s)
			}
		})
	}
}

// wantShare demands that a neighbour of a flood is not starved.
func wantShare(t *testing.T, own, flood load, s share) {
	t.Helper()
	if !(s.whole >= leastShare) { // it is no number when nothing arrived
		t.Errorf("%s gets %.2f of its share beside %s: want %.2f at least; in turns: %.2f", own.Name, s.whole, flood.Name, leastShare, s.turns)
	}
}

// burners are what a slow receiver shares its CPU with.
const burners = 2

// TestFairnessAtASlowReceiver: where the receiving tunnel is the bound, what is too much waits with who sends it, and not in
// the receiver's sockets, where a neighbour's packets are lost as well.
func TestFairnessAtASlowReceiver(t *testing.T) {
	a, b := fairPair(t)
	place(a, 0, -3)
	place(b, 1, 0)
	for range burners {
		burner := b.Namespace.Start("taskset", "-c", strconv.Itoa(1%runtime.NumCPU()), "sh", "-c", "while :; do :; done")
		t.Cleanup(burner.Stop)
	}
	for _, flood := range fairFloods {
		t.Run(flood.Name, func(t *testing.T) {
			f := flood.start(t, a, b)
			defer f.stop()
			before := overflown(t, b)
			own := load{Name: "a stream", Streams: 1, Lane: 2, Nice: -5}
			s := own.beside(t, f, a, b)
			t.Logf("a stream beside %s: %.2f of its share; in turns, n = %d: %.2f; %d times a socket had no room", flood.Name, s.whole, len(s.turns),
				s.turns, overflown(t, b)-before)
			wantShare(t, own, flood, s)
		})
	}
}

// overflown is how often a tunnel's sockets had no room for what arrived.
func overflown(t *testing.T, n *tunneltest.Node) (times int) {
	t.Helper()
	port := fmt.Sprintf(":%04X", tunneltest.Port)
	if err := n.Do(func() error {
		table, err := os.ReadFile("/proc/thread-self/net/udp")
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); err == nil && strings.HasSuffix(f[1], port) {
				times, err = strconv.Atoi(f[len(f)-1])
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return times
}

// place gives a tunnel a CPU, and a niceness: it comes before what sends and receives, as on a host with more CPUs.
func place(n *tunneltest.Node, cpu, nice int) {
	pid := n.Process.Pid()
	n.Exec("taskset", "-a", "-p", "-c", strconv.Itoa(cpu%runtime.NumCPU()), strconv.Itoa(pid))
	n.Exec("sh", "-c", fmt.Sprintf("renice -n %d $(ls /proc/%d/task)", nice, pid))
}

// share is what a neighbour of a flood got: of all turns together, and of each, sorted.
type share struct {
	whole float64
	turns []float64
}

// beside runs a neighbour of a flood until it gets the least of its share, or for the tests' patience: who is starved is so all the
// time, and where the machine does other things a stream that lost packets stands still for a while.
func (l load) beside(t *testing.T, f *running, a, b *tunneltest.Node) (s share) {
	t.Helper()
	n := l.start(t, a, b)
	defer n.stop()
	netlab.Eventually(t, tunneltest.Patience, func() bool { return n.got.Load() > 0 }, l.Name+" has begun")
	await(fairSettle)
	for end := time.Now().Add(tunneltest.Patience); !(s.whole >= leastShare) && time.Now().Before(end); {
		s = l.measure(f, n)
	}
	return s
}

// measure takes some turns. One in which nothing arrived at all, as where the machine does other things, is had again.
func (l load) measure(f, n *running) (s share) {
	var all, due float64
	for end := time.Now().Add(tunneltest.Patience); len(s.turns) < fairTurns && time.Now().Before(end); {
		flood, own, began := f.got.Load(), n.got.Load(), time.Now()
		await(fairTurn)
		theirs, got := float64(f.got.Load()-flood), float64(n.got.Load()-own)
		fair := (theirs + got) / 2
		if l.Rate > 0 {
			fair = min(fair, l.Rate*float64(l.Size)*time.Since(began).Seconds())
		}
		if fair > 0 {
			all, due, s.turns = all+got, due+fair, append(s.turns, got/fair)
		}
	}
	s.whole = all / due
	slices.Sort(s.turns)
	return s
}
