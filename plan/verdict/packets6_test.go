package verdict_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// speaking is a node whose workloads of the shop have both families, those of the provider the given ones, and whose rules
// admit all of IPv6.
func speaking(t *testing.T, number uint32, provider plan.Families) *node {
	t.Helper()
	n := newNode(t, number, plantest.Workloads())
	of := func(vpc uint32) plan.Families {
		if vpc == plantest.Pay {
			return provider
		}
		return plan.BothFamilies
	}
	for i := range n.plan.ENIs {
		n.plan.ENIs[i].Families = of(n.plan.ENIs[i].VPC)
	}
	for i := range n.plan.Addresses {
		if a := &n.plan.Addresses[i]; a.Type == plan.AddressWorkload {
			a.Families = of(a.VPC)
		}
	}
	for i := range n.plan.RuleSets {
		n.plan.RuleSets[i].Text += "sgr-all 256 0-65535 ::/0\n"
	}
	return n
}

func form6(vpc uint32, a netip.Addr) netip.Addr { return api.IPv6Address(plantest.Mesh, vpc, a) }

// inFamily is a packet of the shop's, or of the provider's, in a family.
func inFamily(p plantest.IP, vpc uint32, six bool) []byte {
	if six {
		return p.IPv6(form6(vpc, p.Source), form6(vpc, p.Dest))
	}
	return p.Bytes()
}

func link(eni uint32, packet []byte) []byte {
	kind := uint16(0x0800)
	if packet[0]>>4 == 6 {
		kind = 0x86dd
	}
	return plantest.Frame(plantest.GatewayMAC, plantest.MAC(eni), kind, packet)
}

// across is through for packets of either family.
func across(t *testing.T, from, to *node, eni uint32, packet []byte) []byte {
	t.Helper()
	v := from.from(eni, link(eni, packet))
	want(t, v, verdict.NextTunnel, verdict.ReasonForwarded)
	v = to.tunnel(v.Bytes)
	want(t, v, verdict.NextWorkload, verdict.ReasonForwarded)
	return v.Bytes[14:]
}

// sums checks the transport checksum of a packet of either family, fragments aside.
func sums(t *testing.T, b []byte) {
	t.Helper()
	if b[0]>>4 == 4 {
		if err := plantest.Check(b); err != nil {
			t.Fatal(err)
		}
		return
	}
	pseudo := append(bytes.Clone(b[8:40]), 0, b[6], b[4], b[5])
	total := uint32(0)
	whole := append(append(pseudo, b[40:]...), 0)
	for i := 0; i+1 < len(whole); i += 2 {
		total += uint32(binary.BigEndian.Uint16(whole[i:]))
	}
	if total = total>>16 + total&0xffff; total>>16+total&0xffff != 0xffff {
		t.Fatalf("checksum is wrong: % x", b)
	}
}

// Fragments of either family arrive as one datagram, in whichever family the target speaks.
func TestFragmentsBetweenFamilies(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		client, target := rapid.Bool().Draw(r, "client IPv6"), rapid.Bool().Draw(r, "target IPv6")
		families := map[bool]plan.Families{false: plan.FamilyIPv4, true: plan.FamilyIPv6}[target]
		a, b := speaking(t, 1, families), speaking(t, 2, families)
		p := udp(cart, vip, 40000, 53, rapid.IntRange(1000, 3000).Draw(r, "bytes"))
		id := rapid.Uint32().Draw(r, "id")
		size := 8 * rapid.IntRange(1, 120).Draw(r, "size")
		var payload []byte
		var ids []uint32
		for _, piece := range plantest.Fragments(inFamily(p, plantest.Shop, client), size, id) {
			got := across(t, a, b, cartID, piece)
			if got[0]>>4 == 6 != target {
				t.Fatalf("a target of %s gets % x", families, got[:8])
			}
			if target {
				ids, payload = append(ids, binary.BigEndian.Uint32(got[44:])), append(payload, got[48:]...)
			} else {
				ids, payload = append(ids, uint32(binary.BigEndian.Uint16(got[4:]))), append(payload, got[20:]...)
			}
		}
		if !bytes.Equal(payload[8:], p.Payload) {
			t.Fatal("the payload changed")
		}
		for _, other := range ids {
			if other != ids[0] {
				t.Fatalf("ids %v", ids)
			}
		}
	})
}

