package datapath

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Before Linux 6.6 there is no tcx: programs are filters of the queueing discipline clsact. A filter stays without the
// agent and is replaced in one step, as a link is. This file speaks the little rtnetlink that it takes; numbers are those
// of linux/pkt_sched.h, linux/pkt_cls.h and linux/rtnetlink.h.
const (
	clsactParent  = 0xfffffff1 // TC_H_CLSACT
	clsactHandle  = 0xffff0000
	parentIngress = 0xfffffff2 // clsact, TC_H_MIN_INGRESS
	parentEgress  = 0xfffffff3 // clsact, TC_H_MIN_EGRESS

	tcaKind    = 1
	tcaOptions = 2

	tcaBPFFD    = 6
	tcaBPFName  = 7
	tcaBPFFlags = 8
	tcaBPFID    = 11

	bpfFlagDirectAction = 1

	// The first place there is.
	filterPriority = 1
	filterHandle   = 1

	clsactKind   = "clsact\x00"
	tcMessage    = 20     // bytes of struct tcmsg
	attrTypeMask = 0x3fff // NLA_TYPE_MASK
)

// filter is one filter of an interface, as the kernel lists it.
type filter struct {
	priority uint16
	handle   uint32
	program  uint32 // id; 0 when it is none of BPF
	tag      string // of the program's instructions, hexadecimal
}

func parentOf(egress bool) uint32 {
	if egress {
		return parentEgress
	}
	return parentIngress
}

// putFilter attaches a program at a priority, or replaces the one that is there.
func putFilter(ifindex int, egress bool, priority uint16, name string, p *ebpf.Program) error {
	if err := ensureClsact(ifindex); err != nil {
		return fmt.Errorf("make clsact at interface %d: %w", ifindex, err)
	}
	options := appendAttr(nil, tcaBPFFD, nativeU32(uint32(p.FD())))
	options = appendAttr(options, tcaBPFName, append([]byte(name), 0))
	options = appendAttr(options, tcaBPFFlags, nativeU32(bpfFlagDirectAction))
	msg := tcHeader(ifindex, filterHandle, parentOf(egress), filterInfo(priority))
	msg = appendAttr(msg, tcaKind, []byte("bpf\x00"))
	msg = appendAttr(msg, tcaOptions|unix.NLA_F_NESTED, options)
	if err := rtnetlink(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg, nil); err != nil {
		return fmt.Errorf("put a filter at interface %d: %w", ifindex, err)
	}
	return nil
}

// ensureClsact makes the qdisc. One of kind ingress, which has its place and no egress, gives way: the interface is ours.
func ensureClsact(ifindex int) error {
	qdisc := appendAttr(tcHeader(ifindex, clsactHandle, clsactParent, 0), tcaKind, []byte(clsactKind))
	err := rtnetlink(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, qdisc, nil)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	kind, err := qdiscKind(ifindex)
	if err != nil || kind == clsactKind {
		return err
	}
	if err := rtnetlink(unix.RTM_DELQDISC, 0, tcHeader(ifindex, clsactHandle, clsactParent, 0), nil); err != nil {
		return err
	}
	return rtnetlink(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, qdisc, nil)
}

// qdiscKind is the kind of what is in clsact's place, with its NUL.
func qdiscKind(ifindex int) (kind string, err error) {
	err = rtnetlink(unix.RTM_GETQDISC, unix.NLM_F_DUMP, tcHeader(ifindex, 0, 0, 0), func(b []byte) {
		if len(b) < tcMessage || int(int32(binary.NativeEndian.Uint32(b[4:]))) != ifindex ||
			binary.NativeEndian.Uint32(b[12:]) != clsactParent { // the kernel lists those of all interfaces
			return
		}
		walkAttrs(b[tcMessage:], func(attr uint16, value []byte) {
			if attr == tcaKind {
				kind = string(value)
			}
		})
	})
	return kind, err
}

