package tunnel

import (
	"encoding/binary"
	"math/bits"
)

// sum adds bytes to a one's complement sum (RFC 1071) of 64-bit words in the machine's byte order, which is folded and
// turned to network order at the end: the sum does not care for the order in which bytes are added, in pairs.
func sum(b []byte, acc uint64) uint64 {
	var carry uint64
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[56:]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(tail[:]), carry)
	}
	acc, carry = bits.Add64(acc, 0, carry)
	return acc + carry
}

// fold turns a sum into the 16 bits of it, in host order as binary.BigEndian reads and writes them, not complemented.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], uint16(acc))
	return binary.BigEndian.Uint16(b[:])
}

// sum16 adds one 16-bit number that stands in network order on the wire.
func sum16(n uint16, acc uint64) uint64 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	acc, carry := bits.Add64(acc, uint64(binary.NativeEndian.Uint16(b[:])), 0)
	return acc + carry
}

// pseudoSum is the sum of the pseudo-header (RFC 8200, section 8.1; RFC 9293, section 3.1): the two addresses as they
// stand in the header, the protocol, and the length of the transport header and payload.
func pseudoSum(addresses []byte, proto uint8, length int) uint64 {
	return sum16(uint16(length), sum16(uint16(proto), sum(addresses, 0)))
}