// Between families too the sender of what an error quotes finds its own packet there: version, addresses, ports, and in the
// same family all of it.
func TestErrorsBetweenFamilies(t *testing.T) {
	kinds := map[bool]map[[2]uint8][2]uint8{ // by whether the error is made as IPv6: and what it is in the other family
		false: {{3, 0}: {1, 0}, {3, 1}: {1, 0}, {3, 2}: {4, 1}, {3, 3}: {1, 4}, {3, 4}: {2, 0}, {3, 13}: {1, 1}, {11, 0}: {3, 0}, {11, 1}: {3, 1}},
		true:  {{1, 0}: {3, 1}, {1, 1}: {3, 10}, {1, 3}: {3, 1}, {1, 4}: {3, 3}, {1, 6}: {3, 10}, {2, 0}: {3, 4}, {3, 1}: {11, 1}, {4, 1}: {3, 2}},
	}
	for _, client := range []bool{false, true} {
		for _, target := range []bool{false, true} {
			for kind, other := range kinds[target] {
				families := map[bool]plan.Families{false: plan.FamilyIPv4, true: plan.FamilyIPv6}[target]
				a, b := speaking(t, 1, families), speaking(t, 2, families)
				p := udp(cart, vip, 40000, 53, 300)
				sent := inFamily(p, plantest.Shop, client)
				delivered := across(t, a, b, cartID, sent)
				eni := uint32(21)
				if delivered[0]>>4 == 4 && delivered[19] == 6 || delivered[0]>>4 == 6 && delivered[35] == 6 {
					eni = 22
				}
				got := across(t, b, a, eni, plantest.Complaint(delivered, kind[0], kind[1], 1400, 200))
				sums(t, got)
				want, head, mtu := kind, 20, uint32(1400)
				if client != target {
					want = other
				}
				if client {
					head = 40
				}
				switch {
				case client == target:
				case client:
					mtu += 20
				default:
					mtu -= 20
				}
				m := got[head:]
				if got[0]>>4 == 6 != client || [2]uint8(m) != want {
					t.Fatalf("IPv6 %t → %t: %v becomes % x", target, client, kind, got[:head+8])
				}
				if kind == [2]uint8{3, 4} && !target || kind[0] == 2 && target {
					if rest := binary.BigEndian.Uint32(m[4:]); rest != mtu {
						t.Errorf("IPv6 %t → %t: MTU %d, want %d", target, client, rest, mtu)
					}
				}
				quote := m[8:]
				if client == target && !bytes.Equal(quote, sent[:len(quote)]) {
					t.Fatalf("quoted\n% x, sent\n% x", quote, sent[:len(quote)])
				}
				from, to := 12, 28 // addresses, ports, UDP's length and checksum
				if client {
					from, to = 8, 48
				}
				if !bytes.Equal(quote[from:to], sent[from:to]) {
					t.Fatalf("IPv6 %t → %t: quoted\n% x, sent\n% x", target, client, quote[from:to], sent[from:to])
				}
			}
		}
	}
}

// What has no form in the other family ends.
func TestErrorsWithoutOtherForm(t *testing.T) {
	for target, kinds := range map[bool][][2]uint8{false: {{3, 14}, {12, 0}}, true: {{4, 0}, {4, 2}}} {
		for _, kind := range kinds {
			families := map[bool]plan.Families{false: plan.FamilyIPv4, true: plan.FamilyIPv6}[target]
			a, b := speaking(t, 1, families), speaking(t, 2, families)
			delivered := across(t, a, b, cartID, inFamily(udp(cart, vip, 40000, 53, 300), plantest.Shop, !target))
			for _, eni := range []uint32{21, 22} {
				v := b.from(eni, link(eni, plantest.Complaint(delivered, kind[0], kind[1], 0, 200)))
				if v.Reason != verdict.ReasonProtocol && v.Reason != verdict.ReasonSpoofedAddress || v.Bytes != nil {
					t.Errorf("IPv6 %t, %v: %s", target, kind, v.Reason)
				}
			}
		}
	}
}

