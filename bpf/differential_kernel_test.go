package bpf_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// kernel is one load of the programs, whose maps take a plan after the other.
type kernel struct {
	t     testing.TB
	coll  *ebpf.Collection
	inner map[string]*ebpf.MapSpec
	held  map[string]map[uint32]string         // by outer map: contents of inner maps, to spare the kernel updates
	count map[verdict.CounterKey]verdict.Count // what the counters must hold
	link  plan.ENI                             // whose link is interface 1, the one of test runs
	cpus  int
}

func newKernel(t testing.TB) *kernel {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := bpf.LoadABI()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables[bpf.ABIVarTunnelL2].Set(uint32(14)); err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables[bpf.ABIVarRateClockStands].Set(uint32(1)); err != nil {
		t.Fatal(err)
	}
	spec.Maps[bpf.ABIMapFlows].MaxEntries = 1 << 16
	spec.Maps[bpf.ABIMapCounters].MaxEntries = 1 << 14
	k := &kernel{t: t, inner: map[string]*ebpf.MapSpec{}, held: map[string]map[uint32]string{},
		count: map[verdict.CounterKey]verdict.Count{}}
	for _, outer := range []string{bpf.ABIMapRuleSets, bpf.ABIMapTargetTables} {
		k.inner[outer] = spec.Maps[outer].InnerMap.Copy()
		k.held[outer] = map[uint32]string{}
	}
	if k.coll, err = ebpf.NewCollection(spec); err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(k.coll.Close)
	if k.cpus, err = ebpf.PossibleCPU(); err != nil {
		t.Fatal(err)
	}
	k.put(bpf.ABIMapPrograms, uint32(0), uint32(k.coll.Programs[bpf.ABIProgReceiveLocal].FD()))
	return k
}

func (k *kernel) put(name string, key, value any) {
	k.t.Helper()
	if err := k.coll.Maps[name].Put(key, value); err != nil {
		k.t.Fatalf("put %s: %v", name, err)
	}
}

// forget empties what the programs write.
func (k *kernel) forget() {
	k.t.Helper()
	for _, name := range []string{
		bpf.ABIMapFlows, bpf.ABIMapCounters, bpf.ABIMapRefusals, bpf.ABIMapFragments, bpf.ABIMapFragmentRings,
		bpf.ABIMapFragmentPairs, bpf.ABIMapFragmentShares, bpf.ABIMapFragmentCounts, bpf.ABIMapQuotas, bpf.ABIMapPorts, bpf.ABIMapResets,
		bpf.ABIMapMessages,
	} {
		k.empty(name)
	}
	clear(k.count)
}

func (k *kernel) empty(name string) {
	k.t.Helper()
	m := k.coll.Maps[name]
	key := make([]byte, m.KeySize())
	for m.NextKey(nil, &key) == nil {
		if err := m.Delete(key); err != nil {
			k.t.Fatalf("empty %s: %v", name, err)
		}
	}
}

func at(vpc uint32, a netip.Addr) bpf.VPCAddr { return bpf.VPCAddr{Vpc: vpc, Addr: bpf.NetAddr(a)} }

func row(e plan.ENI) bpf.ENI {
	out := bpf.ENI{
		Number: e.Number, Ifindex: e.Ifindex, IngressRules: e.IngressRules, EgressRules: e.EgressRules, Groups: e.Groups,
		Mac: e.MAC, GatewayMac: e.GatewayMAC, Families: uint8(e.Families), Account: e.Account, Lane: e.Lane,
	}
	if e.StrictLog {
		out.Flags = uint8(bpf.ENIStrictLog)
	}
	return out
}

