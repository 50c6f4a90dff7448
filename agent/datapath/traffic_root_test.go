package datapath

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
)

// patience bounds what a test waits for, times [netlab.Slowness].
const patience = 20 * time.Second

// transfer sends size bytes from client to server over TCP and, when those have come whole, as many back.
func transfer(t *testing.T, client, server *workload, dial, listen string, size int) (seen net.Addr) {
	t.Helper()
	var ln net.Listener
	if err := server.Do(func() (err error) { ln, err = net.Listen("tcp", listen); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	there, back := payload(size, 1), payload(size, 2)
	type answer struct {
		peer net.Addr
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- answer{nil, err}
			return
		}
		defer c.Close()
		done <- answer{c.RemoteAddr(), errors.Join(receive(c, there), send(c, back))}
	}()
	var c net.Conn
	if err := client.Do(func() (err error) { c, err = net.DialTimeout("tcp", dial, patience*netlab.Slowness()); return err }); err != nil {
		t.Fatalf("%s dials %s: %v", client.name, dial, err)
	}
	defer c.Close()
	if err := errors.Join(send(c, there), receive(c, back)); err != nil {
		t.Errorf("%s: %v", client.name, err)
	}
	a := <-done
	if a.err != nil {
		t.Errorf("%s: %v", server.name, a.err)
	}
	return a.peer
}

func payload(size int, seed uint64) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return b
}

func send(c net.Conn, b []byte) error {
	if err := c.SetDeadline(time.Now().Add(patience * netlab.Slowness())); err != nil {
		return err
	}
	_, err := c.Write(b)
	return err
}

func receive(c net.Conn, want []byte) error {
	if err := c.SetDeadline(time.Now().Add(patience * netlab.Slowness())); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if sha256.Sum256(got) != sha256.Sum256(want) {
		return fmt.Errorf("%d bytes arrived changed", len(want))
	}
	return nil
}

// exchange sends one datagram and gets it back.
func exchange(t *testing.T, client, server *workload, dial, listen string, size int) {
	t.Helper()
	var pc net.PacketConn
	if err := server.Do(func() (err error) { pc, err = net.ListenPacket("udp", listen); return err }); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	echo(pc)
	if err := ask(client, dial, size); err != nil {
		t.Errorf("%s asks %s: %v", client.name, dial, err)
	}
}

func echo(pc net.PacketConn) {
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
}

func ask(client *workload, dial string, size int) error {
	var c net.Conn
	if err := client.Do(func() (err error) { c, err = net.Dial("udp", dial); return err }); err != nil {
		return err
	}
	defer c.Close()
	want := payload(size, 3)
	if err := send(c, want); err != nil {
		return err
	}
	got := make([]byte, 4096)
	n, err := c.Read(got)
	if err == nil && !bytes.Equal(got[:n], want) {
		err = errors.New("another answer")
	}
	return err
}

// ping sends one echo request with a kilobyte and waits for its answer.
func ping(t *testing.T, client *workload, to string) {
	t.Helper()
	var pc net.PacketConn
	if err := client.Do(func() (err error) { pc, err = net.ListenPacket("ip4:icmp", "0.0.0.0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	echo := append([]byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}, payload(1000, 4)...)
	binary.BigEndian.PutUint16(echo[2:], ^sum(echo))
	if _, err := pc.WriteTo(echo, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
		t.Fatal(err)
	}
	if err := pc.SetDeadline(time.Now().Add(patience * netlab.Slowness())); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(echo)
	want[0] = 0
	buf := make([]byte, 2000)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			t.Errorf("%s pings %s: %v", client.name, to, err)
			return
		}
		if from.String() == to && bytes.Equal(buf[4:n], want[4:]) {
			return
		}
	}
}

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// Real sockets over both hosts: decisions 0001 and 0002.
func TestTraffic(t *testing.T) {
	m := newMesh(t)
	const size = 10 << 20
	t.Run("same VPC", func(t *testing.T) {
		transfer(t, m.cart, m.shelf, "10.0.1.6:80", ":80", size)
		exchange(t, m.cart, m.shelf, "10.0.1.6:80", ":80", 1300)
		ping(t, m.cart, "10.0.1.6")
	})
	t.Run("same VPC, same node", func(t *testing.T) {
		transfer(t, m.cart, m.desk, "10.0.1.7:80", ":80", size)
		exchange(t, m.cart, m.desk, "10.0.1.7:80", ":80", 1300)
		ping(t, m.cart, "10.0.1.7")
	})
	t.Run("endpoint, same address on both sides", func(t *testing.T) {
		peer := transfer(t, m.cart, m.ledger, "10.0.1.200:443", ":8443", size)
		if host, _, _ := net.SplitHostPort(peer.String()); host != "10.0.1.9" {
			t.Errorf("the target saw %s, want the load balancer", peer)
		}
		exchange(t, m.cart, m.ledger, "10.0.1.200:443", ":8443", 1300)
	})
	t.Run("endpoint, same node", func(t *testing.T) {
		transfer(t, m.cart, m.vault, "10.0.1.201:443", ":8443", size)
		exchange(t, m.cart, m.vault, "10.0.1.201:443", ":8443", 1300)
	})
	t.Run("packet too big is told", func(t *testing.T) {
		m.cart.Exec("ip", "link", "set", "eni0", "mtu", "1500")
		m.ledger.Exec("ip", "link", "set", "eni0", "mtu", "1500")
		transfer(t, m.cart, m.ledger, "10.0.1.200:443", ":8443", 1<<20)
	})
	reconcile(t, m)
}

// Every packet is accounted for: what entered left or was refused, at every hook of both hosts, once nothing is under way.
func reconcile(t *testing.T, m *mesh) {
	t.Helper()
	for _, h := range []*meshHost{m.a, m.b} {
		netlab.Eventually(t, patience, func() bool {
			in, out := h.sums(t)
			return maps.Equal(in, out) && len(in) > 0
		}, "what entered at "+h.Name+" is what left")
	}
}

// sums are packets and bytes by hook: those that entered, those that some reason was given for.
func (h *meshHost) sums(t *testing.T) (in, out map[bpf.Hook][2]uint64) {
	t.Helper()
	counters, err := h.dp.Counters()
	if err != nil {
		t.Fatal(err)
	}
	in, out = map[bpf.Hook][2]uint64{}, map[bpf.Hook][2]uint64{}
	for _, c := range counters {
		sum := out
		if c.Reason == bpf.ReasonNone {
			sum = in
		}
		s := sum[c.Hook]
		sum[c.Hook] = [2]uint64{s[0] + c.Packets, s[1] + c.Bytes}
		if c.Reason == bpf.ReasonInternal || c.Reason == bpf.ReasonMalformed || c.Reason == bpf.ReasonBadOverlay {
			t.Errorf("host %s: %+v", h.Name, c)
		}
	}
	return in, out
}
