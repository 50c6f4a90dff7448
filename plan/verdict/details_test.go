package verdict_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

func TestRefusalsFromAWorkload(t *testing.T) {
	syn := tcp(cart, vip, 40000, 443, plantest.SYN)
	spoil := func(p plantest.IP, change func(b []byte)) []byte {
		b := p.Workload(cartID)
		change(b)
		return b
	}
	to := func(dest netip.Addr, protocol uint8, port uint16) []byte {
		return plantest.IP{Source: cart, Dest: dest, Protocol: protocol, SourcePort: 9, DestPort: port, Flags: plantest.SYN, ICMPType: 8}.
			Workload(cartID)
	}
	cases := map[string]struct {
		frame  []byte
		reason verdict.Reason
	}{
		"MAC":                  {spoil(syn, func(b []byte) { b[6]++ }), verdict.ReasonSpoofedMAC},
		"IPv6":                 {spoil(syn, func(b []byte) { b[12], b[13] = 0x86, 0xdd }), verdict.ReasonNotIP},
		"VLAN":                 {spoil(syn, func(b []byte) { b[12], b[13] = 0x81, 0 }), verdict.ReasonNotIP},
		"version":              {spoil(syn, func(b []byte) { b[14] = 0x65 }), verdict.ReasonMalformed},
		"IHL":                  {spoil(syn, func(b []byte) { b[14] = 0x44 }), verdict.ReasonMalformed},
		"length beyond frame":  {spoil(syn, func(b []byte) { b[17]++ }), verdict.ReasonMalformed},
		"length below header":  {spoil(syn, func(b []byte) { b[17] = 19 }), verdict.ReasonMalformed},
		"options":              {spoil(syn, func(b []byte) { b[14] = 0x46 }), verdict.ReasonIPOptions},
		"source":               {spoil(syn, func(b []byte) { b[29]++ }), verdict.ReasonSpoofedAddress},
		"MF":                   {spoil(syn, func(b []byte) { b[20] = 0x20 }), verdict.ReasonFragment},
		"offset":               {spoil(syn, func(b []byte) { b[21] = 1 }), verdict.ReasonFragment},
		"protocol":             {spoil(syn, func(b []byte) { b[23] = 47 }), verdict.ReasonProtocol},
		"doff":                 {spoil(syn, func(b []byte) { b[46] = 4 << 4 }), verdict.ReasonMalformed},
		"doff beyond":          {spoil(syn, func(b []byte) { b[46] = 6 << 4 }), verdict.ReasonMalformed},
		"port 0":               {to(vip, 6, 0), verdict.ReasonMalformed},
		"short UDP":            {spoil(syn, func(b []byte) { b[23], b[17] = 17, 27 }), verdict.ReasonMalformed},
		"short ICMP":           {spoil(syn, func(b []byte) { b[23], b[17] = 1, 27 }), verdict.ReasonMalformed},
		"ICMP type":            {spoil(plantest.IP{Source: cart, Dest: till, Protocol: 1, ICMPType: 13}, func([]byte) {}), verdict.ReasonProtocol},
		"ICMP code":            {spoil(plantest.IP{Source: cart, Dest: till, Protocol: 1, ICMPType: 8, ICMPCode: 1}, func([]byte) {}), verdict.ReasonProtocol},
		"echo reply":           {spoil(plantest.IP{Source: cart, Dest: till, Protocol: 1}, func([]byte) {}), verdict.ReasonNoFlow},
		"truncated":            {syn.Workload(cartID)[:33], verdict.ReasonMalformed},
		"only Ethernet":        {syn.Workload(cartID)[:14], verdict.ReasonMalformed},
		"nowhere":              {to(netip.MustParseAddr("10.0.9.9"), 6, 443), verdict.ReasonNoDestination},
		"itself":               {to(cart, 6, 443), verdict.ReasonNoDestination},
		"resolver, other port": {to(plantest.Resolver, 17, 54), verdict.ReasonHostNotAdmitted},
		"resolver, ping":       {to(plantest.Resolver, 1, 0), verdict.ReasonHostNotAdmitted},
		"endpoint, other port": {to(vip, 17, 443), verdict.ReasonEndpointGroup},
		"endpoint, ping":       {to(vip, 1, 0), verdict.ReasonEndpointGroup},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := newNode(t, 1, plantest.Workloads())
			v := a.from(cartID, c.frame)
			want(t, v, verdict.NextNone, c.reason)
			if v.Action != verdict.Drop || len(a.state.Flows) != 0 {
				t.Errorf("action %d, %d flows", v.Action, len(a.state.Flows))
			}
			size := uint64(len(c.frame) - 14)
			for _, r := range []verdict.Reason{verdict.ReasonNone, c.reason} {
				key := verdict.CounterKey{ENI: cartID, Hook: verdict.HookWorkload, Reason: r}
				if v.Counters[key] != (verdict.Count{Packets: 1, Bytes: size}) {
					t.Errorf("counter %v: %v", r, v.Counters)
				}
			}
		})
	}
}

