// Package stock reaches the library's own code for cutting and joining packets, which it does not export, as an oracle
// for tests. Only tests import it; when the library renames a function, linking them fails and tells so.
package stock

import (
	"encoding/binary"
	"errors"
	"unsafe"

	_ "golang.zx2c4.com/wireguard/tun" // for the linker
)

//go:linkname handleVirtioRead golang.zx2c4.com/wireguard/tun.handleVirtioRead
func handleVirtioRead(in []byte, bufs [][]byte, sizes []int, offset int) (int, error)

//go:linkname newTCPGROTable golang.zx2c4.com/wireguard/tun.newTCPGROTable
func newTCPGROTable() unsafe.Pointer

//go:linkname newUDPGROTable golang.zx2c4.com/wireguard/tun.newUDPGROTable
func newUDPGROTable() unsafe.Pointer

//go:linkname handleGRO golang.zx2c4.com/wireguard/tun.handleGRO
func handleGRO(bufs [][]byte, offset int, tcp, udp unsafe.Pointer, canUDP bool, toWrite *[]int) error

//go:linkname checksum golang.zx2c4.com/wireguard/tun.checksum
func checksum(b []byte, initial uint64) uint16

// Split cuts what a TUN interface with virtio headers gave into packets. The input is overwritten.
func Split(in []byte) (packets [][]byte, err error) {
	count := 2
	if len(in) >= 10 { // the size of a segment stands at 4, in the machine's order
		count += len(in) / max(1, int(binary.NativeEndian.Uint16(in[4:])))
	}
	bufs, sizes := make([][]byte, count), make([]int, count)
	for i := range bufs {
		bufs[i] = make([]byte, len(in))
	}
	n, err := handleVirtioRead(in, bufs, sizes, 0)
	if err != nil {
		return nil, err
	}
	for i := range n {
		packets = append(packets, bufs[i][:sizes[i]])
	}
	return packets, nil
}

// Join joins packets as the library writes them to a TUN interface: each result has its virtio header.
func Join(packets [][]byte) ([][]byte, error) {
	const offset = 10
	bufs := make([][]byte, len(packets))
	for i, p := range packets {
		bufs[i] = append(make([]byte, offset, 1<<17), p...)
	}
	var toWrite []int
	if err := handleGRO(bufs, offset, newTCPGROTable(), newUDPGROTable(), true, &toWrite); err != nil {
		return nil, err
	}
	var out [][]byte
	for _, i := range toWrite {
		if i >= len(bufs) {
			return nil, errors.New("joined packet out of range")
		}
		out = append(out, bufs[i])
	}
	return out, nil
}

// Checksum is the library's folded sum in host order, not complemented.
func Checksum(b []byte) uint16 { return checksum(b, 0) }
