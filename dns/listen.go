package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
)

func listenConfig(device string) *net.ListenConfig {
	return &net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) { err = socketOptions(int(fd), device) }); e != nil {
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

func listenPacket(device string) func(context.Context, string) (net.PacketConn, error) {
	return func(ctx context.Context, address string) (net.PacketConn, error) {
		return listenConfig(device).ListenPacket(ctx, "udp6", address)
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

// packetSocket reads and writes datagrams; control carries the address that a query was sent to, so that the answer
// comes from it.
type packetSocket interface {
	read(b, control []byte) (n, controlLen int, from netip.AddrPort, err error)
	write(b, control []byte, to netip.AddrPort) error
}

func newPacketSocket(p net.PacketConn) packetSocket {
	u, ok := p.(*net.UDPConn)
	if !ok {
		return genericSocket{p}
	}
	// Needed only when listening on the unspecified address. An IPv4 socket has no such message and refuses; it is used
	// in tests only.
	_ = ipv6.NewPacketConn(u).SetControlMessage(ipv6.FlagDst, true)
	return udpSocket{u}
}

type udpSocket struct{ conn *net.UDPConn }

func (u udpSocket) read(b, control []byte) (int, int, netip.AddrPort, error) {
	n, c, _, from, err := u.conn.ReadMsgUDPAddrPort(b, control)
	return n, c, from, err
}

func (u udpSocket) write(b, control []byte, to netip.AddrPort) error {
	_, _, err := u.conn.WriteMsgUDPAddrPort(b, control, to)
	return err
}

// genericSocket is any other net.PacketConn, such as one in memory. Its addresses must read as ADDRESS:PORT.
type genericSocket struct{ conn net.PacketConn }

func (g genericSocket) read(b, _ []byte) (int, int, netip.AddrPort, error) {
	n, from, err := g.conn.ReadFrom(b)
	if err != nil {
		return 0, 0, netip.AddrPort{}, err
	}
	to, ok := addrPort(from)
	if !ok {
		return 0, 0, netip.AddrPort{}, nil // length 0 is dropped
	}
	return n, 0, to, nil
}

func (g genericSocket) write(b, _ []byte, to netip.AddrPort) error {
	_, err := g.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	if t, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return t.AddrPort(), true
	}
	p, err := netip.ParseAddrPort(a.String())
	return p, err == nil
}
