package bpf_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// The search for a port, try by try: with every number of candidates taken by others, kernel and oracle choose the same
// or give up together. Taken means by an entry of another flow, or by one of this flow that is dead; an orphan
// of this flow is free, and so is what expired, but for the port of another flow to a provider.
func TestPortSearch(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	k := newKernel(t)
	cart, target := netip.MustParseAddr("10.0.1.5"), netip.MustParseAddr("10.0.1.6")
	udp := plantest.IP{Source: cart, Protocol: 17, SourcePort: 40000, DestPort: 53}
	toEndpoint, toResolver := udp, udp
	toEndpoint.Dest, toResolver.Dest = plantest.Endpoint, plan.LinkLocalResolver
	fromTunnel := plantest.IP{Protocol: 17, SourcePort: 40000, DestPort: 8443}.
		Overlay(plantest.At(plantest.Shop, cart, plantest.TagUDP), plantest.At(plantest.Pay, target, 0))
	cases := map[string]struct {
		node   uint32
		packet verdict.Packet
		tries  int // besides the client's own port
	}{
		"endpoint": {1, verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 111, Bytes: toEndpoint.Workload(11)}, plan.PortTries},
		"resolver": {1, verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 111, Bytes: toResolver.Workload(11)}, plan.PortTries},
		"provider": {2, verdict.Packet{Hook: verdict.HookTunnel, Bytes: fromTunnel}, plan.PortTries + plan.SpareTries},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			v := plantest.View(c.node, plantest.Workloads())
			p, err := plan.Compile(v, plantest.Facts(v))
			if err != nil {
				t.Fatal(err)
			}
			k.apply(p)
			opening, reverse := search(t, p, c.packet)
			for _, taken := range []int{0, 1, 2, 7, plan.PortTries, plan.PortTries + 1, plan.PortTries + 2, c.tries - 1, c.tries,
				c.tries + 1, c.tries + 2} {
				for _, flags := range []uint16{
					0, verdict.FlowDead, verdict.FlowClosed, verdict.FlowExpired, verdict.FlowExpired | verdict.FlowDestTagged,
					another | verdict.FlowExpired, held, held | verdict.FlowDead, held | verdict.FlowClosed, orphan,
				} {
					portSearch(t, k, p, c.packet, opening, reverse, taken, c.tries, flags)
				}
			}
		})
	}
}

const (
	// another, which is no flag of an entry, marks occupying entries that name another flow as their reverse.
	another = 0x4000
	// held marks those of another flow to a provider, whose time is over.
	held = another | verdict.FlowExpired | verdict.FlowDestTagged
	// orphan marks occupying entries that name the flow itself as their reverse.
	orphan = 0x80ff
)

// search lets the oracle open the flow freely and returns the keys of its entries.
func search(t *testing.T, p *plan.Plan, packet verdict.Packet) (opening, reverse verdict.FlowKey) {
	t.Helper()
	v := verdict.Decide(p, &verdict.State{}, packet)
	if v.Reason != verdict.ReasonForwarded || len(v.Created) != 2 {
		t.Fatalf("%s, %d entries", v.Reason, len(v.Created))
	}
	return v.Created[1], v.Created[0]
}

func portSearch(t *testing.T, k *kernel, p *plan.Plan, packet verdict.Packet, opening, reverse verdict.FlowKey, taken, tries int,
	flags uint16) {
	t.Helper()
	k.forget()
	k.applyQuotas(p)
	s := &verdict.State{Flows: map[verdict.FlowKey]verdict.Flow{}}
	for try := range min(taken, tries+1) {
		key := reverse
		if try > 0 {
			key.DestPort = plan.SNATPort(api.AddrHost(opening.Source), api.AddrHost(opening.Dest), opening.SourcePort, opening.DestPort,
				opening.Protocol, opening.VPC, opening.Tag, uint32(try))
		}
		f := verdict.Flow{Reverse: opening, Flags: flags &^ another, Generation: 1}
		if flags == 0 || flags != orphan && flags&another != 0 {
			f.Reverse.SourcePort++
		}
		if flags == orphan {
			f.Flags = 0
			if try < taken-1 { // only the last one is this flow's own
				f.Reverse.SourcePort++
			}
		}
		f = turned(key, f)
		s.Flows[key] = f
		kf := kernelFlow(key, f)
		k.put(bpf.ABIMapFlows, kf.Key, &kf)
	}
	v := verdict.Decide(p, s, packet)
	want := verdict.ReasonForwarded
	free := flags != orphan && flags&verdict.FlowExpired != 0 && (flags&held != held || flags&verdict.FlowClosed != 0)
	if taken > tries && !free && !(flags == orphan && taken == tries+1) {
		want = verdict.ReasonSNATPortsExhausted
	}
	if v.Reason != want {
		t.Fatalf("%d taken, flags %d: the oracle says %s, want %s", taken, flags, v.Reason, want)
	}
	if err := k.run(p, packet, v); err != nil {
		t.Fatalf("%d taken, flags %d: %v", taken, flags, err)
	}
	if err := k.compareAll(s); err != nil {
		t.Fatalf("%d taken, flags %d: %v", taken, flags, err)
	}
}

// turned is an entry whose rewrite leads to its reverse key, as every entry's does.
func turned(key verdict.FlowKey, f verdict.Flow) verdict.Flow {
	r := f.Reverse
	f.Source, f.SourcePort, f.Dest, f.DestPort = r.Dest, r.DestPort, r.Source, r.SourcePort
	f.SourceVPC, f.DestVPC, f.Tag = key.VPC, r.VPC, r.Tag
	return f
}

func kernelFlow(key verdict.FlowKey, f verdict.Flow) bpf.Flow {
	k := kernelKey(key)
	return bpf.Flow{
		Id: 1, Key: k, ReverseView: kernelKey(f.Reverse).View, PeerVpc: k.PeerVPC(f.SourceVPC, f.DestVPC),
		Saddr: bpf.NetAddr(f.Source), Daddr: bpf.NetAddr(f.Dest), Sport: bpf.NetPort(f.SourcePort),
		Dport: bpf.NetPort(f.DestPort), Tag: f.Tag, Flags: f.Flags, Generation: f.Generation,
	}
}

func kernelKey(k verdict.FlowKey) bpf.FlowKey {
	view := uint8(k.View)
	if k.IPv6 {
		view |= bpf.KeyIPv6
	}
	return bpf.FlowKey{
		Vpc: k.VPC, Saddr: bpf.NetAddr(k.Source), Daddr: bpf.NetAddr(k.Dest), Sport: bpf.NetPort(k.SourcePort),
		Dport: bpf.NetPort(k.DestPort), Tag: k.Tag, View: view, Protocol: k.Protocol,
	}
}
