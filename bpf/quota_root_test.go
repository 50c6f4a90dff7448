package bpf

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

const (
	victimVPC, victim = 5, 51 // VPC and ENI of another account
	shopAccount       = 77
	victimAccount     = 78
)

// owned makes cart's ENI one account's and adds an ENI of another, in a VPC with the same addresses.
func owned(t *testing.T, shop, other QuotaLimits, table QuotaLimits) *node {
	t.Helper()
	n := newNode(t, 1)
	n.quota(QuotaKey{Kind: uint32(QuotaTable)}, table)
	n.quota(QuotaKey{Kind: uint32(QuotaAccount), Id: shopAccount}, shop)
	n.quota(QuotaKey{Kind: uint32(QuotaAccount), Id: victimAccount}, other)
	n.eni(consumer, cart, 11)
	n.changeENI(consumer, cart, func(e *ENI) { e.Account = shopAccount })
	n.address(consumer, shelf, AddressWorkload, 12)
	n.eni(victimVPC, cart, victim)
	n.changeENI(victimVPC, cart, func(e *ENI) { e.Account = victimAccount })
	n.address(victimVPC, shelf, AddressWorkload, 52)
	return n
}

func opening(port int, number uint32) []byte {
	src := netip.AddrPortFrom(ip(cart), uint16(port)).String()
	return sent(frame.TCP(src, shelf+":80", frame.SYN), number)
}

func (n *node) used(kind QuotaKind, id uint32) int64 {
	n.t.Helper()
	var q Quota
	if err := n.coll.Maps["quotas"].Lookup(QuotaKey{Kind: uint32(kind), Id: id}, &q); err != nil {
		n.t.Fatal(err)
	}
	return int64(q.Usage.Used)
}

// One account floods SYNs until nothing more is let in: another's flow lives on, and it gets all that it is promised.
func TestFlood(t *testing.T) {
	const entries, open, promised, most = 400, 300, 60, 360
	n := owned(t, QuotaLimits{Guaranteed: promised, Ceiling: most, Open: most}, QuotaLimits{Guaranteed: promised, Ceiling: most, Open: most},
		QuotaLimits{Ceiling: entries, Open: open})
	n.workload(victimVPC, cart, opening(1000, victim)).refused(t, ReasonForwarded)
	let := 0
	for port := 2000; port < 3000; port++ {
		switch r := n.workload(consumer, cart, opening(port, 11)); Reason(r.outcome.Reason) {
		case ReasonForwarded:
			let++
		case ReasonAccountFlowsFull:
		default:
			t.Fatalf("flow %d: %s", port, Reason(r.outcome.Reason))
		}
	}
	if want := (open - 2) / 2; let != want || n.used(QuotaAccount, shopAccount) != int64(2*let) {
		t.Errorf("%d flows were let in, %d entries charged; want %d flows", let, n.used(QuotaAccount, shopAccount), want)
	}
	n.workload(victimVPC, cart, opening(1000, victim)).refused(t, ReasonForwarded) // it is there still
	for port := 1001; port < 1000+promised/2; port++ {
		n.workload(victimVPC, cart, opening(port, victim)).refused(t, ReasonForwarded)
	}
	n.workload(victimVPC, cart, opening(1500, victim)).refused(t, ReasonAccountFlowsFull)
	if got := n.used(QuotaTable, 0); got != int64(2*let+promised) || int(got) != len(n.flows()) {
		t.Errorf("%d entries are charged, %d are there", got, len(n.flows()))
	}
	for _, f := range n.flows() { // what goes makes room, exactly
		if FlowFlag(f.Flags)&FlowOpening != 0 && f.Key.Vpc == consumer {
			n.mark(f, FlowExpired, f.LastNs)
		}
	}
	var removals []FlowRemoval
	for _, f := range n.flows() {
		if FlowFlag(f.Flags)&FlowExpired != 0 {
			removals = append(removals, FlowRemoval{Key: f.Key, Id: f.Id})
		}
	}
	for range 2 { // the second time nothing is there to give back
		if err := RemoveFlows(n.coll.Programs["remove_flows"], removals); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := n.used(QuotaAccount, shopAccount), n.used(QuotaTable, 0); a != 0 || b != promised {
		t.Errorf("%d and %d entries are charged after the flood went", a, b)
	}
}

// What refuses gives all back: of a flow that no port is found for nothing stays charged.
func TestRefusedIsNotCharged(t *testing.T) {
	_, b := pair(t)
	b.put("grant_targets", GrantTargetKey{Vpc: consumer, Tag: number, Addr: NetAddr(ip(ledger)), Port: NetPort(8443)},
		&GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31})
	pool := QuotaKey{
		Kind: uint32(QuotaPool), Vpc: provider, Source: NetAddr(ip(balancer)), Target: NetAddr(ip(ledger)), Port: NetPort(8443),
		Protocol: 6,
	}
	b.put("ports", pool, &Usage{Used: uint64(PoolOpen), Made: uint64(PoolOpen)})
	tunneled(b, toProvider()).refused(t, ReasonSNATPortsExhausted)
	var u Usage
	if err := b.coll.Maps["ports"].Lookup(pool, &u); err != nil || u.Used != uint64(PoolOpen) {
		t.Errorf("the pool has %d, %v", u.Used, err)
	}
	if a, c := b.used(QuotaTable, 0), b.used(QuotaReceived, connection); a != 0 || c != 0 {
		t.Errorf("%d entries of the table and %d of the connection are charged", a, c)
	}
	b.put("ports", pool, &Usage{})
	tunneled(b, toProvider()).refused(t, ReasonForwarded)
	if err := b.coll.Maps["ports"].Lookup(pool, &u); err != nil || u.Used != 1 || b.used(QuotaReceived, connection) != 2 {
		t.Errorf("a flow that was let in has %d ports, %v, and %d entries", u.Used, err, b.used(QuotaReceived, connection))
	}
}

