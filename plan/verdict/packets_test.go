package verdict_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan/verdict"
)

// udp is a datagram that a workload sends, with bytes that differ.
func udp(source, dest netip.Addr, sport, dport uint16, size int) plantest.IP {
	p := plantest.IP{Source: source, Dest: dest, Protocol: 17, SourcePort: sport, DestPort: dport, ID: 4711, Payload: make([]byte, size)}
	for i := range p.Payload {
		p.Payload[i] = byte(i ^ i>>8)
	}
	return p
}

func ethernet(eni uint32, v4 []byte) []byte {
	return plantest.Frame(plantest.GatewayMAC, plantest.MAC(eni), 0x0800, v4)
}

// through lets a workload of one node send a packet over the tunnel to another node, and returns what is delivered there.
func through(t *testing.T, from, to *node, eni uint32, v4 []byte) []byte {
	t.Helper()
	v := from.from(eni, ethernet(eni, v4))
	want(t, v, verdict.NextTunnel, verdict.ReasonForwarded)
	v = to.tunnel(v.Bytes)
	want(t, v, verdict.NextWorkload, verdict.ReasonForwarded)
	return v.Bytes[14:]
}

// joined puts fragments in order together again.
func joined(t *testing.T, pieces [][]byte) []byte {
	t.Helper()
	whole := bytes.Clone(pieces[0][:20])
	for i, b := range pieces {
		bits := binary.BigEndian.Uint16(b[6:])
		if int(bits&0x1fff)*8 != len(whole)-20 || (bits&plantest.MoreFragments != 0) != (i < len(pieces)-1) ||
			!bytes.Equal(b[4:6], whole[4:6]) {
			t.Fatalf("fragment %d: % x, %d bytes before it", i, b[:20], len(whole)-20)
		}
		whole = append(whole, b[20:binary.BigEndian.Uint16(b[2:])]...)
	}
	whole[6], whole[7] = 0, 0
	binary.BigEndian.PutUint16(whole[2:], uint16(len(whole)))
	return plantest.Sealed(whole)
}

// A datagram in fragments of any size is what it was when it arrives, and so is its answer.
func TestFragmentsCrossWhole(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a, b := newNode(t, 1, plantest.Workloads()), newNode(t, 2, plantest.Workloads())
		size := 8 * rapid.IntRange(2, 160).Draw(r, "size")
		cross := func(from, to *node, eni uint32, p plantest.IP) plantest.IP {
			var pieces [][]byte
			for _, piece := range plantest.Fragments(p.Bytes(), size, 4711) {
				pieces = append(pieces, through(t, from, to, eni, piece))
			}
			whole := joined(t, pieces)
			if !bytes.Equal(whole[28:], p.Payload) {
				t.Fatal("the payload changed")
			}
			return read(t, whole)
		}
		p := udp(cart, vip, 40000, 53, rapid.IntRange(size, 4000).Draw(r, "bytes"))
		p.DF = rapid.Bool().Draw(r, "DF")
		got := cross(a, b, cartID, p)
		if got.Source != lb || got.SourcePort != 40000 || got.DestPort != 8443 {
			t.Fatalf("%+v", got)
		}
		answer := udp(got.Dest, lb, 8443, 40000, size)
		if got = cross(b, a, ledgerAt(got.Dest), answer); got.Source != vip || got.Dest != cart || got.SourcePort != 53 {
			t.Fatalf("%+v", got)
		}
		for _, n := range []*node{a, b} {
			for key, f := range n.state.Flows {
				if f.Packets < 2 {
					t.Fatalf("%+v has %d packets", key, f.Packets)
				}
			}
		}
	})
}

func ledgerAt(a netip.Addr) uint32 { return uint32(a.As4()[3]) + 16 } // 10.0.1.5 is ENI 21

