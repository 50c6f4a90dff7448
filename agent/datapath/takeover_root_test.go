package datapath

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
)

// downgrade puts schema 2 in place, closed.
func (h *meshHost) downgrade(t *testing.T) Downgraded {
	t.Helper()
	var done Downgraded
	if err := h.Do(func() (err error) {
		if err := h.dp.Close(); err != nil {
			return err
		}
		done, err = Downgrade(context.Background(), h.cfg, 2)
		return err
	}); err != nil {
		t.Fatalf("downgrade: %+v", err)
	}
	return done
}

// upgrade starts an agent of today, which has not applied its plan yet.
func (h *meshHost) upgrade(t *testing.T) {
	t.Helper()
	if err := h.Do(func() (err error) { h.dp, err = Open(h.cfg); return err }); err != nil {
		t.Fatalf("open: %+v", err)
	}
}

// old is a host with schema 2 and an agent of that in it, which has gone again.
func (m *mesh) old(h *meshHost) {
	m.t.Helper()
	h.downgrade(m.t)
	a := h.openOld(m.t, m.plan(h))
	if err := a.Close(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) schema(h *meshHost, want ...uint32) {
	m.t.Helper()
	var have []uint32
	for _, v := range []uint32{2, bpf.Version} {
		if _, err := os.Stat(versionDir(h.cfg.PinPath, v)); err == nil {
			have = append(have, v)
		}
	}
	if !slices.Equal(have, want) {
		m.t.Errorf("pins of schemas %v at host %s, want %v", have, h.Name, want)
	}
}

// Bulk traffic goes through 3 → 2 → 3 → 2 → 3 on both nodes without a reset, over the real programs of schema 2; every packet is
// counted once. The same on a kernel without tcx.
func TestSchemaThereAndBack(t *testing.T) {
	t.Run("tcx", func(t *testing.T) { thereAndBack(t, newMesh(t), 2) })
	t.Run("clsact", func(t *testing.T) { thereAndBack(t, newMesh(t, func(c *Config) { c.noTCX = true }), 1) })
}

func thereAndBack(t *testing.T, m *mesh, times int) {
	near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	within, withinFar := connect(t, m.cart, m.vault, "10.0.1.201:443", ":8443")
	local, localFar := connect(t, m.desk, m.shelf, "10.0.1.6:80", ":80")
	quiet, quietFar := connect(t, m.desk, m.ledger, "10.0.1.200:443", ":8443")
	stop, done := make(chan struct{}), make(chan error, 3)
	for a, b := range map[net.Conn]net.Conn{near: far, within: withinFar, local: localFar} {
		go func() { done <- bulk(a, b, stop) }()
	}
	ids := flowIDs(t, m)
	for range times {
		for _, h := range []*meshHost{m.a, m.b} {
			m.old(h)
			m.schema(h, 2)
		}
		// Schema 2 forwards without an agent, and goes on until the plan is there.
		for _, h := range []*meshHost{m.b, m.a} {
			h.upgrade(t)
			m.schema(h, 2, bpf.Version)
			if err := errors.Join(send(quiet, []byte("x")), receive(quietFar, []byte("x"))); err != nil {
				t.Errorf("before the plan: %v", err)
			}
			m.applyPlan(h, m.plan(h))
			m.schema(h, bpf.Version)
		}
	}
	close(stop)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if now := flowIDs(t, m); !maps.Equal(ids, now) {
		t.Errorf("flows before %v, after %v", ids, now)
	}
	if err := errors.Join(send(quietFar, []byte("y")), receive(quiet, []byte("y"))); err != nil {
		t.Errorf("a flow that was quiet: %v", err)
	}
	reconcile(t, m)
	for _, h := range []*meshHost{m.a, m.b} {
		attached, err := h.attached()
		if want := 2*len(h.workloads) + 3; err != nil || len(attached) != want {
			t.Errorf("%d attachments at %s, want %d: %v", len(attached), h.Name, want, err)
		}
	}
}

// bulk sends until stop, and says whether all of it arrived as it was sent. A stall of a closed door, and of the pauses that TCP
// makes after it, is no failure.
func bulk(near, far net.Conn, stop chan struct{}) error {
	stall := time.Minute * netlab.Slowness()
	sent, got := sha256.New(), sha256.New()
	arrived := make(chan error, 1)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			_ = far.SetReadDeadline(time.Now().Add(stall))
			n, err := far.Read(buf)
			got.Write(buf[:n])
			if errors.Is(err, io.EOF) {
				err = nil
			} else if err == nil {
				continue
			}
			arrived <- err
			return
		}
	}()
	block := payload(1<<16, 9)
	for {
		select {
		case <-stop:
			if err := errors.Join(near.(*net.TCPConn).CloseWrite(), <-arrived); err != nil {
				return err
			}
			if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
				return errors.New("what arrived is not what was sent")
			}
			return nil
		default:
		}
		_ = near.SetWriteDeadline(time.Now().Add(stall))
		n, err := near.Write(block)
		sent.Write(block[:n])
		if err != nil {
			return err
		}
	}
}

