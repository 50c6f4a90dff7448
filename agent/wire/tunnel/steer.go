package tunnel

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of the kernel's interface: attributes of linux/if_link.h and linux/if_tun.h, bpf(2) as in linux/bpf.h.
const (
	iflaInfoData  = 2
	iflaTunQueues = 8

	bpfProgLoad     = 5
	bpfSocketFilter = 1
)

// attached is how many queues processes hold of an interface of this network namespace.
func attached(name string) (queues int, err error) {
	index, err := ifIndex(name)
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	defer c.Close()
	info := unix.IfInfomsg{Index: int32(index)}
	request := netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
		Data:   append([]byte(nil), (*[unix.SizeofIfInfomsg]byte)(unsafe.Pointer(&info))[:]...),
	}
	answers, err := c.Execute(request)
	if err != nil {
		return 0, fmt.Errorf("interface %s: ask for its queues: %w", name, err)
	}
	for _, m := range answers {
		if len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		if queues, err = queuesOf(m.Data[unix.SizeofIfInfomsg:]); err != nil {
			return 0, fmt.Errorf("interface %s: ask for its queues: %w", name, err)
		}
	}
	return queues, nil
}

// queuesOf reads attributes of a link.
func queuesOf(attributes []byte) (queues int, err error) {
	link, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return 0, err
	}
	for link.Next() {
		if link.Type() != unix.IFLA_LINKINFO {
			continue
		}
		link.Nested(func(info *netlink.AttributeDecoder) error {
			for info.Next() {
				if info.Type() == iflaInfoData {
					info.Nested(func(tun *netlink.AttributeDecoder) error {
						for tun.Next() {
							if tun.Type() == iflaTunQueues {
								queues = int(tun.Uint32())
							}
						}
						return nil
					})
				}
			}
			return nil
		})
	}
	return queues, link.Err()
}

// steer has the kernel put packets into their lanes, and count them; with nil it counts none. The interface keeps the program when this
// process ends.
func steer(fd int, counts *taken) error {
	program, license := steering(counts), []byte("Apache-2.0\x00")
	var attr struct { // union bpf_attr, as much of it as is needed
		kind         uint32
		count        uint32
		instructions uint64
		license      uint64
		logLevel     uint32
		logSize      uint32
		logBuf       uint64
		version      uint32
		flags        uint32
	}
	attr.kind, attr.count = bpfSocketFilter, uint32(len(program)/8)
	attr.instructions = uint64(uintptr(unsafe.Pointer(&program[0])))
	attr.license = uint64(uintptr(unsafe.Pointer(&license[0])))
	prog, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgLoad, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(program)
	runtime.KeepAlive(license)
	if errno != 0 {
		return fmt.Errorf("load the program that picks lanes: %w", errno)
	}
	defer unix.Close(int(prog))
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETSTEERINGEBPF, int(prog)); err != nil {
		return fmt.Errorf("set the program that picks lanes: %w", err)
	}
	return nil
}