func TestFragmentsThatDoNotPass(t *testing.T) {
	first := func(change func(b []byte)) [][]byte {
		all := plantest.Fragments(udp(cart, vip, 40000, 53, 2000).Bytes(), 800, 4711)
		change(all[0])
		return all
	}
	none := func([]byte) {}
	bits := func(b []byte, now uint16) []byte {
		b = bytes.Clone(b)
		binary.BigEndian.PutUint16(b[6:], now)
		return b
	}
	cut := func(b []byte, n int) []byte {
		b = bytes.Clone(b[:n])
		binary.BigEndian.PutUint16(b[2:], uint16(n))
		return b
	}
	syn := tcp(cart, vip, 40000, 443, plantest.SYN)
	syn.Payload = make([]byte, 100)
	big := udp(cart, vip, 40000, 53, 1400)
	cases := map[string]struct {
		packets [][]byte
		reason  verdict.Reason // of the last
	}{
		"before the first":         {first(none)[1:2], verdict.ReasonFragment},
		"other id":                 {[][]byte{first(none)[0], withID(first(none)[1], 4712)}, verdict.ReasonFragment},
		"other protocol":           {[][]byte{first(none)[0], withProtocol(first(none)[1], 6)}, verdict.ReasonFragment},
		"over the first":           {[][]byte{first(none)[0], bits(first(none)[1], 0x2000|99)}, verdict.ReasonFragment},
		"over the first's header":  {[][]byte{first(none)[0], bits(first(none)[1], 0x2000|1)}, verdict.ReasonFragment},
		"beyond the longest":       {[][]byte{first(none)[0], bits(first(none)[1], 0x1fff)}, verdict.ReasonFragment},
		"without bytes":            {[][]byte{first(none)[0], cut(first(none)[2], 20)}, verdict.ReasonFragment},
		"odd length in the middle": {[][]byte{first(none)[0], cut(first(none)[1], 101)}, verdict.ReasonFragment},
		"TCP header cut":           {plantest.Fragments(syn.Bytes(), 16, 4711)[:1], verdict.ReasonFragment},
		"TCP options cut": {plantest.Fragments(withPayload(plantest.IP{Source: cart, Dest: vip, Protocol: 6, SourcePort: 1, DestPort: 443,
			Flags: plantest.SYN, Options: []byte{1, 1, 1, 1, 1, 1, 1, 1}}, 40).Bytes(), 24, 4711)[:1], verdict.ReasonFragment},
		"the first was refused": {plantest.Fragments(udp(cart, vip, 40000, 54, 2000).Bytes(), 800, 4711)[:2], verdict.ReasonFragment},
		"first too big":         {plantest.Fragments(big.Bytes(), 1392, 4711)[:1], verdict.ReasonTooBig},
		"to the resolver":       {plantest.Fragments(udp(cart, plantest.Resolver, 40000, 53, 100).Bytes(), 80, 4711)[:1], verdict.ReasonHostNotAdmitted},
		"in order":              {first(none), verdict.ReasonForwarded},
		"twice":                 {append(first(none), first(none)...), verdict.ReasonForwarded},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := newNode(t, 1, plantest.Workloads())
			var v verdict.Verdict
			for _, p := range c.packets {
				v = a.from(cartID, ethernet(cartID, p))
			}
			if v.Reason != c.reason {
				t.Errorf("%s, want %s", v.Reason, c.reason)
			}
		})
	}
}

func withID(b []byte, id uint16) []byte {
	b = bytes.Clone(b)
	binary.BigEndian.PutUint16(b[4:], id)
	return b
}

func withProtocol(b []byte, protocol uint8) []byte {
	b = bytes.Clone(b)
	b[9] = protocol
	return b
}

func withPayload(p plantest.IP, n int) plantest.IP {
	p.Payload = make([]byte, n)
	return p
}

// A first fragment counts for half a minute, and no longer.
func TestFragmentsAreForgotten(t *testing.T) {
	a := newNode(t, 1, plantest.Workloads())
	a.state.NowNS = uint64(time.Hour)
	pieces := plantest.Fragments(udp(cart, vip, 40000, 53, 2000).Bytes(), 800, 4711)
	want(t, a.from(cartID, ethernet(cartID, pieces[0])), verdict.NextTunnel, verdict.ReasonForwarded)
	a.state.NowNS += uint64(30 * time.Second)
	want(t, a.from(cartID, ethernet(cartID, pieces[1])), verdict.NextTunnel, verdict.ReasonForwarded)
	a.state.NowNS++
	want(t, a.from(cartID, ethernet(cartID, pieces[2])), verdict.NextNone, verdict.ReasonFragment)
}

