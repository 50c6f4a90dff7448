package tunnel

import (
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
)

// What passes by peer is counted where the kernel puts a packet into a lane, before anything that may drop it, and where one was written to
// the interface: what one node's tunnel was given for another, and the other one's did not write, was lost on the way (decision 0038).
// Packets of nodes themselves are not counted, and probes do not get there.

// tenants tells whether a packet is of tenants, by the number of the VPC in an overlay address: 0 is for nodes (decision 0002).
func tenants(addr []byte) bool { return addr[4]|addr[5]|addr[6]|addr[7] != 0 }

// arrivals finds who counts what was written to the interface. Who writes owns it; a call of Write has packets of one peer.
type arrivals struct {
	dst   *router
	table *table
	host  [12]byte // of the source: what allowed addresses are made of
	pass  *pass
}

// came counts packets that were written, of which this is one.
func (a *arrivals) came(packet []byte, packets int) {
	if len(packet) < ip6Len || packet[0]>>4 != 6 || !tenants(packet[8:]) {
		return
	}
	t := a.dst.table.Load()
	if host := [12]byte(packet[8:20]); t != a.table || host != a.host {
		a.table, a.host, a.pass = t, host, nil
		if i := t.lookup([16]byte(packet[8:24])); i != noPeer {
			a.pass = t.queues[i].passed.Load()
		}
	}
	if a.pass != nil {
		a.pass.Come(uint64(packets))
	}
}

// pass counts for one peer. What is given is counted in the kernel, before a lane that is full drops it; where that cannot be had, when
// it is read.
type pass struct {
	*wire.PassageSlot
	taken *atomic.Uint64 // in the kernel; nil: nothing is
}

// give counts packets that were read.
func (p *pass) give(packets uint64) {
	switch {
	case p == nil:
	case p.taken != nil:
		p.GivenElsewhere(p.taken.Load())
	default:
		p.Give(packets)
	}
}

// passes is what counts for all peers.
type passes struct {
	file  *wire.PassageFile
	taken *taken // nil: the kernel does not count
	log   *slog.Logger

	mu   sync.Mutex
	peer map[*wire.PassageSlot]*pass // of the peers of now
}

// assign gives the peers of a table what counts for them, and has the kernel find them.
func (c *passes) assign(t *table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var queues []*queue
	var keys []wire.PublicKey
	for _, q := range t.queues {
		if q != nil {
			queues, keys = append(queues, q), append(keys, q.key)
		}
	}
	slots := c.file.Assign(keys)
	had := c.peer
	c.peer = make(map[*wire.PassageSlot]*pass, len(slots))
	for i, slot := range slots {
		p := had[slot]
		if p == nil && slot != nil {
			p = &pass{PassageSlot: slot}
			if c.taken != nil {
				p.taken = c.taken.of(c.file.Index(slot))
			}
		}
		if p != nil {
			c.peer[slot] = p
		}
		queues[i].passed.Store(p)
	}
	if c.taken == nil {
		return
	}
	if err := c.taken.find(c.prefixes(t)); err != nil {
		c.log.Error("the kernel counts for the wrong peers what is given to the tunnel", logkey.Error, err)
	}
	for slot, p := range had {
		if c.peer[slot] == nil { // from now on nothing more is given to it
			p.give(0)
		}
	}
}

// prefixes are tenants' addresses by the slot of the peer that they are behind.
func (c *passes) prefixes(t *table) map[netip.Prefix]uint32 {
	out := make(map[netip.Prefix]uint32, len(t.owner))
	for prefix, i := range t.owner {
		a := prefix.Addr().As16()
		if p := t.queues[i].passed.Load(); p != nil && (prefix.Bits() < 64 || tenants(a[:])) {
			out[prefix] = uint32(c.file.Index(p.PassageSlot))
		}
	}
	return out
}

// sync brings what is given up to what the kernel has counted.
func (c *passes) sync() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peer {
		p.give(0)
	}
	return "", nil
}

// count has the router's peers counted for, as far as that can be had.
func (r *runner) count(dst *router) *passes {
	f, err := wire.CountPassages(r.cfg.Socket, bootID())
	if err != nil {
		r.cfg.Log.Warn("what passes through the tunnel is not counted by peer", logkey.Error, err)
		return nil
	}
	failpoint.Here("tunnel.counted")
	if r.taken != nil {
		f.Elsewhere = func(slot int) uint64 { return r.taken.of(slot).Load() }
	}
	if r.taken == nil || !r.taken.inherited {
		f.Rebase()
	}
	c := &passes{file: f, taken: r.taken, log: r.cfg.Log}
	dst.assign = c.assign
	return c
}

// bootID names the host's boot, as far as this process may know it: where it may not, the socket's directory is one that no boot leaves.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
