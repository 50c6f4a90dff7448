package tunnel_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/agent/wire/tunnel"
	"github.com/culvert-net/culvert/internal/netlab"
)

// loadArg as first argument makes the test binary one end of a load, which follows as JSON.
const loadArg = "culvert-tunnel-test-load"

// load is traffic of one account. Its ends are processes, so that the kernel shares CPUs among them and not Go.
type load struct {
	Name    string
	Streams int
	Senders int     // of datagrams
	Size    int     // bytes of a datagram
	Rate    float64 // datagrams a second of each sender; 0: as fast as it can
	Lane    uint32
	Nice    int
	To      netip.AddrPort // the first; every sender has a port of its own
	Receive bool
	File    string // what the receiver counts, bytes
}

// loadMain is such a process, if this one was started as one.
func loadMain() {
	if len(os.Args) < 3 || os.Args[1] != loadArg {
		return
	}
	var l load
	err := json.Unmarshal([]byte(os.Args[2]), &l)
	if err == nil && l.Receive {
		err = l.receive()
	} else if err == nil {
		err = l.send()
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (l *load) port(i int) netip.AddrPort {
	return netip.AddrPortFrom(l.To.Addr(), l.To.Port()+uint16(i))
}

func (l *load) receive() error {
	got, err := counterAt(l.File)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for i := range l.Senders {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(l.port(i)))
		if err != nil {
			return err
		}
		_ = c.SetReadBuffer(4 << 20) // as much as the kernel lets
		wg.Go(func() { count(c, got) })
	}
	if l.Streams > 0 {
		listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(l.To))
		if err != nil {
			return err
		}
		wg.Go(func() {
			for {
				c, err := listener.AcceptTCP()
				if err != nil {
					return
				}
				wg.Go(func() { count(c, got) })
			}
		})
	}
	fmt.Println("ready")
	wg.Wait()
	return nil
}

// count throws away what comes: of a stream without a copy, so that the receiving host is not what bounds it.
func count(c syscall.Conn, got *atomic.Int64) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	flags, buf, n := unix.MSG_DONTWAIT, make([]byte, 1<<20), 0
	if _, stream := c.(*net.TCPConn); stream {
		flags |= unix.MSG_TRUNC
	}
	for err == nil {
		e := raw.Read(func(fd uintptr) bool {
			n, _, err = unix.Recvfrom(int(fd), buf, flags)
			return !errors.Is(err, unix.EAGAIN)
		})
		if e != nil || n == 0 && flags&unix.MSG_TRUNC != 0 {
			return
		}
		got.Add(int64(n))
	}
}

func (l *load) send() error {
	d := net.Dialer{Control: l.mark, Timeout: tunneltest.Patience}
	var wg sync.WaitGroup
	for i := range l.Senders {
		c, err := d.Dial("udp", l.port(i).String())
		if err != nil {
			return err
		}
		wg.Go(func() { l.datagrams(c) })
	}
	for range l.Streams {
		c, err := d.Dial("tcp", l.To.String())
		if err != nil {
			return err
		}
		wg.Go(func() {
			for block := make([]byte, 1<<17); err == nil; {
				_, err = c.Write(block)
			}
		})
	}
	wg.Wait()
	return nil
}

// mark puts a socket's packets into the lane.
func (l *load) mark(_, _ string, c syscall.RawConn) error {
	var err error
	e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(tunnel.LaneMark^l.Lane))
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic") // UDP has none
	})
	if e != nil {
		return e
	}
	return err
}

func (l *load) datagrams(c net.Conn) {
	block, began := make([]byte, l.Size), time.Now()
	for sent := 0.0; ; sent++ {
		if l.Rate > 0 {
			if ahead := time.Duration(sent/l.Rate*1e9) - time.Since(began); ahead > time.Millisecond {
				await(ahead)
			}
		}
		_, _ = c.Write(block) // refused while the receiver is not there
	}
}

// counterAt is a number in a file that two processes share.
func counterAt(path string) (*atomic.Int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(8); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*atomic.Int64)(unsafe.Pointer(&b[0])), nil
}

// running is a load that runs.
type running struct {
	got              *atomic.Int64 // bytes that arrived
	sender, receiver *netlab.Process
}

// loadPort is the first port of a lane's load; another load of the lane comes after it has ended.
const loadPort = 7000

func (l load) start(t *testing.T, a, b *tunneltest.Node) *running {
	t.Helper()
	l.To = netip.AddrPortFrom(b.Overlay, loadPort+uint16(l.Lane)*100)
	l.File = filepath.Join(t.TempDir(), strconv.Itoa(int(l.Lane)))
	got, err := counterAt(l.File)
	if err != nil {
		t.Fatal(err)
	}
	l.Receive = true
	receiver := l.process(t, b)
	netlab.Eventually(t, tunneltest.Patience, func() bool { return receiver.Output() != "" }, "a receiver")
	l.Receive = false
	return &running{got: got, receiver: receiver, sender: l.process(t, a)}
}

// cpu is where this end runs: each host has a CPU of its own, as far as there are two, or what floods one would take the
// other's.
func (l *load) cpu() int {
	if l.Receive {
		return 1 % runtime.NumCPU()
	}
	return 0
}

func (l *load) process(t *testing.T, n *tunneltest.Node) *netlab.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	return n.Namespace.Start("nice", "-n", strconv.Itoa(l.Nice), "taskset", "-c", strconv.Itoa(l.cpu()), self, loadArg, string(text))
}

func (r *running) stop() {
	r.sender.Stop()
	r.receiver.Stop()
}
