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

	// queueLen is how many packets wait in a lane at most: as many as at an Ethernet interface. The kernel's own for a TUN, 500, is
	// eight for each of 64 streams: each that is dropped is dozens of segments.
	queueLen = 1000
)

// openInterface attaches to the TUN interface of that name and makes it persistent. One that does not exist is created,
// and is down; one that exists keeps its state. A descriptor for each lane comes back; one alone when the interface was
// made by a tunnel of before lanes.
func openInterface(name string, mtu int) (fds []int, err error) {
	fd, queued, err := attachAny(name)
	if err != nil {
		return nil, err
	}
	fds = []int{fd}
	failpoint.Here("tunnel.attached")
	defer func() {
		if err != nil {
			closeFiles(fds)
		}
	}()
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fds, fmt.Errorf("make interface %s persistent: %w", name, err)
	}
	if err := setMTU(name, mtu); err != nil {
		return fds, fmt.Errorf("set MTU of interface %s to %d: %w", name, mtu, err)
	}
	for queued && len(fds) < Lanes {
		if fd, err = attach(name, unix.IFF_MULTI_QUEUE); err != nil {
			return fds, fmt.Errorf("lane %d: %w", len(fds), err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func closeFiles(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// attachAny attaches to an interface with queues, which it creates, or to one without that was there before. The kernel
// keeps a second process from the latter only.
func attachAny(name string) (fd int, queued bool, err error) {
	fd, err = attach(name, unix.IFF_MULTI_QUEUE)
	if errors.Is(err, unix.EINVAL) && !errors.Is(err, ErrKernel) {
		if fd, err = attach(name, 0); err == nil {
			return fd, false, nil
		}
	}
	if err != nil {
		return -1, false, err
	}
	n, err := attached(name)
	if err == nil && n > 1 {
		err = errHeld(name, unix.EBUSY)
	}
	if err != nil {
		unix.Close(fd)
		return -1, false, err
	}
	return fd, true, nil
}

func errHeld(name string, err error) error {
	return fmt.Errorf("attach to interface %s: another process holds it: stop that tunnel first: %w", name, err)
}

// ErrKernel says that the interface is one of the kernel's WireGuard.
var ErrKernel = errors.New("it is the kernel's WireGuard, for which culvert agent --wireguard kernel needs no culvert " +
	"tunnel; an agent started with --wireguard user removes it")

// attach opens another queue of an interface, or the only one.
func attach(name string, queued uint16) (int, error) {
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", clonePath, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(tunFlags | queued)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		return fd, nil
	}
	unix.Close(fd)
	switch {
	case errors.Is(err, unix.EBUSY):
		return -1, errHeld(name, err)
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
	fd, _, err := attachAny(name)
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

// lengthenQueues gives each lane room for queueLen packets, unless somebody gave it more.
func lengthenQueues(name string) error {
	ifr, err := linkIoctl(name, unix.SIOCGIFTXQLEN, nil)
	if err == nil && ifr.Uint32() < queueLen {
		_, err = linkIoctl(name, unix.SIOCSIFTXQLEN, func(ifr *unix.Ifreq) { ifr.SetUint32(queueLen) })
	}
	if err != nil {
		return fmt.Errorf("lengthen the queues of interface %s to %d packets: %w", name, queueLen, err)
	}
	return nil
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
