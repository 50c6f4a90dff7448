package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// kills per process in one run; three of each keep the run short, n is printed.
const kills = 3

// load is a consumer's work during a fault: connections that live through all of it, and new ones all the time.
type load struct {
	long    []*exec.Cmd
	ended   atomic.Int32 // long connections that ended
	stopped atomic.Bool
	mu      sync.Mutex
	tries   int
	fails   []time.Duration // how long each series of failures of new connections lasted
}

// echoServer answers each line on TCP port 443 of the ledger's targets.
func (w *world) echoServer(t *testing.T) {
	t.Helper()
	for _, workload := range []string{"ledger-1", "ledger-2"} {
		w.start(t, workload, "socat", "TCP4-LISTEN:443,fork,reuseaddr", "EXEC:/bin/cat")
	}
	eventually(t, 10*time.Second, "echo service", func() error { return w.echo(t.Context()) })
}

// echo is one new connection with one request and answer.
func (w *world) echo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := w.in(ctx, "cart", "sh", "-c",
		"echo hello | socat -t 2 - TCP4:"+w.ledgerAddress()+":443,connect-timeout=1").CombinedOutput()
	if err == nil && !strings.Contains(string(out), "hello") {
		err = fmt.Errorf("answer %q", out)
	}
	return err
}

func (w *world) ledgerAddress() string {
	ep, err := w.as("shop").GetEndpoint(context.Background(), "ledger")
	if err != nil {
		return "ledger.pay.internal" // the server is down: the name works all the same
	}
	eni, err := w.as("shop").GetENI(context.Background(), ep.ENIs[0])
	if err != nil {
		return "ledger.pay.internal"
	}
	return eni.Address.String()
}

// longFlows are connections on which a number is sent and must come back every 100 ms. One that misses an answer for 15 s,
// is reset or closed, ends its command.
const longFlow = `exec 3<>/dev/tcp/ledger.pay.internal/443; i=0
while [ $i -lt 100000 ]; do i=$((i+1)); echo $i >&3; read -t 15 -r got <&3 || exit 7; [ "$got" = $i ] || exit 8; echo $i; sleep 0.1; done`