func TestRefusalsByPolicy(t *testing.T) {
	syn := tcp(cart, vip, 40000, 443, plantest.SYN)
	cases := map[string]struct {
		change func(*api.View)
		reason verdict.Reason
	}{
		"no egress":     {func(v *api.View) { v.Groups[0].Egress = nil }, verdict.ReasonGroupEgress},
		"not admitted":  {func(v *api.View) { v.Groups[1].Ingress = v.Groups[1].Ingress[1:] }, verdict.ReasonEndpointGroup},
		"no listener":   {func(v *api.View) { v.Endpoints[0].Listeners = v.Endpoints[0].Listeners[1:] }, verdict.ReasonNoListener},
		"no connection": {func(v *api.View) { v.Endpoints = nil; v.Names = nil }, verdict.ReasonNoListener},
		"no target":     {func(v *api.View) { v.Endpoints[0].Listeners[0].Targets = nil }, verdict.ReasonNoTarget},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := newNode(t, 1, plantest.Workloads(), c.change)
			want(t, a.from(cartID, syn.Workload(cartID)), verdict.NextNone, c.reason)
		})
	}
}

func TestRefusalsAtTheProvider(t *testing.T) {
	target := netip.MustParseAddr("10.0.1.6")
	from, to := plantest.At(plantest.Shop, cart, plantest.TagTCP), plantest.At(plantest.Pay, target, 0)
	syn := tcp(cart, target, 40000, 8443, plantest.SYN)
	spoil := func(at int, x byte) []byte {
		b := syn.Overlay(from, to)
		b[at] ^= x
		return b
	}
	other := func(p plantest.IP, change func(from, to *api.Overlay)) []byte {
		f, d := from, to
		change(&f, &d)
		return p.Overlay(f, d)
	}
	cases := map[string]struct {
		packet []byte
		reason verdict.Reason
	}{
		"version":          {spoil(0, 0x20), verdict.ReasonMalformed},
		"short":            {syn.Overlay(from, to)[:39], verdict.ReasonMalformed},
		"payload":          {spoil(5, 0x80), verdict.ReasonMalformed},
		"next header":      {spoil(6, 0x30), verdict.ReasonProtocol},
		"probe":            {spoil(6, 6^253), verdict.ReasonAnswered},
		"adj of source":    {spoil(23, 1), verdict.ReasonBadOverlay},
		"adj of dest":      {spoil(39, 1), verdict.ReasonBadOverlay},
		"tag without adj":  {spoil(21, 1), verdict.ReasonBadOverlay},
		"mesh":             {other(syn, func(f, d *api.Overlay) { f.Mesh++ }), verdict.ReasonBadOverlay},
		"family":           {other(syn, func(f, d *api.Overlay) { d.Tag = 0 }), verdict.ReasonBadOverlay},
		"both tagged":      {other(syn, func(f, d *api.Overlay) { d.Tag |= 9 }), verdict.ReasonBadOverlay},
		"none, two VPCs":   {other(syn, func(f, d *api.Overlay) { f.Tag = 0x8000 }), verdict.ReasonBadOverlay},
		"none, VPC 0":      {other(syn, func(f, d *api.Overlay) { f.Tag = 0x8000; f.VPC, d.VPC = 0, 0 }), verdict.ReasonBadOverlay},
		"toward consumer":  {other(syn, func(f, d *api.Overlay) { *f, *d = *d, *f }), verdict.ReasonNoFlow},
		"no grant":         {other(syn, func(f, d *api.Overlay) { f.Tag++; f.Tag++ }), verdict.ReasonNoGrant},
		"other consumer":   {other(syn, func(f, d *api.Overlay) { f.VPC = 9 }), verdict.ReasonNoGrant},
		"other provider":   {other(syn, func(f, d *api.Overlay) { d.VPC = 9 }), verdict.ReasonBadOverlay},
		"protocol":         {plantest.IP{Protocol: 17, SourcePort: 1, DestPort: 8443}.Overlay(from, to), verdict.ReasonTargetNotGranted},
		"middle":           {tcp(cart, target, 40000, 8443, plantest.ACK).Overlay(from, to), verdict.ReasonNoFlow},
		"port":             {tcp(cart, target, 40000, 22, plantest.SYN).Overlay(from, to), verdict.ReasonTargetNotGranted},
		"target":           {other(syn, func(f, d *api.Overlay) { d.Host++ }), verdict.ReasonTargetNotGranted},
		"source":           {other(syn, func(f, d *api.Overlay) { f.Host++ }), verdict.ReasonGrantSource},
		"nobody here":      {other(syn, func(f, d *api.Overlay) { f.Tag, f.VPC = 0x8000, plantest.Pay; d.Host += 90 }), verdict.ReasonNotHere},
		"ingress in a VPC": {other(syn, func(f, d *api.Overlay) { f.Tag, f.VPC = 0x8000, plantest.Pay }), verdict.ReasonGroupIngress},
		"middle in a VPC": {other(tcp(cart, target, 1, 2, plantest.ACK), func(f, d *api.Overlay) { f.Tag, f.VPC = 0x8000, plantest.Pay }),
			verdict.ReasonNoFlow},
		"granted": {syn.Overlay(from, to), verdict.ReasonForwarded},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newNode(t, 2, plantest.Workloads())
			v := b.tunnel(c.packet)
			next := verdict.NextNone
			if c.reason == verdict.ReasonForwarded {
				next = verdict.NextWorkload
			}
			want(t, v, next, c.reason)
		})
	}
	groups := map[string]struct {
		change func(*api.View)
		reason verdict.Reason
	}{
		"LB ingress":     {func(v *api.View) { v.Groups[3].Ingress = nil }, verdict.ReasonLBGroupIngress},
		"LB egress":      {func(v *api.View) { v.Groups[3].Egress = nil }, verdict.ReasonLBGroupEgress},
		"target ingress": {func(v *api.View) { v.Groups[2].Ingress = v.Groups[2].Ingress[1:] }, verdict.ReasonGroupIngress},
		"not attached":   {nil, verdict.ReasonNotHere},
	}
	for name, c := range groups {
		t.Run(name, func(t *testing.T) {
			v := plantest.View(2, plantest.Workloads())
			f := plantest.Facts(v)
			if c.change != nil {
				c.change(&v)
			} else {
				f.Ready = nil
			}
			f.Generation = 1
			p, err := plan.Compile(v, f)
			if err != nil {
				t.Fatal(err)
			}
			n := &node{t, p, &verdict.State{}}
			want(t, n.tunnel(syn.Overlay(from, to)), verdict.NextNone, c.reason)
		})
	}
}

