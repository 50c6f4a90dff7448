package tunnel

import (
	"sync/atomic"

	"github.com/culvert-net/culvert/agent/wire"
)

// What passes by peer is counted where the kernel puts a packet into a lane, before anything that may drop it, and where one was written to
// the interface: what one node's tunnel was given for another, and the other one's did not write, was lost on the way (decision 0038).
// Packets of nodes themselves are not counted, and probes do not get there.

// tenants tells whether a packet is of tenants, by the number of the VPC in an overlay address: 0 is for nodes (decision 0002).
func tenants(addr []byte) bool { return addr[4]|addr[5]|addr[6]|addr[7] != 0 }

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
