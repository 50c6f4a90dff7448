package e2e

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/netns"
)

// asked answers health checks at a port of a workload until the test ends: with success while it is well, which nothing says of what the
// workload serves.
func (m *commandMesh) asked(t *testing.T, workload string, port int) (well *atomic.Bool) {
	t.Helper()
	var door net.Listener
	if err := netns.Do(netns.Path(commandNS(workload)), func() (err error) {
		door, err = new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
		return err
	}); err != nil {
		t.Fatalf("checks of %s: %v", workload, err)
	}
	well = new(atomic.Bool)
	well.Store(true)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !well.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	s.Listener.Close()
	s.Listener = door
	s.Start()
	t.Cleanup(s.Close)
	return well
}

// offerAsked is a target group of t1, in zone z1, and t3, in z2, that both are asked for at another port.
func (m *commandMesh) offerAsked(t *testing.T, name string, port uint16, checkPort int, flags string) {
	t.Helper()
	m.run(t, "pay", fmt.Sprintf("target-group create %s --vpc pay --port %d --target t1 --target t3 --health-protocol HTTP --health-port %d "+
		"--health-interval 1s --health-timeout 1s %s", name, port, checkPort, flags))
	m.greet(t, "t1", port)
	m.greet(t, "t3", port)
}

// groupHealth is what the server says of a group.
func (m *commandMesh) groupHealth(t *testing.T, group string) (h api.TargetGroupHealth, targets map[string]api.DescribedTarget) {
	t.Helper()
	h, targets = described[api.TargetGroupHealth](t, m, "pay", "target-group health "+group), map[string]api.DescribedTarget{}
	for _, d := range h.Targets {
		targets[d.ENIName] = d
	}
	return h, targets
}

// isSaid waits until the hosts of a group's targets say of each that it is in a state: t1's, then t3's.
func (m *commandMesh) isSaid(t *testing.T, group string, one, three api.TargetState) (since map[string]time.Time) {
	t.Helper()
	eventually(t, 90*time.Second, fmt.Sprintf("%s: t1 is %s, t3 is %s", group, one, three), func() error {
		_, now := m.groupHealth(t, group)
		since = map[string]time.Time{"t1": now["t1"].Since, "t3": now["t3"].Since}
		if now["t1"].State != one || now["t3"].State != three {
			return fmt.Errorf("t1 is %s (%s %s), t3 is %s (%s %s)", now["t1"].State, now["t1"].Reason, now["t1"].Description,
				now["t3"].State, now["t3"].Reason, now["t3"].Description)
		}
		return nil
	})
	return since
}

// slowStart: a target that is well again gets a tenth of its share, then two, and all of it when slow start is over.
func (m *commandMesh) slowStart(t *testing.T) {
	const port, lasts = 7060, 30 * time.Second
	m.offerAsked(t, "slow", port, 7960, "--slow-start 30s")
	one := m.asked(t, "t1", 7960)
	m.asked(t, "t3", 7960)
	m.run(t, "pay", fmt.Sprintf("load-balancer create slow --subnet pay-1 --subnet pay-2 --listener %d:slow", port))
	m.run(t, "pay", "service create slow --load-balancer slow --allow shop")
	vip := netip.AddrPortFrom(m.connect(t, "shop", "slow", "")["z1"], port)
	m.isSaid(t, "slow", api.TargetHealthy, api.TargetHealthy)
	one.Store(false)
	m.isSaid(t, "slow", api.TargetUnhealthy, api.TargetHealthy)
	eventually(t, 30*time.Second, "no new flow to t1", func() error { return m.comesTo(vip, "t3") })
	seen := m.steady(t, vip)
	one.Store(true)
	since := m.isSaid(t, "slow", api.TargetHealthy, api.TargetHealthy)["t1"]
	eventually(t, 2*lasts, "slow start is over", func() error {
		if age := time.Since(since); age < lasts {
			return fmt.Errorf("t1 has been well for %s", age)
		}
		return nil
	})
	slowly(t, seen(), since, lasts)
	const whole = 240
	eventually(t, 30*time.Second, "t1 has its whole share", func() error {
		part := float64(m.shares(t, "cart", vip, whole)["t1"]) / whole
		if d := part - 0.5; d*d*whole > 25*0.25 {
			return fmt.Errorf("it is %.2f of n=%d", part, whole)
		}
		return nil
	})
}