// flowIDs are those of whole flows at both hosts, with how many entries each has.
func flowIDs(t *testing.T, m *mesh) map[string]int {
	t.Helper()
	ids := map[string]int{}
	for _, h := range []*meshHost{m.a, m.b} {
		flows, err := h.dp.Flows(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range flows {
			for _, e := range []bpf.Flow{flows[i].Opening, flows[i].Reply} {
				if e.Id != 0 && e.Key.Protocol == 6 {
					ids[fmt.Sprint(h.Name, flows[i].ID())]++
				}
			}
		}
	}
	return ids
}

// state is what must be the same before and after.
type state struct {
	flows    map[bpf.FlowKey]bpf.Flow
	counters map[string]Counter
	losses   [bpf.Losses]uint64
}

func (h *meshHost) state(t *testing.T) state {
	t.Helper()
	s := state{flows: map[bpf.FlowKey]bpf.Flow{}, counters: map[string]Counter{}}
	if err := h.dp.eachFlow(t.Context(), func(e *bpf.Flow) {
		s.flows[e.Key] = common(*e)
	}); err != nil {
		t.Fatal(err)
	}
	counters, err := h.dp.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counters {
		if c.Reason == bpf.ReasonForwarded { // workloads have questions about neighbours and routers at any time
			s.counters[fmt.Sprint(c.ENI, c.Hook, c.Reason)] = c
		}
	}
	if s.losses, err = h.dp.Losses(); err != nil {
		t.Fatal(err)
	}
	return s
}

// common is what both schemas say of an entry, but for its generation: it is judged again with the next packet at the latest.
func common(f bpf.Flow) bpf.Flow {
	f.Generation, f.SeqKnown, f.NextSeq, f.Retransmits, f.Timed, f.Handshake, f.Rtt = 0, 0, 0, 0, 0, 0, 0
	return f
}

func (s state) check(t *testing.T, what string, now state) {
	t.Helper()
	differences(t, what+": flow entry", s.flows, now.flows)
	differences(t, what+": counter", s.counters, now.counters)
	if s.losses != now.losses {
		t.Errorf("%s: losses %v, before %v", what, now.losses, s.losses)
	}
}

// differences fails for each key whose values differ.
func differences[K, V comparable](t *testing.T, what string, before, now map[K]V) {
	t.Helper()
	for k, v := range before {
		if w, ok := now[k]; !ok || w != v {
			t.Errorf("%s %+v: %v, was %+v", what, w, ok, v)
		}
	}
	for k, v := range now {
		if _, ok := before[k]; !ok {
			t.Errorf("%s %+v was not there", what, v)
		}
	}
}

// quietMesh has flows of all kinds and refusals, and nothing under way.
func quietMesh(t *testing.T, change ...func(*Config)) (*mesh, []net.Conn) {
	m := newMesh(t, change...)
	var open []net.Conn
	for _, c := range []struct {
		from, to     *workload
		dial, listen string
	}{
		{m.cart, m.ledger, "10.0.1.200:443", ":8443"}, {m.cart, m.vault, "10.0.1.201:443", ":8443"},
		{m.desk, m.shelf, "10.0.1.6:80", ":80"}, {m.cart, m.desk, "10.0.1.7:80", ":80"},
	} {
		near, far := connect(t, c.from, c.to, c.dial, c.listen)
		for _, end := range []net.Conn{near, far} { // keepalives would count
			if err := end.(*net.TCPConn).SetKeepAlive(false); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(send(near, []byte("hello")), receive(far, []byte("hello"))); err != nil {
			t.Fatal(err)
		}
		open = append(open, near, far)
	}
	exchange(t, m.cart, m.ledger, "10.0.1.200:443", ":8443", 100)
	ping(t, m.cart, "10.0.1.6")
	if err := m.cart.Do(func() error { // refused
		c, err := net.Dial("udp4", "10.0.1.99:1")
		if err != nil {
			return err
		}
		defer c.Close()
		return send(c, payload(10, 5))
	}); err != nil {
		t.Fatal(err)
	}
	netlab.Eventually(t, patience, func() bool {
		in, out := m.a.sums(t)
		return maps.Equal(in, out) && m.a.counter(t, bpf.HookWorkload, bpf.ReasonNoDestination) > 0
	}, "all is quiet")
	return m, open
}

func stillThere(t *testing.T, open []net.Conn) {
	t.Helper()
	for i := 0; i < len(open); i += 2 {
		near, far := open[i], open[i+1]
		if err := errors.Join(send(near, []byte("and")), receive(far, []byte("and")), send(far, []byte("again")),
			receive(near, []byte("again"))); err != nil {
			t.Errorf("%s: %v", near.RemoteAddr(), err)
		}
	}
}
