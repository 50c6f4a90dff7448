package tunnel_test

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ptr gives the address of a control message's bytes.
func ptr(b []byte) unsafe.Pointer { return unsafe.Pointer(&b[0]) }

// ethtool makes a request of SIOCETHTOOL; which one, its first bytes tell.
func ethtool(fd int, name string, request []byte) error {
	ifr := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: ptr(request)}
	copy(ifr.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		return errno
	}
	return nil
}