// The states of a connection, as both ends' flags make them, stand in both entries.
func TestTCPState(t *testing.T) {
	a, _ := pair(t)
	a.link(consumer, cart)
	out := func(flags uint8) func() {
		return func() { a.workload(consumer, cart, sent(frame.TCP(cart+":40000", shelf+":80", flags), 11)) }
	}
	back := func(flags uint8) func() {
		return func() {
			tunneled(a, frame.TCP(shelf+":80", cart+":40000", flags).Between(mesh, consumer, 0, consumer, 0))
		}
	}
	for _, step := range []struct {
		packet func()
		want   TCPState
	}{
		{out(frame.SYN), TCPSynSent}, {out(frame.SYN), TCPSynSent}, {back(frame.SYN | frame.ACK), TCPSynReceived},
		{out(frame.ACK), TCPEstablished}, {back(frame.ACK), TCPEstablished}, {out(frame.FIN | frame.ACK), TCPFinWait},
		{back(frame.ACK), TCPFinWait}, {back(frame.FIN | frame.ACK), TCPTimeWait}, {out(frame.RST), TCPClosed},
	} {
		step.packet()
		flows := a.flows()
		if len(flows) != 2 {
			t.Fatalf("%d entries", len(flows))
		}
		for k, f := range flows {
			if TCPState(f.TcpState) != step.want {
				t.Errorf("%+v is %s, want %s", k, TCPState(f.TcpState), step.want)
			}
		}
	}
}

