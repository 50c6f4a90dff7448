package datapath

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// The loaded programs, tables encoded and applied as an agent does, against the oracle plan/verdict: random packets under
// random plans that change on the way. Verdict, reason, stage, interface, every byte, every counter and every flow entry
// must agree. CULVERT_SEED replays one sequence, CULVERT_SEQUENCES draws more.
func TestProgramsAgreeWithOracle(t *testing.T) {
	needRoot(t)
	first, n := uint64(1), uint64(sequences)
	if s := os.Getenv("CULVERT_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, n = seed, 1
	} else if s := os.Getenv("CULVERT_SEQUENCES"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	cfg := testConfig(t)
	cfg.PinPath, cfg.tunnelL2, cfg.stands = "", 14, true
	dp, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %+v", err)
	}
	defer dp.Close()
	seen := map[verdict.Reason]int{}
	for seed := first; seed < first+n; seed++ {
		d := newDifferential(t, dp, seed)
		d.run(1000)
		for r, c := range d.seen {
			seen[r] += c
		}
	}
	t.Log("reasons seen:", seen)
	if n >= sequences {
		coverage(t, seen)
	}
}

// sequences is how many are drawn; their coverage of reasons is known to be complete.
const sequences = 100

// coverage fails when the drawing has become so poor that whole reasons never come up.
func coverage(t *testing.T, seen map[verdict.Reason]int) {
	t.Helper()
	rare := map[verdict.Reason]string{
		verdict.ReasonNone:               "not a verdict",
		verdict.ReasonFlowTableFull:      "the oracle's table has no end; bpf's table of refusals has a case",
		verdict.ReasonSNATPortsExhausted: "needs nine taken ports; bpf's table of refusals has a case",
		verdict.ReasonAccountFlowsFull:   "bpf's differential test has small tables",
		verdict.ReasonEndpointFlowsFull:  "likewise",
		verdict.ReasonCapConnections:     "bpf's differential test draws caps",
		verdict.ReasonCapFlows:           "likewise",
		verdict.ReasonCapBits:            "likewise",
		verdict.ReasonNodesOwn:           "likewise messages and probes",
		verdict.ReasonMessageRate:        "likewise",
		verdict.ReasonInternal:           "a helper failed",
		verdict.ReasonNoChecksum:         "needs an offloaded datagram; bpf's random packets have it",
	}
	for r, name := range verdict.ReasonNames {
		if _, ok := rare[r]; !ok && seen[r] == 0 {
			t.Errorf("reason %s never came up", name)
		}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
}

type differential struct {
	t        *testing.T
	seed     uint64
	r        *rand.Rand
	dp       *Datapath
	plan     *plan.Plan
	state    *verdict.State
	counters map[verdict.CounterKey]verdict.Count
	seen     map[verdict.Reason]int
	what     lastPacket      // for messages
	former   map[uint32]bool // ENIs of the plan before
}

type lastPacket struct {
	seed    uint64
	program string
	data    []byte
}

func (p lastPacket) String() string {
	return fmt.Sprintf("seed %d: %s\n%s", p.seed, p.program, hex.Dump(p.data))
}

func newDifferential(t *testing.T, dp *Datapath, seed uint64) *differential {
	t.Helper()
	for _, name := range []string{mapFlows, mapCounters, mapQuotas, mapPorts, mapResets, mapMessages} {
		m := dp.coll.Maps[name]
		key := make([]byte, m.KeySize())
		for m.NextKey(nil, &key) == nil {
			if err := m.Delete(key); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &differential{
		t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 1)), dp: dp, state: &verdict.State{},
		counters: map[verdict.CounterKey]verdict.Count{}, seen: map[verdict.Reason]int{},
	}
}

func (d *differential) chance(percent int) bool { return d.r.IntN(100) < percent }

func pick[T any](d *differential, list ...T) T { return list[d.r.IntN(len(list))] }

func (d *differential) run(packets int) {
	generation := uint32(1)
	d.change(generation)
	for range packets {
		if d.r.IntN(400) < 3 { // the kernel takes longer over a plan than over a hundred packets
			if d.chance(80) {
				generation++
			}
			d.change(generation)
		}
		if d.chance(4) && len(d.state.Flows) > 0 {
			d.expire()
		}
		d.packet()
		if d.t.Failed() {
			d.t.FailNow()
		}
	}
	d.compareState()
}

// change draws a plan: the small mesh with workloads placed at random and rows missing or different here and there.
func (d *differential) change(generation uint32) {
	d.t.Helper()
	workloads := plantest.Workloads()
	for i := range workloads {
		workloads[i].Node = 1
		if d.chance(30) {
			workloads[i].Node = 2
		}
	}
	workloads[0].Node = 1
	v := plantest.View(1, workloads)
	f := plantest.Facts(v)
	f.Generation = generation
	p, err := plan.Compile(v, f)
	if err != nil {
		d.t.Fatalf("seed %d: compile: %v", d.seed, err)
	}
	for i := range p.ENIs {
		p.ENIs[i].Families = pick(d, plan.FamilyIPv4, plan.FamilyIPv6, plan.BothFamilies, plan.BothFamilies)
	}
	for i := range p.Addresses {
		if p.Addresses[i].Type == plan.AddressWorkload && d.chance(30) {
			p.Addresses[i].Families = pick(d, plan.FamilyIPv4, plan.FamilyIPv6)
		}
	}
	if d.chance(50) {
		d.disturb(p)
	}
	d.state.LogNS = pick[uint64](d, 0, 1<<62, 1<<62)
	if err := d.dp.SetLogReady(d.state.LogNS); err != nil {
		d.t.Fatal(err)
	}
	d.plan = p
	changed, err := d.dp.Apply(d.t.Context(), p)
	if err != nil {
		d.t.Fatalf("seed %d: apply: %v", d.seed, err)
	}
	if changed {
		d.fold(p)
	}
}

// fold adds what was counted for ENIs that two plans in turn do not have to what is counted for none, as Apply does.
func (d *differential) fold(p *plan.Plan) {
	here := map[uint32]bool{0: true}
	for _, e := range p.ENIs {
		here[e.Number] = true
	}
	for k, c := range d.counters {
		if here[k.ENI] || d.former[k.ENI] {
			continue
		}
		delete(d.counters, k)
		k.ENI = 0
		sum := d.counters[k]
		d.counters[k] = verdict.Count{Packets: sum.Packets + c.Packets, Bytes: sum.Bytes + c.Bytes}
	}
	d.former = here
}

// disturb makes a plan that no compiler would, but that the datapath must judge as its text says.
func (d *differential) disturb(p *plan.Plan) {
	rules := []uint32{0, 424242}
	for _, s := range p.RuleSets {
		rules = append(rules, s.ID)
	}
	for i := range p.ENIs {
		if e := &p.ENIs[i]; d.chance(15) {
			*pick(d, &e.IngressRules, &e.EgressRules) = pick(d, rules...)
		} else if d.chance(5) {
			e.Number += 1000
		}
		p.ENIs[i].StrictLog = d.chance(20)
	}
	for i := range p.Addresses {
		if a := &p.Addresses[i]; d.chance(10) {
			a.Rules = pick(d, rules...)
		} else if d.chance(5) {
			a.Groups = plan.Groups{uint32(d.r.IntN(3) + 101)}
		} else if d.chance(5) {
			a.Type = pick(d, plan.AddressWorkload, plan.AddressEndpoint, plan.AddressLoadBalancer, plan.AddressResolver)
		}
	}
	for i := range p.Grants {
		if g := &p.Grants[i]; d.chance(30) {
			*pick(d, &g.Admitted, &g.LBRules, &g.LBEgressRules) = pick(d, rules...)
		} else if d.chance(10) {
			g.Connection, g.ProviderVPC, g.Protocol = pick(d, g.Connection, 8), pick(d, g.ProviderVPC, 3), pick(d, g.Protocol, 17)
		}
	}
	for i := range p.Services {
		if s := &p.Services[i]; d.chance(15) {
			s.Connection, s.Port = pick(d, s.Connection, 8), pick(d, s.Port, 444)
			if d.chance(50) { // no targets; the width is the table's own, its id says it
				s.Table, s.TableWidth = 0, 0
			}
		}
	}
	for _, vpc := range []uint32{1, 2} { // paths to a few addresses of each
		if d.chance(50) {
			network := netip.PrefixFrom(netip.MustParseAddr("10.0.1.4"), 30+2*d.r.IntN(2)).Masked()
			p.Paths = append(p.Paths, plan.Path{Prefix: api.OverlayPrefix(p.Config.Mesh, vpc, network), MTU: uint16(1200 + d.r.IntN(300))})
		}
	}
	drop(d, &p.ENIs)
	drop(d, &p.Addresses)
	drop(d, &p.Services)
	drop(d, &p.Services)
	drop(d, &p.Services)
	drop(d, &p.Grants)
	drop(d, &p.GrantTargets)
	drop(d, &p.TargetTables)
	switch {
	case d.chance(5):
		p.Generation = 0
	case d.chance(5):
		p.Config.ExpiresNS = 1
	case d.chance(10):
		p.Config.TunnelMTU = 1320
	}
}

func drop[T any](d *differential, rows *[]T) {
	*rows = slices.DeleteFunc(*rows, func(T) bool { return d.chance(4) })
}

// packet draws one and gives it to both.
func (d *differential) packet() {
	d.t.Helper()
	p, program := d.draw()
	d.state.NowNS = 2
	want := verdict.Decide(d.plan, d.state, p)
	for k, c := range want.Counters {
		sum := d.counters[k]
		d.counters[k] = verdict.Count{Packets: sum.Packets + c.Packets, Bytes: sum.Bytes + c.Bytes}
	}
	for _, s := range want.Stages {
		d.seen[s.Reason]++
	}
	data := p.Bytes
	if p.Hook == verdict.HookTunnel {
		data = plantest.Frame([6]byte{}, [6]byte{}, 0x86dd, data)
	}
	d.link(p)
	opts := &ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256)}
	action, err := d.dp.coll.Programs[program].Run(opts)
	if err != nil {
		d.t.Fatalf("seed %d: %s: %v", d.seed, program, err)
	}
	d.what = lastPacket{d.seed, program, data}
	d.compare(want, action, opts.DataOut)
}

