package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
)

// SignalKind is what flows tell of a target.
type SignalKind uint8

// Kinds of signals.
const (
	SignalRefused SignalKind = 1 // a RST answered the first packet of a connection
	SignalSilent  SignalKind = 2 // nothing answered it
)

// Signal is a hint that a target may be dead, from a flow of its that this node forwards, be it as the client's node or the target's. It
// proves nothing: a rule of a firewall looks alike.
type Signal struct {
	VPC    uint32 // the target's, number
	Target netip.AddrPort
	Kind   SignalKind
}

const (
	// silentAfter is how long a SYN may be without an answer: longer than a round trip around the earth, and shorter than the pause
	// before it is sent again.
	silentAfter = 300 * time.Millisecond
	// Of each target a few flows at a time are looked after, one in sampleEvery: enough to notice soon, and the same work whatever
	// the load.
	sampleEvery = 75 * time.Millisecond
	maxSamples  = 4
	// signalEvery is how often a target is told of, for each kind.
	signalEvery = 200 * time.Millisecond
	// maxSignalled bounds the targets that are looked after at a time.
	maxSignalled = 8192
)

// sample is a flow that waits for its first answer.
type sample struct {
	id    uint64
	key   bpf.FlowKey   // of the opening entry
	since time.Duration // boot time of its first packet
}

// signals finds them in what the programs tell. One goroutine uses it.
type signals struct {
	out      chan Signal
	samples  map[Signal][]sample // by target
	last     map[Signal]time.Duration
	answered func(sample) (bool, error)
}

func newSignals(d *Datapath) *signals {
	return &signals{
		out: make(chan Signal, 1024), samples: map[Signal][]sample{}, last: map[Signal]time.Duration{},
		answered: d.answered,
	}
}

// event takes one of a flow's.
func (s *signals) event(e *bpf.Event) {
	if e.Connection == 0 || e.Key.Protocol != unix.IPPROTO_TCP {
		return
	}
	opening := bpf.FlowFlag(e.Flags)&bpf.FlowOpening != 0
	switch bpf.EventKind(e.Kind) {
	case bpf.EventOpen:
		if opening {
			s.sample(e)
		}
	case bpf.EventClose:
		const syn, rst = 0x02, 0x04
		if !opening && e.TcpFlags&(syn|rst) == rst {
			target := netip.AddrPortFrom(bpf.Addr(e.Key.Saddr), bpf.Port(e.Key.Sport))
			s.tell(Signal{e.SourceVpc, target, SignalRefused}, time.Duration(e.TimeNs))
		}
	}
}

// sample looks after a flow that was opened, if it is its target's turn.
func (s *signals) sample(e *bpf.Event) {
	target := Signal{VPC: e.DestVpc, Target: netip.AddrPortFrom(bpf.Addr(e.Daddr), bpf.Port(e.Dport))}
	have, since := s.samples[target], time.Duration(e.TimeNs)
	switch {
	case len(have) == 0 && len(s.samples) >= maxSignalled, len(have) == maxSamples:
		return
	case len(have) > 0 && since-have[len(have)-1].since < sampleEvery:
		return
	}
	s.samples[target] = append(have, sample{e.FlowId, e.FlowKey(), since})
}

// look tells of targets whose flows have waited for long enough.
func (s *signals) look(now time.Duration) error {
	var errs []error
	for target, list := range s.samples {
		due := 0
		for ; due < len(list) && now-list[due].since >= silentAfter; due++ {
			answered, err := s.answered(list[due])
			if errs = append(errs, err); err == nil && !answered {
				target.Kind = SignalSilent
				s.tell(target, now)
				target.Kind = 0
			}
		}
		if due == len(list) {
			delete(s.samples, target)
		} else if due > 0 {
			s.samples[target] = append([]sample(nil), list[due:]...)
		}
	}
	return errors.Join(errs...)
}

// tell drops what nobody takes: more will follow if it goes on.
func (s *signals) tell(x Signal, now time.Duration) {
	if last, ok := s.last[x]; ok && now-last < signalEvery {
		return
	}
	if len(s.last) >= maxSignalled {
		clear(s.last)
	}
	s.last[x] = now
	select {
	case s.out <- x:
	default:
	}
}

// answered says whether TCP answered on a flow, or it is gone. An ICMP error is no answer.
func (d *Datapath) answered(x sample) (bool, error) {
	d.moving.RLock()
	defer d.moving.RUnlock()
	if d.waiting() {
		return true, nil
	}
	var entry bpf.Flow
	key := x.key
	for range 2 { // the opening entry, which knows the key of the other
		err := d.coll.Maps[mapFlows].Lookup(key, &entry)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, fmt.Errorf("read %s: %w", mapFlows, err)
		}
		if err != nil || entry.Id != x.id {
			return true, nil
		}
		key = entry.ReverseKey()
	}
	return entry.TcpFlags != 0, nil
}