// A source that begins many datagrams pushes out the oldest of its own, and nobody else's.
func TestFragmentsPushOutTheirOwn(t *testing.T) {
	a := newNode(t, 1, plantest.Workloads())
	tillID := uint32(12)
	others := plantest.Fragments(udp(till, vip, 40000, 53, 2000).Bytes(), 800, 4711)
	want(t, a.from(tillID, ethernet(tillID, others[0])), verdict.NextTunnel, verdict.ReasonForwarded)
	own := plantest.Fragments(udp(cart, vip, 40000, 53, 2000).Bytes(), 800, 4711)
	for id := range uint16(verdict.FragmentsHeld + 1) {
		want(t, a.from(cartID, ethernet(cartID, withID(own[0], id))), verdict.NextTunnel, verdict.ReasonForwarded)
	}
	want(t, a.from(cartID, ethernet(cartID, withID(own[1], 0))), verdict.NextNone, verdict.ReasonFragment)
	for id := uint16(1); id <= verdict.FragmentsHeld; id++ {
		want(t, a.from(cartID, ethernet(cartID, withID(own[1], id))), verdict.NextTunnel, verdict.ReasonForwarded)
	}
	want(t, a.from(tillID, ethernet(tillID, others[1])), verdict.NextTunnel, verdict.ReasonForwarded)
	if n := len(a.state.Fragments); n != verdict.FragmentsHeld+1 {
		t.Errorf("%d datagrams remembered", n)
	}
}

// Behind a translated source an id comes again only after a receiver has given up the datagram that had it before.
func TestFragmentIDsAreNotReused(t *testing.T) {
	b := newNode(t, 2, plantest.Workloads())
	b.state.NowNS = uint64(time.Hour)
	target := netip.MustParseAddr("10.0.1.6")
	piece := plantest.Fragments(udp(cart, target, 40000, 8443, 2000).Bytes(), 800, 4711)[0]
	packet := plantest.Overlay(piece, plantest.At(plantest.Shop, cart, plantest.TagUDP), plantest.At(plantest.Pay, target, 0))
	last := map[uint16]uint64{}
	forwarded, refused := 0, 0
	for step := range 75_000 {
		b.state.NowNS += uint64(time.Millisecond) / 4
		b.state.RatesNS = b.state.NowNS
		v := b.tunnel(packet)
		if v.Reason == verdict.ReasonFragment {
			refused++
			b.state.NowNS += uint64(time.Second) / 10
			continue
		}
		want(t, v, verdict.NextWorkload, verdict.ReasonForwarded)
		id := binary.BigEndian.Uint16(v.Bytes[18:])
		if before, ok := last[id]; ok && b.state.NowNS-before <= uint64(verdict.FragmentTime) {
			t.Fatalf("step %d: id %d again after %s", step, id, time.Duration(b.state.NowNS-before))
		}
		last[id] = b.state.NowNS
		forwarded++
	}
	if len(last) != 65536 || refused == 0 || forwarded < 70_000 {
		t.Errorf("%d ids for %d datagrams, %d refused", len(last), forwarded, refused)
	}
}

// The sender of a packet that an ICMP error quotes sees in it what it sent, byte by byte, from both ends of a connection.
func TestErrorsQuoteWhatWasSent(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a, b := newNode(t, 1, plantest.Workloads()), newNode(t, 2, plantest.Workloads())
		p := udp(cart, vip, uint16(rapid.IntRange(1, 65535).Draw(r, "port")), 53, rapid.IntRange(0, 900).Draw(r, "bytes"))
		if rapid.Bool().Draw(r, "TCP") {
			p.Protocol, p.DestPort, p.Flags = 6, 443, plantest.SYN
		}
		p.NoChecksum, p.ID = rapid.Bool().Draw(r, "no checksum"), uint16(rapid.IntRange(0, 65535).Draw(r, "id"))
		kind := rapid.SampledFrom([][2]uint8{{3, 3}, {3, 4}, {11, 1}, {12, 0}}).Draw(r, "kind")
		most := rapid.IntRange(28, 548).Draw(r, "quoted")
		complain := func(from, to *node, eni uint32, delivered, sent []byte, seenFrom netip.Addr) {
			before := to.packets()
			got := through(t, from, to, eni, plantest.Complaint(delivered, kind[0], kind[1], 1000, most))
			if err := plantest.Check(got); err != nil {
				t.Fatal(err)
			}
			quote := got[28:binary.BigEndian.Uint16(got[2:])]
			n := len(quote)
			if p.Protocol == 6 && n < 40 { // the checksum is not there, all else is
				n = min(n, 36)
			}
			if !bytes.Equal(quote[:n], sent[:n]) || len(quote) != min(most, len(sent)) {
				t.Fatalf("quoted\n% x, sent\n% x", quote[:n], sent[:n])
			}
			if source := netip.AddrFrom4([4]byte(got[12:16])); source != seenFrom || got[20] != kind[0] || got[27] != 1000&255 {
				t.Fatalf("from %s: % x", source, got[:28])
			}
			if after := to.packets(); after != before+1 {
				t.Fatalf("%d packets more in the flow", after-before)
			}
		}
		delivered := through(t, a, b, cartID, p.Bytes())
		target := read(t, delivered)
		complain(b, a, ledgerAt(target.Dest), delivered, p.Bytes(), vip)

		answer := p
		answer.Source, answer.Dest, answer.SourcePort, answer.DestPort = target.Dest, lb, target.DestPort, target.SourcePort
		answer.Flags = plantest.SYN | plantest.ACK
		delivered = through(t, b, a, ledgerAt(target.Dest), answer.Bytes())
		complain(a, b, cartID, delivered, answer.Bytes(), lb)
	})
}