// slowly demands that t1 got no connection before it was well, and in the first half of slow start no more than its steps are worth: a
// consumer's node is not ahead of t1's own.
func slowly(t *testing.T, seen []arrival, since time.Time, lasts time.Duration) {
	t.Helper()
	const steps = 10
	var got, all [steps]int
	for _, a := range seen {
		age := a.begun.Sub(since)
		switch {
		case age < 0 && a.target == "t1" && !a.over.After(since):
			t.Errorf("%s before it was well t1 got a connection", -age)
		case age >= 0 && age < lasts:
			step := int(age * steps / lasts)
			if all[step]++; a.target == "t1" {
				got[step]++
			}
		}
	}
	var parts strings.Builder
	n, sum, came, most := 0, 0, 0.0, 0.0
	for step := range steps {
		n, sum = n+all[step], sum+got[step]
		fmt.Fprintf(&parts, " %.2f", float64(got[step])/float64(max(1, all[step])))
		if step < steps/2 {
			came += float64(got[step])
			most += float64(all[step]*(step+1)) / float64(step+1+steps)
		}
	}
	t.Logf("n=%d: t1's part of new connections while it starts slowly, by tenth of %s:%s", n, lasts, parts.String())
	if sum == 0 || came > most+5*math.Sqrt(most) {
		t.Errorf("t1 got %d connections, %.0f in the first half of slow start, whose steps are worth %.0f", sum, came, most)
	}
}

// arrival is a connection that was opened, and the target that it came to.
type arrival struct {
	begun, over time.Time
	target      string
}

// steady opens a connection 25 times a second until what it returns is called, which demands that none failed.
func (m *commandMesh) steady(t *testing.T, at netip.AddrPort) (end func() []arrival) {
	var came []arrival
	var failed []error
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(40 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			begun := time.Now()
			c, err := m.dial("cart", at, slack*10*time.Second)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			c.Close()
			came = append(came, arrival{begun, time.Now(), c.target})
		}
	})
	end = sync.OnceValue(func() []arrival {
		close(over)
		wg.Wait()
		t.Logf("n=%d new connections to %s, %d failed", len(came)+len(failed), at, len(failed))
		if len(failed) > 0 || len(came) == 0 {
			t.Errorf("of %d new connections to %s %d failed: %v", len(came)+len(failed), at, len(failed), errors.Join(failed...))
		}
		return came
	})
	t.Cleanup(func() { end() })
	return end
}

// distrust: checks that are ill themselves take no capacity away. Targets serve all the while, only their checks fail: of one, and flows go
// to the other's zone, and its own are ended when the group says so; of both, and one stays for half a minute, then all are used; and
// where two have to be well, both are used all the time.
func (m *commandMesh) distrust(t *testing.T) {
	m.offerAsked(t, "doubt", 7061, 7961, "--unhealthy-draining-interval 8s")
	m.offerAsked(t, "panic", 7062, 7961, "--minimum-healthy-count 2 --unhealthy-connection-termination=false")
	m.offerAsked(t, "near", 7063, 7961, "--unhealthy-connection-termination=false")
	well := []*atomic.Bool{m.asked(t, "t1", 7961), m.asked(t, "t3", 7961)}
	m.run(t, "pay", "load-balancer create doubt --subnet pay-1 --subnet pay-2 --listener 7061:doubt --listener 7062:panic")
	m.run(t, "pay", "load-balancer create near --subnet pay-1 --subnet pay-2 --cross-zone=false --listener 7063:near")
	m.run(t, "pay", "service create doubt --load-balancer doubt --allow shop")
	m.run(t, "pay", "service create near --load-balancer near --allow shop")
	address := m.connect(t, "shop", "doubt", "")["z1"]
	doubt, panicked := netip.AddrPortFrom(address, 7061), netip.AddrPortFrom(address, 7062)
	zones := m.connect(t, "shop", "near", "")
	near := func(what, z1, z2 string) {
		t.Helper()
		for zone, want := range map[string]string{"z1": z1, "z2": z2} {
			eventually(t, 60*time.Second, what+": who the address in "+zone+" comes to", func() error {
				return m.comesTo(netip.AddrPortFrom(zones[zone], 7063), want)
			})
		}
	}
	both := []string{"doubt", "panic", "near"}
	for _, g := range both {
		m.isSaid(t, g, api.TargetHealthy, api.TargetHealthy)
	}
	near("both are well", "t1", "t3")
	eventually(t, 30*time.Second, "both are used", func() error { return m.comesTo(doubt, "t1 t3") })
	live := m.converse(t, "cart", doubt, 16, false)
	if len(live.to("t1")) == 0 || len(live.to("t3")) == 0 {
		t.Fatal("16 connections are all with one target")
	}
	loads := []func() []arrival{m.steady(t, doubt), m.steady(t, panicked)}

	well[0].Store(false)
	since := m.isSaid(t, "doubt", api.TargetUnhealthyDraining, api.TargetHealthy)["t1"]
	near("t1 is ill", "t3", "t3")
	eventually(t, 30*time.Second, "no new flow to t1", func() error { return m.comesTo(doubt, "t3") })
	m.isSaid(t, "panic", api.TargetUnhealthy, api.TargetHealthy)
	if h, _ := m.groupHealth(t, "panic"); !h.FailOpen {
		t.Error("one of two that have to be well is ill, and the group is not said to fail open")
	}
	if err := m.comesTo(panicked, "t1 t3"); err != nil {
		t.Errorf("one of two that have to be well is ill: %v", err)
	}
	m.drained(t, live, since, 8*time.Second)

	well[0].Store(true)
	for _, g := range both {
		m.isSaid(t, g, api.TargetHealthy, api.TargetHealthy)
	}
	near("t1 is well again", "t1", "t3")
	for _, w := range well {
		w.Store(false)
	}
	m.velocity(t, doubt)
	near("all are ill", "t1", "t3")
	for _, end := range loads {
		end()
	}
}

