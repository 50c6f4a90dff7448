package bpf

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

// A small world: VPC 1 consumes what VPC 2 offers, and both use the same addresses.
const (
	mesh       = 0x6c6f63
	consumer   = 1 // VPC numbers
	provider   = 2
	number     = 7 // of (connection, endpoint ENI, listener)
	connection = 900
	tunnel     = 41 // ifindexes that no test run follows
	host       = 42
	mtu        = 1420

	cart     = "10.0.1.5" // VPC 1, number 11
	shelf    = "10.0.1.6" // VPC 1, number 12
	endpoint = "10.0.1.200"
	resolver = "10.0.0.2"
	ledger   = "10.0.1.5" // VPC 2, number 21
	balancer = "10.0.1.9" // VPC 2

	allowAll = 1000 // rule set: everything from everywhere

	bothFamilies = 3
)

var (
	gatewayMAC = [6]byte{2, 0, 0, 0, 0, 1}
	hostMAC    = [6]byte{2, 0, 0, 0, 1, 1}
	dpMAC      = [6]byte{2, 0, 0, 0, 1, 2}
	noMAC      [6]byte
)

func mac(number uint32) [6]byte { return [6]byte{2, 1, 0, 0, 0, byte(number)} }

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// node is one loaded collection.
type node struct {
	t    testing.TB
	coll *ebpf.Collection
	id   uint32
	cfg  Config
	// inner maps there are: the kernel takes its time over each update of an outer map
	inside map[string]string
}

type result struct {
	verdict uint32
	frame   []byte
	outcome Outcome
}

const (
	actOK       = 0
	actShot     = 2
	actRedirect = 7
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
}