func TestClosedNode(t *testing.T) {
	syn := tcp(cart, vip, 40000, 443, plantest.SYN).Workload(cartID)
	a := newNode(t, 1, plantest.Workloads())
	a.plan.Config.ExpiresNS, a.state.NowNS = 100, 100
	want(t, a.from(99, syn), verdict.NextNone, verdict.ReasonUnknownLink)
	want(t, a.from(cartID, syn), verdict.NextTunnel, verdict.ReasonForwarded)
	a.state.NowNS++
	want(t, a.from(cartID, syn), verdict.NextNone, verdict.ReasonViewExpired)
	want(t, a.tunnel(nil), verdict.NextNone, verdict.ReasonViewExpired)
	a.plan.Generation = 0
	want(t, a.from(cartID, syn), verdict.NextNone, verdict.ReasonNoState)
	want(t, a.host(nil), verdict.NextNone, verdict.ReasonNoState)
}

func TestARP(t *testing.T) {
	me, zero := plantest.MAC(cartID), netip.IPv4Unspecified()
	other := netip.MustParseAddr("10.0.1.66")
	cases := map[string]struct {
		frame    []byte
		reason   verdict.Reason
		answered bool
	}{
		"gateway":       {plantest.ARP(1, me, me, cart, netip.MustParseAddr("10.0.1.1")), verdict.ReasonAnswered, true},
		"nobody":        {plantest.ARP(1, me, me, cart, other), verdict.ReasonAnswered, true},
		"announcement":  {plantest.ARP(1, me, me, cart, cart), verdict.ReasonAnswered, false},
		"probe of self": {plantest.ARP(1, me, me, zero, cart), verdict.ReasonAnswered, false},
		"probe":         {plantest.ARP(1, me, me, zero, other), verdict.ReasonSpoofedAddress, false},
		"reply":         {plantest.ARP(2, me, me, cart, other), verdict.ReasonAnswered, false},
		"claims other":  {plantest.ARP(1, me, me, other, cart), verdict.ReasonSpoofedAddress, false},
		"claims reply":  {plantest.ARP(2, me, me, other, cart), verdict.ReasonSpoofedAddress, false},
		"other MAC":     {plantest.ARP(1, me, plantest.MAC(12), cart, other), verdict.ReasonSpoofedAddress, false},
		"operation":     {plantest.ARP(3, me, me, cart, other), verdict.ReasonMalformed, false},
		"short":         {plantest.ARP(1, me, me, cart, other)[:41], verdict.ReasonMalformed, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := newNode(t, 1, plantest.Workloads())
			v := a.from(cartID, c.frame)
			want(t, v, verdict.NextNone, c.reason)
			if (v.Action == verdict.Redirect) != c.answered {
				t.Fatalf("action %d", v.Action)
			}
			if !c.answered {
				return
			}
			target := netip.AddrFrom4([4]byte(c.frame[38:42]))
			answer := plantest.ARP(2, plantest.GatewayMAC, plantest.GatewayMAC, target, cart)
			copy(answer, me[:])
			copy(answer[32:], me[:])
			if v.Ifindex != 111 || !bytes.Equal(v.Bytes, answer) {
				t.Errorf("ifindex %d, answer % x, want % x", v.Ifindex, v.Bytes, answer)
			}
		})
	}
}

