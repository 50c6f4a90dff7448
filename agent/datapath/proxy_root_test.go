package datapath

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/plan"
)

// Decision 0016 on real sockets: unfinished checksums, segmentation offload, retransmissions. The library that reads the
// headers is the one that Go servers use.

const testEndpoint = "vpce-0a1b2c3d4e5f60718"

// slow is how long TCP may take to get over what these tests lose: a SYN-ACK is repeated after 1, 3 and 7 s.
const slow = 20 * time.Second

// tellTargets has the targets of both services told of their clients.
func (m *mesh) tellTargets() {
	m.t.Helper()
	m.grantWith(func(g *plan.Grant) { g.ProxyHeader = g.Protocol == plan.ProtocolTCP })
}

// grantWith changes every grant, for this generation.
func (m *mesh) grantWith(change func(*plan.Grant)) {
	m.t.Helper()
	m.generation++
	for _, h := range []*meshHost{m.a, m.b} {
		p := m.plan(h)
		for i := range p.Grants {
			p.Grants[i].Endpoint = testEndpoint
			change(&p.Grants[i])
		}
		m.applyPlan(h, p)
	}
}

// told is a connection as its target has it, behind the header.
type told struct {
	net.Conn
	r *bufio.Reader
}

func (c *told) Read(b []byte) (int, error) { return c.r.Read(b) }

// readHeader demands that a connection begin with what its client and its endpoint are.
func readHeader(c net.Conn, client net.Addr, dialed string) (*told, error) {
	if err := c.SetDeadline(time.Now().Add(slow * netlab.Slowness())); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c)
	h, err := proxyproto.Read(r)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	tlvs, err := h.TLVs()
	if err != nil {
		return nil, err
	}
	if id := tlvparse.FindAWSVPCEndpointID(tlvs); id != testEndpoint {
		return nil, fmt.Errorf("endpoint %q", id)
	}
	if client != nil && h.SourceAddr.String() != client.String() || h.DestinationAddr.String() != dialed {
		return nil, fmt.Errorf("header of %s to %s, want %s to %s", h.SourceAddr, h.DestinationAddr, client, dialed)
	}
	if host, _, _ := net.SplitHostPort(c.RemoteAddr().String()); host != "10.0.1.9" && host != six(pay, "10.0.1.9").String() {
		return nil, fmt.Errorf("the socket's peer is %s, want the load balancer", c.RemoteAddr())
	}
	return &told{c, r}, nil
}