func newNode(t testing.TB, id uint32, change ...func(*ebpf.CollectionSpec)) *node {
	t.Helper()
	needRoot(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := LoadABI()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables[ABIVarTunnelL2].Set(uint32(14)); err != nil {
		t.Fatal(err)
	}
	if err := ForProcessor(spec, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(spec)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(coll.Close)
	n := &node{t: t, coll: coll, id: id, inside: map[string]string{}}
	n.put("programs", uint32(0), uint32(coll.Programs["receive_local"].FD()))
	n.start()
	return n
}

// start makes an empty node of whatever it was, for tests that share a load.
func (n *node) start() {
	n.t.Helper()
	for _, name := range []string{
		"links", "enis", "addresses", "services", "grants", "grant_targets", "flows", "counters", "refusals", "fragments",
		"fragment_rings", "fragment_pairs", "fragment_shares", "fragment_counts", "paths", "probes", "quotas", "ports", "resets", "messages",
	} {
		m := n.coll.Maps[name]
		key := make([]byte, m.KeySize())
		for m.NextKey(nil, &key) == nil {
			n.remove(name, key)
		}
	}
	n.configure(Config{
		Generation: 1, Mesh: mesh, Node: n.id, TunnelIfindex: tunnel, HostIfindex: host, TunnelMtu: mtu,
		HostMac: hostMAC, DpMac: dpMAC,
	})
	n.put("log_ready", uint32(0), uint64(0))
	n.quota(QuotaKey{Kind: uint32(QuotaTable)}, bounds(1<<20))
	n.quota(QuotaKey{Kind: uint32(QuotaAccount)}, bounds(1<<20))
	n.rules(allowAll, Rule{Protocol: 256, PortHigh: 65535, Family: 4, Id: 1}, Rule{Protocol: 256, PortHigh: 65535, Family: 6, Id: 1})
}

// bounds are limits that only the ceiling makes, in entries.
func bounds(entries uint32) QuotaLimits { return QuotaLimits{Ceiling: entries, Open: entries} }

func (n *node) quota(key QuotaKey, limits QuotaLimits) {
	n.t.Helper()
	orders := []QuotaOrder{{Key: key, Order: QuotaSet, Limits: limits}}
	if err := SetQuotas(n.coll.Programs["set_quotas"], orders); err != nil || orders[0].Done != 1 {
		n.t.Fatalf("quota %+v: %v, done %d", key, err, orders[0].Done)
	}
}

func (n *node) put(table string, key, value any) {
	n.t.Helper()
	if err := n.coll.Maps[table].Put(key, value); err != nil {
		n.t.Fatalf("put %s: %v", table, err)
	}
}

func (n *node) remove(table string, key any) {
	n.t.Helper()
	delete(n.inside, fmt.Sprint(table, key))
	if err := n.coll.Maps[table].Delete(key); err != nil {
		n.t.Fatalf("delete %s: %v", table, err)
	}
}

func (n *node) configure(c Config) {
	n.t.Helper()
	n.cfg = c
	n.put("config", uint32(0), &c)
}

// generation moves the configuration on, so that flows are judged again.
func (n *node) generation() {
	n.t.Helper()
	n.cfg.Generation++
	n.configure(n.cfg)
}

func key(vpc uint32, addr string) VPCAddr { return VPCAddr{Vpc: vpc, Addr: NetAddr(ip(addr))} }

// eni makes a workload ENI known and present; its link is interface 1, the one of test runs, until another takes it.
func (n *node) eni(vpc uint32, addr string, number uint32, groups ...uint32) {
	n.t.Helper()
	e := ENI{
		Number: number, Ifindex: 100 + number, IngressRules: allowAll, EgressRules: allowAll, Mac: mac(number),
		GatewayMac: gatewayMAC, Families: bothFamilies,
	}
	copy(e.Groups[:], groups)
	n.put("enis", key(vpc, addr), &e)
	n.address(vpc, addr, AddressWorkload, number, groups...)
	n.link(vpc, addr)
}

func (n *node) changeENI(vpc uint32, addr string, change func(*ENI)) {
	n.t.Helper()
	var e ENI
	if err := n.coll.Maps["enis"].Lookup(key(vpc, addr), &e); err != nil {
		n.t.Fatal(err)
	}
	change(&e)
	n.put("enis", key(vpc, addr), &e)
}

// strict makes an ENI one whose log must have every flow.
func (n *node) strict(vpc uint32, addr string) {
	n.t.Helper()
	n.changeENI(vpc, addr, func(e *ENI) { e.Flags = uint8(ENIStrictLog) })
}

func (n *node) link(vpc uint32, addr string) {
	n.t.Helper()
	l := Link{At: key(vpc, addr)}
	if err := n.coll.Maps["enis"].Lookup(l.At, &l.Eni); err != nil {
		n.t.Fatal(err)
	}
	n.put("links", uint32(1), &l)
}

func (n *node) address(vpc uint32, addr string, kind AddressType, number uint32, groups ...uint32) {
	n.t.Helper()
	a := Address{Type: uint32(kind), Number: number, Rules: allowAll, EgressRules: allowAll, Families: bothFamilies}
	copy(a.Groups[:], groups)
	n.put("addresses", key(vpc, addr), &a)
}

func (n *node) inner(outer string) *ebpf.MapSpec {
	n.t.Helper()
	spec, err := LoadABI()
	if err != nil {
		n.t.Fatal(err)
	}
	return spec.Maps[outer].InnerMap
}

// known says whether an inner map has these contents already, and that it will.
func (n *node) known(table string, id uint32, contents any) bool {
	at, text := fmt.Sprint(table, id), fmt.Sprint(contents)
	was := n.inside[at]
	n.inside[at] = text
	return was == text
}

func (n *node) rules(id uint32, rules ...Rule) {
	n.t.Helper()
	if n.known("rule_sets", id, rules) {
		return
	}
	set := RuleSet{Count: uint32(len(rules))}
	for i, r := range rules {
		set.Rules[i] = r
	}
	m, err := ebpf.NewMap(n.inner("rule_sets"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer m.Close()
	if err := m.Put(uint32(0), &set); err != nil {
		n.t.Fatal(err)
	}
	n.put("rule_sets", id, uint32(m.FD()))
}

func (n *node) targets(id uint32, targets ...string) {
	n.t.Helper()
	if n.known("target_tables", id, targets) {
		return
	}
	listed, slots := make([]Target, len(targets)), make([]uint16, TableSlots)
	for i, s := range targets {
		ap := netip.MustParseAddrPort(s)
		listed[i] = Target{Addr: NetAddr(ap.Addr()), Port: NetPort(ap.Port())}
	}
	for i := range slots {
		slots[i] = uint16(i % len(targets))
	}
	words := TargetTable(tableWidth, slots, listed)
	spec := n.inner("target_tables")
	spec.MaxEntries = uint32(len(words))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		n.t.Fatal(err)
	}
	defer m.Close()
	if err := PutTargetTable(m, words); err != nil {
		n.t.Fatal(err)
	}
	n.put("target_tables", id, uint32(m.FD()))
}

// tableWidth is that of the node's target tables, which have at most 16 targets.
const tableWidth = 4

// service puts the endpoint into VPC 1: 443 leads to the ledger's 8443.
func (n *node) service() {
	n.t.Helper()
	n.address(consumer, endpoint, AddressEndpoint, 30)
	n.targets(5, ledger+":8443")
	n.quota(QuotaKey{Kind: uint32(QuotaSent), Id: connection}, bounds(1<<20))
	for _, protocol := range []uint8{6, 17} {
		n.put("services", ServiceKey{Vpc: consumer, Addr: NetAddr(ip(endpoint)), Port: NetPort(443), Protocol: protocol},
			&Service{
				Connection: connection, ProviderVpc: provider, Table: 5, TableWidth: tableWidth, EndpointEni: 30, IdleS: 300,
				Tag: number + uint16(protocol) - 6,
			})
	}
}

// grant lets that in on the provider's node.
func (n *node) grant() {
	n.t.Helper()
	n.address(provider, balancer, AddressLoadBalancer, 31)
	n.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: connection}, bounds(1<<20))
	for _, protocol := range []uint8{6, 17} {
		tag := uint32(number + protocol - 6)
		n.put("grants", GrantKey{Vpc: consumer, Tag: tag}, &Grant{
			Connection: connection, ProviderVpc: provider, Admitted: allowAll, LbRules: allowAll, LbEgressRules: allowAll,
			DialedAddr: NetAddr(ip(endpoint)), DialedPort: NetPort(443), Protocol: protocol, IdleS: 300,
		})
		n.put("grant_targets", GrantTargetKey{
			Vpc: consumer, Tag: tag, Addr: NetAddr(ip(ledger)), Port: NetPort(8443),
		}, &GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31, Ports: 64})
	}
}