func TestResets(t *testing.T) {
	a := newNode(t, 1, plantest.Workloads())
	p := tcp(cart, vip, 40000, 443, plantest.ACK|plantest.PSH)
	p.Payload = []byte("hello")
	v := a.from(cartID, p.Workload(cartID))
	want(t, v, verdict.NextNone, verdict.ReasonNoFlow)
	got := read(t, v.Bytes[14:])
	if len(v.Bytes) != 54 || got.Source != vip || got.SourcePort != 443 || got.DestPort != 40000 || got.Flags != plantest.RST ||
		got.Seq != 2000 || got.Ack != 0 || got.TTL != 64 || !got.DF || v.Ifindex != 111 {
		t.Errorf("RST %+v", got)
	}
	p.Flags = plantest.FIN | plantest.SYN
	got = read(t, a.from(cartID, p.Workload(cartID)).Bytes[14:])
	if got.Flags != plantest.RST|plantest.ACK || got.Seq != 0 || got.Ack != 1000+5+2 {
		t.Errorf("RST %+v", got)
	}
	p.Flags = plantest.RST
	if v := a.from(cartID, p.Workload(cartID)); v.Action != verdict.Drop || v.Reason != verdict.ReasonNoFlow {
		t.Errorf("a RST was answered: %+v", v)
	}
	if v := a.tunnel(p.Overlay(plantest.At(plantest.Pay, cart, 0), plantest.At(plantest.Shop, cart, 5))); v.Action != verdict.Drop {
		t.Errorf("the receive half answers: %+v", v)
	}
}

func TestTooBig(t *testing.T) {
	a := newNode(t, 1, plantest.Workloads())
	p := plantest.IP{Source: cart, Dest: stock, Protocol: 17, SourcePort: 9, DestPort: 9, Payload: make([]byte, plantest.TunnelMTU-20-28)}
	want(t, a.from(cartID, p.Workload(cartID)), verdict.NextTunnel, verdict.ReasonForwarded)
	p.Payload = append(p.Payload, 0)
	for _, fresh := range []bool{false, true} {
		if fresh {
			p.SourcePort++
		}
		before := len(a.state.Flows)
		v := a.from(cartID, p.Workload(cartID))
		want(t, v, verdict.NextNone, verdict.ReasonTooBig)
		got := read(t, v.Bytes[14:])
		icmp := v.Bytes[34:]
		if got.Source != stock || got.ICMPType != 3 || icmp[1] != 4 || binary.BigEndian.Uint16(icmp[6:]) != plantest.TunnelMTU-28 ||
			!bytes.Equal(icmp[8:], p.Bytes()[:28]) {
			t.Errorf("answer % x", v.Bytes)
		}
		if len(a.state.Flows) != before {
			t.Error("a refused packet made an entry")
		}
	}
	for key, f := range a.state.Flows {
		if key.View == verdict.ViewWorkload && f.Packets != 1 {
			t.Errorf("%d packets counted in the entry", f.Packets)
		}
	}
	one := newNode(t, 1, plantest.OnNode(1))
	want(t, one.from(cartID, p.Workload(cartID)), verdict.NextWorkload, verdict.ReasonForwarded, verdict.ReasonForwarded)
}

func TestMSS(t *testing.T) {
	cases := map[string]struct{ in, out []byte }{
		"plain":        {[]byte{2, 4, 5, 180}, []byte{2, 4, 5, 72}},
		"low enough":   {[]byte{2, 4, 2, 24}, []byte{2, 4, 2, 24}},
		"odd place":    {[]byte{1, 2, 4, 5, 180, 1, 1, 0}, []byte{1, 2, 4, 5, 72, 1, 1, 0}},
		"after other":  {[]byte{3, 3, 7, 1, 4, 2, 2, 4, 9, 9, 1, 1}, []byte{3, 3, 7, 1, 4, 2, 2, 4, 5, 72, 1, 1}},
		"after end":    {[]byte{0, 1, 1, 1, 2, 4, 9, 9}, []byte{0, 1, 1, 1, 2, 4, 9, 9}},
		"length 0":     {[]byte{3, 0, 1, 1, 2, 4, 9, 9}, []byte{3, 0, 1, 1, 2, 4, 9, 9}},
		"wrong length": {[]byte{2, 8, 9, 9, 9, 9, 9, 9}, []byte{2, 8, 9, 9, 9, 9, 9, 9}},
		"beyond":       {[]byte{1, 1, 2, 4}, []byte{1, 1, 2, 4}},
		"last byte":    {[]byte{1, 1, 1, 2}, []byte{1, 1, 1, 2}},
		"twice":        {[]byte{2, 4, 9, 9, 2, 4, 9, 9}, []byte{2, 4, 5, 72, 2, 4, 5, 72}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1, plantest.OnNode(1))
			syn := tcp(cart, vip, 40000, 443, plantest.SYN)
			syn.Options = c.in
			v := n.from(cartID, syn.Workload(cartID))
			delivered(t, v, v.Ifindex-100)
			if got := v.Bytes[54:]; !bytes.Equal(got, c.out) {
				t.Errorf("options %v, want %v", got, c.out)
			}
		})
	}
}

