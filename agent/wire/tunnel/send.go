package tunnel

import (
	"fmt"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// What one call may carry, in bytes: an IP packet's most, less the headers.
	maxSend4 = 65535 - ip4Len - udpLen
	maxSend6 = 65535 - udpLen

	batch = conn.IdealBatchSize
)

// mmsghdr is struct mmsghdr (sendmmsg(2)).
type mmsghdr struct {
	unix.Msghdr
	sent uint32
	_    [4]byte // to a multiple of 8 on 64-bit systems
}

// sender is what one call of Send needs. It is pooled and never cleared.
type sender struct {
	side  *udpSide
	name  sockaddr
	iov   [batch]unix.Iovec
	msgs  [batch]mmsghdr
	first [batch]int // the index in bufs of each message's first datagram
	oob   [batch][sizeSegment + sizeSource6]byte

	bufs  [][]byte
	to    *endpoint
	n     int // messages
	at    int // the next one to send
	err   error
	retry bool // build the rest anew, from first[at] on
	step  func(fd uintptr) bool
}

func newSender(side *udpSide) *sender {
	s := &sender{side: side}
	s.step = s.sendStep
	return s
}

func (s *sender) send(bufs [][]byte, to *endpoint) error {
	defer func() { s.bufs, s.to = nil, nil }()
	s.bufs, s.to, s.err = bufs, to, nil
	for from := 0; from < len(bufs); from = s.first[s.at] {
		s.build(from)
		s.retry = false
		if s.side.raw.Write(s.step) != nil { // without deadlines there is no other error than that the file was closed
			return net.ErrClosed
		}
		if !s.retry {
			return s.err
		}
	}
	return s.err
}

// build makes messages of the datagrams from an index on. Those of one size in a row, and one smaller at the end, go as
// one that the kernel cuts.
func (s *sender) build(from int) {
	most, joins := maxSend4, 0
	if s.side.six {
		most = maxSend6
	}
	if s.side.gso {
		joins = s.to.joins()
	}
	nameLen := s.name.put(s.to)
	source := s.to.SrcIP()
	s.n, s.at = 0, 0
	for i := from; i < len(s.bufs); s.n++ {
		count, total := 1, len(s.bufs[i])
		size := total
		for size < joins && i+count < len(s.bufs) && count < maxDatagram {
			next := len(s.bufs[i+count])
			if next > size || total+next > most {
				break
			}
			count, total = count+1, total+next
			if next < size {
				break
			}
		}
		for k := range count {
			s.iov[i+k] = iovec(s.bufs[i+k])
		}
		used := 0
		if source.IsValid() {
			used += putSource(s.oob[s.n][used:], source, s.sourceScope())
		}
		if count > 1 {
			used += putSegment(s.oob[s.n][used:], size)
		}
		m := &s.msgs[s.n]
		m.Msghdr = unix.Msghdr{Name: &s.name[0], Namelen: uint32(nameLen), Iov: &s.iov[i]}
		m.SetIovlen(count)
		if used > 0 {
			m.Control = &s.oob[s.n][0]
			m.SetControllen(used)
		}
		s.first[s.n] = i
		i += count
	}
}

// sourceScope is the interface of a link-local source, which is the one of its destination.
func (s *sender) sourceScope() uint32 {
	if s.to.src.IsLinkLocalUnicast() {
		return s.to.scope
	}
	return 0
}

// sendStep sends the messages that are left; false waits for room in the socket's buffer.
func (s *sender) sendStep(fd uintptr) bool {
	for s.at < s.n {
		// It does not block; a scheduler that knew of the call would wake another thread, should it take 20 µs.
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd,
			uintptr(unsafe.Pointer(&s.msgs[s.at])), uintptr(s.n-s.at), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			s.at += int(sent)
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return false
		case s.recover(errno):
			s.retry = true
			return true
		default:
			s.err = fmt.Errorf("send to %s: %w", s.to.dst, errno)
			s.at++ // the other datagrams may be smaller
			if errno != unix.EMSGSIZE {
				return true
			}
		}
	}
	return true
}

// recover changes what the kernel may have refused and reports whether to try again.
func (s *sender) recover(errno unix.Errno) bool {
	joined := int(s.msgs[s.at].Iovlen) > 1
	switch {
	case joined && errno == unix.EIO: // the interface on this way cannot compute checksums
		s.to.refuse(0, time.Now())
		return true
	case joined && (errno == unix.EMSGSIZE || errno == unix.EINVAL): // the interface is smaller: one by one the kernel cuts them
		s.to.refuse(len(s.bufs[s.first[s.at]]), time.Now())
		return true
	case s.to.SrcIP().IsValid() && errno != unix.EMSGSIZE && errno != unix.ENOBUFS && errno != unix.EPERM:
		s.to.ClearSrc() // the address may be gone
		return true
	}
	return false
}
