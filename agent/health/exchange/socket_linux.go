package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// receiveBuffer is in bytes, of which the kernel takes twice as many: some 3,500 of the longest messages. The default holds less
// than a hundred, and several hundred nodes may send at the same moment.
const receiveBuffer = 4 << 20

// Open opens a UDP socket at an address of a device, which hears nothing that comes another way.
func Open(ctx context.Context, device string, at netip.AddrPort) (Socket, error) {
	index, err := indexOf(device)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", device, err)
	}
	lc := net.ListenConfig{Control: func(network, address string, raw syscall.RawConn) error {
		var err error
		e := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		})
		return errors.Join(e, err, OnDevice(device)(network, address, raw))
	}}
	c, err := lc.ListenPacket(ctx, "udp6", at.String())
	if err != nil {
		return nil, err
	}
	return &socket{UDPConn: c.(*net.UDPConn), device: device, index: index}, nil
}

// OnDevice binds a socket to a device. FREEBIND lets it have an address that the device has not got yet.
func OnDevice(device string) func(network, address string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		e := raw.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device),
				unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
		})
		return errors.Join(e, err)
	}
}

// socket is bound to a device by its number: when the device is made anew it hears nothing any more.
type socket struct {
	*net.UDPConn
	device string
	index  uint32
}

var errStale = errors.New("the device was removed or made anew")

// Stale implements Socket.
func (s *socket) Stale() error {
	if index, err := indexOf(s.device); err != nil || index != s.index {
		return errStale
	}
	return nil
}

// indexOf asks for one device only, which net.InterfaceByName does not: a node has thousands.
func indexOf(device string) (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return 0, err
	}
	return r.Uint32(), nil
}
