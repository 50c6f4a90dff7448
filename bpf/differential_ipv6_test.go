package bpf_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// giveFamilies makes the interfaces of a world v4, v6 or both, the same at every node, and lets rules speak of both. Some
// worlds have IPv4 only.
func (x *traffic) giveFamilies(p *plan.Plan) {
	mix := []plan.Families{plan.BothFamilies, plan.BothFamilies, plan.FamilyIPv4, plan.FamilyIPv6}
	if x.old {
		mix = []plan.Families{plan.FamilyIPv4}
	}
	for id, e := range x.r.ENIs {
		if e.Type == api.ENIWorkload && x.families[id] == 0 {
			x.families[id] = mix[int(e.Number)%len(mix)]
		}
	}
	for i := range p.ENIs {
		p.ENIs[i].Families = x.families[p.ENIs[i].ID]
	}
	for i := range p.Addresses {
		if a := &p.Addresses[i]; a.Type == plan.AddressWorkload {
			a.Families = x.families[a.ENI]
		}
	}
	for i := range p.RuleSets {
		p.RuleSets[i].Text = x.bothFamilies(p.RuleSets[i].Text)
	}
}

// bothFamilies adds to each rule from an IPv4 prefix one from IPv6: from everywhere, from a VPC or from a part of one.
func (x *traffic) bothFamilies(text string) string {
	var out strings.Builder
	for i, line := range strings.SplitAfter(text, "\n") {
		out.WriteString(line)
		f := strings.Fields(line)
		if len(f) != 4 {
			continue
		}
		prefix, err := netip.ParsePrefix(f[3])
		if err != nil || !prefix.Addr().Is4() {
			continue
		}
		six := "::/0"
		if vpc := uint32(1 + (len(text)+i)%4); prefix.Bits() > 0 {
			six = api.OverlayPrefix(x.r.Mesh.Number, vpc, prefix).String()
		}
		protocol, ports := f[1], f[2]
		if protocol == "1" {
			protocol, ports = "58", []string{"32768-32768", "32768-33023", "33024-33024"}[i%3] // type << 8 | code
		}
		fmt.Fprintf(&out, "%s %s %s %s\n", f[0], protocol, ports, six)
	}
	return out.String()
}

// inFamily makes a packet one that an interface of these families sends; one in twenty is of the other.
func (x *traffic) inFamily(ip plantest.IP, families plan.Families) plantest.IP {
	ip.Six = families == plan.FamilyIPv6 || families == plan.BothFamilies && x.rng.IntN(2) == 0
	if x.rng.IntN(20) == 0 {
		ip.Six = !ip.Six
	}
	if ip.Six && ip.Protocol == 1 && x.rng.IntN(10) > 0 {
		ip.Protocol = 58
	}
	return ip
}

// discover sends neighbour discovery and other packets of a link: from any address, about any, whole or not.
func (x *traffic) discover() error {
	enis := x.nodes[x.tested].plan.ENIs
	if len(enis) == 0 {
		return nil
	}
	e := enis[x.rng.IntN(len(enis))]
	own := api.IPv6Address(x.r.Mesh.Number, e.VPC, e.Address)
	some := func(list ...netip.Addr) netip.Addr { return list[x.rng.IntN(len(list))] }
	gateway, link := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::44")
	source := some(own, link, link, netip.IPv6Unspecified(), api.IPv6Address(x.r.Mesh.Number, e.VPC, x.dest("")))
	target := some(own, gateway, link, netip.MustParseAddr("ff02::1"), netip.MustParseAddr("::ffff:169.254.1.1"),
		api.IPv6Address(x.r.Mesh.Number, e.VPC, x.dest("")))
	dest := some(gateway, netip.MustParseAddr("ff02::2"), netip.MustParseAddr("ff02::1:ff00:1"), target)
	hops, code := uint8(255), uint8(0)
	if x.rng.IntN(10) == 0 {
		hops, code = uint8(x.rng.IntN(256)), uint8(x.rng.IntN(2))
	}
	kind := []uint8{133, 133, 134, 135, 135, 135, 135, 136, 137, 143}[x.rng.IntN(10)]
	if kind == 133 && x.rng.IntN(2) == 0 {
		target = netip.Addr{}
	}
	b := plantest.Discovery(hops, kind, code, source, dest, target, make([]byte, 8*x.rng.IntN(3))...)
	switch x.rng.IntN(8) {
	case 0: // MLD and other headers
		b[6] = []uint8{0, 43, 44, 60, 50, 17, 1}[x.rng.IntN(7)]
	case 1:
		b = b[:40+x.rng.IntN(len(b)-40)]
		b[4], b[5] = 0, byte(len(b)-40)
	}
	f := plantest.Frame(plantest.GatewayMAC, e.MAC, 0x86dd, b)
	if x.rng.IntN(8) == 0 {
		f = x.spoil(f)
	}
	return x.hop(x.tested, verdict.Packet{Hook: verdict.HookWorkload, Ifindex: e.Ifindex, Bytes: f}, nil)
}

// withoutChecksum are flags, of which UDP has none: a datagram that goes without checksum.
const withoutChecksum = 0xff

// crossings are what a packet may become on its way out of the tunnel.
var crossings = []string{"client's own address", "header with IPv6 addresses", "4 to 4", "4 to 6", "6 to 4", "6 to 6", "4 to 6 with a checksum made for it"}

// crossing counts the families of a packet that went from the tunnel to a workload.
func (x *traffic) crossing(p verdict.Packet, v verdict.Verdict) {
	if p.Hook != verdict.HookTunnel || v.Next != verdict.NextWorkload {
		return
	}
	what := "6 to "
	if o, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(p.Bytes[24:40]))); o.Tag&api.TagFamilyIPv4 != 0 {
		what = "4 to "
	}
	if v.Bytes[12] != 0x86 {
		what += "4"
	} else if what += "6"; what == "4 to 6" && p.Bytes[6] == 17 && p.Bytes[46]|p.Bytes[47] == 0 {
		what += " with a checksum made for it"
	}
	x.passed[what]++
}
