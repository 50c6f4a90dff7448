package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// packetSpace is room for what a burst of probes takes of a socket's buffer, in bytes.
const packetSpace = 4 << 20

// packets takes probes out of an interface of any kind, and puts packets in, as a socket of family AF_PACKET. It sees what
// comes in before the interface's programs and doors do, and what it puts in goes past them.
type packets struct {
	name string
	file *os.File
	raw  syscall.RawConn
	to   unix.SockaddrLinklayer
}

// openPackets opens an interface of the thread's network namespace, which must be up.
func openPackets(name string) (packetLink, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // 0: nothing yet
	if err != nil {
		return nil, fmt.Errorf("watch interface %s: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	p := &packets{name: name, file: file, to: unix.SockaddrLinklayer{Protocol: netOrder(unix.ETH_P_IPV6)}}
	p.raw, err = file.SyscallConn()
	if err == nil {
		err = p.bind(fd)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("watch interface %s: %w", name, err)
	}
	return p, nil
}

// bind makes the socket one of the interface and of probes.
func (p *packets) bind(fd int) error {
	index, err := p.ask(unix.SIOCGIFINDEX)
	if err != nil {
		return err
	}
	p.to.Ifindex = int(index)
	filter := probeFilter()
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1), // past what guards the way out
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, packetSpace),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetSpace),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
			Len: uint16(len(filter)), Filter: &filter[0],
		}))
	if err != nil {
		return err
	}
	// Of all protocols: who asks for one comes after the programs.
	return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: p.to.Ifindex, Protocol: netOrder(unix.ETH_P_ALL)})
}

// probeFilter lets through what [isProbe] does, by the first bytes: all other packets of the interface meet it too.
func probeFilter() []unix.SockFilter {
	const (
		load8  = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		load32 = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		all    = 0xffffffff
	)
	return []unix.SockFilter{
		{Code: load8, K: 6}, // too short: dropped
		{Code: equal, K: probeProtocol, Jf: 5},
		{Code: load8, K: 0},
		{Code: equal, K: 0x60, Jf: 3},
		{Code: load32, K: ip6Len},
		{Code: equal, K: probeMagic, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// netOrder has a number's bytes as the network has them.
func netOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// ask makes a request about the interface. It is the socket's namespace that counts, not the thread's.
func (p *packets) ask(request uint) (value uint32, err error) {
	ifr, err := unix.NewIfreq(p.name)
	if err != nil {
		return 0, err
	}
	if e := p.raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), request, ifr) }); e != nil {
		return 0, e
	}
	return ifr.Uint32(), err
}

// MTU implements packetLink. Another interface of the name is none.
func (p *packets) MTU() (int, error) {
	if index, err := p.ask(unix.SIOCGIFINDEX); err != nil {
		return 0, err
	} else if int(index) != p.to.Ifindex {
		return 0, unix.ENODEV
	}
	mtu, err := p.ask(unix.SIOCGIFMTU)
	return int(mtu), err
}

// Read implements packetLink.
func (p *packets) Read(packet []byte) (int, error) { return p.file.Read(packet) }

// Write implements packetLink. It waits for nothing.
func (p *packets) Write(packet []byte) (err error) {
	if e := p.raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), packet, unix.MSG_DONTWAIT, &p.to) }); e != nil {
		return e
	}
	return err
}

// Close implements packetLink.
func (p *packets) Close() error { return p.file.Close() }
