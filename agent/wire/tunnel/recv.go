package tunnel

import (
	"errors"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/culvert-net/culvert/internal/logkey"
)

// receiver reads one socket. One goroutine uses it.
type receiver struct {
	side    *udpSide
	buf     []byte // what the kernel joined
	name    sockaddr
	control [controlLen]byte
	iov     unix.Iovec
	msg     unix.Msghdr
	heard   heard

	// What is left of the datagrams in buf.
	at, end, segment int
	from             *endpoint

	bufs  [][]byte // arguments of the call in progress
	sizes []int
	eps   []conn.Endpoint
	n     int
	errno unix.Errno
	step  func(fd uintptr) bool
	once  func(fd uintptr) // a step without waiting
}

// receivePause follows an error that is not the socket's end: the library gives a socket up after ten in a row.
const receivePause = 10 * time.Millisecond

func newReceiver(side *udpSide) *receiver {
	r := &receiver{side: side, buf: make([]byte, 1<<16)}
	r.iov = iovec(r.buf)
	r.step = r.receiveStep
	r.once = func(fd uintptr) { r.receiveStep(fd); r.side.waits.Store(false) }
	return r
}

// The library tells the functions' names in its log, by family.
func (r *receiver) receiveIPv4(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	return r.receive(bufs, sizes, eps)
}

func (r *receiver) receiveIPv6(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	return r.receive(bufs, sizes, eps)
}

func (r *receiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	r.bufs, r.sizes, r.eps, r.n, r.errno = bufs, sizes, eps, 0, 0
	err := r.side.raw.Read(r.step)
	if errors.Is(err, os.ErrDeadlineExceeded) { // woken
		if err = r.side.awake(); err == nil && r.n == 0 {
			err = r.side.raw.Control(r.once)
		}
	}
	r.bufs, r.sizes, r.eps = nil, nil, nil
	if err != nil { // there is no other than that the file was closed
		return 0, net.ErrClosed
	}
	if r.n == 0 && r.errno != 0 {
		r.side.log.Warn("receive failed", logkey.Error, r.errno)
		<-time.After(receivePause)
	}
	return r.n, nil
}

// receiveStep fills the buffers with what is there; false waits for more.
func (r *receiver) receiveStep(fd uintptr) bool {
	r.side.waits.Store(false)
	for reads := 0; ; reads++ {
		for r.at < r.end {
			if r.n == len(r.bufs) {
				return true
			}
			end := min(r.at+r.segment, r.end)
			r.sizes[r.n] = copy(r.bufs[r.n], r.buf[r.at:end])
			r.eps[r.n] = r.from
			r.at = end
			r.n++
		}
		if r.n == len(r.bufs) || r.n > 0 && reads > readMore {
			return true
		}
		r.msg = unix.Msghdr{
			Name: &r.name[0], Namelen: uint32(len(r.name)), Iov: &r.iov, Control: &r.control[0],
		}
		r.msg.SetIovlen(1)
		r.msg.SetControllen(len(r.control))
		// The socket does not block, so the scheduler need not know of the call.
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), unix.MSG_DONTWAIT)
		switch errno {
		case 0:
			r.load(int(n))
		case unix.EAGAIN:
			r.side.waits.Store(r.n == 0)
			return r.n > 0
		case unix.EINTR:
		default:
			r.errno = errno
			return true
		}
	}
}

// load notes what was read: datagrams of one sender, of one size but for the last.
func (r *receiver) load(n int) {
	if n == 0 || r.msg.Flags&unix.MSG_TRUNC != 0 {
		return
	}
	segment, src := parseControl(r.control[:r.msg.Controllen])
	if segment == 0 || segment > n {
		segment = n
	}
	r.at, r.end, r.segment = 0, n, segment
	r.from = r.heard.endpoint(&r.name, src, r.side.six)
}