// A workload that floods packets of no flow gets its RSTs at a rate, another its own; the rest is dropped and counted.
func TestResetsAreLimited(t *testing.T) {
	n := newNode(t, 1, func(spec *ebpf.CollectionSpec) {
		if err := spec.Variables[ABIVarRateClockStands].Set(uint32(1)); err != nil {
			t.Fatal(err)
		}
	})
	n.eni(consumer, cart, 11)
	n.eni(consumer, shelf, 12)
	stray := func(from string, number uint32) bool {
		return n.workload(consumer, from, sent(frame.TCP(from+":40000", endpoint+":80", frame.ACK), number)).verdict == actRedirect
	}
	resets := 0
	for range ResetBurst + 50 {
		if stray(cart, 11) {
			resets++
		}
	}
	if resets != ResetBurst {
		t.Errorf("%d RSTs at once, want %d", resets, ResetBurst)
	}
	if !stray(shelf, 12) {
		t.Error("another workload gets none")
	}
	if err := n.coll.Variables[ABIVarRateClockNs].Set(uint64(100_000_000)); err != nil {
		t.Fatal(err)
	}
	for resets = 0; stray(cart, 11); resets++ {
		if resets > ResetBurst {
			t.Fatal("no end of RSTs")
		}
	}
	if resets != 10 {
		t.Errorf("%d RSTs after 100 ms, want 10", resets)
	}
	var per []uint64
	if err := n.coll.Maps["losses"].Lookup(uint32(LossResets), &per); err != nil {
		t.Fatal(err)
	}
	lost := uint64(0)
	for _, x := range per {
		lost += x
	}
	if lost != 51 {
		t.Errorf("%d RSTs are said not to have been sent, want 51", lost)
	}
}

// standing is a provider's node whose clock of rates stands, with a grant that has these bounds.
func standing(t *testing.T, limits QuotaLimits) (n *node, at func(ns uint64)) {
	t.Helper()
	n = newNode(t, 1, func(spec *ebpf.CollectionSpec) {
		if err := spec.Variables[ABIVarRateClockStands].Set(uint32(1)); err != nil {
			t.Fatal(err)
		}
	})
	n.eni(provider, ledger, 21)
	n.grant()
	n.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: connection}, limits)
	return n, func(ns uint64) {
		t.Helper()
		if err := n.coll.Variables[ABIVarRateClockNs].Set(ns); err != nil {
			t.Fatal(err)
		}
	}
}

// Rates are exact: so many at once, then so many a second, and what is refused costs nothing.
func TestRates(t *testing.T) {
	n, at := standing(t, QuotaLimits{Ceiling: 1 << 20, Open: 1 << 20, ConnectionsPerS: 50})
	port := 1000
	let := func() (flows int) {
		for range 120 {
			port++
			from := netip.AddrPortFrom(ip(cart), uint16(port)).String()
			r := tunneled(n, frame.TCP(from, ledger+":8443", frame.SYN).Between(mesh, consumer, number, provider, 0))
			if Reason(r.outcome.Reason) == ReasonForwarded {
				flows++
			}
		}
		return flows
	}
	if got := let(); got != 50 {
		t.Errorf("%d flows at once, want 50", got)
	}
	if got := let(); got != 0 {
		t.Errorf("%d more flows at the same time", got)
	}
	for i, want := range []int{25, 50, 50} { // after half a second, one more, ten more
		ns := []uint64{500_000_000, 1_500_000_000, 11_500_000_000}[i]
		at(ns)
		if got := let(); got != want {
			t.Errorf("%d flows at %d ns, want %d", got, ns, want)
		}
	}
}

