package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/local"
	keys "github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/oracle"
)

const ledgerBoot = "boot-1"

// recording is a collector on a host's datapath, with its files in a directory.
type recording struct {
	*flow.Collector
	end func()
}

func (m *mesh) record(h *meshHost, source *Source, dir string, step func() time.Duration) *recording {
	m.t.Helper()
	c, err := flow.New(flow.Config{
		Node: "node-a", Source: source, Interval: time.Second, Key: keys.Dir(dir).LogKey,
		Log: flow.LogConfig{Store: flow.Dir(filepath.Join(dir, "flows")), Boot: ledgerBoot},
		Clock: func() flow.Clock {
			now, err := BootTime()
			if err != nil {
				m.t.Error(err)
			}
			return flow.Clock{Boot: uint64(now), Wall: time.Now().Add(step())}
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	v := api.View{}
	for _, w := range h.workloads {
		v.ENIs = append(v.ENIs, api.ViewENI{ID: "eni-" + w.name, Number: w.number, VPC: w.vpc})
	}
	c.SetView(v, *m.plan(h))
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := c.Run(ctx); err != nil {
			m.t.Error(err)
		}
	})
	return &recording{c, func() { cancel(); done.Wait() }}
}

// ledgerTraffic goes between nodes and on this one, opens and ends flows, and is refused.
func (m *mesh) ledgerTraffic() error {
	for i := range 10 {
		for _, c := range []struct {
			to       string
			provider *workload
		}{{"10.0.1.200:443", m.ledger}, {"10.0.1.201:443", m.vault}} {
			near, far := connect(m.t, m.cart, c.provider, c.to, ":8443")
			text := []byte(fmt.Sprint("round ", i))
			err := errors.Join(send(near, text), receive(far, text), send(far, text), receive(near, text))
			near.Close()
			far.Close()
			if err != nil {
				return err
			}
		}
		for port := range 5 {
			udp := m.cart.dialUDP(m.t, fmt.Sprintf(":%d", 7000+100*port+i), fmt.Sprintf("10.0.1.200:%d", 444+port)) // which nobody listens at
			err := send(udp, []byte("refused"))
			udp.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Of traffic through real programs every packet is in a record or declared, row by row, and every segment proves itself: while a collector
// dies with what it had read, and while the clock jumps.
func TestLedgerOfRealTraffic(t *testing.T) {
	m := newMesh(t)
	source := NewSource(m.a.dp)
	stopSource := run(t, source)
	defer stopSource()
	var mu sync.Mutex
	var stepped time.Duration
	step := func() time.Duration { mu.Lock(); defer mu.Unlock(); return stepped }
	first, second := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	r := m.record(m.a, source, first, step)
	traffic := func() {
		t.Helper()
		if err := m.ledgerTraffic(); err != nil {
			t.Fatal(err)
		}
	}
	traffic()
	mu.Lock()
	stepped = -48 * time.Hour
	mu.Unlock()
	netlab.Eventually(t, patience, func() bool {
		s := r.Stats()
		return s.Sequence > 10 && s.Seals > 0
	}, "records and seals are written")
	if err := os.CopyFS(second, os.DirFS(first)); err != nil { // what a kill leaves
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(second, "flow-log.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	traffic()
	r.end() // it reads once more, and all of that is gone
	r = m.record(m.a, source, second, step)
	traffic()
	for _, w := range []*workload{m.cart, m.desk, m.vault} {
		m.a.Exec("ip", "link", "set", "cv"+w.name, "down")
	}
	netlab.Eventually(t, 30*time.Second, func() bool { return r.Stats().Seals > 1 }, "what the first one lost is seen twice")
	r.end()
	books := m.balanced(source, second)
	if lost := books.Lost(seal.CauseLost); lost == 0 {
		t.Error("what the first collector took with it is not declared")
	}
	if over := books.Lost(seal.CauseOver); over != 0 {
		t.Errorf("%d packets are told too much", over)
	}
	t.Logf("%d segments, %d with counters, %d packets lost with the collector", books.Seals, books.Full, books.Lost(seal.CauseLost))
}

// balanced waits until what is sealed tells exactly what was counted.
func (m *mesh) balanced(source *Source, dir string) (books *oracle.Sealed) {
	m.t.Helper()
	var err error
	for end := time.Now().Add(90 * time.Second); ; {
		if books, err = oracle.ReadSealed(dir); err == nil {
			var counters []local.Counter
			if counters, err = m.named(source); err == nil {
				err = books.Balance(ledgerBoot, counters)
			}
		}
		if err == nil {
			return books
		}
		if time.Now().After(end) {
			m.t.Fatal(err)
		}
		<-time.After(200 * time.Millisecond)
	}
}

func (m *mesh) named(source *Source) ([]local.Counter, error) {
	names := map[uint32]string{}
	for _, w := range m.a.workloads {
		names[w.number] = "eni-" + w.name
	}
	all, err := source.d.Counters()
	if err != nil {
		return nil, err
	}
	out := make([]local.Counter, len(all))
	for i := range all {
		c := all[i].record()
		out[i] = local.Counter{ENI: names[c.ENI], Hook: c.Hook, Reason: c.Reason, Packets: c.Packets, Bytes: c.Bytes}
	}
	return out, nil
}
