package e2e

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netns"
)

// greeter answers at one port of a workload: each TCP connection gets the workload's name and the client's address as its first
// line and then what it sends, each datagram the name, the address and itself.
type greeter struct {
	mu   sync.Mutex
	open map[net.Conn]bool
	came map[netip.AddrPort]int // bytes of datagrams by client
	p    net.PacketConn
}

func (m *commandMesh) greet(t *testing.T, workload string, port uint16) *greeter {
	t.Helper()
	g := &greeter{open: map[net.Conn]bool{}, came: map[netip.AddrPort]int{}}
	var l net.Listener
	var p net.PacketConn
	if err := netns.Do(netns.Path(commandNS(workload)), func() (err error) {
		address := fmt.Sprintf(":%d", port)
		quiet := net.ListenConfig{KeepAlive: -1} // or nothing would ever be idle
		if l, err = quiet.Listen(t.Context(), "tcp", address); err == nil {
			p, err = net.ListenPacket("udp", address)
		}
		if err == nil {
			err = p.(*net.UDPConn).SetReadBuffer(8 << 20)
		}
		return err
	}); err != nil {
		t.Fatalf("greeter of %s: %v", workload, err)
	}
	g.p = p
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); p.Close(); g.closeAll(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.note(c, true)
			wg.Go(func() {
				defer g.note(c, false)
				defer c.Close()
				if _, err := fmt.Fprintf(c, "%s %s\n", workload, plain(c.RemoteAddr())); err == nil {
					_, _ = io.Copy(c, c)
				}
			})
		}
	})
	wg.Go(func() { g.datagrams(workload, p) })
	return g
}

func (g *greeter) datagrams(workload string, p net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what ICMP says about an answer
		}
		g.mu.Lock()
		g.came[plain(from)] += n
		g.mu.Unlock()
		_, _ = p.WriteTo(fmt.Appendf(nil, "%s %s\n%s", workload, plain(from), buf[:n]), from)
	}
}

// plain is an address as IPv4 if it is one.
func plain(a net.Addr) netip.AddrPort {
	x := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(x.Addr().Unmap(), x.Port())
}

func (g *greeter) note(c net.Conn, open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if open {
		g.open[c] = true
	} else {
		delete(g.open, c)
	}
}

func (g *greeter) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		c.Close()
	}
}

// connections is how many are open here.
func (g *greeter) connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open)
}

// clients is how many have sent datagrams, and bytes how many came.
func (g *greeter) clients() (n, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, b := range g.came {
		bytes += b
	}
	return len(g.came), bytes
}

// talk is a connection with a greeter.
type talk struct {
	net.Conn
	r      *bufio.Reader
	target string
	source netip.AddrPort // of the client as the target sees it

	mu    sync.Mutex
	ended time.Time // when it was found broken
	why   error
}

