package tunnel

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropRights gives up CAP_BPF, which only picking lanes needs, in all threads: what comes from the underlay shall not find
// it. Where the C library is linked in, which is nowhere but in tests of races, there is no way to do that.
func dropRights() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	const word, bit = unix.CAP_BPF / 32, 1 << (unix.CAP_BPF % 32)
	if data[word].Permitted&bit == 0 {
		return nil
	}
	data[word].Permitted &^= bit
	data[word].Effective &^= bit
	data[word].Inheritable &^= bit
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 && errno != unix.ENOTSUP {
		return fmt.Errorf("drop CAP_BPF: %w", errno)
	}
	return nil
}