// deleteFilter takes our filter of that priority away. What is absent, or lost its interface, is no error.
func deleteFilter(ifindex int, egress bool, priority uint16) error {
	msg := tcHeader(ifindex, filterHandle, parentOf(egress), filterInfo(priority))
	msg = appendAttr(msg, tcaKind, []byte("bpf\x00"))
	err := rtnetlink(unix.RTM_DELTFILTER, 0, msg, nil)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// filters lists what runs at one side of an interface, in the kernel's order; nothing when the interface is gone.
func filters(ifindex int, egress bool) ([]filter, error) {
	var all []filter
	err := rtnetlink(unix.RTM_GETTFILTER, unix.NLM_F_DUMP, tcHeader(ifindex, 0, parentOf(egress), 0), func(b []byte) {
		if len(b) < tcMessage {
			return
		}
		f := filter{
			handle:   binary.NativeEndian.Uint32(b[8:]),
			priority: uint16(binary.NativeEndian.Uint32(b[16:]) >> 16),
		}
		walkAttrs(b[tcMessage:], func(kind uint16, value []byte) {
			if kind != tcaOptions {
				return
			}
			walkAttrs(value, func(kind uint16, value []byte) {
				switch {
				case kind == tcaBPFID && len(value) == 4:
					f.program = binary.NativeEndian.Uint32(value)
				case kind == tcaBPFTag:
					f.tag = hex.EncodeToString(value)
				}
			})
		})
		if f.handle != 0 { // 0 is the head of a priority
			all = append(all, f)
		}
	})
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil, nil
	}
	return all, err
}

// filterInfo is priority and protocol, the latter in network order.
func filterInfo(priority uint16) uint32 {
	var all [2]byte
	binary.BigEndian.PutUint16(all[:], unix.ETH_P_ALL)
	return uint32(priority)<<16 | uint32(binary.NativeEndian.Uint16(all[:]))
}

func tcHeader(ifindex int, handle, parent, info uint32) []byte {
	b := make([]byte, tcMessage)
	b[0] = unix.AF_UNSPEC
	if ifindex > 0 && ifindex <= math.MaxInt32 {
		binary.NativeEndian.PutUint32(b[4:], uint32(ifindex))
	}
	binary.NativeEndian.PutUint32(b[8:], handle)
	binary.NativeEndian.PutUint32(b[12:], parent)
	binary.NativeEndian.PutUint32(b[16:], info)
	return b
}

func nativeU32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func walkAttrs(b []byte, fn func(kind uint16, value []byte)) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		fn(binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

var netlinkSequence atomic.Uint32

// rtnetlink sends one request and reads its answer to the end; each part of a dump goes to part.
func rtnetlink(kind uint16, flags int, body []byte, part func([]byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("netlink socket", err)
	}
	defer unix.Close(fd)
	timeout := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return os.NewSyscallError("netlink socket", err)
	}
	seq := netlinkSequence.Add(1)
	if part == nil {
		flags |= unix.NLM_F_ACK
	}
	msg := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(msg, uint32(unix.NLMSG_HDRLEN+len(body)))
	binary.NativeEndian.PutUint16(msg[4:], kind)
	binary.NativeEndian.PutUint16(msg[6:], uint16(flags|unix.NLM_F_REQUEST))
	binary.NativeEndian.PutUint32(msg[8:], seq)
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netlink send", err)
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("netlink receive", err)
		}
		done, err := netlinkAnswer(buf[:n], seq, part)
		if done || err != nil {
			return err
		}
	}
}

// netlinkAnswer reads the messages of one datagram; done after the last of the answer.
func netlinkAnswer(b []byte, seq uint32, part func([]byte)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return true, errors.New("netlink: truncated message")
		}
		body := b[unix.NLMSG_HDRLEN:size]
		if binary.NativeEndian.Uint32(b[8:]) == seq {
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return true, nil
			case unix.NLMSG_ERROR:
				if len(body) < 4 {
					return true, errors.New("netlink: truncated error")
				}
				if code := -int32(binary.NativeEndian.Uint32(body)); code != 0 {
					return true, unix.Errno(code)
				}
				return true, nil
			default:
				if part != nil {
					part(body)
				}
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false, nil
}
