package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire"
)

// Of bpf(2), as in linux/bpf.h.
const (
	bpfMapCreate = 0
	bpfMapUpdate = 2
	bpfMapDelete = 3

	bpfArray  = 2
	bpfTrie   = 11
	bpfSparse = 1 << 0  // BPF_F_NO_PREALLOC
	bpfMapped = 1 << 10 // BPF_F_MMAPABLE

	// maxPrefixes bounds the tenants' prefixes of all peers: as many as a plan has, and as many again while they change.
	maxPrefixes = 1 << 18
)

// taken counts what is given to the tunnel in the kernel, by the program that picks a packet's lane: before the lane drops it. The program
// finds the peer as the device will, in a trie of the addresses that tenants have behind peers.
type taken struct {
	prefixes, numbers int                     // maps: slot by address, packets by slot; they live as long as the program
	mem               []byte                  // numbers, mapped
	known             map[netip.Prefix]uint32 // what is in prefixes, as far as this process put it there
	inherited         bool                    // the maps are those of the process before
}

func makeTaken() (*taken, error) {
	t := &taken{prefixes: -1, numbers: -1}
	var err error
	if t.prefixes, err = makeMap(bpfTrie, prefixKeyLen, 4, maxPrefixes, bpfSparse); err == nil {
		t.numbers, err = makeMap(bpfArray, 4, 8, wire.PassageSlots, bpfMapped)
	}
	if err == nil {
		err = t.open()
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("count what is given to the tunnel: %w", err)
	}
	return t, nil
}

// inheritTaken takes over the maps of the process before. Its peers' prefixes are in the map; they are this one's, too.
func inheritTaken(prefixes, numbers int) (*taken, error) {
	t := &taken{prefixes: prefixes, numbers: numbers, inherited: true}
	if err := t.open(); err != nil {
		t.close()
		return nil, fmt.Errorf("take over what is given to the tunnel: %w", err)
	}
	return t, nil
}

func (t *taken) open() (err error) {
	t.known = make(map[netip.Prefix]uint32)
	t.mem, err = unix.Mmap(t.numbers, 0, 8*wire.PassageSlots, unix.PROT_READ, unix.MAP_SHARED)
	return err
}

func (t *taken) close() {
	closeAll([2]int{t.prefixes, t.numbers})
}

// of is what was given so far for the peer of a slot, since the maps were made.
func (t *taken) of(slot int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&t.mem[8*slot])) }

// prefixKeyLen is a trie's key: the number of bits, and an IPv6 address.
const prefixKeyLen = 4 + 16

func prefixKey(p netip.Prefix) (key [prefixKeyLen]byte) {
	binary.NativeEndian.PutUint32(key[:], uint32(p.Bits()))
	a := p.Addr().As16()
	copy(key[4:], a[:])
	return key
}

// keep returns descriptors that stay open across execve.
func (t *taken) keep() (prefixes, numbers int, err error) {
	prefixes, err1 := unix.FcntlInt(uintptr(t.prefixes), unix.F_DUPFD, 3)
	numbers, err2 := unix.FcntlInt(uintptr(t.numbers), unix.F_DUPFD, 3)
	return prefixes, numbers, errors.Join(err1, err2)
}

// find has the program find these prefixes, and no others, by slot.
func (t *taken) find(want map[netip.Prefix]uint32) error {
	for p := range t.known {
		if _, ok := want[p]; ok {
			continue
		}
		key := prefixKey(p)
		if err := changeMap(bpfMapDelete, t.prefixes, key[:], nil); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		delete(t.known, p)
	}
	for p, slot := range want {
		if had, ok := t.known[p]; ok && had == slot {
			continue
		}
		key, value := prefixKey(p), make([]byte, 4)
		binary.NativeEndian.PutUint32(value, slot)
		if err := changeMap(bpfMapUpdate, t.prefixes, key[:], value); err != nil {
			return err
		}
		t.known[p] = slot
	}
	return nil
}

func makeMap(kind, key, value, entries, flags uint32) (fd int, err error) {
	attr := struct{ kind, key, value, entries, flags uint32 }{kind, key, value, entries, flags}
	r, _, errno := unix.Syscall(unix.SYS_BPF, bpfMapCreate, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, fmt.Errorf("make a map of kind %d: %w", kind, errno)
	}
	return int(r), nil
}