// Revoking: live flows go on under a new generation that still allows them and die under one that does not.
func TestGenerations(t *testing.T) {
	a, b := newNode(t, 1, plantest.Workloads()), newNode(t, 2, plantest.Workloads())
	syn := a.from(cartID, tcp(cart, vip, 40000, 443, plantest.SYN).Workload(cartID))
	in := b.tunnel(syn.Bytes)
	target := in.Ifindex - 100
	got := delivered(t, in, target)
	data := tcp(cart, vip, 40000, 443, plantest.ACK).Workload(cartID)
	answer := tcp(got.Dest, lb, 8443, 40000, plantest.ACK).Workload(target)

	// Still allowed, though the targets are deregistered: nothing is chosen again.
	v := plantest.View(2, plantest.Workloads())
	v.Grants[0].Draining, v.Grants[0].Targets = v.Grants[0].Targets, nil
	b.plan = compile(t, v, 2)
	another := a.from(cartID, tcp(cart, vip, 40001, 443, plantest.SYN).Workload(cartID))
	want(t, b.tunnel(another.Bytes), verdict.NextNone, verdict.ReasonTargetNotGranted)
	want(t, b.from(target, answer), verdict.NextTunnel, verdict.ReasonForwarded)
	for _, f := range b.state.Flows {
		if f.Generation != 2 {
			t.Errorf("generation %d", f.Generation)
		}
	}
	v.Grants = nil
	b.plan = compile(t, v, 3)
	reset := b.from(target, answer)
	want(t, reset, verdict.NextNone, verdict.ReasonFlowRevoked)
	if got := read(t, reset.Bytes[14:]); got.Flags&plantest.RST == 0 || got.Source != lb {
		t.Errorf("answer %+v", got)
	}
	want(t, b.tunnel(a.from(cartID, data).Bytes), verdict.NextNone, verdict.ReasonFlowRevoked)
	b.plan = newNode(t, 2, plantest.Workloads()).plan
	b.plan.Generation = 4
	want(t, b.tunnel(a.from(cartID, data).Bytes), verdict.NextNone, verdict.ReasonFlowRevoked)

	// The consumer's side judges an answer by the direction that opened.
	w := plantest.View(1, plantest.Workloads())
	w.Groups[1].Ingress = nil
	a.plan = compile(t, w, 2)
	reply := tcp(got.Dest, cart, 8443, 40000, plantest.ACK).
		Overlay(plantest.At(plantest.Pay, got.Dest, 0), plantest.At(plantest.Shop, cart, plantest.TagTCP))
	want(t, a.tunnel(reply), verdict.NextNone, verdict.ReasonFlowRevoked)
	want(t, a.from(cartID, data), verdict.NextNone, verdict.ReasonFlowRevoked)
}

func TestAnotherENIAtTheSameAddress(t *testing.T) {
	b := newNode(t, 2, plantest.Workloads())
	target := netip.MustParseAddr("10.0.1.6")
	from, to := plantest.At(plantest.Shop, cart, plantest.TagTCP), plantest.At(plantest.Pay, target, 0)
	want(t, b.tunnel(tcp(cart, target, 40000, 8443, plantest.SYN).Overlay(from, to)), verdict.NextWorkload, verdict.ReasonForwarded)
	for i := range b.plan.ENIs {
		if b.plan.ENIs[i].Number == 22 {
			b.plan.ENIs[i].Number = 99
		}
	}
	want(t, b.tunnel(tcp(cart, target, 40000, 8443, plantest.ACK).Overlay(from, to)), verdict.NextNone, verdict.ReasonNotHere)
	b.plan.Generation++
	want(t, b.tunnel(tcp(cart, target, 40000, 8443, plantest.ACK).Overlay(from, to)), verdict.NextNone, verdict.ReasonFlowRevoked)
}

