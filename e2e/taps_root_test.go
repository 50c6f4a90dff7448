package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/internal/plantest"
)

// hostLink is where a node's resolver gets its queries.
const hostLink = host.HostName

// cellMark is added to a cell's number in TCP sequence numbers; in other payloads it stands before the number.
const cellMark = 0x43000000

func cellPayload(n uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, cellMark), n)
}

// arrived is a cell's packet as an interface received it.
type arrived struct {
	at           string
	source, dest netip.Addr
	port         uint16
}

func (a arrived) String() string {
	return fmt.Sprintf("%s (%s → %s port %d)", a.at, a.source, a.dest, a.port)
}

// taps listen at the far end of interfaces, for packets of cells.
type taps struct {
	mu  sync.Mutex
	got map[uint32][]arrived
	wg  sync.WaitGroup
}

func newTaps(t *testing.T) *taps {
	x := &taps{got: map[uint32][]arrived{}}
	t.Cleanup(x.wg.Wait) // after the sockets were closed, which is registered later and runs first
	return x
}

// add listens at an interface in a namespace; overlay tells in which form packets come there.
func (x *taps) add(t *testing.T, name, namespace, ifname string, overlay bool) {
	t.Helper()
	fd := packetSocket(t, namespace, ifname)
	var stop [2]int
	if err := unix.Pipe2(stop[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	x.wg.Go(func() {
		defer unix.Close(fd)
		defer unix.Close(stop[0])
		buf := make([]byte, 2048)
		for {
			polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stop[0]), Events: unix.POLLIN}}
			if _, err := unix.Poll(polled, -1); err != nil && err != unix.EINTR {
				return
			}
			if polled[1].Revents != 0 {
				return
			}
			n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if err == nil && n > 14 {
				x.note(name, buf[14:n], overlay)
			}
		}
	})
	t.Cleanup(func() { unix.Close(stop[1]) })
}

// packetSocket sees what comes in at an interface, and sends frames there.
func packetSocket(t *testing.T, namespace, ifname string) (fd int) {
	t.Helper()
	err := netns.Do(netns.Path(namespace), func() error {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		for option, value := range map[[2]int]int{
			{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING}: 1, {unix.SOL_SOCKET, unix.SO_RCVBUFFORCE}: 16 << 20,
		} {
			if err := unix.SetsockoptInt(fd, option[0], option[1], value); err != nil {
				return err
			}
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index})
	})
	if err != nil {
		t.Fatalf("listen at %s in %s: %v", ifname, namespace, err)
	}
	return fd
}

// note keeps a packet if it is a cell's.
func (x *taps) note(at string, p []byte, overlay bool) {
	a := arrived{at: at}
	var protocol byte
	var l4 []byte
	switch {
	case overlay && len(p) >= 56 && p[0]>>4 == 6:
		a.source, a.dest = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
		protocol, l4 = p[6], p[40:]
	case !overlay && len(p) >= 36 && p[0] == 0x45:
		a.source, a.dest = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
		protocol, l4 = p[9], p[20:]
	default:
		return
	}
	number, ok := cellNumber(protocol, l4)
	if !ok {
		return
	}
	if protocol != 1 {
		a.port = binary.BigEndian.Uint16(l4[2:])
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.got[number] = append(x.got[number], a)
}

// cellNumber reads the number that cell.packet wrote; l4 has at least 16 bytes.
func cellNumber(protocol byte, l4 []byte) (uint32, bool) {
	switch {
	case protocol == 6 && len(l4) >= 20 && l4[13]&(plantest.SYN|plantest.ACK) == plantest.SYN:
		n := binary.BigEndian.Uint32(l4[4:]) - cellMark
		return n, n < 1<<20
	case protocol == 17 || protocol == 1 && l4[0] == 8:
		return binary.BigEndian.Uint32(l4[12:]), binary.BigEndian.Uint32(l4[8:]) == cellMark
	}
	return 0, false
}

func (x *taps) clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.got)
}

// count is how many packets arrived.
func (x *taps) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for _, a := range x.got {
		n += len(a)
	}
	return n
}

func (x *taps) take(number uint32) []arrived {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.got[number]
}

// send writes the cells' frames at an interface; the datapath does not look at the destination MAC.
func (x *taps) send(t *testing.T, namespace, ifname string, source netip.Addr, cells []cell) {
	t.Helper()
	fd := packetSocket(t, namespace, ifname)
	defer unix.Close(fd)
	var mac [6]byte
	var index int
	if err := netns.Do(netns.Path(namespace), func() error {
		ifi, err := net.InterfaceByName(ifname)
		if err == nil {
			copy(mac[:], ifi.HardwareAddr)
			index = ifi.Index
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range cells {
		frame := plantest.Frame([6]byte{2}, mac, unix.ETH_P_IP, c.packet(source).Bytes())
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
			t.Fatalf("send %s: %v", c, err)
		}
	}
}