// drained waits until the connections to t1 were reset, not before it was ill for so long; t3's go on.
func (m *commandMesh) drained(t *testing.T, live *talks, since time.Time, interval time.Duration) {
	t.Helper()
	ends(t, &talks{all: live.to("t1")}, "flows of the unhealthy target end")
	first, last := time.Hour, time.Duration(0)
	for _, c := range live.to("t1") {
		at, _ := c.broken()
		first, last = min(first, at.Sub(since)), max(last, at.Sub(since))
	}
	t.Logf("n=%d connections to a target that is ill ended after %s to %s, its group's interval is %s", len(live.to("t1")),
		first.Round(time.Millisecond), last.Round(time.Millisecond), interval)
	if first < interval {
		t.Errorf("a connection to a target that is ill ended after %s, want %s at least", first, interval)
	}
	if err := live.whole("t1"); err != nil {
		t.Errorf("others' connections have ended: %v", err)
	}
}

// velocity: both of two are said to be ill, and one takes all new flows until the first one's removal is half a minute old; then all are used.
func (m *commandMesh) velocity(t *testing.T, at netip.AddrPort) {
	t.Helper()
	began, held := time.Now(), time.Duration(0)
	eventually(t, 90*time.Second, "all are ill, and all are used", func() error {
		got := m.shares(t, "cart", at, 24)
		h, targets := m.groupHealth(t, "doubt")
		if ill := !targets["t1"].State.Usable() && !targets["t3"].State.Usable(); !ill || !h.FailOpen {
			return fmt.Errorf("t1 is %s, t3 is %s", targets["t1"].State, targets["t3"].State)
		}
		if len(got) == 1 {
			held = max(held, time.Since(began))
		}
		if len(got) == 1 || held == 0 {
			return fmt.Errorf("all are ill, flows come to %v, one was held for %s", got, held)
		}
		return nil
	})
	t.Logf("n=1: both of two are ill: one took all new flows for %s, then both did", held.Round(time.Second))
}

// selectors: targets by address and port, and by tags, of interfaces that are there and of one that comes later, get flows as those by name do.
func (m *commandMesh) selectors(t *testing.T) {
	appear := func(name string) {
		t.Helper()
		m.run(t, "pay", "eni create "+name+" --subnet pay-1 --node host-b --tag role=picked")
		c, err := m.lab.Admin("pay")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := m.lab.AddWorkload(t.Context(), c, dev.Workload{Name: commandNS(name), Host: "host-b", ENI: name}); err != nil {
			t.Fatal(err)
		}
		m.greet(t, name, 7064)
	}
	appear("p1")
	m.greet(t, "t2", 7065)
	m.offer(t, "tagged", 7064, "tcp", "--target-tag role=picked")
	m.offer(t, "addressed", 7067, "tcp", "--target 10.0.1.6:7065") // t2, at a port that is not the group's
	tagged := netip.AddrPortFrom(m.connect(t, "shop", "tagged", "")["z1"], 7064)
	addressed := netip.AddrPortFrom(m.connect(t, "shop", "addressed", "")["z2"], 7067)
	for at, want := range map[netip.AddrPort]string{tagged: "p1", addressed: "t2"} {
		if got := m.shares(t, "cart", at, 8); whose(got) != want {
			t.Errorf("connections come to %v, want %s", got, want)
		}
	}
	appear("p2")
	m.change(t, "pay", "target-group modify tagged-tcp --stickiness=") // waits until all nodes have everything
	if got := m.shares(t, "cart", tagged, 40); whose(got) != "p1 p2" {
		t.Errorf("another interface has the tag, connections come to %v", got)
	}
}