// apply makes the tables hold a plan and nothing else. Flows and counters stay.
func (k *kernel) apply(p *plan.Plan) {
	k.t.Helper()
	for _, name := range []string{
		bpf.ABIMapLinks, bpf.ABIMapEnis, bpf.ABIMapAddresses, bpf.ABIMapServices, bpf.ABIMapGrants, bpf.ABIMapGrantTargets,
		bpf.ABIMapPaths, bpf.ABIMapProbes,
	} {
		k.empty(name)
	}
	k.link = plan.ENI{}
	for _, e := range p.ENIs {
		row := row(e)
		k.put(bpf.ABIMapEnis, at(e.VPC, e.Address), &row)
	}
	for _, a := range p.Addresses {
		k.put(bpf.ABIMapAddresses, at(a.VPC, a.Address), &bpf.Address{
			Type: uint32(a.Type), Number: a.Number, Rules: a.Rules, EgressRules: a.EgressRules, Groups: a.Groups,
			Families: uint8(a.Families),
		})
	}
	for _, s := range p.Services {
		flags := map[bool]uint8{true: bpf.ServiceSticky}[s.Sticky]
		k.put(bpf.ABIMapServices, bpf.ServiceKey{
			Vpc: s.VPC, Addr: bpf.NetAddr(s.Address), Port: bpf.NetPort(s.Port), Protocol: s.Protocol,
		}, &bpf.Service{
			Connection: s.Connection, ProviderVpc: s.ProviderVPC, Table: s.Table, TableWidth: s.TableWidth, EndpointEni: s.EndpointENI,
			IdleS: s.IdleSeconds, Tag: s.Tag, Flags: flags,
		})
	}
	for _, g := range p.Grants {
		row := bpf.Grant{
			Connection: g.Connection, ProviderVpc: g.ProviderVPC, Admitted: g.Admitted, LbRules: g.LBRules,
			LbEgressRules: g.LBEgressRules, DialedAddr: bpf.NetAddr(g.DialedAddress), DialedPort: bpf.NetPort(g.DialedPort),
			Protocol: g.Protocol, IdleS: g.IdleSeconds, Account: g.Account,
		}
		if row.EndpointLen = uint8(copy(row.Endpoint[:], g.Endpoint)); g.ProxyHeader {
			row.Flags = uint8(bpf.GrantProxy)
		}
		if g.Inside {
			row.Flags |= uint8(bpf.GrantInside)
		}
		if g.ClientAddress {
			row.Flags |= uint8(bpf.GrantClient)
		}
		k.put(bpf.ABIMapGrants, bpf.GrantKey{Vpc: g.ConsumerVPC, Tag: uint32(g.Tag)}, &row)
	}
	for _, g := range p.GrantTargets {
		flags := map[bool]uint8{true: uint8(bpf.GrantTargetDraining)}[g.Draining]
		k.put(bpf.ABIMapGrantTargets, bpf.GrantTargetKey{
			Vpc: g.ConsumerVPC, Tag: uint32(g.Tag), Addr: bpf.NetAddr(g.Address), Port: bpf.NetPort(g.Port),
		}, &bpf.GrantTarget{Source: bpf.NetAddr(g.Source), SourceEni: g.SourceENI, Flags: flags, Ports: g.Ports})
	}
	for _, x := range p.Probes {
		k.put(bpf.ABIMapProbes, bpf.ProbeKey{Vpc: x.VPC, Addr: bpf.NetAddr(x.Address), Port: bpf.NetPort(x.Port)},
			&bpf.Probe{Source: bpf.NetAddr(x.Source)})
	}
	for _, x := range p.Paths {
		b := x.Prefix.Addr().As16()
		k.put(bpf.ABIMapPaths, bpf.PathKey{
			Prefix: uint32(x.Prefix.Bits() - 32), Vpc: binary.NativeEndian.Uint32(b[4:]), Addr: binary.NativeEndian.Uint32(b[8:]),
		}, &bpf.Path{Mtu: x.MTU})
	}
	k.applyQuotas(p)
	k.applySets(p)
	c := p.Config
	k.put(bpf.ABIMapConfig, uint32(0), &bpf.Config{
		ExpiresNs: c.ExpiresNS, Generation: p.Generation, Mesh: c.Mesh, Node: c.Node, TunnelIfindex: c.TunnelIfindex,
		HostIfindex: c.HostIfindex, TunnelMtu: c.TunnelMTU, HostMac: c.HostMAC, DpMac: c.DPMAC,
		ResolverPort: c.ResolverPort,
	})
}

