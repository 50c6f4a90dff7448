package tunnel

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
)

const (
	clonePath = "/dev/net/tun"
	tunFlags  = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR
)

// openInterface attaches to the TUN interface of that name and makes it persistent. One that does not exist is created,
// and is down; one that exists keeps its state.
func openInterface(name string, mtu int) (fd int, err error) {
	if fd, err = attach(name); err != nil {
		return -1, err
	}
	failpoint.Here("tunnel.attached")
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make interface %s persistent: %w", name, err)
	}
	if err := setMTU(name, mtu); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set MTU of interface %s to %d: %w", name, mtu, err)
	}
	return fd, nil
}

func closeFiles(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// ErrKernel says that the interface is one of the kernel's WireGuard.
var ErrKernel = errors.New("it is the kernel's WireGuard, for which culvert agent --wireguard kernel needs no culvert " +
	"tunnel; an agent started with --wireguard user removes it")

func attach(name string) (int, error) {
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", clonePath, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(tunFlags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		return fd, nil
	}
	unix.Close(fd)
	switch {
	case errors.Is(err, unix.EBUSY):
		return -1, fmt.Errorf("attach to interface %s: another process holds it: stop that tunnel first: %w", name, err)
	case errors.Is(err, unix.EINVAL):
		if linkKind(name) == kernelKind {
			return -1, fmt.Errorf("attach to interface %s: %w: %w", name, ErrKernel, err)
		}
		return -1, fmt.Errorf("attach to interface %s: a different kind of interface has this name: %w", name, err)
	case errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("attach to interface %s: needs CAP_NET_ADMIN: %w", name, err)
	}
	return -1, fmt.Errorf("attach to interface %s: %w", name, err)
}

// Delete removes the tunnel's interface, which no process may hold any more. Removing an absent one succeeds.
func Delete(name string) error {
	if !validName(name) {
		return fmt.Errorf("delete interface %q: not a name of an interface", name)
	}
	if _, err := ifIndex(name); errors.Is(err, unix.ENODEV) {
		return nil
	} else if err != nil {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	fd, err := attach(name)
	if err != nil {
		return fmt.Errorf("delete interface: %w", err)
	}
	defer unix.Close(fd) // with nobody attached and not persistent, it goes
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0); err != nil {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}

// DeleteTUN is Delete that leaves the kernel's WireGuard alone.
func DeleteTUN(name string) error {
	err := Delete(name)
	if errors.Is(err, ErrKernel) {
		return nil
	}
	return err
}

// kernelKind is what the kernel calls links of its WireGuard.
const kernelKind = "wireguard"

// linkKind returns the kind of an interface of this network namespace ("wireguard", "tun"), or "" when it cannot be told.
// The kernel gives it as the name of a driver, for links that have none (Linux 5.17).
func linkKind(name string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// validName follows the kernel's dev_valid_name, and refuses the pattern by which the kernel would make up a name.
func validName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." &&
		!strings.ContainsAny(name, "/:% \t\n\v\f\r")
}

func ifIndex(name string) (uint32, error) {
	ifr, err := linkIoctl(name, unix.SIOCGIFINDEX, nil)
	if err != nil {
		return 0, err
	}
	return ifr.Uint32(), nil
}

func getMTU(name string) (int, error) {
	ifr, err := linkIoctl(name, unix.SIOCGIFMTU, nil)
	if err != nil {
		return 0, err
	}
	return int(ifr.Uint32()), nil
}

func setMTU(name string, mtu int) error {
	_, err := linkIoctl(name, unix.SIOCSIFMTU, func(ifr *unix.Ifreq) { ifr.SetUint32(uint32(mtu)) })
	return err
}

// linkIoctl makes a request about an interface of this network namespace.
func linkIoctl(name string, request uint, fill func(*unix.Ifreq)) (*unix.Ifreq, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	if fill != nil {
		fill(ifr)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return ifr, unix.IoctlIfreq(fd, request, ifr)
}
