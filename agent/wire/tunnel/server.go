package tunnel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
)

// maxRequest bounds one request in bytes: 65,536 peers with a dozen prefixes each.
const maxRequest = 64 << 20

// server answers on the control socket: WireGuard's "get" and "set", and the commands of our own.
type server struct {
	dev      *device.Device
	dst      *router
	log      *slog.Logger
	commands map[string]func() (reply string, err error) // by their line without "=1"
	paths    func(body string) (reply string, err error)

	// upgrade prepares to replace this process; what it returns does so, once the request is answered.
	upgrade func() (commit func() error, err error)

	follow func() // after a change of peers

	set   sync.Mutex // one change at a time, with the router's copy made from it
	gc    int        // GOGC as set last
	limit int64      // the runtime's memory limit as set last, in bytes

	mu     sync.Mutex
	conns  map[net.Conn]bool // nil once closed
	paused bool              // connections wait for the next process
	wg     sync.WaitGroup

	accepting sync.WaitGroup // who accepts
}

func newServer(dev *device.Device, dst *router, log *slog.Logger) *server {
	return &server{
		dev: dev, dst: dst, log: log,
		commands: make(map[string]func() (string, error)), conns: make(map[net.Conn]bool),
	}
}

// pause leaves new connections in the listener's queue until resume. Once it returned none is accepted any more: one that were
// would be answered by this process, or lost with it.
func (s *server) pause(l listener) {
	s.mu.Lock()
	s.paused = true
	_ = l.SetDeadline(time.Unix(1, 0))
	s.mu.Unlock()
	s.accepting.Wait() // the deadline does not end an accept that has begun
}

func (s *server) resume(l listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = false
	if l.SetDeadline(time.Time{}) == nil && s.conns != nil {
		s.start(l)
	}
}

// listener is a *net.UnixListener, but in tests.
type listener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// start accepts connections from now on.
func (s *server) start(l listener) {
	s.accepting.Add(1)
	s.wg.Go(func() {
		defer s.accepting.Done()
		s.serve(l)
	})
}

func (s *server) isPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused
}

// serve accepts connections until the listener is closed or paused.
func (s *server) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) && s.isPaused() {
			return
		}
		if err != nil {
			s.log.Warn("accept on control socket failed", logkey.Error, err)
			continue
		}
		if !s.track(conn) {
			conn.Close()
			return
		}
		go func() {
			defer s.untrack(conn)
			if err := s.handle(conn); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.log.Warn("control connection ended", logkey.Error, err)
			}
		}()
	}
}

func (s *server) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return false
	}
	s.conns[conn] = true
	s.wg.Add(1)
	return true
}

func (s *server) untrack(conn net.Conn) {
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
	conn.Close()
	s.wg.Done()
}

// close ends all connections and returns when their requests ended.
func (s *server) close() {
	s.mu.Lock()
	for conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
}

// handle answers the requests of one connection. A request is lines up to an empty one.
func (s *server) handle(conn net.Conn) error {
	limited := &io.LimitedReader{R: conn}
	for r := bufio.NewReader(limited); ; {
		limited.N = maxRequest
		op, body, err := readRequest(r)
		if err != nil {
			return err
		}
		reply, then, err := s.do(op, body)
		if _, err := io.WriteString(conn, reply+fmt.Sprintf("errno=%d\n\n", errno(err))); err != nil && then == nil {
			return err
		}
		if then != nil {
			err = then()
		}
		if err != nil {
			s.log.Warn("control request failed", logkey.Operation, op, logkey.Error, err)
		}
	}
}

// readRequest returns a request's first line and the others.
func readRequest(r *bufio.Reader) (op, body string, err error) {
	var lines strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if op != "" {
				err = fmt.Errorf("request %q is cut off or over %d bytes: %w", op, maxRequest, io.ErrUnexpectedEOF)
			}
			return "", "", err
		}
		switch {
		case op == "":
			op = strings.TrimSuffix(line, "\n")
		case line == "\n":
			return op, lines.String(), nil
		default:
			lines.WriteString(line)
		}
	}
}

// do returns the reply to a request, and what is to be done once it is sent.
func (s *server) do(op, body string) (reply string, then func() error, err error) {
	name, version, _ := strings.Cut(op, "=")
	command := s.commands[name]
	switch {
	case version != "1":
		err = fmt.Errorf("request %q: want NAME=1: %w", op, unix.EPROTO)
	case name == "set":
		err = s.apply(body)
	case name == "paths" && s.paths != nil:
		reply, err = s.paths(body)
	case body != "":
		err = fmt.Errorf("request %q: takes no further lines: %w", op, unix.EINVAL)
	case name == "get":
		reply, err = s.dev.IpcGet()
	case name == "upgrade":
		then, err = s.upgrade()
	case command != nil:
		reply, err = command()
	default:
		err = fmt.Errorf("request %q: unknown: %w", op, unix.ENOTSUP)
	}
	return reply, then, err
}

// apply makes a change, and the router's copy anew even from a change that failed half-way.
func (s *server) apply(body string) error {
	s.set.Lock()
	defer s.set.Unlock()
	err := s.dev.IpcSet(body)
	failpoint.Here("tunnel.set")
	return errors.Join(err, s.copyPeers())
}

func (s *server) copyPeers() error {
	state, err := s.state()
	if err != nil {
		return err
	}
	s.dst.update(state.Peers)
	s.collect(len(state.Peers))
	if s.follow != nil {
		s.follow()
	}
	return nil
}

func (s *server) state() (wire.State, error) {
	text, err := s.dev.IpcGet()
	if err != nil {
		return wire.State{}, err
	}
	return wire.ParseState(text)
}

// errno gives the status that stands for an error: 0, or a negative number as the protocol has it.
func errno(err error) int64 {
	var fromDevice *device.IPCError
	var fromSystem unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &fromDevice):
		return fromDevice.ErrorCode()
	case errors.As(err, &fromSystem):
		return -int64(fromSystem)
	}
	return -int64(unix.EIO)
}
