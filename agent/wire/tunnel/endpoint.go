package tunnel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// endpoint is a peer's underlay address and the own address to which it sent, from which it is answered: on a host with
// several addresses an answer from another one would be taken for a peer that moved. Only the address is kept, not the
// interface, so that routes may change. Endpoints are shared and do not change, but for the marks.
type endpoint struct {
	dst   netip.AddrPort // IPv4 unmapped; with a zone for link-local IPv6
	scope uint32         // the zone's interface index
	src   netip.Addr     // invalid: the kernel chooses

	forget  atomic.Bool  // the kernel shall choose the source
	plain   atomic.Int64 // until this time, in ns since 1970, do not join datagrams of plainAt bytes and more
	plainAt atomic.Int64
}

var _ conn.Endpoint = (*endpoint)(nil)

// plainFor is how long an address gets datagrams of a size one by one after the kernel refused joined ones: the
// interface's MTU is smaller than that, or it cannot compute checksums, for now.
const plainFor = 10 * time.Second

// refuse notes the size of joined datagrams that the kernel refused; 0: any.
func (e *endpoint) refuse(size int, now time.Time) {
	if now.UnixNano() < e.plain.Load() {
		size = min(size, int(e.plainAt.Load()))
	}
	e.plainAt.Store(int64(size))
	e.plain.Store(now.Add(plainFor).UnixNano())
}

// joins is the size below which datagrams may be joined.
func (e *endpoint) joins() int {
	if until := e.plain.Load(); until != 0 && time.Now().UnixNano() < until {
		return int(e.plainAt.Load())
	}
	return maxSend4
}

// parseEndpoint reads ADDRESS:PORT; link-local addresses need a zone, as a name or an index.
func parseEndpoint(text string) (*endpoint, error) {
	dst, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, err
	}
	e := &endpoint{dst: netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())}
	if zone := e.dst.Addr().Zone(); zone != "" {
		if e.scope, err = zoneIndex(zone); err != nil {
			return nil, fmt.Errorf("underlay address %s: %w", text, err)
		}
	}
	return e, nil
}

func zoneIndex(zone string) (uint32, error) {
	if index, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(index), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("zone %s: %w", zone, err)
	}
	return uint32(i.Index), nil
}

// ClearSrc makes the kernel choose the source from now on.
func (e *endpoint) ClearSrc() { e.forget.Store(true) }

// SrcIP returns the own address in use, or the zero value.
func (e *endpoint) SrcIP() netip.Addr {
	if e.forget.Load() {
		return netip.Addr{}
	}
	return e.src
}

// SrcToString returns the own address in use.
func (e *endpoint) SrcToString() string { return e.SrcIP().String() }

// DstIP returns the peer's address.
func (e *endpoint) DstIP() netip.Addr { return e.dst.Addr() }

// DstToString returns the peer's address and port.
func (e *endpoint) DstToString() string { return e.dst.String() }

// DstToBytes returns the peer's address and port for cookies.
func (e *endpoint) DstToBytes() []byte {
	b, _ := e.dst.MarshalBinary() // never fails
	return b
}

// sockaddr is a struct sockaddr_in or sockaddr_in6; the port stands in network order at the same place in both.
type sockaddr [unix.SizeofSockaddrInet6]byte

// put writes the peer's address and returns its length.
func (s *sockaddr) put(e *endpoint) int {
	clear(s[:])
	binary.BigEndian.PutUint16(s[2:], e.dst.Port())
	if e.dst.Addr().Is4() {
		binary.NativeEndian.PutUint16(s[:], unix.AF_INET)
		a := e.dst.Addr().As4()
		copy(s[4:], a[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[:], unix.AF_INET6)
	a := e.dst.Addr().As16()
	copy(s[8:], a[:])
	binary.NativeEndian.PutUint32(s[24:], e.scope)
	return unix.SizeofSockaddrInet6
}

// get returns the address in it and, of IPv6, the scope.
func (s *sockaddr) get(six bool) (netip.AddrPort, uint32) {
	port := binary.BigEndian.Uint16(s[2:])
	if !six {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port), 0
	}
	scope := binary.NativeEndian.Uint32(s[24:])
	addr := netip.AddrFrom16([16]byte(s[8:24]))
	if scope != 0 && addr.IsLinkLocalUnicast() {
		addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
	} else {
		scope = 0
	}
	return netip.AddrPortFrom(addr, port), scope
}

// heard keeps the endpoints of the latest senders, so that a packet costs no allocation. One goroutine uses it.
type heard struct {
	recent [heardLen]heardEntry
}

const heardLen = 64

type heardEntry struct {
	from sockaddr
	src  [16]byte // as in the control message
	e    *endpoint
}

// endpoint returns the endpoint of a datagram's sender and the own address it was sent to.
func (h *heard) endpoint(from *sockaddr, src [16]byte, six bool) *endpoint {
	slot := &h.recent[(binary.NativeEndian.Uint32(from[4:])^
		binary.NativeEndian.Uint32(from[16:])*31^
		binary.NativeEndian.Uint32(from[20:])*7^
		uint32(from[2])<<3^uint32(from[3]))%heardLen]
	if slot.e != nil && slot.from == *from && slot.src == src && !slot.e.forget.Load() {
		return slot.e
	}
	e := &endpoint{}
	e.dst, e.scope = from.get(six)
	if src != ([16]byte{}) {
		if e.src = netip.AddrFrom16(src); !six {
			e.src = netip.AddrFrom4([4]byte(src[:4]))
		}
	}
	*slot = heardEntry{from: *from, src: src, e: e}
	return e
}
