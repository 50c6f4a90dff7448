package exchange

import (
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/health"
	"github.com/culvert-net/culvert/internal/netlab"
)

// A socket hears what comes by its device and nothing else, may have an address before the device has it, and knows when the
// device is another one.
func TestSocketOfDevice(t *testing.T) {
	lab := netlab.New(t)
	a, b := lab.Namespace("a"), lab.Namespace("b")
	lab.Veth(a, "one", b, "one")
	at := netip.MustParseAddrPort("[fd07::1]:1022")
	open := func() (s Socket) {
		t.Helper()
		if err := a.Do(func() (err error) { s, err = Open(t.Context(), "one", at); return err }); err != nil {
			t.Fatal(err)
		}
		return s
	}
	stale := func(s Socket) error { return a.Do(s.Stale) }
	s := open()
	for i, n := range []*netlab.Namespace{a, b} {
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 7, 15: byte(i + 1)}), 64)
		n.AddAddress("one", p)
		n.AwaitAddress(p.Addr())
	}
	if err := stale(s); err != nil {
		t.Fatal(err)
	}
	var from Socket
	if err := b.Do(func() (err error) {
		from, err = Open(t.Context(), "one", netip.MustParseAddrPort("[fd07::2]:1022"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	got := make(chan string, 1)
	go func() {
		buf := make([]byte, 100)
		n, who, err := s.ReadFromUDPAddrPort(buf)
		if err == nil {
			got <- string(buf[:n]) + " of " + who.String()
		}
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for heard, end := "", time.After(5*time.Second); heard == ""; {
		_, _ = from.WriteToUDPAddrPort([]byte("hello"), at) // until neighbours are found
		select {
		case heard = <-got:
			if heard != "hello of [fd07::2]:1022" {
				t.Errorf("heard %s", heard)
			}
		case <-tick.C:
		case <-end:
			t.Fatal("nothing was heard")
		}
	}
	const many = 500
	for range many { // while nobody reads
		_, _ = from.WriteToUDPAddrPort(make([]byte, health.MaxMessage), at)
	}
	if err := s.(*socket).SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	heard := 0
	for buf := make([]byte, health.MaxMessage+1); heard < many; {
		n, _, err := s.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Errorf("of %d messages at once %d were heard", many, heard)
			break
		}
		if n == health.MaxMessage {
			heard++
		}
	}
	a.DeleteLink("one")
	if err := stale(s); err == nil {
		t.Error("without its device it is as good as ever")
	}
	lab.Veth(a, "one", b, "one")
	if err := stale(s); err == nil {
		t.Error("the device is another one")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Do(func() error { _, err := Open(t.Context(), "none", at); return err }); err == nil {
		t.Error("a device that is not there")
	}
}
