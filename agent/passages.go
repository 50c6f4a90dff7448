package agent

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// passages are what passed through the tunnel, as seals have it: by node, whatever its keys.
type passages struct {
	device wire.Device

	mu    sync.Mutex
	view  map[wire.PublicKey]string // nodes by their keys, of the newest view
	names map[wire.PublicKey]string // and of earlier ones, until the counts have them
	said  map[string]bool           // nodes of which a seal says that nobody counts
	read  map[string]wire.Passage   // what Passages returned last, by epoch
}

var _ flow.Tunnel = (*passages)(nil)

func newPassages(device wire.Device) *passages {
	return &passages{device: device, names: map[wire.PublicKey]string{}, said: map[string]bool{}}
}

// know takes over whose keys are whose.
func (p *passages) know(v *api.View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.view = make(map[wire.PublicKey]string, len(v.Peers))
	for i := range v.Peers {
		if key, err := wire.ParsePublicKey(v.Peers[i].PublicKey); err == nil { // else it is no peer of the plan
			p.view[key], p.names[key] = v.Peers[i].Node, v.Peers[i].Node
		}
	}
}

// Passages implements flow.Tunnel. Where nobody counts it says so of each peer, once.
func (p *passages) Passages() ([]seal.Passage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	counted, err := p.counted()
	var rows []seal.Passage
	switch {
	case errors.Is(err, errUncounted):
		for _, node := range p.view {
			if !p.said[node] {
				rows = append(rows, seal.Passage{Peer: node, Unknown: true})
			}
		}
	case err != nil:
		return nil, err
	}
	p.read = make(map[string]wire.Passage)
	for _, c := range counted {
		if c.Changed && c.Node != "" {
			p.read[c.Epoch.String()] = c
			rows = append(rows, seal.Passage{Peer: c.Node, Epoch: c.Epoch.String(), Given: c.Given, Came: c.Came})
		}
	}
	slices.SortFunc(rows, seal.ComparePassages)
	rows = slices.Compact(rows) // of two keys of one node about which nothing is known
	return rows[:min(len(rows), seal.MaxPassages)], nil
}

// errUncounted says that nobody counts what passes.
var errUncounted = errors.New("what passes through the tunnel is not counted by peer")

// counted reads the device's counts. Before there is a tunnel nothing passes, and there are none.
func (p *passages) counted() ([]wire.Passage, error) {
	passer, ok := p.device.(wire.Passer)
	if !ok {
		return nil, errUncounted
	}
	ctx, cancel := context.WithTimeout(context.Background(), passageWait)
	defer cancel()
	out, err := passer.Passages(ctx, func(key wire.PublicKey) string { return p.names[key] })
	if errors.Is(err, fs.ErrNotExist) {
		if _, down := p.device.Observe(ctx); down == nil { // an earlier version, or it could not have its file
			return nil, errUncounted
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make(map[wire.PublicKey]string, len(p.view))
	maps.Copy(names, p.view)
	for _, c := range out {
		if name := p.names[c.Key]; name != "" {
			names[c.Key] = name
		}
	}
	p.names = names
	return out, nil
}

// passageWait bounds the question to a tunnel that may not answer: records wait meanwhile.
const passageWait = time.Second

// Settled implements flow.Tunnel. What cannot be noted is told again by the next seal.
func (p *passages) Settled(rows []seal.Passage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var done []wire.Passage
	for _, row := range rows {
		if row.Unknown {
			p.said[row.Peer] = true
		} else if c, ok := p.read[row.Epoch]; ok {
			delete(p.said, row.Peer)
			done = append(done, c)
		}
	}
	p.read = nil
	if passer, ok := p.device.(wire.Passer); ok && len(done) > 0 {
		_ = passer.Settle(context.Background(), done)
	}
}
