package tunnel

import "time"

// debtor finds the window of what the interface's reader reads, which owns it.
type debtor struct {
	probes *prober
	table  *table
	dst    [16]byte
	window *window
	peer   uint32

	passed *pass  // of dst's peer; nil: not counted
	taken  uint64 // packets for it that were not counted yet
}

// sends counts a packet of so many datagrams that came by a lane, and returns the window that the lane waits for from now on, if
// any. If pass is false the packet is to be dropped instead.
func (d *debtor) sends(lane int, packet []byte, datagrams int) (wait *window, pass bool) {
	if len(packet) < ip6Len || packet[0]>>4 != 6 {
		return nil, true
	}
	t := d.probes.dst.table.Load()
	if dst := [16]byte(packet[24:40]); t != d.table || dst != d.dst {
		d.tell()
		d.table, d.dst, d.window, d.passed = t, dst, nil, nil
		if d.peer = t.lookup(dst); d.peer != noPeer {
			q := t.queues[d.peer]
			d.window = &q.window
			if tenants(dst[:]) {
				d.passed = q.passed.Load()
			}
		}
	}
	d.taken += uint64(datagrams)
	w := d.window
	if w == nil {
		return nil, true
	}
	if !w.admits(lane) {
		return nil, false
	}
	full, held := w.take(lane, len(packet), datagrams)
	if seq := w.mark(time.Now); seq != 0 {
		d.probes.mark(d.peer, seq)
	}
	if full && !w.closed.Load() {
		peer := d.peer
		w.close(time.Now(), func() { d.probes.late(peer, w) })
	}
	if !held {
		return nil, true
	}
	return w, true
}

// tell counts what was read since it was called last.
func (d *debtor) tell() {
	if d.taken > 0 {
		d.passed.give(d.taken)
		d.taken = 0
	}
}

// mark sends a milestone to a peer.
func (p *prober) mark(peer, seq uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.dst.table.Load(); p.self.IsValid() && peer < uint32(len(t.first)) && t.first[peer].IsValid() {
		p.enqueue(probe{from: p.self, to: t.first[peer], kind: probeStone, seq: seq})
	}
}

// late sees after a window that stands closed.
func (p *prober) late(peer uint32, w *window) {
	seq, opened := w.late(time.Now())
	if seq != 0 {
		p.mark(peer, seq)
	}
	if seq != 0 || opened {
		p.wake()
	}
}
