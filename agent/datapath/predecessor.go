package datapath

import (
	"context"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
)

// predecessor is what an agent of another schema left pinned. While it is live its programs go on with its maps: takeover.go
// ends that. Afterwards what it counted is left of it, until that is handed over too.
type predecessor struct {
	passage
	dir   string
	live  bool                   // its flow entries are those in force
	maps  map[string]*ebpf.Map   // of kept, those that it has
	links map[linkKey]attachment // at interfaces that are there
	done  copied                 // what of its flow entries was copied
}

// takesOver says whether a takeover is still to come.
func (d *Datapath) takesOver() bool {
	d.moving.RLock()
	defer d.moving.RUnlock()
	return d.waiting()
}

// waiting says whether the takeover is still to come. The lock moving, or mu, is held.
func (d *Datapath) waiting() bool { return d.before != nil && d.before.live }

// eachFlow visits every entry of the table in force.
func (d *Datapath) eachFlow(ctx context.Context, visit func(e *bpf.Flow)) error {
	d.moving.RLock()
	defer d.moving.RUnlock()
	if d.waiting() {
		return d.before.now(ctx, d.before.maps[mapFlows], visit)
	}
	return each(ctx, d.coll.Maps[mapFlows], func(k *bpf.FlowKey, e *bpf.Flow) error {
		if e.Key == *k && e.Id != 0 { // else it is being written, or removed, this very moment
			visit(e)
		}
		return nil
	})
}
