package datapath

import (
	"context"

	"github.com/culvert-net/culvert/bpf"
)

// placed is a table of the plan's whose rows are written in place.
func placed[K, V comparable](d *Datapath, name string, kind bpf.RowTable, same func(was, is V) bool) table[K, V] {
	if d.cfg.careless.replaces {
		same = nil
	}
	return table[K, V]{name: name, m: d.coll.Maps[name], place: &placing[V]{d: d, table: kind, same: same}}
}

// What a row is about, in each table: where that changes the row is another's, and no field of it may meet one of the row before. The
// other fields say what is allowed and how far, each by itself; programs may meet the old one of one row and the new one of another
// anyway, for as long as a plan is being applied.

func sameENI(was, is bpf.ENI) bool { return was.Number == is.Number }

func sameLink(was, is bpf.Link) bool {
	return was.At == is.At && sameENI(bpf.ENI(was.Eni), bpf.ENI(is.Eni))
}

func sameAddress(was, is bpf.Address) bool { return was.Type == is.Type && was.Number == is.Number }

func sameService(was, is bpf.Service) bool {
	return was.Connection == is.Connection && was.ProviderVpc == is.ProviderVpc && was.EndpointEni == is.EndpointEni && was.Tag == is.Tag
}

// sameGrant: that a grant is for its own VPC says who is asked at all. The other flags are what targets learn of clients.
func sameGrant(was, is bpf.Grant) bool {
	inside := uint8(bpf.GrantInside)
	return was.Connection == is.Connection && was.ProviderVpc == is.ProviderVpc && was.DialedAddr == is.DialedAddr &&
		was.DialedPort == is.DialedPort && was.Protocol == is.Protocol && was.Flags&inside == is.Flags&inside &&
		was.Endpoint == is.Endpoint && was.EndpointLen == is.EndpointLen
}

// sameGrantTarget: its key says all that it is about, and the load balancer's address and ENI are one word.
func sameGrantTarget(_, _ bpf.GrantTarget) bool { return true }

// sameProbe: one field.
func sameProbe(_, _ bpf.Probe) bool { return true }

func sameCount(_, _ uint64) bool { return true }

// settleFreed waits, where rows were removed since it last did, until no program runs that may have found one of them: the kernel
// gives their elements to the next rows that are added. An earlier process may have removed some.
func (d *Datapath) settleFreed(ctx context.Context) error {
	if !d.freed {
		return nil
	}
	err := d.settle(ctx)
	d.freed = err != nil
	return err
}
