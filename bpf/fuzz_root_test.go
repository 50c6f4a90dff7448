package bpf_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// The four targets: whatever bytes arrive at a program, first and again when that made a flow, it does as the oracle says; and,
// whatever that says, no packet leaves for where its sender is not allowed to be heard.

func FuzzFromWorkload(f *testing.F) { fuzzProgram(f, verdict.HookWorkload, false) }

// FuzzReceiveLocal lets only those packets of workloads count that from_workload hands on.
func FuzzReceiveLocal(f *testing.F) { fuzzProgram(f, verdict.HookWorkload, true) }

func FuzzFromTunnel(f *testing.F) { fuzzProgram(f, verdict.HookTunnel, false) }

func FuzzFromHost(f *testing.F) { fuzzProgram(f, verdict.HookHost, false) }

// fuzzSteps is how many steps of random traffic give the fuzzer what to bend.
const fuzzSteps = 1000

// ratesNS is the boot time that rates go by.
const ratesNS = 1 << 40

// logReady is beyond all boot time: the log takes records.
const logReady = 1 << 62

func fuzzProgram(f *testing.F, hook verdict.Hook, local bool) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: loads BPF programs")
	}
	k := newKernel(f)
	var x *traffic
	for seed := uint64(0); x == nil || !rich(x.nodes[x.tested].plan); seed++ { // always the same world
		x = newTraffic(f, rand.New(rand.NewPCG(seed, 0)), k)
	}
	node := x.nodes[x.tested]
	fresh := func() *verdict.State {
		return &verdict.State{NowNS: 2, RatesNS: ratesNS, LogNS: logReady, Used: map[verdict.QuotaKey]int64{}, Paid: map[verdict.PaidKey]uint64{}}
	}
	handedOn := func(v verdict.Verdict) bool { return len(v.Stages) > 1 }
	added := 0
	x.saw = func(p verdict.Packet) { // packets that mean something
		if p.Hook != hook || p.Segment != 0 || local && !handedOn(verdict.Decide(node.plan, fresh(), p)) {
			return
		}
		f.Add(uint8(linkOf(node.plan, p.Ifindex)), p.Bytes)
		added++
	}
	for range fuzzSteps {
		if err := x.step(); err != nil {
			f.Fatal(err)
		}
	}
	if added == 0 {
		f.Fatal("the world has no packet for the fuzzer to begin with")
	}
	f.Fuzz(func(t *testing.T, link uint8, data []byte) {
		p := verdict.Packet{Hook: hook, Bytes: data}
		if hook == verdict.HookWorkload {
			p.Ifindex = node.plan.ENIs[int(link)%len(node.plan.ENIs)].Ifindex
		}
		if len(data) > 2000 || !runnable(p) { // a test run takes no more than a page
			return
		}
		k.t = t
		k.forget()
		k.clock(ratesNS)
		k.put(bpf.ABIMapLogReady, uint32(0), uint64(logReady))
		k.applyQuotas(node.plan)
		state := fresh()
		for range 2 {
			v := verdict.Decide(node.plan, state, p)
			if local && !handedOn(v) {
				return
			}
			if err := errors.Join(k.run(node.plan, p, v), heardOnly(node.plan, p, v)); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.compareAll(state); err != nil {
			t.Fatal(err)
		}
	})
}

// rich: the node has workloads, reaches services and grants others.
func rich(p *plan.Plan) bool {
	return len(p.ENIs) > 1 && len(p.Grants) > 0 && len(p.Services) > 0 && len(p.Peers) > 0
}

// linkOf is the place of the ENI with an interface.
func linkOf(p *plan.Plan, ifindex uint32) int {
	for i, e := range p.ENIs {
		if e.Ifindex == ifindex {
			return i
		}
	}
	return 0
}

// heardOnly is isolation without the oracle, for a node without flows: a workload is heard in the overlay as itself and towards its
// own VPC only, the consumer's tag included, and what comes from the tunnel reaches nobody but a workload of the VPC that it
// names, or of a provider that has a grant for exactly that tag.
func heardOnly(p *plan.Plan, packet verdict.Packet, v verdict.Verdict) error {
	if v.Action != verdict.Redirect || v.Next == verdict.NextNone {
		return nil
	}
	var sender *plan.ENI
	for i, e := range p.ENIs {
		if packet.Hook == verdict.HookWorkload && e.Ifindex == packet.Ifindex {
			sender = &p.ENIs[i]
		}
	}
	if v.Next == verdict.NextTunnel {
		if packet.Hook == verdict.HookTunnel {
			return errors.New("what came from the tunnel goes back there")
		}
		from, okFrom := api.ParseOverlay(netip.AddrFrom16([16]byte(v.Bytes[8:24])))
		to, okTo := api.ParseOverlay(netip.AddrFrom16([16]byte(v.Bytes[24:40])))
		switch {
		case !okFrom || !okTo || from.Mesh != p.Config.Mesh || to.Mesh != p.Config.Mesh:
			return fmt.Errorf("from %+v to %+v: not canonical", from, to)
		case sender == nil && (from.VPC != 0 || from.Host != p.Config.Node):
			return fmt.Errorf("the host speaks as %+v", from)
		case sender != nil && (from.VPC != sender.VPC || from.HostAddr() != sender.Address):
			return fmt.Errorf("ENI %d of VPC %d, %s, speaks as %+v", sender.Number, sender.VPC, sender.Address, from)
		case sender != nil && to.VPC != sender.VPC && !offered(p, sender.VPC, to.VPC):
			return fmt.Errorf("VPC %d reaches VPC %d, which offers it nothing", sender.VPC, to.VPC)
		}
		return nil
	}
	var receiver *plan.ENI
	for i, e := range p.ENIs {
		if e.Ifindex == v.Ifindex {
			receiver = &p.ENIs[i]
		}
	}
	switch {
	case receiver == nil && v.Ifindex == p.Config.HostIfindex:
		return nil // to the resolver, or another of the host's own
	case receiver == nil:
		return fmt.Errorf("out of interface %d, which is nobody's", v.Ifindex)
	case sender != nil && receiver.VPC != sender.VPC && !offered(p, sender.VPC, receiver.VPC):
		return fmt.Errorf("VPC %d reaches VPC %d on this node", sender.VPC, receiver.VPC)
	case packet.Hook == verdict.HookTunnel:
		from, ok := api.ParseOverlay(netip.AddrFrom16([16]byte(packet.Bytes[8:24])))
		if !ok || from.VPC != receiver.VPC && !granted(p, from, receiver.VPC) {
			return fmt.Errorf("%+v reaches VPC %d", from, receiver.VPC)
		}
	}
	return nil
}

func offered(p *plan.Plan, consumer, provider uint32) bool {
	for _, s := range p.Services {
		if s.VPC == consumer && s.ProviderVPC == provider {
			return true
		}
	}
	return false
}

func granted(p *plan.Plan, from api.Overlay, provider uint32) bool {
	for _, g := range p.Grants {
		if g.ConsumerVPC == from.VPC && g.Tag == from.Number() && g.ProviderVPC == provider {
			return true
		}
	}
	return false
}