func TestClosedFlowsOpenAgain(t *testing.T) {
	for name, flags := range map[string][2]uint8{"RST": {plantest.RST, 0}, "FINs": {plantest.FIN | plantest.ACK, plantest.FIN | plantest.ACK}} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1, plantest.OnNode(1))
			in := n.from(cartID, tcp(cart, vip, 40000, 443, plantest.SYN).Workload(cartID))
			target := in.Ifindex - 100
			got := delivered(t, in, target)
			n.from(cartID, tcp(cart, vip, 40000, 443, flags[0]).Workload(cartID))
			if flags[1] != 0 {
				want(t, n.from(target, tcp(got.Dest, lb, 8443, 40000, flags[1]).Workload(target)), verdict.NextWorkload,
					verdict.ReasonForwarded, verdict.ReasonForwarded)
			}
			for key, f := range n.state.Flows {
				if f.Flags&verdict.FlowClosed == 0 {
					t.Errorf("%+v is not closed", key)
				}
			}
			again := n.from(cartID, tcp(cart, vip, 40000, 443, plantest.SYN).Workload(cartID))
			want(t, again, verdict.NextWorkload, verdict.ReasonForwarded, verdict.ReasonForwarded)
			if len(again.Created) != 4 || len(n.state.Flows) != 4 {
				t.Errorf("%d made, %d there", len(again.Created), len(n.state.Flows))
			}
		})
	}
}

// setFlags gives all entries of a node flags.
func (n *node) setFlags(flags uint16) {
	for k, f := range n.state.Flows {
		f.Flags |= flags
		n.state.Flows[k] = f
	}
}

// A flow whose time is over is as good as absent, for every packet, but at the provider only for one that opens it anew.
func TestExpiredFlowsAreAbsent(t *testing.T) {
	n := newNode(t, 1, plantest.OnNode(1))
	open := func() uint32 {
		t.Helper()
		v := n.from(cartID, tcp(cart, vip, 40000, 443, plantest.SYN).Workload(cartID))
		want(t, v, verdict.NextWorkload, verdict.ReasonForwarded, verdict.ReasonForwarded)
		if len(v.Created) != 4 || len(n.state.Flows) != 4 {
			t.Fatalf("%d made, %d there", len(v.Created), len(n.state.Flows))
		}
		return v.Ifindex - 100
	}
	open()
	n.setFlags(verdict.FlowExpired)
	target := open()
	n.setFlags(verdict.FlowExpired | verdict.FlowDead)
	want(t, n.from(cartID, tcp(cart, vip, 40000, 443, plantest.ACK).Workload(cartID)), verdict.NextNone, verdict.ReasonNoFlow)
	if len(n.state.Flows) != 2 {
		t.Errorf("%d entries left, want those of the receive half", len(n.state.Flows))
	}
	answer := tcp(addressOf(n, target), lb, 8443, 40000, plantest.ACK).Workload(target)
	want(t, n.from(target, answer), verdict.NextNone, verdict.ReasonNoFlow)
	if len(n.state.Flows) != 2 {
		t.Errorf("%d entries left, want those of the receive half", len(n.state.Flows))
	}
	n.setFlags(verdict.FlowClosed)
	want(t, n.from(target, answer), verdict.NextNone, verdict.ReasonNoFlow)
	if len(n.state.Flows) != 0 {
		t.Errorf("%d entries left", len(n.state.Flows))
	}
}

// The source port of a provider's flow is nobody else's though the flow's time be over or its permission gone: the target
// may have an open socket behind it. What a RST or FINs have closed frees it when its time is over.
func TestPortOfAnotherFlowIsHeld(t *testing.T) {
	for _, protocol := range []uint8{6, 17} {
		for flags, frees := range map[uint16]bool{
			0: false, verdict.FlowExpired: false, verdict.FlowDead: false, verdict.FlowExpired | verdict.FlowDead: false,
			verdict.FlowClosed: false, verdict.FlowExpired | verdict.FlowClosed: true,
		} {
			n := newNode(t, 2, plantest.Workloads())
			tag := uint16(plantest.TagTCP)
			if protocol == 17 {
				tag = plantest.TagUDP
			}
			from := func(source netip.Addr, flags uint8) verdict.Verdict {
				return n.tunnel(plantest.IP{
					Source: source, Dest: cart, Protocol: protocol, SourcePort: 40000, DestPort: 8443, Flags: flags,
				}.Overlay(plantest.At(plantest.Shop, source, tag), plantest.At(plantest.Pay, cart, 0)))
			}
			first := from(cart, plantest.SYN)
			want(t, first, verdict.NextWorkload, verdict.ReasonForwarded)
			n.setFlags(flags)
			entries := maps.Clone(n.state.Flows)
			second := from(stock, plantest.SYN)
			want(t, second, verdict.NextWorkload, verdict.ReasonForwarded)
			if same := portOf(first) == portOf(second); same != frees {
				t.Errorf("protocol %d, flags %d: ports %d and %d", protocol, flags, portOf(first), portOf(second))
			}
			if frees {
				continue
			}
			for key, f := range entries {
				if n.state.Flows[key] != f {
					t.Errorf("protocol %d, flags %d: %+v is %+v, was %+v", protocol, flags, key, n.state.Flows[key], f)
				}
			}
		}
	}
}

