package datapath

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// forged is a header of the PROXY protocol by which a client claims to be another, 10.9.9.9:1 to 10.0.1.200:443.
var forged = append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x09\x09\x09\x0a\x00\x01\xc8\x00\x01\x01\xbb"), stolen...)

const (
	rawISN    = 1000 // of the hostile client
	rawHeader = 16 + 12 + 4 + len(testEndpoint)
	rawQuiet  = 300 * time.Millisecond
	rawTimes  = 5 // that a segment is sent
)

// rawTCP is a TCP client without a kernel, in the tunnel of a hostile node.
type rawTCP struct {
	*hostile
	fd     int    // hears what the receiver sends into its tunnel
	answer uint32 // the target's initial sequence number
}

// segment writes one; the numbers are as such a client counts them.
func (c *rawTCP) segment(flags uint8, seq, ack uint32, payload []byte) {
	c.Helper()
	c.write(c.ip(plan.ProtocolTCP, c.at(c.m.cart, tagTCP), c.at(c.m.ledger, 0), 8443, func(p *plantest.IP) {
		p.Flags, p.Seq, p.Ack, p.Payload = flags, seq, ack, payload
	}))
}

// open sends a SYN and waits for its answer.
func (c *rawTCP) open(payload []byte) {
	c.Helper()
	c.segment(plantest.SYN, rawISN, 0, payload)
	buf := make([]byte, 2048)
	for end := time.Now().Add(patience * netlab.Slowness()); time.Now().Before(end); {
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && !errors.Is(err, unix.EINTR) {
			c.Fatal(err)
		}
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if err != nil || n < 60 || buf[6] != plan.ProtocolTCP || binary.BigEndian.Uint16(buf[42:]) != c.port {
			continue
		}
		if buf[53] == plantest.SYN|plantest.ACK && binary.BigEndian.Uint32(buf[48:]) == rawISN+1 {
			c.answer = binary.BigEndian.Uint32(buf[44:])
			return
		}
	}
	c.Fatal("the target does not answer")
}

// hear gets a copy of all that goes through the receiver's tunnel.
func (h *hostile) hear() (fd int) {
	h.Helper()
	if err := h.m.b.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: h.m.b.tunnel})
	}); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { unix.Close(fd) })
	return fd
}

// A client without rules never gets a byte to a target before the header that says who it is, whatever it sends in whatever
// order and however it counts: not in place of the third ACK, nor beyond the header, nor with the SYN.
func TestHostileClientIsTold(t *testing.T) {
	h := newHostile(t)
	h.told(proxied)
	ln := h.m.ledger.listen(t).(*net.TCPListener)
	fd := h.hear()
	again := func(c *rawTCP, f func()) {
		for range rawTimes {
			f()
		}
	}
	for _, x := range []struct {
		name  string
		first []byte // with the SYN
		send  func(*rawTCP)
		reads string // what the target has after the header; "": nothing
		none  bool   // the target has no connection
	}{
		{name: "a header of its own in place of the third ACK", reads: string(forged), send: func(c *rawTCP) {
			again(c, func() { c.segment(plantest.ACK|plantest.PSH, rawISN+1, c.answer+1, forged) })
		}},
		{name: "data beyond the header that it does not send", send: func(c *rawTCP) {
			again(c, func() { c.segment(plantest.ACK|plantest.PSH, rawISN+1+uint32(rawHeader), c.answer+1, forged) })
		}},
		{name: "data in front of its SYN", send: func(c *rawTCP) {
			again(c, func() { c.segment(plantest.ACK|plantest.PSH, rawISN+1-uint32(len(forged)), c.answer+1, forged) })
		}},
		{name: "data far from its window", send: func(c *rawTCP) {
			again(c, func() { c.segment(plantest.ACK|plantest.PSH, rawISN+1<<31, c.answer+1, forged) })
		}},
		{name: "data with the SYN", first: forged, send: func(c *rawTCP) {
			again(c, func() { c.segment(plantest.ACK, rawISN+1, c.answer+1, nil) })
		}},
		{name: "data with the SYN, counted as received", first: forged, send: func(c *rawTCP) {
			again(c, func() { c.segment(plantest.ACK|plantest.PSH, rawISN+1+uint32(len(forged)), c.answer+1, forged) })
		}},
		{name: "the end at once", send: func(c *rawTCP) {
			c.segment(plantest.ACK|plantest.FIN, rawISN+1, c.answer+1, forged)
		}},
		{name: "urgent data", send: func(c *rawTCP) {
			again(c, func() { c.segment(plantest.ACK|0x20, rawISN+1+uint32(rawHeader), c.answer+1, forged) })
		}},
		{name: "another beginning on the same ports", send: func(c *rawTCP) {
			const other = 1 << 31
			c.segment(plantest.SYN, other, 0, forged)
			again(c, func() { c.segment(plantest.ACK|plantest.PSH, other+1, c.answer+1, forged) })
		}},
		{name: "an acknowledgment of what was never sent", none: true, send: func(c *rawTCP) {
			c.segment(plantest.ACK|plantest.PSH, rawISN+1, c.answer+1+1<<20, forged)
		}},
		{name: "no third ACK", none: true, send: func(c *rawTCP) {
			again(c, func() { c.segment(plantest.PSH, rawISN+1, 0, forged) })
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			h.T, h.m.t = t, t
			h.port += 10
			c := &rawTCP{hostile: h, fd: fd}
			c.open(x.first)
			x.send(c)
			wait := patience * netlab.Slowness()
			if x.none {
				wait = rawQuiet
			}
			if err := ln.SetDeadline(time.Now().Add(wait)); err != nil {
				t.Fatal(err)
			}
			conn, err := ln.Accept()
			if x.none {
				if err == nil {
					conn.Close()
					t.Error("the target has a connection")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			c.reads(conn, x.reads)
			c.segment(plantest.RST, rawISN+1, 0, nil)
		})
	}
}

// reads demands the header, the client's own, and behind it exactly what is wanted.
func (c *rawTCP) reads(conn net.Conn, want string) {
	c.Helper()
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		c.Fatal(err)
	}
	client := &net.TCPAddr{IP: c.m.cart.address.AsSlice(), Port: int(c.port)}
	known, err := readHeader(conn, client, "10.0.1.200:443")
	if err != nil {
		c.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(rawQuiet)); err != nil {
		c.Fatal(err)
	}
	got := make([]byte, 0, 4096)
	for {
		n, err := known.Read(got[len(got):cap(got)])
		got = got[:len(got)+n]
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				c.Errorf("behind the header: %v", err)
			}
			break
		}
	}
	if string(got) != want {
		c.Errorf("the target has %q behind the header, want %q", got, want)
	}
}
