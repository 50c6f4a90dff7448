package tunnel

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How the kernel treats datagrams that are larger than the path (ip(7), IP_MTU_DISCOVER; the numbers are IPv6's too).
const (
	// Data may be cut on its way, over IPv4 by routers, and by this host where its own interface is smaller: what is too
	// large while the path's size is not known yet is late and not lost. What routers report is not believed: anybody can
	// send such a report, and this host would cut by it for ten minutes, though fragments may not pass.
	discoverData = unix.IP_PMTUDISC_OMIT

	// Probes are cut by nobody, and no earlier report counts.
	discoverProbe = unix.IP_PMTUDISC_PROBE
)

func (u *udpSide) setDiscover(fd, mode int) error {
	if u.six {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
}

// sendWhole sends a datagram that nobody may cut. Others' datagrams that go out meanwhile are treated alike, which does
// no harm: they are lost only if they are too large for the path.
func (b *udpBind) sendWhole(buf []byte, to *endpoint) error {
	u, err := b.side(to)
	if err != nil {
		return err
	}
	s := u.ctx.Get().(*sender)
	defer u.ctx.Put(s)
	u.whole.Lock()
	defer u.whole.Unlock()
	one := [1][]byte{buf}
	s.bufs, s.to = one[:], to
	defer func() { s.bufs, s.to = nil, nil }()
	s.build(0)
	closed := u.raw.Control(func(fd uintptr) {
		if err = u.setDiscover(int(fd), discoverProbe); err != nil {
			return
		}
		err = s.sendOnce(fd)
		err = errors.Join(err, u.setDiscover(int(fd), discoverData))
	})
	if closed != nil {
		return net.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("send to %s: %w", to.dst, err)
	}
	return nil
}

// sendOnce sends the first message and waits for nothing: without room in the socket's buffer it is lost.
func (s *sender) sendOnce(fd uintptr) error {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&s.msgs[0])), 1, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// isTooLong reports whether a datagram was refused for its size.
func isTooLong(err error) bool { return errors.Is(err, unix.EMSGSIZE) }
