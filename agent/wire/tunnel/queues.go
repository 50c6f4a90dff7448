package tunnel

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// queues are the lanes' files and what waits for all of them. A lane is waited for when it was found empty, once: while
// one is busy, packets that arrive wake nobody.
type queues struct {
	lanes
	poll   waiter // of an epoll, which waits in the runtime's own
	raw    syscall.RawConn
	epfd   int
	events [Lanes]unix.EpollEvent
}

// newQueues takes the descriptors over, and closes them all when it fails.
func newQueues(fds []int) (q *queues, err error) {
	q = &queues{epfd: -1}
	for _, fd := range fds {
		q.all = append(q.all, lane{fd: fd})
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("wait for the interface's queues: %w", err), q.stop(), q.close())
		}
	}()
	if q.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if err = unix.SetNonblock(q.epfd, true); err != nil { // or the runtime would not wait for it
		return nil, err
	}
	for i := range q.all {
		if err = q.control(unix.EPOLL_CTL_ADD, i); err != nil {
			return nil, err
		}
	}
	q.poll.file, q.poll.fd = os.NewFile(uintptr(q.epfd), "epoll"), q.epfd
	q.raw, err = q.poll.file.SyscallConn()
	return q, err
}

func (q *queues) control(op, i int) error {
	return unix.EpollCtl(q.epfd, op, q.all[i].fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(i)})
}

// empty notes that a lane has nothing, and has the next packet tell.
func (q *queues) empty(i int) error {
	q.drain(i)
	return q.control(unix.EPOLL_CTL_MOD, i)
}

// look notes which lanes have packets now.
func (q *queues) look() error {
	n, err := unix.EpollWait(q.epfd, q.events[:], 0)
	for err == unix.EINTR {
		n, err = unix.EpollWait(q.epfd, q.events[:], 0)
	}
	if err != nil {
		return err
	}
	for _, e := range q.events[:n] {
		q.fill(int(e.Fd))
	}
	return nil
}

// keep returns descriptors that stay open across execve.
func (q *queues) keep() (fds []int, err error) {
	for _, l := range q.all {
		fd, err := unix.FcntlInt(uintptr(l.fd), unix.F_DUPFD, 3)
		if err != nil {
			return fds, fmt.Errorf("interface: %w", err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// stop ends waiting, for good.
func (q *queues) stop() error {
	switch {
	case q.poll.file != nil:
		return q.poll.file.Close()
	case q.epfd >= 0:
		return unix.Close(q.epfd)
	}
	return nil
}

// close closes all but the first lane, whose file is the interface's.
func (q *queues) close() error {
	var errs []error
	for _, l := range q.all[min(1, len(q.all)):] {
		errs = append(errs, unix.Close(l.fd))
	}
	return errors.Join(errs...)
}
