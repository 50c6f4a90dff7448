package judge

import (
	"encoding/binary"
	"net/netip"

	"github.com/culvert-net/culvert/api"
)

// family is 4 or 6.
type family int

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return 4
	}
	return 6
}

var (
	other = map[family]family{4: 6, 6: 4}
	// echo is the protocol whose requests may open a flow.
	echo = map[family]api.Protocol{4: api.ICMP, 6: api.ICMPv6}
)

// address is an interface's in a family, invalid where it has none. Endpoints and load balancers have both.
func address(r *api.Resources, e *api.ENI, f family) netip.Addr {
	has := map[api.IPAddressType][]family{"": {4}, api.IPv4Only: {4}, api.IPv6Only: {6}, api.DualStack: {4, 6}}[e.IPAddressType]
	if e.Type != api.ENIWorkload {
		has = []family{4, 6}
	}
	for _, x := range has {
		if x == f && f == 6 {
			return ipv6(r, e.VPC, e.Address)
		} else if x == f {
			return e.Address
		}
	}
	return netip.Addr{}
}

// ipv6 writes an address of a VPC as IPv6, decision 0011: fd, mesh, VPC, address, no tag, and a word that makes the sum of all
// but the address's zero in one's complement.
func ipv6(r *api.Resources, vpc string, a netip.Addr) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint32(b[0:], 0xfd<<24|r.Mesh.Number)
	if v := r.VPCs[vpc]; v != nil {
		binary.BigEndian.PutUint32(b[4:], v.Number)
	}
	copy(b[8:12], a.AsSlice())
	sum := uint32(0)
	for _, at := range []int{0, 2, 4, 6} {
		sum += uint32(binary.BigEndian.Uint16(b[at:]))
	}
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[14:], ^uint16(sum))
	return netip.AddrFrom16(b)
}