// applySets puts what differs. What the plan does not name stays until there is much of it: an update of an outer map waits
// for a grace period.
func (k *kernel) applySets(p *plan.Plan) {
	k.t.Helper()
	for outer, held := range k.held {
		if len(held) > 500 {
			k.empty(outer)
			clear(held)
		}
	}
	for _, s := range p.RuleSets {
		rules, err := plan.ParseRules(s.Text)
		if err != nil {
			k.t.Fatal(err)
		}
		var set bpf.RuleSet
		for _, r := range rules {
			to := &set.Rules[set.Count]
			*to = bpf.Rule{Group: r.Group, PortLow: r.PortLow, PortHigh: r.PortHigh, Protocol: r.Protocol, Family: r.Family(), Id: r.ID}
			if r.Group == 0 {
				vpc, peers := r.Match()
				to.Vpc, to.Addr = vpc, bpf.NetAddr(peers.Addr())
				mask := ^uint32(0) << (32 - peers.Bits())
				to.Mask = bpf.NetAddr(netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}))
			}
			set.Count++
		}
		k.putInner(bpf.ABIMapRuleSets, s.ID, s.Text, 1, func(m *ebpf.Map) error { return m.Put(uint32(0), &set) })
	}
	for _, table := range p.TargetTables {
		listed, slots, err := table.Slots()
		if err != nil {
			k.t.Fatal(err)
		}
		targets := make([]bpf.Target, len(listed))
		for i, x := range listed {
			targets[i] = bpf.Target{Addr: bpf.NetAddr(x.Addr()), Port: bpf.NetPort(x.Port())}
		}
		words := bpf.TargetTable(table.Width, slots, targets)
		k.putInner(bpf.ABIMapTargetTables, table.ID, table.Text, uint32(len(words)), func(m *ebpf.Map) error {
			return bpf.PutTargetTable(m, words)
		})
	}
}

func (k *kernel) putInner(outer string, id uint32, text string, entries uint32, fill func(*ebpf.Map) error) {
	k.t.Helper()
	if k.held[outer][id] == text {
		return
	}
	k.held[outer][id] = text
	spec := k.inner[outer].Copy()
	spec.MaxEntries = entries
	m, err := ebpf.NewMap(spec)
	if err != nil {
		k.t.Fatal(err)
	}
	defer m.Close()
	if err := fill(m); err != nil {
		k.t.Fatal(err)
	}
	k.put(outer, id, uint32(m.FD()))
}

// runnable reports whether a test run takes a packet at all: it wants the whole header of what the link header announces.
func runnable(p verdict.Packet) bool {
	if p.Hook == verdict.HookTunnel {
		return len(p.Bytes) > 0
	}
	b := p.Bytes
	switch {
	case len(b) <= 14:
		return false
	case b[12] == 0x08 && b[13] == 0x00:
		return len(b) >= 14+20
	case b[12] == 0x86 && b[13] == 0xdd:
		return len(b) >= 14+40
	}
	return true
}

