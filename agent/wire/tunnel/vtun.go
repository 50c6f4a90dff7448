package tunnel

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	// Offloads that the interface announces to the kernel: packets come without checksums and up to 64 KiB long. UDP's
	// exists from Linux 6.2, and only for both versions of IP together.
	offloadTCP = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	offloadUDP = unix.TUN_F_USO4 | unix.TUN_F_USO6

	// readMore is how many packets are read beside the first while they are there: at small packets a wake-up costs
	// more than a read.
	readMore = 32

	// readLen fits the longest packet that the kernel makes (GSO_LEGACY_MAX_SIZE) with its virtio header.
	readLen = vnetLen + 65536 + 64
)

// vnetTun is the interface as a tun.Device. What differs from the library's: it reads many packets per wake-up, it
// keeps super-packets in one private buffer each way and hands over by reference, so that of the device's 64 KiB
// buffers one page is touched and not all, and a super-packet of more segments than buffers loses none.
type vnetTun struct {
	name string
	file *os.File // of the first lane
	raw  syscall.RawConn
	in   *queues // of all lanes
	udp  bool    // the kernel cuts and takes joined datagrams
	mark bool
	bad  atomic.Uint64 // packets from the kernel that could not be understood
	full atomic.Uint64 // and those to peers that did not say for long that they have room

	// owes counts what was read, unless pass is false: then it is dropped. The lane waits for the window returned; nil: for none.
	owes func(lane int, packet []byte, datagrams int) (wait *window, pass bool)
	// told is called when some were, before anybody else gets them; nil: nobody wants to know. came is called with a packet of those that
	// were written, and how many like it were; likewise.
	told func()
	came func(packet []byte, packets int)

	rd readSide
	wr writeSide
}

type readSide struct {
	mu     sync.Mutex
	buf    []byte
	split  splitter
	bufs   [][]byte // arguments of the call of Read in progress
	sizes  []int
	offset int
	n      int
	err    error
	step   func(fd uintptr) bool // made once: a closure per call would be garbage

	stepping sync.Mutex // held while packets are read, not while they are waited for
}

type writeSide struct {
	mu    sync.Mutex
	join  joiner
	at    int // the next run to write
	wrote int
	err   error
	iov   []unix.Iovec
	step  func(fd uintptr) bool
}

// newVnetTun takes over the file descriptors of a TUN interface with virtio headers, one for each lane.
func newVnetTun(fds []int, name string, mark bool) (*vnetTun, error) {
	if err := unix.IoctlSetPointerInt(fds[0], unix.TUNSETVNETHDRSZ, vnetLen); err != nil {
		return nil, fmt.Errorf("interface %s: set length of virtio header: %w", name, err)
	}
	udp := unix.IoctlSetInt(fds[0], unix.TUNSETOFFLOAD, offloadTCP|offloadUDP) == nil
	if !udp {
		if err := unix.IoctlSetInt(fds[0], unix.TUNSETOFFLOAD, offloadTCP); err != nil {
			return nil, fmt.Errorf("interface %s: set offloads: %w", name, err)
		}
	}
	t := &vnetTun{name: name, file: os.NewFile(uintptr(fds[0]), clonePath), udp: udp, mark: mark}
	var err error
	if t.raw, err = t.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	if t.in, err = newQueues(fds); err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	t.rd.buf, t.rd.step = make([]byte, readLen), t.readStep
	t.wr.join, t.wr.step = joiner{udp: udp, marks: mark}, t.writeStep
	return t, nil
}

// File returns the file of the interface.
func (t *vnetTun) File() *os.File { return t.file }

// Name returns the interface's name.
func (t *vnetTun) Name() (string, error) { return t.name, nil }

// MTU returns the interface's MTU.
func (t *vnetTun) MTU() (int, error) { return getMTU(t.name) }

// BatchSize is the library's own: it also bounds the sockets' batches.
func (t *vnetTun) BatchSize() int { return conn.IdealBatchSize }

// Events returns nil: the link is watched elsewhere.
func (t *vnetTun) Events() <-chan tun.Event { return nil }

// Close closes the files; the interface stays. Lanes are closed once nobody reads them: their numbers may be others' then.
func (t *vnetTun) Close() error {
	err := t.in.stop() // ends a call of Read
	t.rd.mu.Lock()
	defer t.rd.mu.Unlock()
	return errors.Join(err, t.in.close(), t.file.Close())
}

// wake ends a call of Read that waits, or the next one, with what was read so far.
func (t *vnetTun) wake() { t.in.poll.wake() }

// rouse ends it when there are packets, which the runtime may have missed.
func (t *vnetTun) rouse() { t.in.poll.rouse() }