// link lets interface 1, the one of every test run, be the sender's.
func (d *differential) link(p verdict.Packet) {
	links := d.dp.coll.Maps[mapLinks]
	for _, e := range d.plan.ENIs {
		if p.Hook == verdict.HookWorkload && e.Ifindex == p.Ifindex {
			at := vpcAddr(e.VPC, e.Address)
			if err := links.Put(uint32(1), &bpf.Link{At: at, Eni: encodeENI(e)}); err != nil {
				d.t.Fatal(err)
			}
			return
		}
	}
	_ = links.Delete(uint32(1)) // may be absent
}

func (d *differential) outcome() bpf.Outcome {
	d.t.Helper()
	m := d.dp.coll.Maps[mapOutcome]
	var per []bpf.Outcome
	if err := m.Lookup(uint32(0), &per); err != nil {
		d.t.Fatal(err)
	}
	var out bpf.Outcome
	for i, o := range per {
		if o.Reason != 0 {
			out = o
		}
		per[i] = bpf.Outcome{}
	}
	if err := m.Put(uint32(0), per); err != nil {
		d.t.Fatal(err)
	}
	return out
}

func (d *differential) compare(want verdict.Verdict, action uint32, out []byte) {
	d.t.Helper()
	got := d.outcome()
	if uint32(want.Action) != action || uint32(want.Reason) != got.Reason || uint32(want.Next) != got.Next {
		d.t.Fatalf("%saction %d reason %s next %d, oracle %d %s %d (stages %+v)", d.what, action, bpf.Reason(got.Reason),
			got.Next, want.Action, want.Reason, want.Next, want.Stages)
	}
	ifindex := want.Ifindex
	if want.Action == verdict.Redirect && want.Next == verdict.NextNone {
		ifindex = 1 // an answer goes back where it came from
	}
	if ifindex != got.Ifindex {
		d.t.Fatalf("%sinterface %d, oracle %d", d.what, got.Ifindex, ifindex)
	}
	if want.Action != verdict.Redirect {
		return
	}
	if want.Next == verdict.NextTunnel {
		out = out[14:]
	}
	if !bytes.Equal(out, want.Bytes) {
		d.t.Fatalf("%s%s next %d: packet\n%soracle\n%s", d.what, want.Reason, want.Next, hex.Dump(out), hex.Dump(want.Bytes))
	}
}

