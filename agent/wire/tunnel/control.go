package tunnel

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of control messages (cmsg(3)) with their headers, as they count in a buffer.
const (
	cmsgHeader = unix.SizeofCmsghdr

	sizeSegment = (cmsgHeader + 2 + 7) &^ 7
	sizeSource4 = (cmsgHeader + unix.SizeofInet4Pktinfo + 7) &^ 7
	sizeSource6 = (cmsgHeader + unix.SizeofInet6Pktinfo + 7) &^ 7

	// controlLen has room for both kinds, and for what else a kernel may add on receiving.
	controlLen = 128
)

// cmsg writes the header of a control message with n bytes of data and returns where the data goes.
func cmsg(b []byte, level, kind int32, n int) []byte {
	clear(b[:(cmsgHeader+n+7)&^7])
	if unsafe.Sizeof(uintptr(0)) == 8 {
		binary.NativeEndian.PutUint64(b, uint64(cmsgHeader+n))
	} else {
		binary.NativeEndian.PutUint32(b, uint32(cmsgHeader+n))
	}
	binary.NativeEndian.PutUint32(b[cmsgHeader-8:], uint32(level))
	binary.NativeEndian.PutUint32(b[cmsgHeader-4:], uint32(kind))
	return b[cmsgHeader : cmsgHeader+n]
}

// putSegment asks the kernel to cut the data into datagrams of the size, and returns the bytes used.
func putSegment(b []byte, size int) int {
	binary.NativeEndian.PutUint16(cmsg(b, unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(size))
	return sizeSegment
}

// putSource asks the kernel to send from an own address, and returns the bytes used. A link-local one needs its
// interface.
func putSource(b []byte, src netip.Addr, scope uint32) int {
	if src.Is4() { // struct in_pktinfo: interface, source, destination
		a := src.As4()
		copy(cmsg(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)[4:], a[:])
		return sizeSource4
	}
	data := cmsg(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo) // address, interface
	a := src.As16()
	copy(data, a[:])
	binary.NativeEndian.PutUint32(data[16:], scope)
	return sizeSource6
}

// parseControl returns what the kernel told with a datagram: the size of the ones it joined (0: one alone), and the own
// address to which they were sent (zero: not told).
func parseControl(b []byte) (segment int, src [16]byte) {
	for len(b) >= cmsgHeader {
		length := int(binary.NativeEndian.Uint32(b))
		if unsafe.Sizeof(uintptr(0)) == 8 {
			length = int(binary.NativeEndian.Uint64(b))
		}
		if length < cmsgHeader || length > len(b) {
			return segment, src
		}
		level := int32(binary.NativeEndian.Uint32(b[cmsgHeader-8:]))
		kind := int32(binary.NativeEndian.Uint32(b[cmsgHeader-4:]))
		data := b[cmsgHeader:length]
		switch {
		case level == unix.SOL_UDP && kind == unix.UDP_GRO && len(data) >= 2:
			segment = int(binary.NativeEndian.Uint16(data))
		case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			copy(src[:], data[4:8])
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			copy(src[:], data[:16])
		}
		b = b[min(len(b), (length+7)&^7):]
	}
	return segment, src
}
