package datapath

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// rewrites is how often the security groups are written anew, and connectEvery how often somebody connects meanwhile.
const (
	rewrites     = 1000
	connectEvery = time.Millisecond
)

// rewritten is a plan whose rules differ from those of the plan before, in every set: each allows TCP to the endpoint and its target,
// half of them by one range and half by another, one of them TCP to other ports besides; none allows UDP.
func rewritten(p *plan.Plan, n int) *plan.Plan {
	id := func(set int) uint32 { return uint32(2000 + n%2*10 + set) }
	texts := []string{
		"sgr-%[1]d-a 6 443-443 10.0.1.0/24\nsgr-%[1]d-b 6 8443-8443 10.0.0.0/16\n",
		"sgr-%[1]d-c 6 400-500 10.0.0.0/8\nsgr-%[1]d-d 6 8000-9000 0.0.0.0/0\nsgr-%[1]d-e 6 1-100 10.9.0.0/16\n",
	}
	p.RuleSets = append(p.RuleSets, plan.RuleSet{ID: id(0), Text: fmt.Sprintf(texts[n%2], n)})
	if n%10 == 0 { // the same row, another text behind its number
		p.RuleSets = append(p.RuleSets, plan.RuleSet{ID: id(1), Text: fmt.Sprintf(texts[n/10%2], n)})
	}
	set := id(0)
	if n%10 == 0 {
		set = id(1)
	}
	for i := range p.ENIs {
		p.ENIs[i].IngressRules, p.ENIs[i].EgressRules = set, set
	}
	for i := range p.Addresses {
		if p.Addresses[i].Rules != 0 {
			p.Addresses[i].Rules = set
		}
		if p.Addresses[i].EgressRules != 0 {
			p.Addresses[i].EgressRules = set
		}
	}
	for i := range p.Grants {
		g := &p.Grants[i]
		g.Admitted, g.LBRules, g.LBEgressRules = set, set, set
	}
	return p
}

// While security groups are written anew a thousand times, what the old and the new ones both allow is never refused, and what
// neither allows never passes: a thousand connections a second through an endpoint to another node succeed all, no packet of
// theirs is refused anywhere, and no datagram arrives.
func TestRewritesOfSecurityGroups(t *testing.T) {
	m := newMesh(t, func(c *Config) { c.Sizes.Flows = 1 << 18 })
	apply := func(n int) {
		m.generation++
		var both sync.WaitGroup // each waits for the kernel most of the time, and hosts are not in step anyway
		for _, h := range []*meshHost{m.a, m.b} {
			both.Go(func() {
				err := h.Do(func() error {
					_, err := h.dp.Apply(t.Context(), rewritten(m.plan(h), n))
					return err
				})
				if err != nil {
					t.Errorf("apply: %v", err)
				}
			})
		}
		both.Wait()
	}
	apply(0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	accepting(t, m.ledger)
	datagrams := listenUDP(t, m.ledger, 8443)
	defer datagrams.Close()
	var arrived, sent atomic.Int64
	tasks.Go(func() {
		<-ctx.Done()
		datagrams.Close()
	})
	tasks.Go(func() {
		for buf := make([]byte, 100); ; {
			if _, err := datagrams.Read(buf); err != nil {
				return
			}
			arrived.Add(1)
		}
	})
	d := &dialing{client: m.cart, due: make(chan struct{})}
	for range 16 {
		tasks.Go(func() { d.work(ctx) })
	}
	tasks.Go(func() { d.pace(ctx, &sent) })
	began := time.Now()
	for n := range rewrites {
		apply(n + 1)
	}
	took := time.Since(began)
	cancel()
	tasks.Wait()
	t.Logf("%d rewrites in %s, %d connections, %d datagrams", rewrites, took.Round(time.Millisecond), d.done.Load(), sent.Load())
	if err := d.failed.Load(); err != nil {
		t.Errorf("a connection that old and new rules allow failed: %v", *err)
	}
	if least := int64(took / connectEvery / 20); d.done.Load() < least || sent.Load() < least/10 {
		t.Errorf("%d connections and %d datagrams, at least %d are wanted", d.done.Load(), sent.Load(), least)
	}
	if arrived.Load() != 0 {
		t.Errorf("%d datagrams arrived, which nobody ever allowed", arrived.Load())
	}
	refusedOnly(t, m, unix.IPPROTO_UDP)
}

// refusedOnly demands that of what a workload sent only packets of one protocol were refused, and such were.
func refusedOnly(t *testing.T, m *mesh, protocol uint8) {
	t.Helper()
	seen := false
	for _, h := range []*meshHost{m.a, m.b} {
		refusals, err := h.dp.DrainRefusals(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range refusals {
			switch {
			case r.Key.Protocol == protocol:
				seen = true
			case r.Key.Protocol == unix.IPPROTO_TCP:
				t.Errorf("host %s: %d packets %s at hook %s: %+v", h.Name, r.Value.Packets, bpf.Reason(r.Key.Reason), bpf.Hook(r.Key.Hook), r.Key)
			}
		}
	}
	if !seen {
		t.Errorf("no packet of protocol %d was refused", protocol)
	}
}

// accepting takes connections at the target's port and reads them to their end.
func accepting(t *testing.T, w *workload) {
	t.Helper()
	var l net.Listener
	if err := w.Do(func() (err error) { l, err = net.Listen("tcp4", ":8443"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Write([]byte("."))
				_, _ = c.Read(make([]byte, 1))
			}()
		}
	}()
}

// dialing connects as often as somebody says.
type dialing struct {
	client *workload
	due    chan struct{}
	done   atomic.Int64
	failed atomic.Pointer[error]
}

// pace says so every connectEvery, and sends a datagram each tenth time.
func (d *dialing) pace(ctx context.Context, sent *atomic.Int64) {
	var udp net.Conn
	if err := d.client.Do(func() (err error) { udp, err = net.Dial("udp4", "10.0.1.200:443"); return err }); err != nil {
		d.failed.CompareAndSwap(nil, &err)
		return
	}
	defer udp.Close()
	tick := time.NewTicker(connectEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n%10 == 0 {
			if _, err := udp.Write([]byte("nobody allows this")); err == nil {
				sent.Add(1)
			}
		}
		select {
		case d.due <- struct{}{}:
		default: // all are busy
		}
	}
}

func (d *dialing) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.due:
		}
		if err := d.connect(); err != nil {
			d.failed.CompareAndSwap(nil, &err)
			return
		}
		d.done.Add(1)
	}
}

// connect opens a connection, hears the target's byte, and resets it, so that the port is free at once.
func (d *dialing) connect() error {
	var c net.Conn
	if err := d.client.Do(func() (err error) { c, err = net.DialTimeout("tcp4", "10.0.1.200:443", connectPatience); return err }); err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(connectPatience)); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

// connectPatience is how long a connection may take on a machine that has other things to do. One that is refused is told so.
const connectPatience = 20 * time.Second