// dial opens a connection and has the greeting, within a time.
func (m *commandMesh) dial(workload string, to netip.AddrPort, within time.Duration) (*talk, error) {
	c := &talk{}
	err := netns.Do(netns.Path(commandNS(workload)), func() (err error) {
		d := net.Dialer{Timeout: within * slowness(), KeepAlive: -1}
		c.Conn, err = d.Dial("tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	c.r = bufio.NewReader(c)
	_ = c.SetDeadline(time.Now().Add(within * slowness()))
	line, err := c.r.ReadString('\n')
	if err == nil {
		c.target, c.source, err = greeting(line)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func greeting(line string) (target string, source netip.AddrPort, err error) {
	target, from, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	source, err = netip.ParseAddrPort(from)
	return target, source, err
}

// ask sends a line and demands it back.
func (c *talk) ask() error {
	_ = c.SetDeadline(time.Now().Add(slack * 10 * time.Second * slowness()))
	line, err := "", error(nil)
	if _, err = io.WriteString(c, "still there?\n"); err == nil {
		line, err = c.r.ReadString('\n')
	}
	if err == nil && line != "still there?\n" {
		err = fmt.Errorf("answer %q", line)
	}
	return err
}

// watch reads, without sending anything, until the connection ends.
func (c *talk) watch(wg *sync.WaitGroup) {
	_ = c.SetDeadline(time.Time{})
	wg.Go(func() {
		_, err := c.r.ReadByte()
		c.end(err)
	})
}

// keep asks on, ten times a second, until the connection ends or ctx does.
func (c *talk) keep(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := c.ask(); err != nil {
				c.end(err)
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
}

func (c *talk) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		err = errors.New("something was said that nobody asked for")
	}
	c.ended, c.why = time.Now(), err
}

// broken tells when and why it ended; zero if it goes on.
func (c *talk) broken() (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended, c.why
}

// talks are connections that are kept.
type talks struct {
	all  []*talk
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// converse opens n connections and keeps asking on all of them; every fourth only listens, if quiet.
func (m *commandMesh) converse(t *testing.T, workload string, to netip.AddrPort, n int, quiet bool) *talks {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	x := &talks{stop: cancel}
	t.Cleanup(x.end)
	for i := range n {
		c, err := m.dial(workload, to, slack*5*time.Second)
		if err != nil {
			t.Fatalf("connection %d from %s to %s: %v", i, workload, to, err)
		}
		x.all = append(x.all, c)
		if quiet && i%4 == 0 {
			c.watch(&x.wg)
		} else {
			c.keep(ctx, &x.wg)
		}
	}
	return x
}

func (x *talks) end() {
	x.stop()
	for _, c := range x.all {
		c.Close()
	}
	x.wg.Wait()
}

// to are those to a target.
func (x *talks) to(target string) []*talk {
	return slices.DeleteFunc(slices.Clone(x.all), func(c *talk) bool { return c.target != target })
}

// whole says which have ended, of those that are not to a target ("" all).
func (x *talks) whole(but string) error {
	var errs []error
	for _, c := range x.all {
		if _, err := c.broken(); err != nil && (but == "" || c.target != but) {
			errs = append(errs, fmt.Errorf("%s to %s: %w", c.LocalAddr(), c.target, err))
		}
	}
	return errors.Join(errs...)
}

// shares opens n connections, one after the other, and counts the targets they come to.
func (m *commandMesh) shares(t *testing.T, workload string, to netip.AddrPort, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		c, err := m.dial(workload, to, slack*10*time.Second)
		if err != nil {
			t.Fatalf("%s to %s: %v", workload, to, err)
		}
		got[c.target]++
		c.Close()
	}
	return got
}

// whose is shares in words.
func whose(got map[string]int) string { return strings.Join(slices.Sorted(maps.Keys(got)), " ") }

// datagrams is a UDP socket that is connected to a greeter. Without checksum where that is asked for, which IPv4 allows.
func (m *commandMesh) datagrams(t *testing.T, workload string, to netip.AddrPort, noChecksum bool) *net.UDPConn {
	t.Helper()
	c, err := openDatagrams(commandNS(workload), to, noChecksum)
	if err != nil {
		t.Fatalf("%s to %s: %v", workload, to, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func openDatagrams(namespace string, to netip.AddrPort, noChecksum bool) (c *net.UDPConn, err error) {
	err = netns.Do(netns.Path(namespace), func() (err error) {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	})
	if err != nil || !noChecksum {
		return c, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var errSet error
	err = raw.Control(func(fd uintptr) { errSet = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) })
	return c, errors.Join(err, errSet)
}

// answer sends a datagram until it is answered, and tells by whom and what the target sees; nothing within a time is an error.
func answer(c *net.UDPConn, payload []byte, within time.Duration) (target string, source netip.AddrPort, err error) {
	var other error
	buf := make([]byte, 64<<10)
	for end := time.Now().Add(within * slowness()); time.Now().Before(end); {
		if _, err := c.Write(payload); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return "", source, err
		}
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := c.Read(buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ECONNREFUSED) {
			return "", source, err
		}
		if err == nil {
			head, body, _ := strings.Cut(string(buf[:n]), "\n")
			if body == string(payload) {
				return greeting(head)
			}
			other = fmt.Errorf("%d bytes came back as %d, or others", len(payload), len(body)) // or it is a late answer to the one before
		}
	}
	return "", source, cmp.Or(other, error(os.ErrDeadlineExceeded))
}
