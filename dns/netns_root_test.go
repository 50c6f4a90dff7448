package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/netns"
)

// The real path, in two namespaces joined by two veth pairs:
//
//	workloads' namespace                      node's namespace
//	w0: overlay addresses of workloads ────── culvert-host: the node's overlay addresses, resolver bound to it
//	w1: another workload's             ────── other0
const (
	testMesh   = 0xabcdef
	testDevice = "culvert-host"
	testPort   = 1023
)

func overlay(vpc uint32, address string) netip.Addr {
	host := api.AddrHost(netip.MustParseAddr(address))
	return api.Overlay{Mesh: testMesh, VPC: vpc, Host: host, Tag: api.TagFamilyIPv4}.Addr()
}

var (
	nodeAddr   = api.NodeAddr(testMesh, 4)
	nodeAddr2  = api.NodeAddr(testMesh, 5) // a second one, so that the source of answers is not right by accident
	shopClient = overlay(shop, "10.0.1.5")
	payClient  = overlay(pay, "10.0.1.5")
	viaOther   = overlay(shop, "10.0.1.6")
	stranger   = overlay(absent, "10.0.1.5")
	outside    = overlay(shop, "10.9.0.1") // not in the VPC's CIDR
	tagged     = api.Overlay{Mesh: testMesh, VPC: shop, Host: 0x0a000105, Tag: api.TagFamilyIPv4 | 3}.Addr()
	otherMesh  = api.Overlay{Mesh: testMesh + 1, VPC: shop, Host: 0x0a000105, Tag: api.TagFamilyIPv4}.Addr()
)

type netnsPair struct {
	t            *testing.T
	node, client string
}

func (p *netnsPair) ip(args string) {
	p.t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		p.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

func newNetnsPair(t *testing.T) *netnsPair {
	t.Helper()
	prefix := fmt.Sprintf("cvt-dns-%d-", os.Getpid())
	p := &netnsPair{t: t, node: prefix + "n", client: prefix + "c"}
	for _, name := range []string{p.node, p.client} {
		p.ip("netns add " + name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	}
	p.connectHost()
	p.ip("-n " + p.node + " link add other0 address 02:00:00:00:00:01 type veth peer name w1 netns " + p.client)
	p.ip("-n " + p.node + " link set other0 up")
	p.ip("-n " + p.client + " link set w1 up")
	p.ip(fmt.Sprintf("-n %s addr add %s/128 dev w1 nodad", p.client, viaOther))
	p.ip(fmt.Sprintf("-n %s route add %s/128 dev w1 metric 2000", p.client, nodeAddr))
	// Discovery would not find the other interface's address there.
	p.ip(fmt.Sprintf("-n %s neigh add %s lladdr 02:00:00:00:00:01 dev w1", p.client, nodeAddr))
	p.ip(fmt.Sprintf("-n %s route add %s/128 dev other0", p.node, viaOther))
	p.settle(p.client, viaOther)
	return p
}

// connectHost makes the pair that ends in the resolver's device.
func (p *netnsPair) connectHost() {
	p.t.Helper()
	p.ip("-n " + p.node + " link add " + testDevice + " type veth peer name w0 netns " + p.client)
	p.ip("-n " + p.node + " link set " + testDevice + " up")
	p.ip("-n " + p.client + " link set w0 up")
	hosts := []netip.Addr{nodeAddr, nodeAddr2}
	for _, a := range hosts {
		p.ip(fmt.Sprintf("-n %s addr add %s/128 dev %s nodad", p.node, a, testDevice))
		p.ip(fmt.Sprintf("-n %s route add %s/128 dev w0 metric 1000", p.client, a))
	}
	clients := []netip.Addr{shopClient, payClient, stranger, outside, tagged, otherMesh}
	for _, a := range clients {
		p.ip(fmt.Sprintf("-n %s addr add %s/128 dev w0 nodad", p.client, a))
		p.ip(fmt.Sprintf("-n %s route add %s/128 dev %s", p.node, a, testDevice))
	}
	p.settle(p.node, hosts...)
	p.settle(p.client, clients...)
}

// settle waits until the kernel takes packets to addresses, which is a moment after they were added.
func (p *netnsPair) settle(namespace string, addresses ...netip.Addr) {
	p.t.Helper()
	netlab.Eventually(p.t, 5*time.Second, func() bool {
		out, err := exec.Command("ip", "-n", namespace, "-6", "route", "show", "table", "local").Output()
		return err == nil && !slices.ContainsFunc(addresses, func(a netip.Addr) bool {
			return !strings.Contains(string(out), "local "+a.String()+" ")
		})
	}, "addresses are usable in "+namespace)
}

// in runs f in a namespace.
func in(name string, f func()) error {
	return netns.Do(netns.Path(name), func() error {
		f()
		return nil
	})
}

// query asks from an overlay address through a device of the workloads' namespace.
func (p *netnsPair) query(network, device string, from, to netip.Addr, timeout time.Duration) (*miekg.Msg, error) {
	var reply *miekg.Msg
	var err error
	entered := in(p.client, func() {
		d := net.Dialer{Timeout: timeout, Control: listenConfig(device).Control}
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		if network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		var conn net.Conn
		if conn, err = d.Dial(network+"6", netip.AddrPortFrom(to, testPort).String()); err != nil {
			return
		}
		defer conn.Close()
		c := miekg.Client{Net: network, Timeout: timeout}
		reply, _, err = c.ExchangeWithConn(ask("ledger.pay.internal.", miekg.TypeA), &miekg.Conn{Conn: conn})
	})
	return reply, errors.Join(entered, err)
}

// wildcard is the resolver's port on all addresses.
var wildcard = fmt.Sprintf("[::]:%d", testPort)

// serve runs a server in the node's namespace until stop is called or the test ends.
func (p *netnsPair) serve(device string) (s *Server, stop func()) {
	p.t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	s = New(Config{Listen: []string{wildcard}, Device: device, Mesh: testMesh, Log: quiet})
	s.Set(testZone(p.t))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		if err := in(p.node, func() { done <- s.Run(ctx) }); err != nil {
			done <- err
		}
	}()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("run: %v", err)
		}
	}
	p.t.Cleanup(stop)
	select {
	case <-s.Ready():
	case err := <-done:
		done <- nil
		p.t.Fatalf("run: %v", err)
	}
	return s, stop
}

