package dns

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// Datagrams that come at once are read in batches, whole and with their senders, in order; each reply goes to who asked. One that is too
// long to be a query is passed over.
func TestBatches(t *testing.T) {
	for _, network := range []string{"udp6", "udp4"} {
		address := map[string]string{"udp6": "[::]:0", "udp4": "127.0.0.1:0"}[network]
		p, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		socket, err := newPacketSocket(p)
		if err != nil {
			t.Fatal(err)
		}
		port := p.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		to := map[string]netip.Addr{"udp6": netip.IPv6Loopback(), "udp4": netip.MustParseAddr("127.0.0.1")}[network]
		var clients []net.Conn
		for range 3 {
			c, err := net.Dial(network, netip.AddrPortFrom(to, port).String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			clients = append(clients, c)
		}
		const sent = 3 * batchSize / 2
		text := func(i int) []byte { return bytes.Repeat([]byte(fmt.Sprint(i)), 1+i*20) }
		for i := range sent {
			if _, err := clients[i%3].Write(text(i)); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if _, err := clients[1].Write(make([]byte, maxQuery+1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		b := new(batch)
		next, passed := 0, 0
		for next < sent {
			var got []datagram
			if next > 0 {
				got = socket.poll(b)
			} else if got, err = socket.read(b); err != nil || len(got) != batchSize {
				t.Fatalf("%s: %d datagrams, %v", network, len(got), err)
			}
			for i := range got {
				if got[i].query == nil {
					passed++
					continue
				}
				from := clients[next%3].LocalAddr().(*net.UDPAddr).AddrPort()
				if !bytes.Equal(got[i].query, text(next)) || got[i].from != from {
					t.Fatalf("%s: datagram %d: %q from %v, want %v", network, next, got[i].query, got[i].from, from)
				}
				if next%2 == 0 {
					got[i].reply = got[i].query
				}
				next++
			}
			if err := socket.write(b, got); err != nil {
				t.Fatal(err)
			}
		}
		if passed != 1 {
			t.Errorf("%s: %d datagrams were passed over, want one", network, passed)
		}
		buf := make([]byte, maxQuery)
		for i := 0; i < sent; i += 2 {
			if n, err := clients[i%3].Read(buf); err != nil || !bytes.Equal(buf[:n], text(i)) {
				t.Fatalf("%s: reply %d: %q, %v", network, i, buf[:n], err)
			}
		}
	}
}
