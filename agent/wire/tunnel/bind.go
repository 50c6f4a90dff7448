package tunnel

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/culvert-net/culvert/internal/logkey"
)

// socketBuffer is what each socket asks for, each way, in bytes: the library's 7 MiB.
const socketBuffer = 7 << 20

// udpBind is the pair of UDP sockets as a conn.Bind. What differs from the library's: it hands the device's buffers to
// the kernel by reference and not by copy, it reads joined datagrams into one private buffer, and it reads many
// datagrams per wake-up where the network card does not join them, which then counts most.
type udpBind struct {
	log *slog.Logger

	mu    sync.Mutex // of opening and closing
	sides [2]atomic.Pointer[udpSide]
	space atomic.Int64 // of a socket's buffer that receives, as the kernel counts; 0: not open yet
	left  [2]int       // sockets that the process before left, until they are used; -1: none
}

const (
	side4 = iota
	side6
)

// udpSide is one socket.
type udpSide struct {
	six bool
	waiter
	raw   syscall.RawConn
	gso   bool       // the kernel cuts what is sent
	ctx   sync.Pool  // of *sender
	whole sync.Mutex // held while a datagram is sent that nobody may cut
	log   *slog.Logger
}

func newUDPBind(log *slog.Logger) *udpBind { return &udpBind{log: log, left: [2]int{-1, -1}} }

// adopt makes the first Open take over sockets that are open and bound already; -1 stands for none.
func (b *udpBind) adopt(fd4, fd6 int) { b.left = [2]int{fd4, fd6} }

// takeLeft returns the sockets left if they are bound to the port wanted, and closes them otherwise.
func (b *udpBind) takeLeft(port uint16) (fds [2]int, bound uint16, ok bool) {
	fds, b.left = b.left, [2]int{-1, -1}
	for _, fd := range fds {
		if fd < 0 {
			continue
		}
		var err error
		if bound, err = boundPort(fd); err != nil || port != 0 && bound != port {
			closeAll(fds)
			return fds, 0, false
		}
	}
	return fds, bound, bound != 0
}

// maxPortTries bounds the search for a port that is free in both families.
const maxPortTries = 100

// Open opens a socket per family on one port, and does with one where the system knows only one.
func (b *udpBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sides[side4].Load() != nil || b.sides[side6].Load() != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	if fds, actual, ok := b.takeLeft(port); ok {
		return b.use(fds, actual)
	}
	for try := 0; ; try++ {
		fds, actual, err := openPair(port)
		if err == nil {
			return b.use(fds, actual)
		}
		if port != 0 || try == maxPortTries || !errors.Is(err, unix.EADDRINUSE) {
			return nil, 0, err
		}
	}
}

// openPair returns the two sockets, -1 for a family that does not exist.
func openPair(port uint16) (fds [2]int, actual uint16, err error) {
	fds = [2]int{-1, -1}
	for side, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, bound, err := openUDP(family, port)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			closeAll(fds)
			return fds, 0, fmt.Errorf("open UDP port %d: %w", port, err)
		}
		fds[side], port, actual = fd, bound, bound
	}
	if actual == 0 {
		return fds, 0, fmt.Errorf("open UDP port %d: %w", port, unix.EAFNOSUPPORT)
	}
	return fds, actual, nil
}

func closeAll(fds [2]int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func openUDP(family int, port uint16) (fd int, bound uint16, err error) {
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, 0, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, socketBuffer) // the last two need CAP_NET_ADMIN
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // without it, datagrams come one by one
	var local unix.Sockaddr = &unix.SockaddrInet4{Port: int(port)}
	if family == unix.AF_INET6 {
		local = &unix.SockaddrInet6{Port: int(port)}
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	} else {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	if err != nil {
		return -1, 0, err
	}
	if err = unix.Bind(fd, local); err != nil {
		return -1, 0, err
	}
	bound, err = boundPort(fd)
	return fd, bound, err
}

func boundPort(fd int) (uint16, error) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch a := local.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port), nil
	case *unix.SockaddrInet6:
		return uint16(a.Port), nil
	}
	return 0, unix.EAFNOSUPPORT
}

// use takes the sockets over.
func (b *udpBind) use(fds [2]int, port uint16) ([]conn.ReceiveFunc, uint16, error) {
	var fns []conn.ReceiveFunc
	for i, fd := range fds {
		if fd < 0 {
			continue
		}
		_, noGSO := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		gro, noGRO := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO)
		if noGSO != nil || noGRO != nil || gro != 1 {
			b.log.Warn("the kernel does not join datagrams: expect a third of the throughput",
				logkey.Family, i, logkey.Send, noGSO, logkey.Receive, noGRO)
		}
		side := &udpSide{six: i == side6, waiter: waiter{file: os.NewFile(uintptr(fd), "udp"), fd: fd}, log: b.log}
		side.gso = noGSO == nil
		if err := side.setDiscover(fd, discoverData); err != nil {
			return nil, 0, fmt.Errorf("open UDP port %d: leave path MTU discovery to the tunnel: %w", port, err)
		}
		if space, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil {
			b.space.Store(int64(space))
		}
		side.ctx.New = func() any { return newSender(side) }
		raw, err := side.file.SyscallConn()
		if err != nil {
			return nil, 0, fmt.Errorf("open UDP port %d: %w", port, err)
		}
		side.raw = raw
		b.sides[i].Store(side)
		if side.six {
			fns = append(fns, newReceiver(side).receiveIPv6)
		} else {
			fns = append(fns, newReceiver(side).receiveIPv4)
		}
	}
	return fns, port, nil
}

// Close closes both sockets.
func (b *udpBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for i := range b.sides {
		if side := b.sides[i].Swap(nil); side != nil {
			errs = append(errs, side.file.Close())
		}
	}
	return errors.Join(errs...)
}

// buffer is what the kernel keeps for a socket until it is read, in bytes of memory.
func (b *udpBind) buffer() int { return int(b.space.Load()) }

// rouse has those who receive look, when there is something that the runtime may have missed.
func (b *udpBind) rouse() {
	for i := range b.sides {
		if side := b.sides[i].Load(); side != nil {
			side.rouse()
		}
	}
}

// SetMark sets SO_MARK on what is sent.
func (b *udpBind) SetMark(mark uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.sides {
		side := b.sides[i].Load()
		if side == nil {
			continue
		}
		var err error
		if e := side.raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		}); e != nil || err != nil {
			return fmt.Errorf("set mark of UDP socket: %w", errors.Join(e, err))
		}
	}
	return nil
}

// ParseEndpoint reads an underlay address.
func (b *udpBind) ParseEndpoint(text string) (conn.Endpoint, error) { return parseEndpoint(text) }

// BatchSize is the library's own.
func (b *udpBind) BatchSize() int { return conn.IdealBatchSize }

// Send implements conn.Bind.
func (b *udpBind) Send(bufs [][]byte, to conn.Endpoint) error {
	e, ok := to.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	side, err := b.side(e)
	if err != nil {
		return err
	}
	s := side.ctx.Get().(*sender)
	err = s.send(bufs, e)
	side.ctx.Put(s)
	return err
}

// side is the socket of an address's family.
func (b *udpBind) side(e *endpoint) (*udpSide, error) {
	i := side6
	if e.dst.Addr().Is4() {
		i = side4
	}
	if side := b.sides[i].Load(); side != nil {
		return side, nil
	}
	return nil, fmt.Errorf("send to %s: %w", e.dst, unix.EAFNOSUPPORT)
}
