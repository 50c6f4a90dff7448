package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
)

func listenConfig(device string, more ...func(fd uintptr) error) *net.ListenConfig {
	return &net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) {
			err = socketOptions(int(fd), device)
			for _, f := range more {
				if err == nil && f != nil {
					err = f(fd)
				}
			}
		}); e != nil {
			return e
		}
		return err
	}}
}

// socketOptions bind a socket to the device. FREEBIND lets the agent listen before the device has its address.
func socketOptions(fd int, device string) error {
	if device == "" {
		return nil
	}
	if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device); err != nil {
		return fmt.Errorf("bind to device %s: %w", device, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
		return fmt.Errorf("set freebind: %w", err)
	}
	return nil
}

// queueSize is what may wait in a UDP socket to be read, bytes of the kernel's: some 5,000 queries, which is a second's of five
// clients that ask as much as they may, all at once.
const queueSize = 4 << 20

// enlarge lets more wait than others of the host's sockets; without the right to it the system's own limit holds.
func enlarge(fd uintptr) error {
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueSize)
	return nil
}

func listenPacket(device string, guard func(fd uintptr) error) func(context.Context, string) (net.PacketConn, error) {
	return func(ctx context.Context, address string) (net.PacketConn, error) {
		return listenConfig(device, enlarge, guard).ListenPacket(ctx, "udp6", address)
	}
}

func listenStream(device string) func(context.Context, string) (net.Listener, error) {
	return func(ctx context.Context, address string) (net.Listener, error) {
		return listenConfig(device).Listen(ctx, "tcp6", address)
	}
}

// underlayDial reaches forwarders over the host's network; never an address of the mesh, which would be a loop or
// another's host.
func underlayDial(mesh uint32) DialFunc {
	return func(ctx context.Context, _ uint32, network string, to netip.AddrPort) (net.Conn, error) {
		if api.MeshPrefix(mesh).Contains(to.Addr()) {
			return nil, fmt.Errorf("dial %s: is an overlay address", to)
		}
		var d net.Dialer
		return d.DialContext(ctx, network, to.String())
	}
}

// interfaceAddrs are the addresses of the interfaces of this process's network namespace.
func interfaceAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out, nil
}

// sockets are what the server reads from: one pair per listen address.
type sockets struct {
	packets []net.PacketConn
	streams []net.Listener
}

func (s *sockets) close() {
	for _, p := range s.packets {
		_ = p.Close()
	}
	for _, l := range s.streams {
		_ = l.Close()
	}
}

// bindTries bounds how often port 0 is tried: the UDP port that the kernel picked may be taken for TCP.
const bindTries = 16

func (s *Server) bind(ctx context.Context) (*sockets, error) {
	if len(s.cfg.Listen) == 0 {
		return nil, errors.New("dns listen: no address: set Listen")
	}
	set := &sockets{}
	for _, address := range s.cfg.Listen {
		if err := s.bindPair(ctx, set, address); err != nil {
			set.close()
			return nil, fmt.Errorf("dns listen %s: %w", address, err)
		}
	}
	return set, nil
}

func (s *Server) bindPair(ctx context.Context, set *sockets, address string) error {
	var last error
	for range bindTries {
		p, err := s.cfg.ListenPacket(ctx, address)
		if err != nil {
			return fmt.Errorf("udp: %w", err)
		}
		l, err := s.cfg.ListenStream(ctx, p.LocalAddr().String())
		if err == nil {
			set.packets, set.streams = append(set.packets, p), append(set.streams, l)
			return nil
		}
		_ = p.Close()
		last = fmt.Errorf("tcp: %w", err)
		if _, port, e := net.SplitHostPort(address); e != nil || port != "0" {
			break
		}
	}
	return last
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	if t, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return t.AddrPort(), true
	}
	p, err := netip.ParseAddrPort(a.String())
	return p, err == nil
}