// Extension headers end at the sender's node: what leaves is the packet as it would be without them.
func TestExtensionsEndAtTheSender(t *testing.T) {
	plain := inFamily(udp(cart, till, 40000, 80, 100), plantest.Shop, true)
	expect := speaking(t, 1, plan.BothFamilies).from(cartID, link(cartID, plain))
	want(t, expect, verdict.NextWorkload, verdict.ReasonForwarded, verdict.ReasonForwarded)
	skip, pad := []byte{0x1e, 4, 1, 2, 3, 4}, []byte{1, 4, 0, 0, 0, 0}
	h := func(kind uint8, options ...byte) plantest.Extension {
		return plantest.Extension{Kind: kind, Options: options}
	}
	seven := make([]plantest.Extension, 7)
	for i := range seven {
		seven[i] = h(60, pad...)
	}
	cases := map[string]struct {
		headers []plantest.Extension
		reason  verdict.Reason
	}{
		"hop by hop":                {[]plantest.Extension{h(0, skip...)}, verdict.ReasonForwarded},
		"destination":               {[]plantest.Extension{h(60, pad...)}, verdict.ReasonForwarded},
		"several":                   {[]plantest.Extension{h(0, pad...), h(60, skip...), h(43, 4, 0), h(60, pad...)}, verdict.ReasonForwarded},
		"six":                       {seven[:6], verdict.ReasonForwarded},
		"seven":                     {seven, verdict.ReasonIPOptions},
		"128 bytes":                 {[]plantest.Extension{h(60, make([]byte, 126)...)}, verdict.ReasonForwarded},
		"136 bytes":                 {[]plantest.Extension{h(60, make([]byte, 134)...)}, verdict.ReasonIPOptions},
		"hop by hop, not the first": {[]plantest.Extension{h(60, pad...), h(0, pad...)}, verdict.ReasonIPOptions},
		"jumbogram":                 {[]plantest.Extension{h(0, 0xc2, 4, 0, 1, 0, 0)}, verdict.ReasonIPOptions},
		"home address":              {[]plantest.Extension{h(60, append([]byte{0xc9, 16}, make([]byte, 20)...)...)}, verdict.ReasonIPOptions},
		"option beyond its header":  {[]plantest.Extension{h(60, 0x1e, 9)}, verdict.ReasonIPOptions},
		"option without length":     {[]plantest.Extension{h(60, 0, 0, 0, 0, 0, 5)}, verdict.ReasonIPOptions},
		"route of type 0":           {[]plantest.Extension{h(43, 0, 0)}, verdict.ReasonIPOptions},
		"route of type 2":           {[]plantest.Extension{h(43, 2, 0)}, verdict.ReasonIPOptions},
		"segments left":             {[]plantest.Extension{h(43, 4, 1)}, verdict.ReasonIPOptions},
		"AH":                        {[]plantest.Extension{h(51, pad...)}, verdict.ReasonProtocol},
		"ESP":                       {[]plantest.Extension{h(50, pad...)}, verdict.ReasonProtocol},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := speaking(t, 1, plan.BothFamilies)
			v := a.from(cartID, link(cartID, plantest.WithExtensions(plain, c.headers...)))
			passesAs(t, v, c.reason, expect)
		})
	}
	t.Run("a Fragment header of a whole packet", func(t *testing.T) {
		a := speaking(t, 1, plan.BothFamilies)
		v := a.from(cartID, link(cartID, plantest.Fragments(plain, 2000, 7)[0]))
		if v.Reason != verdict.ReasonForwarded || !bytes.Equal(v.Bytes, expect.Bytes) {
			t.Errorf("%s, packet\n% x, want\n% x", v.Reason, v.Bytes, expect.Bytes)
		}
	})
}