// Read implements tun.Device.
func (t *vnetTun) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	r := &t.rd
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bufs, r.sizes, r.offset, r.n, r.err = bufs, sizes, offset, 0, nil
	defer func() { r.bufs, r.sizes = nil, nil }()
	err := t.in.raw.Read(r.step)
	if errors.Is(err, os.ErrDeadlineExceeded) { // woken
		if err = t.in.poll.awake(); err == nil && r.n == 0 { // who is woken often reads all the same
			err = t.in.raw.Control(func(fd uintptr) { t.readStep(fd) })
			t.in.poll.waits.Store(false)
		}
	}
	if err != nil { // the file was closed
		return r.n, os.ErrClosed
	}
	return r.n, r.err
}

// freeze stops the interface between two packets, so that all that was read or written is counted. Who waits for packets goes on waiting.
func (t *vnetTun) freeze() (thaw func()) {
	t.rd.stepping.Lock()
	t.wr.mu.Lock()
	return func() {
		t.wr.mu.Unlock()
		t.rd.stepping.Unlock()
	}
}

// readStep fills the buffers with what is there; false waits for more.
func (t *vnetTun) readStep(uintptr) bool {
	t.rd.stepping.Lock()
	defer t.rd.stepping.Unlock()
	enough := t.readMost()
	if t.told != nil {
		t.told()
	}
	return enough
}

// readMost reads as much as one step may.
func (t *vnetTun) readMost() bool {
	r := &t.rd
	t.in.poll.waits.Store(false)
	if r.err = t.in.look(); r.err != nil {
		return true
	}
	for reads := 0; ; reads++ {
		for r.split.pending {
			if r.n == len(r.bufs) {
				return true
			}
			if size := r.split.next(r.bufs[r.n][r.offset:]); size > 0 {
				r.sizes[r.n] = size
				r.n++
			} else {
				t.bad.Add(1)
			}
		}
		if r.n == len(r.bufs) || reads > readMore { // none, if all of them were dropped: probes must not wait for the end of a flood
			return true
		}
		lane := t.in.next()
		if lane < 0 {
			t.in.poll.waits.Store(r.n == 0)
			return r.n > 0
		}
		if r.err = t.readLane(lane); r.err != nil {
			return true
		}
	}
}

// readLane reads what is to be split next.
func (t *vnetTun) readLane(lane int) error {
	r := &t.rd
	// The descriptor does not block, so the scheduler need not know of the call.
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(t.in.all[lane].fd), uintptr(unsafe.Pointer(&r.buf[0])), uintptr(len(r.buf)))
	switch errno {
	case 0:
		if r.split.load(r.buf[:n], t.mark) != nil {
			t.bad.Add(1)
		}
		segments := r.split.segments()
		t.in.pay(lane, int(n), segments)
		if t.owes != nil && n > vnetLen {
			var pass bool
			if t.in.all[lane].held, pass = t.owes(lane, r.buf[vnetLen:n], segments); !pass {
				r.split.pending = false
				t.full.Add(uint64(segments))
			}
		}
	case unix.EAGAIN:
		return t.in.empty(lane)
	case unix.EINTR:
	case unix.EBADFD: // the interface was removed
		return os.ErrClosed
	default:
		return fmt.Errorf("read interface %s: %w", t.name, errno)
	}
	return nil
}

// Write implements tun.Device. Packets that go in one piece count as they came.
func (t *vnetTun) Write(bufs [][]byte, offset int) (int, error) {
	if offset < vnetLen {
		return 0, fmt.Errorf("write interface %s: offset %d leaves no room for the virtio header", t.name, offset)
	}
	w := &t.wr
	w.mu.Lock()
	defer w.mu.Unlock()
	w.join.reset()
	for _, buf := range bufs {
		if len(buf) > offset {
			w.join.add(buf[offset-vnetLen:])
		}
	}
	w.at, w.wrote, w.err = 0, 0, nil
	if err := t.raw.Write(w.step); err != nil {
		return w.wrote, os.ErrClosed
	}
	return w.wrote, w.err
}

// writeStep writes the runs that are left; false waits for room.
func (t *vnetTun) writeStep(fd uintptr) bool {
	w := &t.wr
	for w.at < len(w.join.runs) {
		r := &w.join.runs[w.at]
		r.finish()
		w.iov = append(w.iov[:0], iovec(r.buf))
		for _, payload := range r.rest {
			w.iov = append(w.iov, iovec(payload))
		}
		// The scheduler need not know: it would wake another thread, should the call take 20 µs.
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iov[0])), uintptr(len(w.iov)))
		switch errno {
		case 0:
			w.wrote += 1 + len(r.rest)
			if t.came != nil {
				t.came(r.first, 1+len(r.rest))
			}
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		case unix.EBADFD:
			w.err = os.ErrClosed
			return true
		default: // of this packet; EIO: the link went down
			w.err = errors.Join(w.err, fmt.Errorf("write interface %s: %w", t.name, errno))
		}
		w.at++
	}
	return true
}

func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}
