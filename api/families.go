package api

import "net/netip"

// IPv6Address is the IPv6 form of an address of a VPC: its overlay address with family bit 0 and number 0, decision 0011.
func IPv6Address(mesh, vpc uint32, a netip.Addr) netip.Addr {
	return Overlay{Mesh: mesh, VPC: vpc, Host: AddrHost(a)}.Addr()
}

// IPv4Form is the inverse of IPv6Address; ok is false for what is no IPv6 form of an address of a VPC.
func IPv4Form(a netip.Addr) (mesh, vpc uint32, v4 netip.Addr, ok bool) {
	o, ok := ParseOverlay(a)
	if !ok || o.VPC == 0 || o.Tag != 0 {
		return 0, 0, netip.Addr{}, false
	}
	return o.Mesh, o.VPC, o.HostAddr(), true
}
