package gossip

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport sends to members of the list only, at the addresses that the list has, and takes connections from these
// addresses only: who holds a key and is no member shall not be told the others' names.
type transport struct {
	*memberlist.NetTransport
	ctx     context.Context // ends dials
	list    *list
	local   net.Addr // of dials; nil: any
	streams chan net.Conn
	done    chan struct{}
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(ctx context.Context, sockets *memberlist.NetTransport, l *list, address string) *transport {
	t := &transport{NetTransport: sockets, ctx: ctx, list: l, streams: make(chan net.Conn), done: make(chan struct{})}
	if ip := net.ParseIP(address); ip != nil {
		t.local = &net.TCPAddr{IP: ip}
	}
	go t.sift()
	return t
}

// sift closes connections of strangers.
func (t *transport) sift() {
	for {
		select {
		case <-t.done:
			return
		case c := <-t.NetTransport.StreamCh():
			from, err := netip.ParseAddrPort(c.RemoteAddr().String())
			if err != nil || !t.list.has(from.Addr().Unmap()) {
				c.Close()
				continue
			}
			select {
			case t.streams <- c:
			case <-t.done:
				c.Close()
				return
			}
		}
	}
}

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements memberlist.Transport. The listeners end while their connections are still taken.
func (t *transport) Shutdown() error {
	err := t.NetTransport.Shutdown()
	close(t.done)
	return err
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return dummy, dummyPort, nil
}

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo([]byte, string) (time.Time, error) { return time.Time{}, errStranger }

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *transport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	address, ok := t.list.of(to.Name)
	if !ok {
		return time.Time{}, errStranger
	}
	return t.NetTransport.WriteToAddress(b, memberlist.Address{Addr: address, Name: to.Name})
}

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errStranger }

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	address, ok := t.list.of(to.Name)
	if !ok {
		return nil, errStranger
	}
	d := net.Dialer{Timeout: timeout, LocalAddr: t.local}
	return d.DialContext(t.ctx, "tcp", address)
}