// Bits are exact, each direction by itself: 128 KiB at once, then the rate and not a packet more, and what is refused costs
// nothing. All is counted.
func TestRateOfBits(t *testing.T) {
	const ipBytes, rate, atOnce = 1000, 8_000_000, int(ABIAbiLimitLIMIT_POLICE_BYTES) / 1000 // a packet a millisecond
	n, at := standing(t, QuotaLimits{Ceiling: 1 << 20, Open: 1 << 20, BitsPerS: rate})
	tunneled(n, toProvider()).refused(t, ReasonForwarded)
	there := frame.TCP(cart+":40000", ledger+":8443", frame.ACK).Payload(ipBytes-40).Between(mesh, consumer, number, provider, 0)
	back := frame.TCP(ledger+":8443", balancer+":40000", frame.ACK).Payload(ipBytes - 40)
	directions := map[string]func() result{
		"there": func() result { return tunneled(n, there) },
		"back":  func() result { return n.workload(provider, ledger, sent(back, 21)) },
	}
	at(1e9)
	refused := 0
	let := func(direction string, tries int) (passed int) {
		for range tries {
			switch r := Reason(directions[direction]().outcome.Reason); r {
			case ReasonForwarded:
				passed++
			case ReasonCapBits:
				refused++
			default:
				t.Fatalf("%s: %s", direction, r)
			}
		}
		return passed
	}
	for _, direction := range []string{"there", "back"} {
		if got := let(direction, atOnce+50); got != atOnce {
			t.Errorf("%s: %d packets at once, want %d", direction, got, atOnce)
		}
	}
	for ms := uint64(10); ms <= 500; ms += 10 {
		at(1e9 + ms*1e6)
		for direction := range directions {
			if got := let(direction, 15); got != 10 {
				t.Fatalf("%s, %d ms later: %d packets in 10 ms, want 10", direction, ms, got)
			}
		}
	}
	counted := uint64(0)
	for _, hook := range []Hook{HookTunnel, HookWorkload} {
		counted += n.counter(21, hook, ReasonCapBits).Packets
	}
	if counted != uint64(refused) {
		t.Errorf("%d packets are counted as above the cap, %d were", counted, refused)
	}
}

// Flows at a time are exact, and one that goes makes room for one.
func TestFlowsAtATime(t *testing.T) {
	const most = 20
	n, _ := standing(t, QuotaLimits{Ceiling: 1 << 20, Open: 1 << 20, Most: 2 * most})
	port := 1000
	open := func() Reason {
		port++
		from := netip.AddrPortFrom(ip(cart), uint16(port)).String()
		return Reason(tunneled(n, frame.TCP(from, ledger+":8443", frame.SYN).Between(mesh, consumer, number, provider, 0)).outcome.Reason)
	}
	for i := range most {
		if got := open(); got != ReasonForwarded {
			t.Fatalf("flow %d of %d: %s", i+1, most, got)
		}
	}
	for range 5 {
		if got := open(); got != ReasonCapFlows {
			t.Fatalf("beyond the cap: %s", got)
		}
	}
	for k, f := range n.flows() {
		if FlowFlag(f.Flags)&FlowOpening == 0 {
			continue
		}
		n.mark(f, FlowExpired, f.LastNs)
		if err := RemoveFlows(n.coll.Programs["remove_flows"], []FlowRemoval{{Key: k, Id: f.Id}, {Key: f.ReverseKey(), Id: f.Id}}); err != nil {
			t.Fatal(err)
		}
		break
	}
	if got := open(); got != ReasonForwarded {
		t.Errorf("a flow went and another gets no room: %s", got)
	}
	if got := open(); got != ReasonCapFlows {
		t.Errorf("and one more: %s", got)
	}
}

