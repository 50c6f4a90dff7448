package verdict

import (
	"encoding/binary"
	"net/netip"

	"github.com/culvert-net/culvert/plan"
)

// Neighbour discovery, RFC 4861: types of ICMPv6, and what stands in the messages.
const (
	ndRouterSolicit    = 133
	ndRouterAdvert     = 134
	ndNeighbourSolicit = 135
	ndNeighbourAdvert  = 136
	ndRedirect         = 137

	ndHopLimit       = 255
	ndNeighbourBytes = 24 // with the target
	ndSourceMAC      = 1  // options
	ndTargetMAC      = 2
	ndMTU            = 5
	ndAdvertFlags    = 0xe0 // router, solicited, override

	routerLifetime = 65535 // seconds, the most (RFC 8319)
)

// gatewayAddress is the router of every link.
var gatewayAddress = netip.MustParseAddr("fe80::1")

// allNodes is where an advertisement goes that somebody without address asked for.
var allNodes = netip.MustParseAddr("ff02::1")

// discovery decides about an ICMPv6 packet that is neighbour discovery; ok is false for all others. The answer is nil
// unless there is one.
func (d *decision) discovery(b []byte, eni *plan.ENI, own netip.Addr) (r Reason, answer []byte, ok bool) {
	m := b[ipv6Header : ipv6Header+int(be16(b[4:]))]
	if len(m) < icmpHeader || m[0] < ndRouterSolicit || m[0] > ndRedirect {
		return ReasonNone, nil, false
	}
	source := addr16(b[8:])
	if b[7] != ndHopLimit || m[1] != 0 {
		return ReasonMalformed, nil, true
	}
	nowhere := source.IsUnspecified()
	if source != own && !linkLocal(source) && !nowhere {
		return ReasonSpoofedAddress, nil, true
	}
	switch m[0] {
	case ndRouterAdvert, ndRedirect: // no workload is a router
		return ReasonSpoofedAddress, nil, true
	case ndRouterSolicit:
		if nowhere {
			source = allNodes
		}
		return ReasonAnswered, routerAdvert(source, eni.GatewayMAC, d.plan.Config.TunnelMTU-plan.WorkloadMTUReserve), true
	}
	if len(m) < ndNeighbourBytes {
		return ReasonMalformed, nil, true
	}
	target := addr16(m[8:])
	mine := target == own || linkLocal(target) && target != gatewayAddress
	switch {
	case m[0] == ndNeighbourAdvert && mine:
		return ReasonAnswered, nil, true
	case m[0] == ndNeighbourAdvert:
		return ReasonSpoofedAddress, nil, true
	case multicast(target):
		return ReasonMalformed, nil, true
	case nowhere && mine: // is the address free? Its own always is
		return ReasonAnswered, nil, true
	case nowhere:
		return ReasonSpoofedAddress, nil, true
	case target == own:
		return ReasonAnswered, nil, true
	}
	return ReasonAnswered, neighbourAdvert(target, source, eni.GatewayMAC), true
}

// neighbourAdvert says that an address is at the gateway's MAC.
func neighbourAdvert(target, dest netip.Addr, mac [6]byte) []byte {
	m := make([]byte, ndNeighbourBytes, ndNeighbourBytes+8)
	m[0], m[4] = ndNeighbourAdvert, ndAdvertFlags
	copy(m[8:], target.AsSlice())
	return icmp6(ndHopLimit, target, dest, append(append(m, ndTargetMAC, 1), mac[:]...))
}

// routerAdvert names the gateway and the link's MTU; no prefix is on the link.
func routerAdvert(dest netip.Addr, mac [6]byte, mtu uint16) []byte {
	m := make([]byte, 16, 32)
	m[0], m[4] = ndRouterAdvert, defaultAnswerTTL
	binary.BigEndian.PutUint16(m[6:], routerLifetime)
	m = append(append(m, ndSourceMAC, 1), mac[:]...)
	m = append(m, ndMTU, 1, 0, 0)
	return icmp6(ndHopLimit, gatewayAddress, dest, binary.BigEndian.AppendUint32(m, uint32(mtu)))
}