// compareState holds counters and flow entries against the oracle's.
func (d *differential) compareState() {
	d.t.Helper()
	counters, err := d.dp.Counters()
	if err != nil {
		d.t.Fatal(err)
	}
	got := map[verdict.CounterKey]verdict.Count{}
	for _, c := range counters {
		k := verdict.CounterKey{ENI: c.ENI, Hook: verdict.Hook(c.Hook), Reason: verdict.Reason(c.Reason)}
		got[k] = verdict.Count{Packets: c.Packets, Bytes: c.Bytes}
	}
	for k := range d.counters {
		if got[k] != d.counters[k] {
			d.t.Errorf("seed %d: counter %+v: %+v, oracle %+v", d.seed, k, got[k], d.counters[k])
		}
		delete(got, k)
	}
	for k, c := range got {
		d.t.Errorf("seed %d: counter %+v: %+v, oracle has none", d.seed, k, c)
	}
	entries, err := table[bpf.FlowKey, bpf.Flow]{name: mapFlows, m: d.dp.coll.Maps[mapFlows]}.observe(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	for k, e := range entries {
		key := oracleKey(k)
		want, ok := d.state.Flows[key]
		if want.Measured = (verdict.Measured{}); !ok || want != oracleFlow(e) { // times are bpf's test's, whose clock stands
			d.t.Errorf("seed %d: flow %+v\n%+v\noracle\n%+v", d.seed, key, oracleFlow(e), want)
		}
	}
	if len(entries) != len(d.state.Flows) {
		d.t.Errorf("seed %d: %d flow entries, oracle %d", d.seed, len(entries), len(d.state.Flows))
	}
}

func oracleKey(k bpf.FlowKey) verdict.FlowKey {
	return verdict.FlowKey{
		VPC: k.Vpc, Source: bpf.Addr(k.Saddr), Dest: bpf.Addr(k.Daddr), SourcePort: bpf.Port(k.Sport),
		DestPort: bpf.Port(k.Dport), Tag: k.Tag, View: verdict.View(k.SideOf()), IPv6: k.View&bpf.KeyIPv6 != 0,
		Protocol: k.Protocol,
	}
}

func oracleFlow(e bpf.Flow) verdict.Flow {
	return verdict.Flow{
		Reverse: oracleKey(e.ReverseKey()), Generation: e.Generation, SourceVPC: e.SourceVPC(), DestVPC: e.DestVPC(),
		Source: bpf.Addr(e.Saddr), Dest: bpf.Addr(e.Daddr), SourcePort: bpf.Port(e.Sport), DestPort: bpf.Port(e.Dport),
		Tag: e.Tag, Next: verdict.Next(e.Next), IPv6: e.ReverseView&bpf.KeyIPv6 != 0, Flags: e.Flags,
		TCPFlags: e.TcpFlags, TCPState: verdict.TCPState(e.TcpState), Account: e.Account,
		Hook: verdict.Hook(e.Hook), ENI: e.Eni, Connection: e.Connection, Rule: e.Rule,
		Idle: uint32(e.IdleS), Packets: e.Packets, Bytes: e.Bytes, MTU: e.Mtu,
	}
}

// draw makes a packet: half of the time one that belongs to a flow, otherwise anything.
func (d *differential) draw() (verdict.Packet, string) {
	var p verdict.Packet
	ip := d.ip()
	if len(d.state.Flows) > 0 && d.chance(50) {
		p = d.ofFlow(ip)
	} else {
		p = d.stranger(ip)
	}
	if d.chance(6) && len(p.Bytes) > 0 {
		p.Bytes[d.r.IntN(min(len(p.Bytes), 70))] ^= byte(1 << d.r.IntN(8))
	}
	if least := shortest(p); d.chance(2) && len(p.Bytes) > least {
		p.Bytes = p.Bytes[:least+d.r.IntN(len(p.Bytes)-least)]
	}
	if d.chance(3) {
		p.Bytes = append(p.Bytes, make([]byte, d.r.IntN(20))...)
	}
	if short := shortest(p) - len(p.Bytes); short > 0 {
		p.Bytes = append(p.Bytes, make([]byte, short)...)
	}
	switch p.Hook {
	case verdict.HookWorkload:
		return p, bpf.ABIProgFromWorkload
	case verdict.HookHost:
		return p, bpf.ABIProgFromHost
	default:
		return p, bpf.ABIProgFromTunnel
	}
}

// shortest is what a test run takes: since Linux 6.18 it refuses frames that end within their network header.
func shortest(p verdict.Packet) int {
	if p.Hook == verdict.HookTunnel {
		return 40
	}
	switch kind := p.Bytes[12:14]; {
	case bytes.Equal(kind, []byte{0x08, 0x00}):
		return 34
	case bytes.Equal(kind, []byte{0x86, 0xdd}):
		return 54
	}
	return 15
}

var (
	tcpFlags = []uint8{2, 2, 2, 2, 0x12, 0x12, 0x10, 0x10, 0x10, 0x18, 0x11, 0x11, 4, 0x14, 3, 0, 1, 6}
	ports    = []uint16{53, plan.ResolverPort, 80, 443, 8443, 40000, 40001, 40002, 5353}
)

// ip draws everything but addresses and ports that a flow decides.
func (d *differential) ip() plantest.IP {
	p := plantest.IP{
		Protocol: pick[uint8](d, 6, 6, 6, 6, 17, 17, 1), SourcePort: pick(d, ports...), DestPort: pick(d, ports...),
		Flags: pick(d, tcpFlags...), Seq: d.r.Uint32(), Ack: d.r.Uint32(), ICMPType: pick[uint8](d, 8, 8, 0),
		ICMPID: uint16(d.r.IntN(3)), TTL: uint8(d.r.IntN(256)), TOS: uint8(d.r.IntN(256)), ID: uint16(d.r.Uint32()),
		DF: d.chance(50), NoChecksum: d.chance(10), Payload: make([]byte, pick(d, 0, 0, 1, 7, 100, 1360, 1395)),
	}
	for i := range p.Payload {
		p.Payload[i] = byte(d.r.Uint32())
	}
	if d.chance(40) {
		p.Options = d.options()
	}
	if d.chance(2) {
		p.SourcePort = 0
	}
	return p
}

func (d *differential) options() []byte {
	var o []byte
	for len(o) < 36 && d.chance(75) {
		switch d.r.IntN(4) {
		case 0:
			o = append(o, 1)
		case 1:
			mss := uint16(d.r.IntN(3000))
			o = append(o, 2, 4, byte(mss>>8), byte(mss))
		case 2:
			o = append(o, 3, 3, 7)
		default:
			o = append(o, byte(d.r.IntN(10)), byte(d.r.IntN(6)))
		}
	}
	o = o[:min(len(o), 40)]
	for len(o)%4 != 0 {
		o = append(o, 0)
	}
	return o
}

// key is one of some entry.
func (d *differential) key() verdict.FlowKey {
	keys := make([]verdict.FlowKey, 0, len(d.state.Flows))
	for k := range d.state.Flows {
		keys = append(keys, k)
	}
	family := map[bool]int{true: 6}
	slices.SortFunc(keys, func(a, b verdict.FlowKey) int {
		return cmp.Or(cmp.Compare(a.VPC, b.VPC), a.Source.Compare(b.Source), a.Dest.Compare(b.Dest),
			cmp.Compare(a.SourcePort, b.SourcePort), cmp.Compare(a.DestPort, b.DestPort), cmp.Compare(a.Tag, b.Tag),
			cmp.Compare(a.View, b.View), cmp.Compare(a.Protocol, b.Protocol), family[a.IPv6]-family[b.IPv6])
	})
	return pick(d, keys...)
}

// expire lets the time of a flow be over, as the sweep does between its look and the removal.
func (d *differential) expire() {
	d.t.Helper()
	key := d.key()
	flows, err := d.dp.Flows(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	i := slices.IndexFunc(flows, func(f Flow) bool { return oracleKey(f.Opening.Key) == key || oracleKey(f.Reply.Key) == key })
	if i < 0 {
		d.t.Fatalf("seed %d: no flow has an entry %+v", d.seed, key)
	}
	if err := d.dp.mark([]bpf.FlowMark{flows[i].mark(bpf.FlowExpired)}); err != nil {
		d.t.Fatal(err)
	}
	for _, k := range []verdict.FlowKey{key, d.state.Flows[key].Reverse} {
		if f, ok := d.state.Flows[k]; ok {
			f.Flags |= verdict.FlowExpired
			d.state.Flows[k] = f
		}
	}
}

// ofFlow makes a packet that some entry is for.
func (d *differential) ofFlow(ip plantest.IP) verdict.Packet {
	k := d.key()
	f := d.state.Flows[k]
	ip.Protocol, ip.Source, ip.Dest = k.Protocol, k.Source, k.Dest
	ip.SourcePort, ip.DestPort, ip.ICMPID = k.SourcePort, k.DestPort, k.SourcePort
	at := plantest.At
	if ip.Six = k.IPv6; ip.Six {
		at = plantest.At6
	}
	source, dest := at(f.SourceVPC, k.Source, 0), at(f.DestVPC, k.Dest, 0)
	switch k.View {
	case verdict.ViewWorkload:
		return d.fromWorkload(k.VPC, k.Source, ip)
	case verdict.ViewHost:
		source = api.Overlay{Mesh: plantest.Mesh, Host: d.plan.Config.Node}
		return verdict.Packet{Hook: verdict.HookHost, Bytes: plantest.Frame([6]byte{1}, [6]byte{2}, 0x86dd, ip.Overlay(source, dest))}
	case verdict.ViewProvider:
		source = at(f.SourceVPC, k.Source, k.Tag)
	case verdict.ViewConsumer:
		dest = at(f.DestVPC, k.Dest, k.Tag)
	}
	if d.chance(5) {
		source.VPC, dest.VPC = pick(d, source.VPC, 3), pick(d, dest.VPC, 3)
	}
	return verdict.Packet{Hook: verdict.HookTunnel, Bytes: ip.Overlay(source, dest)}
}

// fromWorkload is a frame of the workload with that address, if there is one now.
func (d *differential) fromWorkload(vpc uint32, a netip.Addr, ip plantest.IP) verdict.Packet {
	for _, e := range d.plan.ENIs {
		if e.VPC == vpc && e.Address == a {
			return verdict.Packet{Hook: verdict.HookWorkload, Ifindex: e.Ifindex, Bytes: frameOf(&e, e.MAC, 0x0800, ip)}
		}
	}
	return verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 9999, Bytes: ip.Workload(11)}
}

// frameOf is a packet in a frame of an ENI; kind is the type where it is IPv4.
func frameOf(e *plan.ENI, mac [6]byte, kind uint16, ip plantest.IP) []byte {
	if !ip.Six {
		return plantest.Frame(e.GatewayMAC, mac, kind, ip.Bytes())
	}
	six := func(a netip.Addr) netip.Addr { return api.IPv6Address(plantest.Mesh, e.VPC, a) }
	return plantest.Frame(e.GatewayMAC, mac, 0x86dd, ip.IPv6(six(ip.Source), six(ip.Dest)))
}

var places = []string{
	"10.0.1.5", "10.0.1.6", "10.0.1.7", "10.0.1.8", "10.0.1.9", "10.0.1.200", "10.0.1.200", "10.0.0.2", "10.0.1.77",
}

// stranger makes a packet without regard to flows.
func (d *differential) stranger(ip plantest.IP) verdict.Packet {
	ip.Dest = netip.MustParseAddr(pick(d, places...))
	if ip.Dest == plantest.Endpoint && d.chance(70) {
		ip.DestPort = map[uint8]uint16{6: 443, 17: 53}[ip.Protocol]
	}
	if ip.Dest == plantest.Resolver && d.chance(70) {
		ip.DestPort = 53
	}
	hook := pick(d, verdict.HookWorkload, verdict.HookWorkload, verdict.HookWorkload, verdict.HookTunnel, verdict.HookTunnel,
		verdict.HookTunnel, verdict.HookHost)
	switch hook {
	case verdict.HookWorkload:
		return d.strangeFrame(ip)
	case verdict.HookHost:
		ip.Source = netip.MustParseAddr(pick(d, places...))
		source := api.Overlay{Mesh: plantest.Mesh, Host: pick(d, d.plan.Config.Node, 9)}
		dest := pick(d, plantest.At, plantest.At6)(plantest.Shop, ip.Dest, 0)
		kind := pick[uint16](d, 0x86dd, 0x86dd, 0x86dd, 0x0800)
		return verdict.Packet{Hook: hook, Bytes: plantest.Frame([6]byte{1}, [6]byte{2}, kind, ip.Overlay(source, dest))}
	}
	ip.Source = netip.MustParseAddr(pick(d, places...))
	number := func(likely ...uint16) uint16 {
		return pick(d, append(likely, 0, plantest.TagTCP, plantest.TagUDP, 77)...)
	}
	source := plantest.At(plantest.Shop, ip.Source, number(plantest.TagTCP, plantest.TagTCP, 0))
	dest := plantest.At(pick[uint32](d, plantest.Pay, plantest.Pay, plantest.Shop), ip.Dest, pick[uint16](d, 0, 0, 0, 0, 5))
	if source.Number() != 0 && d.chance(80) {
		ip.DestPort, ip.Dest = 8443, netip.MustParseAddr(pick(d, "10.0.1.5", "10.0.1.6"))
		dest.Host = api.AddrHost(ip.Dest)
		if d.chance(50) {
			ip.Flags = 2
			ip.Source = netip.MustParseAddr(pick(d, "10.0.1.5", "10.0.1.7", "10.0.1.8"))
			source.Host = api.AddrHost(ip.Source)
		}
		if d.chance(80) {
			ip.Protocol = map[uint16]uint8{plantest.TagTCP: 6, plantest.TagUDP: 17, 77: 6}[source.Number()]
		}
	} else if d.chance(70) {
		dest.VPC = plantest.Shop
	}
	if d.chance(40) {
		source.Tag, dest.Tag = source.Number(), dest.Number()
		if ip.Protocol == 1 && d.chance(90) {
			ip.Protocol = 58
		}
	}
	if d.chance(3) {
		source.Mesh++
	}
	if d.chance(3) {
		dest.Tag &^= api.TagFamilyIPv4
	}
	return verdict.Packet{Hook: hook, Bytes: ip.Overlay(source, dest)}
}

// strangeFrame is a frame of some workload that need not be honest.
func (d *differential) strangeFrame(ip plantest.IP) verdict.Packet {
	if len(d.plan.ENIs) == 0 || d.chance(2) {
		ip.Source = plantest.Endpoint
		return verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 9999, Bytes: ip.Workload(11)}
	}
	e := pick(d, d.plan.ENIs...)
	if ip.Dest == plantest.Endpoint && e.VPC != plantest.Shop {
		e = pick(d, d.plan.ENIs...)
	}
	if d.chance(50) {
		ip.Flags = 2
	}
	ip.Source = e.Address
	if d.chance(3) {
		ip.Source = netip.MustParseAddr(pick(d, places...))
	}
	mac := e.MAC
	if d.chance(2) {
		mac[5]++
	}
	p := verdict.Packet{Hook: verdict.HookWorkload, Ifindex: e.Ifindex}
	if d.chance(5) {
		sender := pick(d, e.Address, e.Address, netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("10.0.1.77"))
		target := pick(d, e.Address, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("0.0.0.0"))
		p.Bytes = plantest.ARP(pick[uint16](d, 1, 1, 1, 2, 3), e.MAC, mac, sender, target)
		return p
	}
	if ip.Six = e.Families == plan.FamilyIPv6 || d.chance(30); ip.Six && ip.Protocol == 1 {
		ip.Protocol = 58
	}
	p.Bytes = frameOf(&e, mac, pick[uint16](d, 0x0800, 0x0800, 0x0800, 0x0800, 0x0800, 0x0800, 0x86dd), ip)
	if d.chance(2) && len(p.Bytes) >= 38 {
		p.Bytes[14] = 0x46
	}
	if d.chance(4) { // fragments and worse
		p.Bytes[14+d.r.IntN(8)] ^= byte(1 << d.r.IntN(8))
	}
	return p
}