func changeMap(command uintptr, fd int, key, value []byte) error {
	attr := struct {
		fd, _      uint32
		key, value uint64
		flags      uint64
	}{fd: uint32(fd), key: uint64(uintptr(unsafe.Pointer(&key[0])))}
	if value != nil {
		attr.value = uint64(uintptr(unsafe.Pointer(&value[0])))
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(key)
	runtime.KeepAlive(value)
	if errno != 0 {
		return errno
	}
	return nil
}

// Instructions of BPF, as in linux/bpf_common.h and linux/bpf.h; registers are in the order destination, source.
const (
	opLoad32, opLoad8       = 0x61, 0x71
	opStore32, opStoreImm32 = 0x63, 0x62
	opMove, opMoveImm       = 0xbf, 0xb7
	opAdd, opAddImm, opSub  = 0x0f, 0x07, 0x1f
	opDiv                   = 0x3f
	opAndImm, opXorImm      = 0x57, 0xa7
	opShiftL, opShiftR      = 0x67, 0x77
	opEqualImm, opOtherImm  = 0x15, 0x55
	opNotAbove              = 0xbd
	opCall, opExit          = 0x85, 0x95
	opWide                  = 0x18
	opAtomic64              = 0xdb // with 0: adds

	callLookup    = 1
	callLoadBytes = 26
	wideMap       = 1 // source register: the number is a map's descriptor

	// Of struct __sk_buff; all are 4 bytes.
	skbLen, skbMark, skbProtocol, skbGSOSize = 0, 8, 16, 176
)

// program is BPF with labels, of which each is jumped to from before it only.
type program struct {
	code  []byte
	jumps map[string][]int // where jumps to a label stand
}

func (p *program) add(op, dst, src byte, offset int16, value int32) {
	p.code = append(p.code, op, src<<4|dst)
	p.code = binary.NativeEndian.AppendUint16(p.code, uint16(offset))
	p.code = binary.NativeEndian.AppendUint32(p.code, uint32(value))
}

func (p *program) jump(op, dst, src byte, value int32, label string) {
	if p.jumps == nil {
		p.jumps = make(map[string][]int)
	}
	p.jumps[label] = append(p.jumps[label], len(p.code))
	p.add(op, dst, src, 0, value)
}

func (p *program) label(name string) {
	for _, at := range p.jumps[name] {
		binary.NativeEndian.PutUint16(p.code[at+2:], uint16((len(p.code)-at)/8-1))
	}
	delete(p.jumps, name)
}

// loadMap puts a map into register 1.
func (p *program) loadMap(fd int) {
	p.add(opWide, 1, wideMap, 0, int32(fd))
	p.add(0, 0, 0, 0, 0)
}

// loadBytes copies bytes of the packet onto the stack; what it cannot copy jumps.
func (p *program) loadBytes(from int32, to, length int32, fail string) {
	p.add(opMove, 1, 6, 0, 0)
	p.add(opMoveImm, 2, 0, 0, from)
	p.add(opMove, 3, 10, 0, 0)
	p.add(opAddImm, 3, 0, 0, to)
	p.add(opMoveImm, 4, 0, 0, length)
	p.add(opCall, 0, 0, 0, callLoadBytes)
	p.jump(opOtherImm, 0, 0, 0, fail)
}

// Of the stack, below register 10.
const (
	stackKey    = -24 // of the trie: bits and address
	stackAddr   = stackKey + 4
	stackVPC    = stackAddr + 4
	stackSlot   = -28
	stackByte   = -32
	ip6NextAt   = 6
	ip6TargetAt = 24
)

// steering is the program by which the kernel picks a packet's queue: the lane that its mark names. With counts it also counts what tenants
// give to peers: segments as [splitter.segments] has them. Register 6 is the packet, 7 how many it is.
func steering(counts *taken) []byte {
	p := &program{}
	p.add(opMove, 6, 1, 0, 0)
	if counts != nil {
		counts.count(p)
		p.label("out")
	}
	p.add(opLoad32, 0, 6, skbMark, 0)
	p.add(opXorImm, 0, 0, 0, LaneMark)
	p.add(opAndImm, 0, 0, 0, Lanes-1)
	p.add(opExit, 0, 0, 0, 0)
	return p.code
}

func (t *taken) count(p *program) {
	ipv6 := int32(binary.NativeEndian.Uint16([]byte{unix.ETH_P_IPV6 >> 8, unix.ETH_P_IPV6 & 0xff}))
	p.add(opLoad32, 1, 6, skbProtocol, 0)
	p.jump(opOtherImm, 1, 0, ipv6, "out")
	p.loadBytes(ip6TargetAt, stackAddr, 16, "out")
	p.add(opLoad32, 1, 10, stackVPC, 0)
	p.jump(opEqualImm, 1, 0, 0, "out") // of nodes
	p.add(opStoreImm32, 10, 0, stackKey, 128)
	p.loadMap(t.prefixes)
	p.add(opMove, 2, 10, 0, 0)
	p.add(opAddImm, 2, 0, 0, stackKey)
	p.add(opCall, 0, 0, 0, callLookup)
	p.jump(opEqualImm, 0, 0, 0, "out")
	p.add(opLoad32, 1, 0, 0, 0)
	p.add(opStore32, 10, 1, stackSlot, 0)
	p.add(opMoveImm, 7, 0, 0, 1)
	p.segments()
	p.label("add")
	p.loadMap(t.numbers)
	p.add(opMove, 2, 10, 0, 0)
	p.add(opAddImm, 2, 0, 0, stackSlot)
	p.add(opCall, 0, 0, 0, callLookup)
	p.jump(opEqualImm, 0, 0, 0, "out")
	p.add(opAtomic64, 0, 7, 0, 0)
}

// segments puts into register 7 how many packets a joined one is: what is behind the headers by what one has of it.
func (p *program) segments() {
	p.add(opLoad32, 8, 6, skbGSOSize, 0)
	p.jump(opEqualImm, 8, 0, 0, "add")
	p.loadBytes(ip6NextAt, stackByte, 1, "add")
	p.add(opMoveImm, 9, 0, 0, ip6Len+udpLen)
	p.add(opLoad8, 1, 10, stackByte, 0)
	p.jump(opOtherImm, 1, 0, unix.IPPROTO_TCP, "headers")
	p.loadBytes(ip6Len+tcpOff, stackByte, 1, "add")
	p.add(opLoad8, 9, 10, stackByte, 0)
	p.add(opShiftR, 9, 0, 0, 4)
	p.add(opShiftL, 9, 0, 0, 2)
	p.add(opAddImm, 9, 0, 0, ip6Len)
	p.label("headers")
	p.add(opLoad32, 1, 6, skbLen, 0)
	p.jump(opNotAbove, 1, 9, 0, "add")
	p.add(opSub, 1, 9, 0, 0)
	p.add(opAdd, 1, 8, 0, 0)
	p.add(opAddImm, 1, 0, 0, -1)
	p.add(opDiv, 1, 8, 0, 0)
	p.add(opMove, 7, 1, 0, 0)
}