// The consumer itself, coming back, gets the port that was held, though its own be free again; one that may not any more
// frees nothing.
func TestHeldPortIsItsConsumers(t *testing.T) {
	for _, flags := range []uint16{verdict.FlowExpired, verdict.FlowDead} {
		n := newNode(t, 2, plantest.Workloads())
		from := func(source netip.Addr, flags uint8) verdict.Verdict {
			return n.tunnel(tcp(source, cart, 40000, 8443, flags).
				Overlay(plantest.At(plantest.Shop, source, plantest.TagTCP), plantest.At(plantest.Pay, cart, 0)))
		}
		from(stock, plantest.SYN)
		first := from(cart, plantest.SYN) // finds the port taken
		want(t, first, verdict.NextWorkload, verdict.ReasonForwarded)
		want(t, from(stock, plantest.RST), verdict.NextWorkload, verdict.ReasonForwarded)
		n.setFlags(flags)
		entries := maps.Clone(n.state.Flows)
		grants := n.plan.Grants
		n.plan.Grants = nil
		want(t, from(cart, plantest.SYN), verdict.NextNone, verdict.ReasonNoGrant)
		if !maps.Equal(entries, n.state.Flows) {
			t.Errorf("flags %d: a refused SYN left %+v of %+v", flags, n.state.Flows, entries)
		}
		n.plan.Grants = grants
		again := from(cart, plantest.SYN)
		want(t, again, verdict.NextWorkload, verdict.ReasonForwarded)
		if portOf(again) != portOf(first) || portOf(first) == 40000 || len(again.Created) != 2 {
			t.Errorf("flags %d: port %d, then %d", flags, portOf(first), portOf(again))
		}
	}
}

// A datagram of a revoked flow that holds its port is judged anew, as permission may be back long before the port is free.
func TestRevokedDatagramsAreJudgedAnew(t *testing.T) {
	n := newNode(t, 2, plantest.Workloads())
	from := func() verdict.Verdict {
		return n.tunnel(plantest.IP{Source: cart, Dest: cart, Protocol: 17, SourcePort: 40000, DestPort: 8443}.
			Overlay(plantest.At(plantest.Shop, cart, plantest.TagUDP), plantest.At(plantest.Pay, cart, 0)))
	}
	want(t, from(), verdict.NextWorkload, verdict.ReasonForwarded)
	grants := n.plan.Grants
	n.plan.Grants = nil
	n.plan.Generation++
	want(t, from(), verdict.NextNone, verdict.ReasonFlowRevoked)
	want(t, from(), verdict.NextNone, verdict.ReasonNoGrant)
	n.plan.Grants = grants
	again := from()
	want(t, again, verdict.NextWorkload, verdict.ReasonForwarded)
	if portOf(again) != 40000 || len(again.Created) != 2 || len(n.state.Flows) != 2 {
		t.Errorf("port %d, %d made, %d there", portOf(again), len(again.Created), len(n.state.Flows))
	}
}

// portOf is the source port that the target sees.
func portOf(v verdict.Verdict) uint16 { return binary.BigEndian.Uint16(v.Bytes[14+20:]) }

// A target's SYN from the port of a revoked flow frees nothing.
func TestTargetFreesNoPort(t *testing.T) {
	n := newNode(t, 1, plantest.OnNode(1))
	target := n.from(cartID, tcp(cart, vip, 40000, 443, plantest.SYN).Workload(cartID)).Ifindex - 100
	n.setFlags(verdict.FlowDead)
	v := n.from(target, tcp(addressOf(n, target), lb, 8443, 40000, plantest.SYN).Workload(target))
	want(t, v, verdict.NextNone, verdict.ReasonFlowRevoked)
	if len(n.state.Flows) != 4 {
		t.Errorf("%d entries left", len(n.state.Flows))
	}
}

func addressOf(n *node, eni uint32) netip.Addr {
	for _, e := range n.plan.ENIs {
		if e.Number == eni {
			return e.Address
		}
	}
	return netip.Addr{}
}

// A revoked flow makes way for a SYN; other packets stay refused.
func TestRevokedFlowsOpenAgain(t *testing.T) {
	n := newNode(t, 1, plantest.OnNode(1))
	first := tcp(cart, vip, 40000, 443, plantest.SYN).Workload(cartID)
	n.from(cartID, first)
	n.setFlags(verdict.FlowDead)
	want(t, n.from(cartID, tcp(cart, vip, 40000, 443, plantest.ACK).Workload(cartID)), verdict.NextNone, verdict.ReasonFlowRevoked)
	want(t, n.from(cartID, first), verdict.NextWorkload, verdict.ReasonForwarded, verdict.ReasonForwarded)
	for key, f := range n.state.Flows {
		if f.Flags&verdict.FlowDead != 0 || len(n.state.Flows) != 4 {
			t.Errorf("%+v of %d has flags %d", key, len(n.state.Flows), f.Flags)
		}
	}
}

