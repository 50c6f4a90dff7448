package datapath

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/netlab"
)

// A workload that floods the resolver's socket leaves it to its neighbour: of its own datagrams no more than its rate are queued, and
// of the neighbour's none is lost.
func TestQueryLimit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace, loads a program")
	}
	const perSecond = 1000
	limit, err := NewQueryLimit(perSecond)
	if err != nil {
		t.Fatal(err)
	}
	defer limit.Close()
	ns := netlab.New(t).Namespace("queries")
	flooder, neighbour, server := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::3")
	for _, a := range []netip.Addr{flooder, neighbour, server} {
		ns.AddAddress("lo", netip.PrefixFrom(a, 128))
		ns.AwaitAddress(a)
	}
	var l *net.UDPConn
	socket := func(from netip.Addr) (c *net.UDPConn) {
		if err := ns.Do(func() (err error) {
			c, err = net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), l.LocalAddr().(*net.UDPAddr))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	if err := ns.Do(func() (err error) {
		l, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, 0)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var attached error
	if err := errors.Join(raw.Control(func(fd uintptr) { attached = limit.Attach(fd) }), attached); err != nil {
		t.Fatal(err)
	}
	evil, good := socket(flooder), socket(neighbour)
	var flooded, asked, got atomic.Int64
	var wg sync.WaitGroup
	began, over := time.Now(), make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
			}
			if _, err := evil.Write(make([]byte, 40)); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				t.Error(err)
				return
			}
			flooded.Add(1)
		}
	})
	wg.Go(func() {
		defer close(over)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for range 500 {
			<-tick.C
			if _, err := good.Write([]byte{1}); err != nil {
				t.Error(err)
				return
			}
			asked.Add(1)
		}
	})
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		buf := make([]byte, 100)
		for n := int64(0); ; n++ {
			_, from, err := l.ReadFromUDPAddrPort(buf)
			switch {
			case err != nil:
				return
			case from.Addr() == neighbour:
				got.Add(1)
			}
		}
	}()
	wg.Wait()
	took := time.Since(began)
	netlab.Eventually(t, 5*time.Second, func() bool { return got.Load() == asked.Load() }, "all of the neighbour's datagrams are read")
	if err := l.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	<-reading
	dropped, err := limit.Dropped()
	if err != nil {
		t.Fatal(err)
	}
	queued := flooded.Load() - int64(dropped)
	// A second's worth at once, and the rate for as long as it took; what was sent beside each other on two CPUs may be a few more.
	if most := int64(perSecond*(1+took.Seconds())) + 50; queued > most || queued < perSecond {
		t.Errorf("of %d datagrams of the flood %d were queued in %v, want %d to %d", flooded.Load(), queued, took, perSecond, most)
	}
	t.Logf("%d datagrams in %v, %d queued; the neighbour's %d all arrived", flooded.Load(), took.Round(time.Millisecond), queued, got.Load())
}