func (w *world) startLoad(t *testing.T, n int) *load {
	t.Helper()
	l := &load{}
	for range n {
		cmd := w.in(context.Background(), "cart", "bash", "-c", longFlow)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		l.long = append(l.long, cmd)
		sc := bufio.NewScanner(out)
		if !sc.Scan() {
			t.Fatal("a long connection got no first answer")
		}
		go func() {
			for sc.Scan() {
			}
			if !l.stopped.Load() {
				l.ended.Add(1)
			}
		}()
	}
	t.Cleanup(func() {
		l.stopped.Store(true)
		for _, cmd := range l.long {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return l
}

// connects opens new connections until ctx ends, and notes for how long none succeeded.
func (l *load) connects(ctx context.Context, w *world) {
	var since time.Time
	for ctx.Err() == nil {
		err := w.echo(ctx)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		l.tries++
		switch {
		case err != nil && since.IsZero():
			since = time.Now()
		case err == nil && !since.IsZero():
			l.fails = append(l.fails, time.Since(since))
			since = time.Time{}
		}
		l.mu.Unlock()
	}
}

// TestKill9 kills agent, tunnel and server, one after the other, under load. Established connections must live, new ones come
// back within a bound, and nothing forbidden may pass meanwhile.
func TestKill9(t *testing.T) {
	w := mesh(t)
	w.echoServer(t)
	w.start(t, "till", "socat", "TCP4-LISTEN:9,fork,reuseaddr", "EXEC:/bin/cat")
	l := w.startLoad(t, 5)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { l.connects(ctx, w) })
	var forbidden atomic.Int32
	var probes atomic.Int32
	wg.Go(func() { w.forbiddenProbes(ctx, &probes, &forbidden) })
	for _, victim := range [][2]string{
		{"host-a", "agent"}, {"host-b", "agent"}, {"host-a", "tunnel"}, {"host-b", "tunnel"}, {"server", "server"},
	} {
		var down []time.Duration
		for range kills {
			began := time.Now()
			if err := w.lab.Kill(victim[0], victim[1], false); err != nil {
				t.Fatal(err)
			}
			if err := w.lab.Start(ctx, "", ""); err != nil {
				t.Fatalf("start again after killing %v: %v", victim, err)
			}
			eventually(t, 20*time.Second, fmt.Sprintf("service after killing %v", victim), func() error { return w.echo(ctx) })
			down = append(down, time.Since(began))
		}
		slices.Sort(down)
		t.Logf("%s %s: n=%d, kill to restarted and a new connection: %v", victim[0], victim[1], len(down), down)
		if n := l.ended.Load(); n > 0 {
			t.Fatalf("%d of %d established connections ended when %v was killed", n, len(l.long), victim)
		}
	}
	cancel()
	wg.Wait()
	t.Logf("new connections: %d tried, series of failures: %v; forbidden probes: %d, answered: %d", l.tries, l.fails,
		probes.Load(), forbidden.Load())
	if forbidden.Load() > 0 || probes.Load() == 0 {
		t.Errorf("%d of %d forbidden probes were answered", forbidden.Load(), probes.Load())
	}
	for _, d := range l.fails {
		if d > 25*time.Second { // five times the bound of 5 s
			t.Errorf("no new connection for %s", d)
		}
	}
}

// forbiddenProbes asks what must never answer: the stranger toward the consumer's namesake address, the provider toward the
// consumer.
func (w *world) forbiddenProbes(ctx context.Context, probes, answered *atomic.Int32) {
	for ctx.Err() == nil {
		for _, from := range []string{"visitor", "ledger-1"} {
			c, cancel := context.WithTimeout(ctx, 3*time.Second)
			out, _ := w.in(c, from, "sh", "-c", "echo leak | socat -t 0.3 -T 0.3 - TCP4:10.0.1.77:9,connect-timeout=0.3").CombinedOutput()
			cancel()
			if ctx.Err() != nil {
				return
			}
			probes.Add(1)
			if strings.Contains(string(out), "leak") {
				answered.Add(1)
			}
		}
	}
}

func TestWorksWithoutTheServer(t *testing.T) {
	w := mesh(t)
	w.echoServer(t)
	if err := w.lab.Kill("server", "server", false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		if err := w.lab.Start(ctx, "", ""); err != nil {
			t.Errorf("put back: %v", err)
		}
	})
	for _, role := range []string{"agent", "tunnel"} {
		for _, host := range []string{"host-a", "host-b"} {
			if err := w.lab.Kill(host, role, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, host := range []string{"host-a", "host-b"} {
		if err := w.lab.Start(t.Context(), host, ""); err != nil {
			t.Fatalf("without the server, %s does not start: %v", host, err)
		}
	}
	began := time.Now()
	eventually(t, 25*time.Second, "forwarding and names from disk", func() error {
		out, err := w.run(t, "cart", "sh", "-c", "echo hello | socat -t 2 - TCP4:ledger.pay.internal:443,connect-timeout=1")
		if err == nil && !strings.Contains(out, "hello") {
			err = fmt.Errorf("answer %q", out)
		}
		return err
	})
	t.Logf("n=1: names and forwarding %s after both nodes restarted without a server", time.Since(began).Round(time.Millisecond))
}

// TestAcknowledgedWritesSurvive kills the server right after it has acknowledged a write, each time.
func TestAcknowledgedWritesSurvive(t *testing.T) {
	w := mesh(t)
	shop := w.as("shop")
	for i := range kills {
		sg, err := shop.CreateSecurityGroup(t.Context(), api.CreateSecurityGroupRequest{VPC: "shop", Name: fmt.Sprintf("kept-%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.lab.Kill("server", "server", false); err != nil {
			t.Fatal(err)
		}
		if err := w.lab.Start(t.Context(), "", ""); err != nil {
			t.Fatal(err)
		}
		if got, err := shop.GetSecurityGroup(t.Context(), sg.ID); err != nil || got.Name != sg.Name {
			t.Errorf("acknowledged, then lost by a kill: %v, %v", got, err)
		}
		if _, err := shop.DeleteSecurityGroup(t.Context(), sg.ID); err != nil {
			t.Error(err)
		}
	}
	t.Logf("n=%d", kills)
}
