package verdict_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// node is one node of the mesh with its state.
type node struct {
	t     *testing.T
	plan  *plan.Plan
	state *verdict.State
}

func newNode(t *testing.T, number uint32, workloads []plantest.Workload, change ...func(*api.View)) *node {
	t.Helper()
	v := plantest.View(number, workloads)
	for _, c := range change {
		c(&v)
	}
	return &node{t, compile(t, v, 1), &verdict.State{}}
}

func compile(t *testing.T, v api.View, generation uint32) *plan.Plan {
	t.Helper()
	f := plantest.Facts(v)
	f.Generation = generation
	p, err := plan.Compile(v, f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (n *node) decide(p verdict.Packet) verdict.Verdict { return verdict.Decide(n.plan, n.state, p) }

// from sends what a workload sends.
func (n *node) from(eni uint32, frame []byte) verdict.Verdict {
	return n.decide(verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 100 + eni, Bytes: frame})
}

func (n *node) tunnel(b []byte) verdict.Verdict {
	return n.decide(verdict.Packet{Hook: verdict.HookTunnel, Bytes: b})
}

func (n *node) host(b []byte) verdict.Verdict {
	return n.decide(verdict.Packet{Hook: verdict.HookHost, Bytes: b})
}

// want checks action, reasons of all stages and next.
func want(t *testing.T, v verdict.Verdict, next verdict.Next, reasons ...verdict.Reason) {
	t.Helper()
	var got []verdict.Reason
	for _, s := range v.Stages {
		got = append(got, s.Reason)
	}
	ok := len(got) == len(reasons) && v.Next == next && v.Reason == got[len(got)-1]
	for i := range got {
		ok = ok && got[i] == reasons[i]
	}
	if !ok {
		t.Fatalf("reasons %v, next %d; want %v, next %d", got, v.Next, reasons, next)
	}
	if (v.Action == verdict.Redirect) != (v.Bytes != nil) || (v.Ifindex != 0) != (v.Bytes != nil) {
		t.Fatalf("action %d, ifindex %d, %d bytes", v.Action, v.Ifindex, len(v.Bytes))
	}
}

// delivered checks a frame to a workload and reads its packet.
func delivered(t *testing.T, v verdict.Verdict, eni uint32) plantest.IP {
	t.Helper()
	if v.Next != verdict.NextWorkload || v.Ifindex != 100+eni {
		t.Fatalf("next %d ifindex %d, want workload %d: %v", v.Next, v.Ifindex, eni, v.Stages)
	}
	mac := plantest.MAC(eni)
	if !bytes.Equal(v.Bytes[:14], plantest.Frame(mac, plantest.GatewayMAC, 0x0800, nil)) {
		t.Fatalf("link header % x", v.Bytes[:14])
	}
	return read(t, v.Bytes[14:])
}

func read(t *testing.T, b []byte) plantest.IP {
	t.Helper()
	if err := plantest.Check(b); err != nil {
		t.Fatal(err)
	}
	p := plantest.IP{
		Source: netip.AddrFrom4([4]byte(b[12:16])), Dest: netip.AddrFrom4([4]byte(b[16:20])), Protocol: b[9], TTL: b[8], TOS: b[1],
		ID: binary.BigEndian.Uint16(b[4:]), DF: b[6]&0x40 != 0,
	}
	if p.Protocol == 1 {
		p.ICMPType, p.ICMPID = b[20], binary.BigEndian.Uint16(b[24:])
		return p
	}
	p.SourcePort, p.DestPort = binary.BigEndian.Uint16(b[20:]), binary.BigEndian.Uint16(b[22:])
	if p.Protocol == 6 {
		p.Flags = b[33]
		p.Seq, p.Ack = binary.BigEndian.Uint32(b[24:]), binary.BigEndian.Uint32(b[28:])
	}
	return p
}

var (
	cart   = netip.MustParseAddr("10.0.1.5")
	till   = netip.MustParseAddr("10.0.1.7")
	stock  = netip.MustParseAddr("10.0.1.8")
	vip    = plantest.Endpoint
	lb     = plantest.LoadBalancer
	cartID = uint32(11)
)

func tcp(source, dest netip.Addr, sport, dport uint16, flags uint8) plantest.IP {
	return plantest.IP{
		Source: source, Dest: dest, Protocol: 6, SourcePort: sport, DestPort: dport, Flags: flags, Seq: 1000, Ack: 2000,
		TOS: 0x10, ID: 0xbeef, DF: true,
	}
}

func TestTablesAgreeWithTheHeader(t *testing.T) {
	src, err := os.ReadFile("../../bpf/lib/abi.h")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)\b([A-Z][A-Z0-9_]+) = (\d+)`).FindAllStringSubmatch(string(src), -1) {
		values[m[1]], _ = strconv.Atoi(m[2])
	}
	expect := map[string]int{
		"HOOK_WORKLOAD": int(verdict.HookWorkload), "HOOK_TUNNEL": int(verdict.HookTunnel), "HOOK_LOCAL": int(verdict.HookLocal),
		"HOOK_HOST": int(verdict.HookHost), "VIEW_WORKLOAD": int(verdict.ViewWorkload), "VIEW_LOCAL": int(verdict.ViewLocal),
		"VIEW_PROVIDER": int(verdict.ViewProvider), "VIEW_CONSUMER": int(verdict.ViewConsumer), "VIEW_HOST": int(verdict.ViewHost),
		"NEXT_TUNNEL": int(verdict.NextTunnel), "NEXT_LOCAL": int(verdict.NextLocal), "NEXT_WORKLOAD": int(verdict.NextWorkload),
		"NEXT_HOST": int(verdict.NextHost), "FLOW_OPENING": int(verdict.FlowOpening), "FLOW_DEAD": int(verdict.FlowDead),
		"FLOW_SOURCE_TAGGED": int(verdict.FlowSourceTagged), "FLOW_DEST_TAGGED": int(verdict.FlowDestTagged),
		"FLOW_CLOSED": int(verdict.FlowClosed), "FLOW_EXPIRED": int(verdict.FlowExpired), "LIMIT_RULES": plan.LimitRules,
		"FLOW_POLICED": int(verdict.FlowPoliced), "LIMIT_PORT_TRIES": plan.PortTries, "LIMIT_SPARE_TRIES": plan.SpareTries,
		"PORT_SPARE": plan.PortSpare, "PORT_OPEN": plan.PortOpen, "TCP_CLOSED": int(verdict.TCPClosed),
		"TCP_SYN_SENT": int(verdict.TCPSynSent), "QUOTA_TABLE": int(plan.QuotaTable), "QUOTA_ACCOUNT": int(plan.QuotaAccount),
		"QUOTA_SENT": int(plan.QuotaSent), "QUOTA_RECEIVED": int(plan.QuotaReceived), "QUOTA_POOL": int(verdict.QuotaPool),
		"QUOTA_PORTS": int(verdict.QuotaPorts), "LIMIT_POOL_OPEN": verdict.PoolOpen, "LIMIT_POLICE_BYTES": verdict.PoliceBytes,
		"LIMIT_RESETS": verdict.ResetsPerSecond, "LIMIT_RESET_BURST": verdict.ResetBurst, "LIMIT_SEGMENTS": verdict.MaxSegments,
		"RESOLVER_IDLE": verdict.ResolverIdle, "LANES": plan.Lanes, "NODE_PORT": plan.NodePort,
		"LIMIT_MESSAGE": plan.MaxMessage + 40 + 8, "PORT_PROBE": plan.PortProbe,
		"LIMIT_GROUPS": plan.LimitGroups, "ADDRESS_WORKLOAD": int(plan.AddressWorkload), "ADDRESS_ENDPOINT": int(plan.AddressEndpoint),
		"ADDRESS_LOAD_BALANCER": int(plan.AddressLoadBalancer), "ADDRESS_RESOLVER": int(plan.AddressResolver),
	}
	for r, name := range verdict.ReasonNames {
		expect["REASON_"+name] = int(r)
	}
	for name, v := range expect {
		if got, ok := values[name]; !ok || got != v {
			t.Errorf("%s is %d here and %d (%t) in abi.h", name, v, got, ok)
		}
	}
	for name := range values {
		if _, known := expect[name]; !known && regexp.MustCompile(`^REASON_`).MatchString(name) && name != "REASON_MAX" {
			t.Errorf("%s is missing here", name)
		}
	}
}

// One connection from cart to the endpoint, through both nodes and back: what each workload sees, and the tags between.
func TestEndpointAcrossNodes(t *testing.T) {
	a, b := newNode(t, 1, plantest.Workloads()), newNode(t, 2, plantest.Workloads())
	syn := a.from(cartID, tcp(cart, vip, 40000, 443, plantest.SYN).Workload(cartID))
	want(t, syn, verdict.NextTunnel, verdict.ReasonForwarded)
	source, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(syn.Bytes[8:24])))
	if source != plantest.At(plantest.Shop, cart, plantest.TagTCP) {
		t.Fatalf("source %+v", source)
	}
	in := b.tunnel(syn.Bytes)
	want(t, in, verdict.NextWorkload, verdict.ReasonForwarded)
	dest, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(syn.Bytes[24:40])))
	target := map[netip.Addr]uint32{cart: 21, netip.MustParseAddr("10.0.1.6"): 22}[dest.HostAddr()]
	got := delivered(t, in, target)
	if got.Source != lb || got.SourcePort != 40000 || got.DestPort != 8443 || got.TOS != 0x10 || got.ID != 0xbeef || !got.DF {
		t.Fatalf("the target sees %+v", got)
	}
	back := b.from(target, tcp(got.Dest, lb, 8443, 40000, plantest.SYN|plantest.ACK).Workload(target))
	want(t, back, verdict.NextTunnel, verdict.ReasonForwarded)
	answer := delivered(t, a.tunnel(back.Bytes), cartID)
	if answer.Source != vip || answer.SourcePort != 443 || answer.Dest != cart || answer.DestPort != 40000 {
		t.Fatalf("cart sees %+v", answer)
	}
	if len(a.state.Flows) != 2 || len(b.state.Flows) != 2 {
		t.Errorf("%d and %d entries", len(a.state.Flows), len(b.state.Flows))
	}
}

// The same on one node: two stages each way, and cart and ledger-1 have the same address.
func TestEndpointOnOneNode(t *testing.T) {
	n := newNode(t, 1, plantest.OnNode(1))
	in := n.from(cartID, tcp(cart, vip, 8443, 443, plantest.SYN).Workload(cartID))
	want(t, in, verdict.NextWorkload, verdict.ReasonForwarded, verdict.ReasonForwarded)
	target := in.Ifindex - 100
	got := delivered(t, in, target)
	back := n.from(target, tcp(got.Dest, lb, 8443, got.SourcePort, plantest.SYN|plantest.ACK).Workload(target))
	want(t, back, verdict.NextWorkload, verdict.ReasonForwarded, verdict.ReasonForwarded)
	if answer := delivered(t, back, cartID); answer.Source != vip || answer.DestPort != 8443 {
		t.Fatalf("cart sees %+v", answer)
	}
	if len(n.state.Flows) != 4 {
		t.Errorf("%d entries", len(n.state.Flows))
	}
	for _, c := range []verdict.CounterKey{
		{ENI: cartID, Hook: verdict.HookWorkload}, {ENI: cartID, Hook: verdict.HookWorkload, Reason: verdict.ReasonForwarded},
		{ENI: 0, Hook: verdict.HookLocal}, {ENI: target, Hook: verdict.HookLocal, Reason: verdict.ReasonForwarded},
	} {
		if in.Counters[c] != (verdict.Count{Packets: 1, Bytes: 40}) {
			t.Errorf("counter %+v: %+v", c, in.Counters[c])
		}
	}
	if len(in.Counters) != 4 {
		t.Errorf("counters %v", in.Counters)
	}
}

// Three clients with one source port: the load balancer's address keeps them apart.
func TestPortsAtTheLoadBalancer(t *testing.T) {
	b := newNode(t, 2, plantest.Workloads())
	target := netip.MustParseAddr("10.0.1.6")
	seen := map[uint16]bool{}
	for _, client := range []netip.Addr{cart, till, stock} {
		syn := tcp(client, target, 40000, 8443, plantest.SYN)
		v := b.tunnel(syn.Overlay(plantest.At(plantest.Shop, client, plantest.TagTCP), plantest.At(plantest.Pay, target, 0)))
		got := delivered(t, v, 22)
		if seen[got.SourcePort] {
			t.Fatalf("%s got port %d twice", client, got.SourcePort)
		}
		seen[got.SourcePort] = true
		back := b.from(22, tcp(target, lb, 8443, got.SourcePort, plantest.SYN|plantest.ACK).Workload(22))
		dest, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(back.Bytes[24:40])))
		if dest != plantest.At(plantest.Shop, client, plantest.TagTCP) {
			t.Fatalf("the answer to %s goes to %+v", client, dest)
		}
	}
	if !seen[40000] {
		t.Error("the first client's own port was free")
	}
}

func TestResolver(t *testing.T) {
	a := newNode(t, 1, plantest.Workloads())
	link := plan.LinkLocalResolver
	for i, resolver := range []netip.Addr{plantest.Resolver, link} {
		q := plantest.IP{Source: cart, Dest: resolver, Protocol: 17, SourcePort: 5353, DestPort: 53, Payload: []byte("query")}
		v := a.from(cartID, q.Workload(cartID))
		want(t, v, verdict.NextHost, verdict.ReasonForwarded)
		if v.Ifindex != 4 || !bytes.Equal(v.Bytes[:6], a.plan.Config.HostMAC[:]) {
			t.Fatalf("ifindex %d, frame % x", v.Ifindex, v.Bytes[:14])
		}
		source, ok1 := api.ParseOverlay(netip.AddrFrom16([16]byte(v.Bytes[22:38])))
		dest, ok2 := api.ParseOverlay(netip.AddrFrom16([16]byte(v.Bytes[38:54])))
		if !ok1 || !ok2 || source != plantest.At(plantest.Shop, cart, 0) || dest.Addr() != api.NodeAddr(plantest.Mesh, 1) {
			t.Fatalf("from %+v to %+v", source, dest)
		}
		for _, k := range v.Created {
			if idle := a.state.Flows[k].Idle; idle != verdict.ResolverIdle {
				t.Errorf("query %d keeps its entries for %d s", i, idle)
			}
		}
		port := binary.BigEndian.Uint16(v.Bytes[54:])
		if (port == 5353) != (i == 0) {
			t.Errorf("query %d leaves with port %d", i, port)
		}
		if to := binary.BigEndian.Uint16(v.Bytes[56:]); to != plan.ResolverPort {
			t.Errorf("query %d goes to port %d", i, to)
		}
		r := plantest.IP{Protocol: 17, SourcePort: plan.ResolverPort, DestPort: port, Payload: []byte("answer")}
		back := a.host(plantest.Frame([6]byte{}, [6]byte{}, 0x86dd, r.Overlay(dest, source)))
		want(t, back, verdict.NextWorkload, verdict.ReasonForwarded)
		if got := delivered(t, back, cartID); got.Source != resolver || got.SourcePort != 53 || got.DestPort != 5353 {
			t.Errorf("cart sees %+v", got)
		}
		r.SourcePort = 53
		want(t, a.host(plantest.Frame([6]byte{}, [6]byte{}, 0x86dd, r.Overlay(dest, source))),
			verdict.NextNone, verdict.ReasonHostNotAdmitted)
	}
}

// A resolver that moved to another port, as with a new version of the agent, is not asked at the old one any more. A row of
// before names none: then it is 53.
func TestResolverMoves(t *testing.T) {
	a := newNode(t, 1, plantest.Workloads())
	a.plan.Config.ResolverPort = 0
	query := func(sport, dport uint16) verdict.Verdict {
		return a.from(cartID, plantest.IP{
			Source: cart, Dest: plantest.Resolver, Protocol: 17, SourcePort: sport, DestPort: dport,
		}.Workload(cartID))
	}
	old := query(5353, 53)
	want(t, old, verdict.NextHost, verdict.ReasonForwarded)
	if to := binary.BigEndian.Uint16(old.Bytes[56:]); to != 53 {
		t.Errorf("the query goes to port %d", to)
	}
	a.plan.Config.ResolverPort = plan.ResolverPort
	a.plan.Generation++
	want(t, query(5353, 53), verdict.NextNone, verdict.ReasonFlowRevoked)
	v := query(5354, 53)
	want(t, v, verdict.NextHost, verdict.ReasonForwarded)
	if to := binary.BigEndian.Uint16(v.Bytes[56:]); to != plan.ResolverPort {
		t.Errorf("the query goes to port %d", to)
	}
	want(t, query(5355, plan.ResolverPort), verdict.NextNone, verdict.ReasonHostNotAdmitted)
}

func TestPingInsideAVPC(t *testing.T) {
	a, b := newNode(t, 1, plantest.Workloads()), newNode(t, 2, plantest.Workloads())
	echo := plantest.IP{Source: cart, Dest: stock, Protocol: 1, ICMPType: 8, ICMPID: 77}
	out := a.from(cartID, echo.Workload(cartID))
	want(t, out, verdict.NextTunnel, verdict.ReasonForwarded)
	delivered(t, b.tunnel(out.Bytes), 13)
	reply := plantest.IP{Source: stock, Dest: cart, Protocol: 1, ICMPType: 0, ICMPID: 77}
	back := b.from(13, reply.Workload(13))
	want(t, back, verdict.NextTunnel, verdict.ReasonForwarded)
	if got := delivered(t, a.tunnel(back.Bytes), cartID); got.ICMPType != 0 || got.ICMPID != 77 {
		t.Errorf("cart sees %+v", got)
	}
	reply.ICMPID = 78
	want(t, b.from(13, reply.Workload(13)), verdict.NextNone, verdict.ReasonNoFlow)
}
