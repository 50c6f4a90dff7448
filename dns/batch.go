package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams are read and written at once: a busy server then spends its time on queries and not on
// entering the kernel.
const batchSize = 32

// datagram is one query and what it was sent with.
type datagram struct {
	query   []byte
	control []byte // carries the address that the query was sent to, so that the answer comes from it
	from    netip.AddrPort
	reply   []byte // nil: none, or later
}

// batch is what one goroutine reads at once; its memory is used again for the next.
type batch struct {
	datagrams [batchSize]datagram
	queries   [batchSize][maxQuery]byte
	controls  [batchSize][controlSize]byte
	replies   [batchSize][maxUDPReply + optSize]byte
	names     [batchSize]unix.RawSockaddrInet6 // has room for one of IPv4
	vectors   [batchSize]unix.Iovec
	headers   [batchSize]mmsghdr
}

// mmsghdr is the kernel's struct of that name.
type mmsghdr struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

// packetSocket reads and writes datagrams.
type packetSocket interface {
	// read waits for datagrams; those with an empty query are to be passed over.
	read(b *batch) (got []datagram, err error)
	// poll reads what is there already. It may be called beside read.
	poll(b *batch) []datagram
	// write sends the replies of what read returned. What the kernel does not take is lost: it is asked for again.
	write(b *batch, got []datagram) error
	// writeOne sends a reply that comes later.
	writeOne(reply, control []byte, to netip.AddrPort) error
}

func newPacketSocket(p net.PacketConn) (packetSocket, error) {
	u, ok := p.(*net.UDPConn)
	if !ok {
		return genericSocket{p}, nil
	}
	// Needed only when listening on the unspecified address. An IPv4 socket has no such message and refuses; it is used
	// in tests only.
	_ = ipv6.NewPacketConn(u).SetControlMessage(ipv6.FlagDst, true)
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("dns socket: %w", err)
	}
	return udpSocket{u, raw}, nil
}

type udpSocket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
}

func (u udpSocket) read(b *batch) ([]datagram, error) {
	b.prepare()
	var n int
	var errno syscall.Errno
	err := u.raw.Read(func(fd uintptr) bool {
		n, errno = mmsg(unix.SYS_RECVMMSG, fd, b.headers[:])
		return errno != unix.EAGAIN
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return nil, fmt.Errorf("read datagrams: %w", err)
	}
	return b.taken(n), nil
}

func (u udpSocket) poll(b *batch) []datagram {
	b.prepare()
	n := 0
	if u.raw.Control(func(fd uintptr) { n, _ = mmsg(unix.SYS_RECVMMSG, fd, b.headers[:]) }) != nil {
		return nil // it is closed, which read tells
	}
	return b.taken(n)
}

// prepare lets the kernel write into the batch.
func (b *batch) prepare() {
	for i := range b.headers {
		b.vectors[i].Base = &b.queries[i][0]
		b.vectors[i].SetLen(maxQuery)
		h := &b.headers[i].header
		*h = unix.Msghdr{
			Name: (*byte)(unsafe.Pointer(&b.names[i])), Namelen: unix.SizeofSockaddrInet6, Iov: &b.vectors[i], Control: &b.controls[i][0],
		}
		h.SetIovlen(1)
		h.SetControllen(controlSize)
	}
}

// taken are the n datagrams that the kernel wrote.
func (b *batch) taken(n int) []datagram {
	got := b.datagrams[:n]
	for i := range got {
		h := &b.headers[i]
		got[i] = datagram{query: b.queries[i][:h.length], control: b.controls[i][:h.header.Controllen], from: b.source(i)}
		if h.header.Flags&unix.MSG_TRUNC != 0 || !got[i].from.IsValid() {
			got[i].query = nil
		}
	}
	return got
}

// source is where a datagram came from.
func (b *batch) source(i int) netip.AddrPort {
	name := &b.names[i]
	switch name.Family {
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), networkOrder(name.Port))
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), networkOrder(four.Port))
	}
	return netip.AddrPort{}
}

// networkOrder is a number that lies in memory with its high byte first.
func networkOrder(n uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], n)
	return binary.BigEndian.Uint16(b[:])
}

func (u udpSocket) write(b *batch, got []datagram) error {
	n := 0
	for i := range got {
		reply := got[i].reply
		if len(reply) == 0 {
			continue
		}
		b.vectors[i].Base = &reply[0]
		b.vectors[i].SetLen(len(reply))
		h := b.headers[i] // has the address, the control message and the vector of its query
		h.header.Flags = 0
		if h.header.Controllen == 0 {
			h.header.Control = nil
		}
		b.headers[n] = h // n is not larger than i
		n++
	}
	for rest := b.headers[:n]; len(rest) > 0; {
		sent, errno := 0, syscall.Errno(0)
		try := func(fd uintptr) { sent, errno = mmsg(unix.SYS_SENDMMSG, fd, rest) }
		err := u.raw.Control(try) // other than Write it lets several send at once
		if err == nil && errno == unix.EAGAIN {
			err = u.raw.Write(func(fd uintptr) bool { try(fd); return errno != unix.EAGAIN })
		}
		if err != nil {
			return fmt.Errorf("write datagrams: %w", err)
		}
		if errno != 0 {
			sent = 1 // the kernel refuses the first one
		}
		rest = rest[max(sent, 1):]
	}
	return nil
}

func (u udpSocket) writeOne(reply, control []byte, to netip.AddrPort) error {
	_, _, err := u.conn.WriteMsgUDPAddrPort(reply, control, to)
	return err
}

// mmsg calls recvmmsg or sendmmsg, which are not to wait, and returns of how many datagrams the kernel was rid.
func mmsg(number, fd uintptr, headers []mmsghdr) (n int, errno syscall.Errno) {
	for {
		r, _, e := unix.Syscall6(number, fd, uintptr(unsafe.Pointer(&headers[0])), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
		if e == 0 {
			return int(r), 0
		}
		if e != unix.EINTR {
			return 0, e
		}
	}
}

// genericSocket is any other net.PacketConn, such as one in memory. Its addresses must read as ADDRESS:PORT.
type genericSocket struct{ conn net.PacketConn }

func (g genericSocket) read(b *batch) ([]datagram, error) {
	n, from, err := g.conn.ReadFrom(b.queries[0][:])
	if err != nil {
		return nil, err
	}
	to, ok := addrPort(from)
	if !ok {
		return nil, nil
	}
	b.datagrams[0] = datagram{query: b.queries[0][:n], from: to}
	return b.datagrams[:1], nil
}

func (g genericSocket) poll(*batch) []datagram { return nil }

func (g genericSocket) write(_ *batch, got []datagram) error {
	for _, d := range got {
		if len(d.reply) > 0 {
			if err := g.writeOne(d.reply, nil, d.from); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g genericSocket) writeOne(reply, _ []byte, to netip.AddrPort) error {
	_, err := g.conn.WriteTo(reply, net.UDPAddrFromAddrPort(to))
	return err
}

// ended reports whether reading is over for good.
func ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, net.ErrClosed)
}