// listen opens the port of a target.
func (w *workload) listen(t *testing.T) net.Listener {
	t.Helper()
	var ln net.Listener
	if err := w.Do(func() (err error) { ln, err = net.Listen("tcp", ":8443"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func (w *workload) dial(to string) (c *net.TCPConn, err error) {
	err = w.Do(func() error {
		any, err := net.DialTimeout("tcp", to, slow*netlab.Slowness())
		if err != nil {
			return err
		}
		c = any.(*net.TCPConn)
		return c.SetDeadline(time.Now().Add(slow * netlab.Slowness()))
	})
	return c, err
}

// converse dials, and lets both ends talk. Addresses in the header must be those of the client.
func converse(t *testing.T, client, server *workload, dialed string, near func(*net.TCPConn) error, far func(*told) error) {
	t.Helper()
	ln := server.listen(t)
	defer ln.Close()
	peer, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		known, err := readHeader(c, <-peer, dialed)
		if err == nil {
			err = far(known)
		}
		done <- err
	}()
	c, err := client.dial(dialed)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer <- c.LocalAddr()
	if err := errors.Join(near(c), <-done); err != nil {
		t.Error(err)
	}
}

// pour writes and drain compares the same random bytes, without holding them.
func pour(w io.Writer, size int, seed byte) error {
	_, err := io.CopyBuffer(w, io.LimitReader(rand.NewChaCha8([32]byte{seed}), int64(size)), make([]byte, 1<<18))
	return err
}

func drain(r io.Reader, size int, seed byte) error {
	source, got, want := rand.NewChaCha8([32]byte{seed}), make([]byte, 1<<18), make([]byte, 1<<18)
	for left := size; left > 0; {
		n := min(left, len(got))
		if _, err := io.ReadFull(r, got[:n]); err != nil {
			return fmt.Errorf("%d bytes before the end: %w", left, err)
		}
		_, _ = source.Read(want[:n])
		if string(got[:n]) != string(want[:n]) {
			return fmt.Errorf("bytes differ, %d before the end", left)
		}
		left -= n
	}
	return nil
}

// both sends and receives at once.
func both(c io.ReadWriter, size int, out, in byte) error {
	sent := make(chan error, 1)
	go func() { sent <- pour(c, size, out) }()
	return errors.Join(drain(c, size, in), <-sent)
}

func TestProxyProtocolBulk(t *testing.T) {
	m := newMesh(t)
	m.tellTargets()
	const size = 256 << 20
	for name, x := range map[string]struct {
		server *workload
		dialed string
	}{
		"cross-node": {m.ledger, "10.0.1.200:443"}, "same node": {m.vault, "10.0.1.201:443"},
	} {
		t.Run(name, func(t *testing.T) {
			far := func(c *told) error { return both(c, size, 1, 2) }
			converse(t, m.cart, x.server, x.dialed, func(c *net.TCPConn) error { return both(c, size, 2, 1) }, far)
			for _, size := range []int{10, 100_000} {
				far = func(c *told) error { return errors.Join(drain(c, size, 3), pour(c, size, 4)) }
				converse(t, m.cart, x.server, x.dialed,
					func(c *net.TCPConn) error { return errors.Join(pour(c, size, 3), drain(c, size, 4)) }, far)
			}
			exchange(t, m.cart, x.server, x.dialed, ":8443", 1300) // UDP is as ever
		})
	}
	reconcile(t, m)
	for _, w := range []*workload{m.cart, m.ledger, m.vault} {
		w.noBadChecksum(t)
	}
}

// noBadChecksum: TCP in a namespace has not seen one.
func (w *workload) noBadChecksum(t *testing.T) {
	t.Helper()
	if out := w.Exec("nstat", "-asz", "TcpInCsumErrors"); !strings.Contains(out, "TcpInCsumErrors                 0 ") {
		t.Errorf("%s: %s", w.name, out)
	}
}

// lose makes a namespace drop the first n packets that nft's expression matches; there must be as many.
func (w *workload) lose(t *testing.T, hook string, n int, match string) {
	t.Helper()
	w.Exec("nft", fmt.Sprintf("table ip lossy { chain c { type filter hook %s priority 0; "+
		"%s numgen inc mod 1000000 < %d counter drop; }; }", hook, match, n))
	t.Cleanup(func() {
		if out := w.Exec("nft", "list", "table", "ip", "lossy"); !strings.Contains(out, fmt.Sprintf("packets %d ", n)) {
			t.Errorf("%d were to be lost: %s", n, out)
		}
		w.Exec("nft", "delete", "table", "ip", "lossy")
	})
}

// What TCP itself has to get over when packets of the beginning are lost, with and without SYN cookies.
func TestProxyProtocolLosses(t *testing.T) {
	m := newMesh(t)
	m.tellTargets()
	const header, ack = "tcp flags psh", "tcp flags & (fin|syn|rst|psh|ack) == ack"
	const acks = "tcp flags & (syn|ack) == ack"
	hello := func(c *net.TCPConn) error {
		return errors.Join(pour(c, 100_000, 5), c.CloseWrite(), drain(c, 1000, 6))
	}
	answer := func(c *told) error {
		if err := errors.Join(drain(c, 100_000, 5), pour(c, 1000, 6)); err != nil {
			return err
		}
		_, err := c.ReadByte()
		return wantEOF(err)
	}
	for name, x := range map[string]struct {
		at      *workload
		hook    string
		n       int
		match   string
		cookies string
	}{
		"header lost":                      {m.ledger, "input", 1, header, "1"},
		"header lost five times":           {m.ledger, "input", 5, header, "1"},
		"third ACK lost":                   {m.cart, "output", 1, ack, "1"},
		"third ACK and data lost":          {m.cart, "output", 2, acks, "1"},
		"SYN-ACK lost":                     {m.ledger, "output", 1, "tcp flags & (syn|ack) == syn|ack", "1"},
		"ACK of the header lost":           {m.ledger, "output", 1, ack, "1"},
		"answers lost":                     {m.ledger, "output", 4, acks, "1"},
		"SYN cookies":                      {m.ledger, "input", 0, ack, "2"},
		"SYN cookies, header lost":         {m.ledger, "input", 2, header, "2"},
		"SYN cookies, third ACK lost":      {m.cart, "output", 1, ack, "2"},
		"SYN cookies, third and data lost": {m.cart, "output", 2, acks, "2"},
	} {
		t.Run(name, func(t *testing.T) {
			m.ledger.Exec("sysctl", "-qw", "net.ipv4.tcp_syncookies="+x.cookies)
			x.at.lose(t, x.hook, x.n, x.match)
			converse(t, m.cart, m.ledger, "10.0.1.200:443", hello, answer)
		})
	}
	if out := m.ledger.Exec("nstat", "-asz", "TcpExtSyncookiesRecv"); strings.Contains(out, "SyncookiesRecv            0 ") {
		t.Errorf("no SYN cookie was used: %s", out)
	}
	m.ledger.noBadChecksum(t)
}

func wantEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("at the end: %v, want EOF", err)
}

func (c *told) ReadByte() (byte, error) { return c.r.ReadByte() }

// A server that speaks first learns of the client before it hears from it; one that hears nothing but the end too.
func TestProxyProtocolSpeaksFirst(t *testing.T) {
	m := newMesh(t)
	m.tellTargets()
	greet := func(c *told) error { return errors.Join(pour(c, 200, 7), drain(c, 200, 8)) }
	greeted := func(c *net.TCPConn) error { return errors.Join(drain(c, 200, 7), pour(c, 200, 8)) }
	converse(t, m.cart, m.ledger, "10.0.1.200:443", greeted, greet)
	converse(t, m.cart, m.vault, "10.0.1.201:443", greeted, greet)
	bare := func(c *told) error {
		_, err := c.ReadByte()
		return errors.Join(wantEOF(err), pour(c, 100, 9))
	}
	ended := func(c *net.TCPConn) error { return errors.Join(c.CloseWrite(), drain(c, 100, 9)) }
	converse(t, m.cart, m.ledger, "10.0.1.200:443", ended, bare)
	t.Run("header lost", func(t *testing.T) {
		m.ledger.lose(t, "input", 1, "tcp flags psh")
		converse(t, m.cart, m.ledger, "10.0.1.200:443", greeted, greet)
		converse(t, m.cart, m.ledger, "10.0.1.200:443", ended, bare)
	})
	t.Run("third ACK lost, then the end", func(t *testing.T) {
		m.cart.lose(t, "output", 1, "tcp flags & (fin|syn|rst|psh|ack) == ack")
		converse(t, m.cart, m.ledger, "10.0.1.200:443", ended, bare)
	})
	t.Run("agents restart, permission is asked again", func(t *testing.T) {
		again := make(chan struct{})
		far := func(c *told) error {
			if err := greet(c); err != nil {
				return err
			}
			<-again
			return both(c, 1<<20, 1, 2)
		}
		converse(t, m.cart, m.ledger, "10.0.1.200:443", func(c *net.TCPConn) error {
			if err := greeted(c); err != nil {
				return err
			}
			m.reopen()
			m.generation++
			m.apply() // without headers: the flow keeps its own
			close(again)
			return both(c, 1<<20, 2, 1)
		}, far)
	})
}

func (m *mesh) reopen() {
	m.t.Helper()
	m.reopenHost(m.a)
	m.reopenHost(m.b)
}

// reopenHost makes a new agent's datapath of what is there.
func (m *mesh) reopenHost(h *meshHost) {
	m.t.Helper()
	old := h.dp
	if err := h.Do(func() (err error) { h.dp, err = Open(h.cfg); return err }); err != nil {
		m.t.Fatalf("open again: %+v", err)
	}
	if err := old.Close(); err != nil {
		m.t.Fatal(err)
	}
}

// Data in a SYN is never taken for the header, by a target that would take it.
func TestProxyProtocolFastOpen(t *testing.T) {
	m := newMesh(t)
	m.tellTargets()
	m.cart.Exec("sysctl", "-qw", "net.ipv4.tcp_fastopen=0x5")
	m.ledger.Exec("sysctl", "-qw", "net.ipv4.tcp_fastopen=0x602")
	ln := m.ledger.listen(t)
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		known, err := readHeader(c, nil, "10.0.1.200:443")
		if err == nil {
			err = drain(known, 500, 1)
		}
		done <- err
	}()
	first := payload(500, 1)
	if err := m.cart.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		return unix.Sendto(fd, first, unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: 443, Addr: [4]byte{10, 0, 1, 200}})
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A full accept queue: the kernel drops third ACKs, so headers, of connections that clients take for open.
func TestProxyProtocolFullQueue(t *testing.T) {
	m := newMesh(t)
	m.tellTargets()
	var lc net.ListenConfig
	lc.Control = func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}
	m.ledger.Exec("sysctl", "-qw", "net.core.somaxconn=1")
	for _, cookies := range []string{"1", "2"} {
		t.Run("tcp_syncookies="+cookies, func(t *testing.T) {
			m.ledger.Exec("sysctl", "-qw", "net.ipv4.tcp_syncookies="+cookies)
			var ln net.Listener
			if err := m.ledger.Do(func() (err error) {
				ln, err = lc.Listen(context.Background(), "tcp4", ":8443")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			const clients = 5
			results := make(chan error, 2*clients)
			var open sync.WaitGroup
			for range clients {
				open.Add(1)
				go func() {
					c, err := m.cart.dial("10.0.1.200:443")
					open.Done()
					if err != nil {
						results <- err
						return
					}
					defer c.Close()
					results <- errors.Join(pour(c, 50_000, 1), drain(c, 1000, 2))
				}()
			}
			netlab.Eventually(t, slow, func() bool {
				out := m.ledger.Exec("nstat", "-asz", "TcpExtListenOverflows")
				return !strings.Contains(out, "TcpExtListenOverflows           0 ")
			}, "the queue overflows")
			for range clients {
				go func() {
					c, err := ln.Accept()
					if err != nil {
						results <- err
						return
					}
					defer c.Close()
					known, err := readHeader(c, nil, "10.0.1.200:443")
					if err == nil {
						err = errors.Join(drain(known, 50_000, 1), pour(known, 1000, 2))
					}
					results <- err
				}()
			}
			open.Wait()
			for range 2 * clients {
				if err := <-results; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Three packets in a hundred are lost at the target, in both directions.
func TestProxyProtocolRandomLoss(t *testing.T) {
	m := newMesh(t)
	m.tellTargets()
	m.ledger.Exec("nft", `table ip lossy {
		chain in { type filter hook input priority 0; tcp dport 8443 numgen random mod 1000 < 30 drop; }
		chain out { type filter hook output priority 0; tcp sport 8443 numgen random mod 1000 < 30 drop; }
	}`)
	ln := m.ledger.listen(t)
	const connections, size = 40, 200_000
	results := make(chan error, 2*connections)
	for range connections {
		go func() {
			c, err := ln.Accept()
			if err != nil {
				results <- err
				return
			}
			defer c.Close()
			known, err := readHeader(c, nil, "10.0.1.200:443")
			if err == nil {
				err = both(known, size, 1, 2)
			}
			results <- err
		}()
		go func() {
			c, err := m.cart.dial("10.0.1.200:443")
			if err != nil {
				results <- err
				return
			}
			defer c.Close()
			results <- both(c, size, 2, 1)
		}()
	}
	for range 2 * connections {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	m.ledger.noBadChecksum(t)
	m.cart.noBadChecksum(t)
}

// A server that many run: nginx takes the header and tells it.
func TestProxyProtocolNginx(t *testing.T) {
	m := newMesh(t)
	m.tellTargets()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(`daemon off; master_process off; error_log stderr; pid `+dir+`/pid;
events {}
http {
	access_log off; client_body_temp_path `+dir+`/b; proxy_temp_path `+dir+`/p; fastcgi_temp_path `+dir+`/f;
	uwsgi_temp_path `+dir+`/u; scgi_temp_path `+dir+`/s;
	server {
		listen 8443 proxy_protocol;
		location / { return 200 "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port"; }
	}
}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		server *workload
		dialed string
	}{{m.ledger, "10.0.1.200:443"}, {m.vault, "10.0.1.201:443"}} {
		nginx := x.server.Start("nginx", "-c", conf)
		netlab.Eventually(t, slow, func() bool {
			return strings.Contains(x.server.Exec("ss", "-Hltn", "sport = 8443"), "LISTEN")
		}, "nginx listens")
		c, err := m.cart.dial(x.dialed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: ledger\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(c)
		if want := c.LocalAddr().String() + " " + x.dialed; err != nil || !strings.HasSuffix(string(out), want) {
			t.Errorf("%v, %q; want it to end with %q", err, out, want)
		}
		c.Close()
		nginx.Stop()
	}
}
