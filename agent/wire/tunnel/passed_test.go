package tunnel

import (
	"net/netip"
)

// tenant is an address in the VPC that is all behind one peer of proberOf: number 1 behind the first.
func tenant(peer byte) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 7: peer, 11: 5}) }