// run gives a packet to its program, as a test run can take it, and compares everything with the oracle's verdict.
func (k *kernel) run(p *plan.Plan, packet verdict.Packet, want verdict.Verdict) error {
	program, data := bpf.ABIProgFromWorkload, packet.Bytes
	switch packet.Hook {
	case verdict.HookTunnel:
		program = bpf.ABIProgFromTunnel
		data = append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd}, packet.Bytes...)
		if len(packet.Bytes) < 40 {
			data[12], data[13] = 0, 0 // the program does not look there, but a test run would
		}
	case verdict.HookHost:
		program = bpf.ABIProgFromHost
	default:
		k.relink(p, packet.Ifindex)
	}
	k.put(bpf.ABIMapOutcome, uint32(0), make([]bpf.Outcome, k.cpus))
	left := make([]byte, skbLen)
	opts := &ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256), Context: skb(packet.Segment, packet.Mark), ContextOut: left}
	action, err := k.coll.Programs[program].Run(opts)
	if err != nil {
		return fmt.Errorf("run %s with %d bytes: %w", program, len(data), err)
	}
	for key, c := range want.Counters {
		old := k.count[key]
		k.count[key] = verdict.Count{Packets: old.Packets + c.Packets, Bytes: old.Bytes + c.Bytes}
	}
	var outcomes []bpf.Outcome
	if err := k.coll.Maps[bpf.ABIMapOutcome].Lookup(uint32(0), &outcomes); err != nil {
		return err
	}
	var got bpf.Outcome
	for _, o := range outcomes {
		if o.Reason != 0 {
			got = o
		}
	}
	expect := bpf.Outcome{
		Verdict: uint32(want.Action), Reason: uint32(want.Reason), Ifindex: want.Ifindex, Next: uint32(want.Next),
	}
	if want.Action == verdict.Redirect && want.Next == verdict.NextNone {
		expect.Ifindex = 1 // back where it came from, in a test run
	}
	if got != expect || action != uint32(want.Action) {
		return fmt.Errorf("returned %d, outcome %+v (%s); the oracle: %+v (%s)", action, got, bpf.Reason(got.Reason), expect,
			want.Reason)
	}
	var mark uint32
	if want.Next == verdict.NextTunnel {
		mark = uint32(bpf.TunnelMark) ^ uint32(want.Lane)
	}
	if got := binary.NativeEndian.Uint32(left[skbMark:]); got != mark {
		return fmt.Errorf("left with mark %#x; the oracle: %#x", got, mark)
	}
	out := opts.DataOut
	if want.Next == verdict.NextTunnel {
		out = out[14:] // the kernel takes the link header off on the way into culvert0
	}
	if want.Bytes != nil && !bytes.Equal(out, want.Bytes) {
		return fmt.Errorf("packet\n%sthe oracle's\n%s", hex.Dump(out), hex.Dump(want.Bytes))
	}
	return k.compareTouched(want)
}

// expire marks the flow of an entry with a flag; late: as if the newest packet were not the one that the sweep saw.
func (k *kernel) expire(key verdict.FlowKey, flag bpf.FlowFlag, late bool) {
	k.t.Helper()
	var own, pair bpf.Flow
	flows := k.coll.Maps[bpf.ABIMapFlows]
	if err := flows.Lookup(kernelKey(key), &own); err != nil {
		k.t.Fatalf("flow %+v of the oracle: %v", key, err)
	}
	if err := flows.Lookup(own.ReverseKey(), &pair); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		k.t.Fatal(err)
	}
	mark := bpf.FlowMark{Key: own.Key, Id: own.Id, Flag: uint32(flag), LastNs: max(own.LastNs, pair.LastNs)}
	want := 1
	if late {
		mark.LastNs--
		want = 0
	}
	if n, err := bpf.MarkFlows(k.coll.Programs[bpf.ABIProgMarkFlows], []bpf.FlowMark{mark}); err != nil || n != want {
		k.t.Fatalf("%d flows marked, %v; want %d", n, err, want)
	}
}

// skb is a struct __sk_buff (linux/bpf.h) with the offload's segment size, and a mark.
func skb(segment int, mark uint32) []byte {
	const gsoSegs, gsoSize = 164, 176
	b := make([]byte, skbLen)
	binary.NativeEndian.PutUint32(b[skbMark:], mark)
	if segment != 0 {
		binary.NativeEndian.PutUint32(b[gsoSegs:], 2)
		binary.NativeEndian.PutUint32(b[gsoSize:], uint32(segment))
	}
	return b
}

// Of struct __sk_buff.
const skbLen, skbMark = 192, 8

// relink makes interface 1 the link of the ENI with this interface; of none when there is no such ENI.
func (k *kernel) relink(p *plan.Plan, ifindex uint32) {
	k.t.Helper()
	for _, e := range p.ENIs {
		if e.Ifindex == ifindex {
			if e != k.link {
				k.put(bpf.ABIMapLinks, uint32(1), &bpf.Link{At: at(e.VPC, e.Address), Eni: row(e)})
				k.link = e
			}
			return
		}
	}
	k.empty(bpf.ABIMapLinks)
	k.link = plan.ENI{}
}

// compareTouched checks the counters that the verdict says have grown.
func (k *kernel) compareTouched(v verdict.Verdict) error {
	for key := range v.Counters {
		if got := k.counter(key); got != k.count[key] {
			return fmt.Errorf("counter of ENI %d hook %d %s is %+v; the oracle: %+v", key.ENI, key.Hook, key.Reason, got, k.count[key])
		}
	}
	return nil
}

