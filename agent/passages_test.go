package agent

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

func passageKey(n byte) wire.PublicKey { return wire.PublicKey{n} }

func viewOf(peers map[byte]string) *api.View {
	v := &api.View{}
	for n, node := range peers {
		v.Peers = append(v.Peers, api.ViewPeer{Node: node, PublicKey: passageKey(n).String()})
	}
	return v
}

// passRows is what a seal would say, less the epochs; they are checked by count.
func passRows(t *testing.T, p *passages, epochs int) []seal.Passage {
	t.Helper()
	rows, err := p.Passages()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(rows, seal.ComparePassages) {
		t.Errorf("%+v are not sorted", rows)
	}
	seen := map[string]bool{}
	for i := range rows {
		if rows[i].Epoch != "" {
			seen[rows[i].Epoch] = true
			rows[i].Epoch = "e"
		}
	}
	if len(seen) != epochs {
		t.Errorf("%d epochs in %+v, want %d", len(seen), rows, epochs)
	}
	return rows
}

func settleAll(t *testing.T, p *passages) {
	t.Helper()
	rows, err := p.Passages()
	if err != nil {
		t.Fatal(err)
	}
	p.Settled(rows)
}

// Seals tell what passed by node, whatever its keys, each time that it is more, and nothing else.
func TestPassagesByNode(t *testing.T) {
	m := &wire.Mem{}
	set := func(change wire.Change) {
		t.Helper()
		if err := m.Apply(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	add := func(n byte) wire.Peer { return wire.Peer{PublicKey: passageKey(n)} }
	set(wire.Change{Add: []wire.Peer{add(1), add(2)}})
	p := newPassages(m)
	p.know(viewOf(map[byte]string{1: "node-b", 2: "node-a"}))
	if rows := passRows(t, p, 0); len(rows) != 0 {
		t.Errorf("before anything passed: %+v", rows)
	}
	m.Pass(passageKey(1), 5, 0)
	m.Pass(passageKey(2), 2, 9)
	want := []seal.Passage{{Peer: "node-a", Epoch: "e", Given: 2, Came: 9}, {Peer: "node-b", Epoch: "e", Given: 5}}
	for range 2 { // as long as no seal has it
		if rows := passRows(t, p, 2); !slices.Equal(rows, want) {
			t.Errorf("%+v, want %+v", rows, want)
		}
	}
	settleAll(t, p)
	if rows := passRows(t, p, 0); len(rows) != 0 {
		t.Errorf("once it is settled: %+v", rows)
	}

	// The node has another key; what came by the old one meanwhile is still its own, also for an agent that knows only the new one.
	m.Pass(passageKey(1), 1, 0)
	set(wire.Change{Add: []wire.Peer{add(3)}, Remove: []wire.PublicKey{passageKey(1)}})
	m.Pass(passageKey(3), 7, 7)
	p = newPassages(m)
	p.know(viewOf(map[byte]string{3: "node-b", 2: "node-a"}))
	rows := passRows(t, p, 2)
	slices.SortFunc(rows, func(a, b seal.Passage) int { return int(a.Given) - int(b.Given) })
	if want = []seal.Passage{{Peer: "node-b", Epoch: "e", Given: 6}, {Peer: "node-b", Epoch: "e", Given: 7, Came: 7}}; !slices.Equal(rows, want) {
		t.Errorf("%+v, want %+v", rows, want)
	}

	// A peer that came and went between two seals.
	set(wire.Change{Add: []wire.Peer{add(4)}})
	p.know(viewOf(map[byte]string{3: "node-b", 2: "node-a", 4: "node-c"}))
	m.Pass(passageKey(4), 1, 0)
	set(wire.Change{Remove: []wire.PublicKey{passageKey(4)}})
	p.know(viewOf(map[byte]string{3: "node-b", 2: "node-a"}))
	if rows := passRows(t, p, 3); len(rows) != 3 || rows[2].Peer != "node-c" {
		t.Errorf("%+v", rows)
	}
	settleAll(t, p)
	if rows := passRows(t, p, 0); len(rows) != 0 {
		t.Errorf("%+v", rows)
	}
	m.Fail(errors.New("broken"))
	if rows, err := p.Passages(); err == nil {
		t.Errorf("%+v of a device that does not tell", rows)
	}
}

// uncounting is a device that counts nothing, as the kernel's.
type uncounting struct{ wire.Device }

// Where nobody counts a seal says so of each peer once, and again after another start.
func TestPassagesUnknown(t *testing.T) {
	d := uncounting{&wire.Mem{}}
	for range 2 {
		p := newPassages(d)
		p.know(viewOf(map[byte]string{1: "node-b", 2: "node-a"}))
		want := []seal.Passage{{Peer: "node-a", Unknown: true}, {Peer: "node-b", Unknown: true}}
		if rows := passRows(t, p, 0); !slices.Equal(rows, want) {
			t.Errorf("%+v, want %+v", rows, want)
		}
		settleAll(t, p)
		p.know(viewOf(map[byte]string{1: "node-b", 2: "node-a", 3: "node-c", 4: "node-c"}))
		if rows := passRows(t, p, 0); !slices.Equal(rows, []seal.Passage{{Peer: "node-c", Unknown: true}}) {
			t.Errorf("%+v", rows)
		}
	}

	// A tunnel's socket without counts beside it is of an earlier version; without a tunnel nothing passes.
	p := newPassages(wire.NewUAPI(t.TempDir() + "/sock"))
	p.know(viewOf(map[byte]string{1: "node-b"}))
	if rows := passRows(t, p, 0); len(rows) != 0 {
		t.Errorf("before there is a tunnel: %+v", rows)
	}
	p.device = uncounted{&wire.Mem{}, wire.NewUAPI(t.TempDir() + "/sock")}
	if rows := passRows(t, p, 0); len(rows) != 1 || !rows[0].Unknown {
		t.Errorf("of a tunnel that does not count: %+v", rows)
	}
}

// uncounted answers, and has no counts.
type uncounted struct {
	wire.Device
	counts *wire.UAPI
}

func (u uncounted) Passages(ctx context.Context, name func(wire.PublicKey) string) ([]wire.Passage, error) {
	return u.counts.Passages(ctx, name)
}

func (u uncounted) Settle(ctx context.Context, done []wire.Passage) error {
	return u.counts.Settle(ctx, done)
}
