package plan

import "math/bits"

// Hash is the hash that picks a Maglev slot (salt 0) and the ports tried at SNAT (salt 1, 2, …). All integers are
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

// Source ports that are tried at SNAT, as bpf/lib/abi.h has them.
const (
	PortSpare = 1_024
	PortOpen  = 17_408
)

// SNATPort is the port that the datapath tries at the given try (1, 2, …) after the client's own port was taken.
func SNATPort(saddr, daddr uint32, sport, dport uint16, protocol uint8, vpc, try uint32) uint16 {
	return uint16(1024 + Hash(saddr, daddr, sport, dport, protocol, vpc, try)%64512)
}
