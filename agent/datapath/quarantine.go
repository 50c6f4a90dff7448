package datapath

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
)

// A provider's flow that ran idle or was revoked may leave an open socket behind at the target, with which whoever got its
// source port next would talk. So its entries stay, marked, for Timeouts.ClosedProvider; the programs let nobody have the
// port meanwhile. A TCP target is prompted (prompt.go): its answer is refused with a RST, which ends the socket. Datagrams
// that come late find nobody. What the agent knew of quarantines ends with it: then they begin again.

const (
	promptEvery = 10 * time.Second
	// maxPrompts bounds the prompts of one sweep; the others' turn comes with the next.
	maxPrompts = 4096
)

// quarantine is one flow's.
type quarantine struct {
	since    time.Duration // boot time when the flow was first seen marked
	prompted time.Duration // boot time of the last prompt; 0 none
	over     bool
}

// holdsPort says whether a flow's answering entry, once marked, is kept in quarantine. A target that never answered TCP has
// no socket.
func holdsPort(reply *bpf.Flow) bool {
	flags := bpf.FlowFlag(reply.Flags)
	return flags&bpf.FlowDestTagged != 0 && flags&bpf.FlowClosed == 0 &&
		(reply.Key.Protocol != unix.IPPROTO_TCP || reply.Packets > 0)
}

func marked(e *bpf.Flow) bool { return bpf.FlowFlag(e.Flags)&(bpf.FlowDead|bpf.FlowExpired) != 0 }

// quarantined says whether an entry is one of a flow in quarantine, and begins it. Of an opening entry it knows only after
// it was asked of the answering one.
func (l *look) quarantined(e *bpf.Flow) bool {
	q, known := l.quarantines[e.Id]
	switch {
	case known:
		return !q.over
	case !marked(e) || !holdsPort(e):
		return false
	}
	if q, known = l.d.quarantines[e.Id]; !known {
		q.since = l.now
	}
	q.over = l.now-q.since >= l.d.cfg.Timeouts.ClosedProvider
	if !q.over && e.Key.Protocol == unix.IPPROTO_TCP && len(l.prompts) < maxPrompts &&
		(q.prompted == 0 || l.now-q.prompted >= promptEvery) {
		q.prompted = l.now
		l.prompts = append(l.prompts, *e)
	}
	l.quarantines[e.Id] = q
	if !q.over {
		delete(l.half, e.Id) // the opening entry, if it came first
	}
	return !q.over
}

// unconfirmed are the answering entries of removed flows that only the client has reset: whether the target believed that RST, which
// goes by its sequence number, nothing here tells. A client whose RSTs are not believed would have sockets of the target beyond
// any cap, and leave them to whoever gets their ports next. A prompt to a target without a socket costs it a RST.
func unconfirmed(removed []Flow) (replies []bpf.Flow) {
	const fin, rst = 0x01, 0x04
	for i := range removed {
		f := &removed[i]
		if f.Opening.TcpFlags&rst != 0 && f.Reply.TcpFlags&(fin|rst) == 0 && f.Reply.Packets > 0 &&
			bpf.FlowFlag(f.Reply.Flags)&bpf.FlowDestTagged != 0 && len(replies) < maxPrompts {
			replies = append(replies, f.Reply)
		}
	}
	return replies
}

// promptTargets prompts the targets of flows whose answering entries these are.
func (d *Datapath) promptTargets(ctx context.Context, replies []bpf.Flow) error {
	c, err := d.config()
	if err != nil {
		return err
	}
	p := prompter{log: d.log, mesh: c.Mesh}
	defer p.close()
	for i := range replies {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := &replies[i].Key
		var eni bpf.ENI
		err := d.coll.Maps[mapENIs].Lookup(bpf.VPCAddr{Vpc: replies[i].SourceVPC(), Addr: k.Saddr}, &eni)
		if err != nil || eni.Number != replies[i].Eni { // the target is gone, and its sockets with it
			continue
		}
		toTarget := bpf.Flow{
			Saddr: k.Daddr, Daddr: k.Saddr, Sport: k.Dport, Dport: k.Sport, PeerVpc: replies[i].SourceVPC(), ReverseView: k.View,
			Key: bpf.FlowKey{Vpc: k.Vpc}, Tag: k.Tag, // of a client's own address
		}
		if err := p.prompt(&toTarget, &eni); err != nil {
			return err
		}
	}
	return nil
}
