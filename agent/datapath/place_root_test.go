package datapath

import (
	"encoding/binary"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
)

// datagram is a frame with a UDP datagram of the workload's to another one, as it may be sent raw.
func (w *workload) datagram(to *workload, ipv6 bool) []byte {
	udp := []byte{3, 232, 7, 208, 0, 18, 0x12, 0x34}
	udp = append(udp, "hellohello"...)
	frame := append(append([]byte{}, gatewayMAC[:]...), w.mac[:]...)
	if ipv6 {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64)
		frame = append(frame, api.IPv6Address(testMesh, w.vpc, w.address).AsSlice()...)
		return append(append(frame, api.IPv6Address(testMesh, to.vpc, to.address).AsSlice()...), udp...)
	}
	ip := append([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0}, w.address.AsSlice()...)
	ip = append(ip, to.address.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
	return append(append(append(frame, 0x08, 0x00), ip...), udp...)
}

// sendSummed sends a frame of which the kernel is to compute a checksum from one place on and write it that far behind.
func (w *workload) sendSummed(frame []byte, start, offset uint16) error {
	return w.Do(func() error {
		link, err := net.InterfaceByName("eni0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return err
		}
		vnet := []byte{unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 0, 0}
		vnet = binary.NativeEndian.AppendUint16(vnet, start)
		vnet = binary.NativeEndian.AppendUint16(vnet, offset)
		return unix.Sendto(fd, append(vnet, frame...), 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
	})
}

// In front of a tunnel that computes checksums wherever a packet says, as the kernel's WireGuard does, only those of transport
// headers pass: those of sockets, offloaded or not, and none that a workload's packet socket has put over an address.
func TestChecksumsOutOfPlace(t *testing.T) {
	m := newMesh(t, func(c *Config) { c.KernelTunnel = true })
	kept := func() uint64 { return m.a.counter(t, bpf.HookHost, bpf.ReasonMalformed) }
	sent := uint64(0)
	for _, ipv6 := range []bool{false, true} {
		frame := m.cart.datagram(m.shelf, ipv6)
		right := uint16(14 + 20)
		if ipv6 {
			right = 14 + 40
		}
		for start := uint16(20); start <= right+4; start++ {
			for offset := range uint16(10) {
				if start == right && offset == 6 {
					continue
				}
				if err := m.cart.sendSummed(frame, start, offset); err != nil {
					t.Fatalf("checksum from %d on, at %d: %v", start, offset, err)
				}
				sent++
			}
		}
		if err := m.cart.sendSummed(frame, right, 6); err != nil {
			t.Fatal(err)
		}
	}
	netlab.Eventually(t, patience, func() bool { return kept() == sent }, "all are kept out")
	netlab.Eventually(t, patience, func() bool { return m.b.counter(t, bpf.HookTunnel, bpf.ReasonNone) == 2 },
		"those with the checksum in its place pass")
	transfer(t, m.cart, m.ledger, "10.0.1.200:443", "10.0.1.5:8443", 1<<20)
	transfer(t, m.cart, m.shelf, "10.0.1.6:7000", "10.0.1.6:7000", 1<<20)
	if n := kept(); n != sent {
		t.Errorf("%d packets of sockets are kept out", n-sent)
	}
}