// A provider's workload never opens anything toward a consumer.
func TestProviderNeverOpens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := newNode(t, 2, plantest.Workloads())
		dest := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(rt, "dest")))
		if rapid.Bool().Draw(rt, "a known address") {
			dest = rapid.SampledFrom([]netip.Addr{cart, till, stock, vip, lb}).Draw(rt, "known")
		}
		out := n.decide(verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 121, Bytes: plantest.IP{
			Source: cart, Dest: dest, Protocol: rapid.SampledFrom([]uint8{1, 6, 17}).Draw(rt, "protocol"), ICMPType: 8,
			SourcePort: 8443, DestPort: rapid.Uint16Min(1).Draw(rt, "port"), Flags: rapid.Byte().Draw(rt, "flags"),
		}.Workload(21)})
		if out.Next != verdict.NextTunnel {
			return
		}
		to, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(out.Bytes[24:40])))
		if to.VPC != plantest.Pay || to.Number() != 0 {
			rt.Fatalf("a packet to %+v", to)
		}
	})
}

// Whatever stands in a frame, deciding neither panics nor forgets to count, and what is delivered has right checksums
// when it had them before.
func TestAnyBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := newNode(t, 1, plantest.OnNode(1))
		b := tcp(cart, vip, 40000, 443, plantest.SYN).Workload(cartID)
		if rapid.Bool().Draw(rt, "overlay") {
			b = tcp(cart, cart, 1, 8443, plantest.SYN).
				Overlay(plantest.At(plantest.Shop, cart, plantest.TagTCP), plantest.At(plantest.Pay, cart, 0))
		}
		for range rapid.IntRange(0, 6).Draw(rt, "changes") {
			b[rapid.IntRange(0, len(b)-1).Draw(rt, "at")] = rapid.Byte().Draw(rt, "byte")
		}
		b = b[:rapid.IntRange(0, len(b)).Draw(rt, "length")]
		hook := rapid.SampledFrom([]verdict.Hook{verdict.HookWorkload, verdict.HookTunnel, verdict.HookHost}).Draw(rt, "hook")
		v := n.decide(verdict.Packet{Hook: hook, Ifindex: 111, Bytes: b})
		in, out := uint64(0), uint64(0)
		for key, c := range v.Counters {
			if key.Reason == verdict.ReasonNone {
				in += c.Packets
			} else {
				out += c.Packets
			}
		}
		if in != out || in != uint64(len(v.Stages)) {
			rt.Fatalf("%d counted in, %d out, %d stages", in, out, len(v.Stages))
		}
	})
}

// An offloaded packet counts as what it becomes on the wire, and only its segments must fit.
func TestOffload(t *testing.T) {
	a := newNode(t, 1, plantest.Workloads())
	p := tcp(cart, stock, 40000, 22, plantest.SYN)
	p.Payload = make([]byte, 1400)
	for segment, want := range map[int]verdict.Count{
		1000: {Packets: 2, Bytes: 1400 + 2*40}, 1360: {Packets: 2, Bytes: 1400 + 2*40}, 100: {Packets: 14, Bytes: 1400 + 14*40},
	} {
		a.state.Flows = nil
		v := a.decide(verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 111, Bytes: p.Workload(cartID), Segment: segment})
		if v.Next != verdict.NextTunnel {
			t.Fatalf("segments of %d: %v", segment, v.Stages)
		}
		for _, r := range []verdict.Reason{verdict.ReasonNone, verdict.ReasonForwarded} {
			if got := v.Counters[verdict.CounterKey{ENI: cartID, Hook: verdict.HookWorkload, Reason: r}]; got != want {
				t.Errorf("segments of %d: %s %+v, want %+v", segment, r, got, want)
			}
		}
		f := a.state.Flows[v.Created[1]]
		if f.Packets != want.Packets || f.Bytes != want.Bytes {
			t.Errorf("segments of %d: the entry has %d packets, %d bytes", segment, f.Packets, f.Bytes)
		}
	}
	p.Payload = make([]byte, verdict.MaxSegments+1)
	for segment, r := range map[int]verdict.Reason{1: verdict.ReasonMalformed, 2: verdict.ReasonForwarded} {
		v := a.decide(verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 111, Bytes: p.Workload(cartID), Segment: segment})
		if v.Stages[0].Reason != r {
			t.Errorf("segments of %d: %v, want %s", segment, v.Stages, r)
		}
	}
	p.Payload = p.Payload[:1400]
	v := a.decide(verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 111, Bytes: p.Workload(cartID), Segment: 1361})
	want(t, v, verdict.NextNone, verdict.ReasonTooBig)
	ping := plantest.IP{Source: cart, Dest: stock, Protocol: 1, ICMPType: 8}
	v = a.decide(verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 111, Bytes: ping.Workload(cartID), Segment: 8})
	want(t, v, verdict.NextNone, verdict.ReasonMalformed)
}