// packets are those of all entries.
func (n *node) packets() (sum uint64) {
	for _, f := range n.state.Flows {
		sum += f.Packets
	}
	return sum
}

func TestErrorsThatDoNotPass(t *testing.T) {
	sent := udp(cart, till, 40000, 80, 1340).Bytes()
	tillID := uint32(12)
	spoil := func(b []byte, change func(b []byte)) []byte {
		b = bytes.Clone(b)
		change(b)
		return b
	}
	refused := func(b []byte) []byte { return plantest.Complaint(b, 3, 3, 0, 548) }
	other := func(change func(p *plantest.IP)) []byte {
		p := udp(cart, till, 40000, 80, 600)
		change(&p)
		return refused(p.Bytes())
	}
	echo := plantest.IP{Source: cart, Dest: till, Protocol: 1, ICMPType: 8, ICMPID: 7}
	cases := map[string]struct {
		packet []byte
		reason verdict.Reason
	}{
		"port unreachable":       {refused(sent), verdict.ReasonForwarded},
		"as little as may be":    {plantest.Complaint(sent, 3, 3, 0, 28), verdict.ReasonForwarded},
		"too little":             {plantest.Complaint(sent, 3, 3, 0, 27), verdict.ReasonMalformed},
		"as much as may be":      {plantest.Complaint(sent, 3, 3, 0, 1212), verdict.ReasonForwarded},
		"too much":               {plantest.Complaint(sent, 3, 3, 0, 1213), verdict.ReasonMalformed},
		"redirect":               {plantest.Complaint(sent, 5, 1, 0, 28), verdict.ReasonProtocol},
		"source quench":          {plantest.Complaint(sent, 4, 0, 0, 28), verdict.ReasonProtocol},
		"unknown code":           {plantest.Complaint(sent, 3, 16, 0, 28), verdict.ReasonProtocol},
		"another port":           {other(func(p *plantest.IP) { p.SourcePort++ }), verdict.ReasonNoFlow},
		"another protocol":       {other(func(p *plantest.IP) { p.Protocol = 6 }), verdict.ReasonNoFlow},
		"port 0":                 {other(func(p *plantest.IP) { p.SourcePort = 0 }), verdict.ReasonMalformed},
		"GRE":                    {other(func(p *plantest.IP) { p.Protocol = 47 }), verdict.ReasonProtocol},
		"as another":             {other(func(p *plantest.IP) { p.Dest = stock }), verdict.ReasonSpoofedAddress},
		"about another's packet": {spoil(refused(sent), func(b []byte) { b[47]++ }), verdict.ReasonMalformed},
		"to another":             {spoil(refused(sent), func(b []byte) { b[19]++ }), verdict.ReasonMalformed},
		"from nowhere":           {other(func(p *plantest.IP) { p.Source = netip.MustParseAddr("10.0.9.9") }), verdict.ReasonNoFlow},
		"options quoted":         {spoil(refused(sent), func(b []byte) { b[28] = 0x46 }), verdict.ReasonMalformed},
		"short packet quoted":    {spoil(refused(sent), func(b []byte) { b[30], b[31] = 0, 27 }), verdict.ReasonMalformed},
		"later fragment quoted":  {spoil(refused(sent), func(b []byte) { b[35] = 1 }), verdict.ReasonFragment},
		"first fragment quoted":  {spoil(refused(sent), func(b []byte) { b[34] = 0x20 }), verdict.ReasonForwarded},
		"in fragments":           {plantest.Fragments(refused(sent), 64, 4711)[0], verdict.ReasonFragment},
		"never pinged":           {refused(echo.Bytes()), verdict.ReasonNoFlow},
		"about an error":         {refused(refused(udp(till, cart, 80, 40000, 600).Bytes())), verdict.ReasonProtocol},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := newNode(t, 1, plantest.Workloads())
			want(t, a.from(cartID, ethernet(cartID, sent)), verdict.NextWorkload, verdict.ReasonForwarded, verdict.ReasonForwarded)
			flows := len(a.state.Flows)
			v := a.from(tillID, ethernet(tillID, c.packet))
			if v.Reason != c.reason {
				t.Errorf("%s, want %s", v.Reason, c.reason)
			}
			if len(a.state.Flows) != flows {
				t.Errorf("%d flow entries, there were %d", len(a.state.Flows), flows)
			}
			if c.reason != verdict.ReasonForwarded && v.Bytes != nil {
				t.Errorf("an error is answered: % x", v.Bytes)
			}
		})
	}
}

