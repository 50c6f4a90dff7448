package underlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Report counts what was seen.
type Report struct {
	Packets map[Class]int `json:"packets"`
	// Bad describes the first packets that are not allowed, at most 20.
	Bad []string `json:"bad,omitempty"`
	// Missed packets did not fit into the capture's buffer.
	Missed int `json:"missed"`
}

// OK reports whether something was seen and all of it was allowed.
func (r Report) OK() bool { return r.Packets[Unknown]+r.Packets[Clear] == 0 && r.Total() > 0 }

// Total is the number of packets.
func (r Report) Total() (n int) {
	for _, c := range r.Packets {
		n += c
	}
	return n
}

// Lines are the report as text, sorted by class.
func (r Report) Lines() []string {
	var out []string
	for class, n := range r.Packets {
		out = append(out, fmt.Sprintf("%8d  %s", n, class))
	}
	slices.SortFunc(out, func(a, b string) int {
		if a[10:] < b[10:] {
			return -1
		}
		return 1
	})
	return append(out, r.Bad...)
}

// Capture classifies what an interface of the current network namespace carries, until ctx ends. ready is called once
// packets are being seen. The caller stays on one thread while the socket is opened.
func Capture(ctx context.Context, ifname string, c *Classifier, ready func()) (Report, error) {
	r := Report{Packets: map[Class]int{}}
	fd, err := open(ifname)
	if err != nil {
		return r, fmt.Errorf("capture on %s: %w", ifname, err)
	}
	f := os.NewFile(uintptr(fd), "packet")
	defer f.Close()
	ready()
	buf := make([]byte, 1<<17)
	for ctx.Err() == nil {
		if err := f.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return r, err
		}
		n, err := f.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return r, fmt.Errorf("capture on %s: %w", ifname, err)
		}
		class, why := c.Classify(buf[:n])
		r.Packets[class]++
		if (class == Unknown || class == Clear) && len(r.Bad) < 20 {
			r.Bad = append(r.Bad, fmt.Sprintf("%s: %s: % x", class, why, buf[:min(n, 64)]))
		}
	}
	r.Missed = missed(f)
	return r, nil
}

func open(ifname string) (int, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return 0, err
	}
	proto := int(htons(unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return 0, err
	}
	// Bulk traffic comes in bursts: 64 MiB of buffer, beyond the usual limit.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		unix.Close(fd)
		return 0, err
	}
	// A bridge hands frames between its ports to its own interface only while that is promiscuous.
	promisc := &unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, promisc); err != nil {
		unix.Close(fd)
		return 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func missed(f *os.File) int {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = int(s.Drops)
		}
	})
	return n
}
