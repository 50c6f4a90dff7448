package plan

import "math/bits"

// Hash is the hash that picks a slot of a target table (salt 0) and the ports tried at SNAT (salt: SNATPort). All integers are
// host-order values of the network-order fields read big-endian; for ICMP echo sport is the id and dport 0.
// It is MurmurHash3 (32 bits, public domain) of five words with the salt as seed; its twin is bpf/lib/hash.h.
func Hash(saddr, daddr uint32, sport, dport uint16, protocol uint8, vpc, salt uint32) uint32 {
	h := salt
	for _, word := range [...]uint32{saddr, daddr, uint32(sport)<<16 | uint32(dport), uint32(protocol), vpc} {
		word *= 0xcc9e2d51
		word = bits.RotateLeft32(word, 15)
		word *= 0x1b873593
		h = bits.RotateLeft32(h^word, 13)*5 + 0xe6546b64
	}
	h ^= 20
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// ClientHash is the hash that picks a slot where the target goes by the client's address alone.
func ClientHash(saddr, vpc uint32) uint32 { return Hash(saddr, 0, 0, 0, 0, vpc, 0) }

// Source ports that are tried at SNAT, as bpf/lib/abi.h has them.
const (
	PortTries  = 64 // besides the client's own: of those open to all
	SpareTries = 64 // and then of those kept for connections that have few
	PortProbe  = 1
	PortSpare  = 1_024
	PortOpen   = 17_408
)

// SNATPort is the port that the datapath tries at the given try (1, 2, …) after the client's own port was taken. Flows that
// differ in nothing but their tag's number, one client's by many endpoints, have orders of their own.
func SNATPort(saddr, daddr uint32, sport, dport uint16, protocol uint8, vpc uint32, tag uint16, try uint32) uint16 {
	h := Hash(saddr, daddr, sport, dport, protocol, vpc, uint32(tag)<<16|try)
	if try > PortTries {
		return uint16(PortSpare + h%(PortOpen-PortSpare))
	}
	return uint16(PortOpen + h%(1<<16-PortOpen))
}

// ProbePort is the port of a load balancer's address that the datapath tries at the given try (1, 2, …, PortTries) for a probe of
// a target: one that is given to no client but who has it already. saddr is the node's number.
func ProbePort(saddr, daddr uint32, sport, dport uint16, protocol uint8, vpc, try uint32) uint16 {
	return uint16(PortProbe + Hash(saddr, daddr, sport, dport, protocol, vpc, try)%(PortSpare-PortProbe))
}