// An error about a packet that never was on its way to this end is none: nothing of the flow came here yet.
func TestErrorsAboutNothing(t *testing.T) {
	a := newNode(t, 1, plantest.Workloads())
	want(t, a.from(cartID, ethernet(cartID, udp(cart, vip, 40000, 53, 20).Bytes())), verdict.NextTunnel, verdict.ReasonForwarded)
	answer := udp(vip, cart, 53, 40000, 20).Bytes()
	want(t, a.from(cartID, ethernet(cartID, plantest.Complaint(answer, 3, 3, 0, 28))), verdict.NextNone, verdict.ReasonNoFlow)
}

// Options end at the sender's node: what leaves is the packet as it would be without them, and is counted as that.
func TestOptionsEndAtTheSender(t *testing.T) {
	plain := udp(cart, till, 40000, 80, 100).Bytes()
	a := newNode(t, 1, plantest.Workloads())
	expect := a.from(cartID, ethernet(cartID, plain))
	want(t, expect, verdict.NextWorkload, verdict.ReasonForwarded, verdict.ReasonForwarded)
	cases := map[string]struct {
		options []byte
		reason  verdict.Reason
	}{
		"record route":        {[]byte{7, 7, 4, 0, 0, 0, 0, 0}, verdict.ReasonForwarded},
		"router alert":        {[]byte{148, 4, 0, 0}, verdict.ReasonForwarded},
		"all there may be":    {bytes.Repeat([]byte{1}, 40), verdict.ReasonForwarded},
		"after the end":       {[]byte{0, 131, 3, 4}, verdict.ReasonForwarded},
		"loose source route":  {[]byte{131, 7, 4, 10, 0, 1, 1, 0}, verdict.ReasonIPOptions},
		"strict source route": {[]byte{1, 137, 7, 4, 10, 0, 1, 1}, verdict.ReasonIPOptions},
		"length 1":            {[]byte{7, 1, 0, 0}, verdict.ReasonIPOptions},
		"longer than all":     {[]byte{7, 5, 0, 0}, verdict.ReasonIPOptions},
		"no length":           {[]byte{1, 1, 1, 7}, verdict.ReasonIPOptions},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := newNode(t, 1, plantest.Workloads())
			v := a.from(cartID, ethernet(cartID, plantest.WithOptions(plain, c.options)))
			passesAs(t, v, c.reason, expect)
		})
	}
}

// passesAs demands the reason, and where that is FORWARDED the packet and counters of another verdict.
func passesAs(t *testing.T, v verdict.Verdict, reason verdict.Reason, expect verdict.Verdict) {
	t.Helper()
	if v.Reason != reason {
		t.Fatalf("%s, want %s", v.Reason, reason)
	}
	if reason != verdict.ReasonForwarded {
		return
	}
	if !bytes.Equal(v.Bytes, expect.Bytes) {
		t.Errorf("packet\n% x, want\n% x", v.Bytes, expect.Bytes)
	}
	for key, n := range expect.Counters {
		if v.Counters[key] != n {
			t.Errorf("counter %+v: %+v, want %+v", key, v.Counters[key], n)
		}
	}
}
