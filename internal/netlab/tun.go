//go:build linux

package netlab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenTUN makes a TUN or TAP interface in the calling thread's namespace, so use it within [Namespace.Do]; it goes when the file is
// closed. flags are of linux/if_tun.h (IFF_TUN or IFF_TAP, IFF_VNET_HDR); packets always come without a header of its own. setUp gets
// the descriptor while nobody else has it.
func OpenTUN(name string, flags uint16, setUp ...func(fd int) error) (*os.File, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr.SetUint16(flags | unix.IFF_NO_PI)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	for _, f := range setUp {
		if err == nil {
			err = f(fd)
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make interface %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