func (n *node) changeGrant(change func(*Grant)) {
	n.t.Helper()
	k := GrantKey{Vpc: consumer, Tag: number}
	var g Grant
	if err := n.coll.Maps["grants"].Lookup(k, &g); err != nil {
		n.t.Fatal(err)
	}
	change(&g)
	n.put("grants", k, &g)
}

// run gives one frame to a program. gso is the segment size, 0 for none.
func (n *node) run(program string, data []byte, ctx ...any) result {
	n.t.Helper()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		n.t.Fatal(err)
	}
	n.put("outcome", uint32(0), make([]Outcome, cpus))
	opts := &ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256)}
	if len(ctx) > 0 {
		opts.Context = ctx[0]
	}
	verdict, err := n.coll.Programs[program].Run(opts)
	if err != nil {
		n.t.Fatalf("run %s: %v", program, err)
	}
	r := result{verdict: verdict, frame: opts.DataOut}
	var outcomes []Outcome
	if err := n.coll.Maps["outcome"].Lookup(uint32(0), &outcomes); err != nil {
		n.t.Fatal(err)
	}
	for _, o := range outcomes {
		if o.Reason != 0 {
			r.outcome = o
		}
	}
	return r
}

// workload runs from_workload for the ENI with this frame.
func (n *node) workload(vpc uint32, addr string, data []byte, ctx ...any) result {
	n.t.Helper()
	n.link(vpc, addr)
	return n.run("from_workload", data, ctx...)
}

func (n *node) counter(eni uint32, hook Hook, reason Reason) Counter {
	n.t.Helper()
	var per []Counter
	k := CounterKey{Eni: eni, Reason: uint16(reason), Hook: uint8(hook)}
	if err := n.coll.Maps["counters"].Lookup(k, &per); err != nil {
		return Counter{}
	}
	var sum Counter
	for _, c := range per {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum
}

func (n *node) flows() map[FlowKey]Flow {
	n.t.Helper()
	flows := map[FlowKey]Flow{}
	var k FlowKey
	var f Flow
	it := n.coll.Maps["flows"].Iterate()
	for it.Next(&k, &f) {
		flows[k] = f
	}
	if err := it.Err(); err != nil {
		n.t.Fatal(err)
	}
	return flows
}

// wants checks a result: forwarded to the next stage with exactly these bytes.
func (r result) forwarded(t *testing.T, next Next, ifindex uint32, want []byte) {
	t.Helper()
	r.passed(t, ReasonForwarded, next, ifindex, want)
}

func (r result) passed(t *testing.T, reason Reason, next Next, ifindex uint32, want []byte) {
	t.Helper()
	if r.verdict != actRedirect || r.outcome.Reason != uint32(reason) {
		t.Fatalf("verdict %d reason %s, want redirect %s", r.verdict, Reason(r.outcome.Reason), reason)
	}
	if r.outcome.Next != uint32(next) || r.outcome.Ifindex != ifindex {
		t.Errorf("next %d interface %d, want %d %d", r.outcome.Next, r.outcome.Ifindex, next, ifindex)
	}
	sameBytes(t, r.frame, want)
}

func (r result) refused(t testing.TB, reason Reason) {
	t.Helper()
	if Reason(r.outcome.Reason) != reason {
		t.Fatalf("reason %s, want %s", Reason(r.outcome.Reason), reason)
	}
	if r.verdict != r.outcome.Verdict {
		t.Errorf("verdict %d but outcome %d", r.verdict, r.outcome.Verdict)
	}
}

func sameBytes(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("packet\n%swant\n%s", hex.Dump(got), hex.Dump(want))
	}
}

// sent is a workload's frame.
func sent(p frame.Packet, number uint32) []byte { return p.MACs(mac(number), gatewayMAC).Ethernet() }

// delivered is a frame as a workload gets it.
func delivered(p frame.Packet, number uint32) []byte {
	return p.MACs(gatewayMAC, mac(number)).Ethernet()
}

// fromHost is the overlay packet on the node's own pair.
func fromHost(p frame.Packet, src, dst [6]byte) []byte { return p.MACs(src, dst).Overlay() }

// tunneled checks a packet for the tunnel and gives it as the other node's test run needs it: the kernel takes the
// Ethernet header off on the way into culvert0, its content says nothing.
func (r result) tunneled(t *testing.T, want frame.Packet) []byte {
	t.Helper()
	r.forwarded(t, NextTunnel, tunnel, append(slices.Clone(r.frame[:14]), want.IPv6()...))
	return want.MACs(noMAC, noMAC).Overlay()
}

func itoa(n uint16) string { return strconv.Itoa(int(n)) }
