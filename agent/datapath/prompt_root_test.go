package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
)

// TestEveryPromptIsAnswered: Linux answers each, however soon after another, as the last one may be what counts.
func TestEveryPromptIsAnswered(t *testing.T) {
	lab := netlab.New(t)
	far, near := lab.Namespace("far"), lab.Namespace("near")
	lab.Veth(far, "v", near, "v")
	farAddr, nearAddr := netip.MustParseAddr("10.0.1.5"), netip.MustParseAddr("10.0.1.6")
	far.AddAddress("v", netip.PrefixFrom(farAddr, 24))
	near.AddAddress("v", netip.PrefixFrom(nearAddr, 24))
	var eni bpf.ENI
	var listener net.Listener
	if err := near.Do(func() (err error) {
		ifi, err := net.InterfaceByName("v")
		if err == nil {
			copy(eni.Mac[:], ifi.HardwareAddr)
			listener, err = net.Listen("tcp4", netip.AddrPortFrom(nearAddr, 443).String())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var conn net.Conn
	var ifindex int
	if err := far.Do(func() (err error) {
		ifi, err := net.InterfaceByName("v")
		if err == nil {
			copy(eni.GatewayMac[:], ifi.HardwareAddr)
			ifindex = ifi.Index
			conn, err = new(net.Dialer).DialContext(ctx, "tcp4", listener.Addr().String())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()

	native := func(a netip.Addr) uint32 { b := a.As4(); return binary.NativeEndian.Uint32(b[:]) }
	port := func(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }
	frame := promptFrame(&bpf.Flow{Saddr: native(farAddr), Daddr: native(nearAddr),
		Sport: port(uint16(conn.LocalAddr().(*net.TCPAddr).Port)), Dport: port(443)}, &eni)
	const prompts = 5
	before := sentSegments(t, near)
	if err := far.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for range prompts {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	answers := 0
	netlab.Eventually(t, 5*time.Second, func() bool {
		answers = sentSegments(t, near) - before
		return answers >= prompts
	}, fmt.Sprintf("all of %d prompts are answered", prompts))
	if answers != prompts {
		t.Errorf("%d answers to %d prompts", answers, prompts)
	}
}

// sentSegments are the TCP segments that a namespace has sent.
func sentSegments(t *testing.T, n *netlab.Namespace) (sent int) {
	t.Helper()
	err := n.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if words[0] != "Tcp:" {
				continue
			}
			if names == nil {
				names = words
				continue
			}
			for i, name := range names {
				if name == "OutSegs" {
					sent, err = strconv.Atoi(words[i])
					return err
				}
			}
		}
		return fmt.Errorf("no count of TCP segments in %q", text)
	})
	if err != nil {
		t.Fatal(err)
	}
	return sent
}
