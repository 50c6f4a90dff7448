package exchange

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// So many datagrams of a node are read in a second, and at once. A digest of 4,096 targets is 60 datagrams, and goes ten times in a
// second at most (digestEvery).
const nodeRate, nodeBurst = 1000, 1000

// nobody is the number of no node; those who are none share it.
const nobody = 0

// gate bounds what is read of each node, before it costs anything. The zero value lets in. It is for several goroutines.
type gate struct {
	mu    sync.Mutex
	nodes map[uint32]*rate.Limiter
	n     uint64 // refused
}

// admits tells whether a datagram of a node is to be read.
func (g *gate) admits(now time.Time, node uint32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.nodes[node]
	if l == nil {
		if g.nodes == nil {
			g.nodes = map[uint32]*rate.Limiter{}
		}
		l = rate.NewLimiter(nodeRate, nodeBurst)
		g.nodes[node] = l
	}
	if !l.AllowN(now, 1) {
		g.n++
		return false
	}
	return true
}

// forget drops nodes that sent nothing lately: they are as new.
func (g *gate) forget(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for node, l := range g.nodes {
		if l.TokensAt(now) >= nodeBurst {
			delete(g.nodes, node)
		}
	}
}

// refused is how many datagrams were not to be read.
func (g *gate) refused() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}