// expect asks until there is an answer; the first packets may go lost while a link comes up.
func (p *netnsPair) expect(network, device string, from, to netip.Addr, want string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%s answer to %s from %s", network, from, to), func() bool {
		m, err := p.query(network, device, from, to, 500*time.Millisecond)
		if err == nil && show(m) != want {
			p.t.Errorf("%s to %s: %s, want %s", from, to, show(m), want)
		}
		return err == nil
	})
}

const (
	shopAnswer = "NOERROR aa\nledger.pay.internal. 60 IN A 10.0.1.9"
	payAnswer  = "NOERROR aa\nledger.pay.internal. 60 IN A 10.0.5.5"
)

func TestNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	p := newNetnsPair(t)
	// Without a device the other way is answered too: so what is checked below is the device's doing.
	_, stop := p.serve("")
	p.expect("udp", "w1", viaOther, nodeAddr, shopAnswer)
	stop()

	s, _ := p.serve(testDevice)
	for _, network := range []string{"udp", "tcp"} {
		for _, to := range []netip.Addr{nodeAddr, nodeAddr2} {
			p.expect(network, "w0", shopClient, to, shopAnswer)
			p.expect(network, "w0", payClient, to, payAnswer) // the same IPv4 address, another VPC
		}
		if m, err := p.query(network, "w1", viaOther, nodeAddr, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s through another device: %v, %v, want connection refused", network, m, err)
		}
	}
	for name, from := range map[string]netip.Addr{
		"unknown VPC": stranger, "outside of the VPC": outside, "tagged": tagged, "other mesh": otherMesh,
	} {
		before := s.Stats().NotClient
		if m, err := p.query("udp", "w0", from, nodeAddr, 150*time.Millisecond); err == nil {
			t.Errorf("%s: answered %v", name, m)
		}
		eventually(t, name+" is dropped", func() bool { return s.Stats().NotClient == before+1 })
	}
}

// The device is removed and made again: sockets bound to the old one would be deaf for ever.
func TestDeviceMadeAnew(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	p := newNetnsPair(t)
	p.serve(testDevice)
	p.expect("udp", "w0", shopClient, nodeAddr, shopAnswer)
	p.ip("-n " + p.node + " link del " + testDevice)
	p.connectHost()
	p.expect("udp", "w0", shopClient, nodeAddr, shopAnswer)
	p.expect("tcp", "w0", payClient, nodeAddr, payAnswer)
}

// occupy takes the resolver's port on all addresses and devices, as a server of the host may; nil when it is taken.
func (p *netnsPair) occupy() net.Listener {
	p.t.Helper()
	var l net.Listener
	var err error
	if e := in(p.node, func() { l, err = net.Listen("tcp6", wildcard) }); e != nil {
		p.t.Fatal(e)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil
	} else if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { l.Close() })
	return l
}

// A server that cannot listen says so, at its start and when its device was made anew; then it tries until it can.
func TestListeningTellsWhyNot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	p := newNetnsPair(t)
	var changes atomic.Int64
	s := New(Config{
		Listen: []string{wildcard}, Device: testDevice, Mesh: testMesh, Changed: func() { changes.Add(1) },
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	s.Set(testZone(t))
	run := func(ctx context.Context) (err error) {
		if e := in(p.node, func() { err = s.Run(ctx) }); e != nil {
			t.Fatal(e)
		}
		return err
	}
	if err := s.Listening(); !errors.Is(err, errNotRunning) {
		t.Errorf("before it runs: %v", err)
	}
	other := p.occupy()
	for range 2 {
		if err := run(t.Context()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("run: %v, want address in use", err)
		}
	}
	if err := s.Listening(); !errors.Is(err, syscall.EADDRINUSE) || changes.Load() != 1 {
		t.Errorf("listening: %v after %d changes", err, changes.Load())
	}
	other.Close()

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	eventually(t, "it listens", func() bool { return s.Listening() == nil && changes.Load() == 2 })
	p.expect("udp", "w0", shopClient, nodeAddr, shopAnswer)
	if p.occupy() != nil {
		t.Error("the port is free although the server listens")
	}
	p.ip("-n " + p.node + " link del " + testDevice)
	eventually(t, "it says that the device is gone", func() bool { return errors.Is(s.Listening(), errDeviceMissing) })
	eventually(t, "another takes the port", func() bool {
		other = p.occupy()
		return other != nil
	})
	p.connectHost()
	eventually(t, "it says that the port is taken", func() bool { return errors.Is(s.Listening(), syscall.EADDRINUSE) })
	other.Close()
	p.expect("tcp", "w0", payClient, nodeAddr, payAnswer)
	if err := s.Listening(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil || !errors.Is(s.Listening(), errNotRunning) {
		t.Errorf("run: %v; then %v", err, s.Listening())
	}
}