func (k *kernel) counter(key verdict.CounterKey) verdict.Count {
	var per []bpf.Counter
	var sum verdict.Count
	if k.coll.Maps[bpf.ABIMapCounters].Lookup(bpf.CounterKey{
		Eni: key.ENI, Reason: uint16(key.Reason), Hook: uint8(key.Hook),
	}, &per) != nil {
		return sum
	}
	for _, c := range per {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum
}

// compareAll checks every counter and every flow entry, so that nothing is there which the oracle does not know.
func (k *kernel) compareAll(s *verdict.State) error {
	var ck bpf.CounterKey
	var per []bpf.Counter
	seen := 0
	it := k.coll.Maps[bpf.ABIMapCounters].Iterate()
	for it.Next(&ck, &per) {
		key := verdict.CounterKey{ENI: ck.Eni, Reason: verdict.Reason(ck.Reason), Hook: verdict.Hook(ck.Hook)}
		if want, ok := k.count[key]; !ok || k.counter(key) != want {
			return fmt.Errorf("counter %+v (%s): %+v; the oracle: %+v", key, key.Reason, k.counter(key), want)
		}
		seen++
	}
	if err := it.Err(); err != nil || seen != len(k.count) {
		return fmt.Errorf("%d counters (%v); the oracle has %d", seen, err, len(k.count))
	}
	var fk bpf.FlowKey
	var f bpf.Flow
	seen = 0
	it = k.coll.Maps[bpf.ABIMapFlows].Iterate()
	for it.Next(&fk, &f) {
		want, ok := s.Flows[flowKey(fk)]
		if got := flow(f); !ok || got != want {
			return fmt.Errorf("flow %+v:\n%+v; the oracle (%t):\n%+v", flowKey(fk), got, ok, want)
		}
		if f.Key != fk {
			return fmt.Errorf("flow %+v holds key %+v", fk, f.Key)
		}
		seen++
	}
	if err := it.Err(); err != nil || seen != len(s.Flows) {
		return fmt.Errorf("%d flows (%v); the oracle has %d", seen, err, len(s.Flows))
	}
	if err := k.compareQuotas(s); err != nil {
		return err
	}
	return k.compareFragments(s)
}

func flowKey(k bpf.FlowKey) verdict.FlowKey {
	return verdict.FlowKey{
		VPC: k.Vpc, Source: bpf.Addr(k.Saddr), Dest: bpf.Addr(k.Daddr), SourcePort: bpf.Port(k.Sport), DestPort: bpf.Port(k.Dport),
		Tag: k.Tag, View: verdict.View(k.SideOf()), IPv6: k.View&bpf.KeyIPv6 != 0, Protocol: k.Protocol,
	}
}

func flow(f bpf.Flow) verdict.Flow {
	out := verdict.Flow{
		Reverse: flowKey(f.ReverseKey()), Generation: f.Generation, SourceVPC: f.SourceVPC(), DestVPC: f.DestVPC(),
		Source: bpf.Addr(f.Saddr), Dest: bpf.Addr(f.Daddr), SourcePort: bpf.Port(f.Sport), DestPort: bpf.Port(f.Dport), Tag: f.Tag,
		Next: verdict.Next(f.Next), IPv6: f.ReverseView&bpf.KeyIPv6 != 0, Flags: f.Flags, TCPFlags: f.TcpFlags,
		TCPState: verdict.TCPState(f.TcpState), Account: f.Account,
		Hook: verdict.Hook(f.Hook), ENI: f.Eni, Connection: f.Connection, Rule: f.Rule, MTU: f.Mtu,
		Proxy: f.Proxy, ProxyDone: f.ProxyDone != 0, ISN: f.Isn, Idle: uint32(f.IdleS), Packets: f.Packets, Bytes: f.Bytes,
		Measured: verdict.Measured{
			Known: f.SeqKnown != 0, NextSeq: f.NextSeq, Retransmits: f.Retransmits, TimedSeq: uint32(f.Timed >> 32),
			TimedAt: uint32(f.Timed), Handshake: f.Handshake, RTT: f.Rtt,
		},
	}
	if f.Front != 0 {
		out.Front = bpf.Addr(f.Front)
	}
	return out
}