// One connection takes all source ports toward a target that are open to all, by real flows. A neighbour's to the same target, from
// the same address and port, goes on, and it gets the ports that it is promised.
func TestPortsOfANeighbour(t *testing.T) {
	const promised, neighbour = 64, 3 // ports; the neighbour's VPC
	n := newNode(t, 2, func(s *ebpf.CollectionSpec) { s.Maps[ABIMapFlows].MaxEntries = 1 << 18 })
	n.eni(provider, ledger, 21)
	n.grant()
	n.put("grant_targets", GrantTargetKey{Vpc: consumer, Tag: number, Addr: NetAddr(ip(ledger)), Port: NetPort(8443)},
		&GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31, Ports: promised})
	n.put("grants", GrantKey{Vpc: neighbour, Tag: number}, &Grant{
		Connection: connection + 1, ProviderVpc: provider, Admitted: allowAll, LbRules: allowAll, LbEgressRules: allowAll,
		DialedAddr: NetAddr(ip(endpoint)), DialedPort: NetPort(443), Protocol: 6, IdleS: 300,
	})
	n.put("grant_targets", GrantTargetKey{Vpc: neighbour, Tag: number, Addr: NetAddr(ip(ledger)), Port: NetPort(8443)},
		&GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31, Ports: promised})
	n.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: connection + 1}, bounds(1<<20))
	send := func(vpc uint32, client int, flags uint8) Reason {
		from := netip.AddrFrom4([4]byte{10, 0, byte(2 + client>>8), byte(client)})
		p := frame.TCP(netip.AddrPortFrom(from, 40000).String(), ledger+":8443", flags).Between(mesh, vpc, number, provider, 0)
		verdict, err := n.coll.Programs[ABIProgFromTunnel].Run(&ebpf.RunOptions{Data: p.Overlay(), DataOut: make([]byte, 200)})
		if err != nil {
			t.Fatal(err)
		}
		if verdict == actRedirect {
			return ReasonForwarded
		}
		return Reason(n.run(ABIProgFromTunnel, p.Overlay()).outcome.Reason) // of a packet that is refused the same again
	}
	const early = 5
	for client := range early {
		if got := send(neighbour, client, frame.SYN); got != ReasonForwarded {
			t.Fatalf("the neighbour's flow %d: %s", client, got)
		}
	}
	let := 0
	for client := range PoolOpen + 2*promised {
		switch got := send(consumer, client, frame.SYN); got {
		case ReasonForwarded:
			let++
		case ReasonSNATPortsExhausted:
		default:
			t.Fatalf("flow %d of the flood: %s", client, got)
		}
	}
	if most := PoolOpen - early; let > most || let < most-early {
		t.Errorf("the flood has %d ports, want %d", let, most)
	}
	for client := range early {
		if got := send(neighbour, client, frame.ACK); got != ReasonForwarded {
			t.Errorf("the neighbour's flow %d, which was there: %s", client, got)
		}
	}
	for client := early; client < promised; client++ {
		if got := send(neighbour, client, frame.SYN); got != ReasonForwarded {
			t.Errorf("the neighbour's flow %d of the %d that it is promised: %s", client, promised, got)
		}
	}
	if got := send(neighbour, promised, frame.SYN); got != ReasonSNATPortsExhausted {
		t.Errorf("one more than it is promised: %s", got)
	}
}

// What one cap refuses has no part in the other: a connection that has used up its bits keeps its new flows a second.
func TestRefusedByOneCap(t *testing.T) {
	key := QuotaKey{Kind: uint32(QuotaReceived), Id: connection}
	n, _ := standing(t, QuotaLimits{Ceiling: 1 << 20, Open: 1 << 20, ConnectionsPerS: 10, BitsPerS: 1_000_000})
	paid := func(bits uint64) {
		t.Helper()
		var q Quota
		if err := n.coll.Maps["quotas"].Lookup(key, &q); err != nil {
			t.Fatal(err)
		}
		q.OpeningNs = bits
		n.put("quotas", key, &q)
	}
	port := 1000
	open := func() Reason {
		port++
		from := netip.AddrPortFrom(ip(cart), uint16(port)).String()
		return Reason(tunneled(n, frame.TCP(from, ledger+":8443", frame.SYN).Between(mesh, consumer, number, provider, 0)).outcome.Reason)
	}
	paid(10_000_000_000) // ten seconds' bits
	for range 20 {
		if got := open(); got != ReasonCapBits {
			t.Fatalf("%s, want CAP_BITS", got)
		}
	}
	paid(0)
	for i := range 10 {
		if got := open(); got != ReasonForwarded {
			t.Fatalf("flow %d of ten: %s", i, got)
		}
	}
	if got := open(); got != ReasonCapConnections {
		t.Errorf("the eleventh: %s, want CAP_CONNECTIONS", got)
	}
}
