package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
)

// handoverEnv tells a process that it continues another's work, and by which descriptors.
const handoverEnv = "CULVERT_TUNNEL_HANDOVER"

// handover is what one process leaves to the next by keeping its descriptors open across execve: the interface stays
// attached and the port bound, so that packets wait in the kernel meanwhile. Session keys are not handed over: a nonce
// used twice would break the cipher. The next process starts new sessions at once instead.
type handover struct {
	tun                        []int // the lanes', in their order
	udp4, udp6, listener, lock int
	state                      int // a memory file with the device's configuration, private key included
	prefixes, numbers          int // maps by which the kernel counts what is given to the tunnel; -1: it does not
}

var noHandover = handover{nil, -1, -1, -1, -1, -1, -1, -1}

func (h *handover) fields() map[string]*int {
	return map[string]*int{
		"udp4": &h.udp4, "udp6": &h.udp6, "listener": &h.listener, "lock": &h.lock, "state": &h.state,
		"prefixes": &h.prefixes, "numbers": &h.numbers,
	}
}

// tunField is the name of the interface's descriptors.
const tunField = "tun"

// String is the environment's form: NAME=DESCRIPTOR, separated by spaces; tun=DESCRIPTOR for each lane.
func (h *handover) String() string {
	var parts []string
	for _, fd := range h.tun {
		parts = append(parts, fmt.Sprintf("%s=%d", tunField, fd))
	}
	for name, fd := range h.fields() {
		if *fd >= 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", name, *fd))
		}
	}
	return strings.Join(parts, " ")
}

func parseHandover(text string) (handover, error) {
	h := noHandover
	fields := h.fields()
	for _, part := range strings.Fields(text) {
		name, value, _ := strings.Cut(part, "=")
		fd, err := strconv.ParseUint(value, 10, 31)
		switch {
		case err == nil && name == tunField && len(h.tun) < Lanes:
			h.tun = append(h.tun, int(fd))
		case err == nil && fields[name] != nil:
			*fields[name] = int(fd)
		default:
			return h, fmt.Errorf("take over: %q in %s: want NAME=DESCRIPTOR", part, handoverEnv)
		}
	}
	if len(h.tun) == 0 || h.listener < 0 || h.lock < 0 || h.state < 0 {
		return h, fmt.Errorf("take over: %s=%q: interface, listener, lock and state must be there", handoverEnv, text)
	}
	return h, nil
}

// inherited returns what the process before left, or nil.
func inherited() (*handover, error) {
	text, ok := os.LookupEnv(handoverEnv)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(handoverEnv)
	h, err := parseHandover(text)
	if err != nil {
		return nil, err
	}
	failpoint.Here("handover.inherited")
	for _, fd := range h.open() {
		unix.CloseOnExec(fd)
	}
	return &h, nil
}

// open are all descriptors.
func (h *handover) open() []int {
	all := slices.Clone(h.tun)
	for _, fd := range h.fields() {
		if *fd >= 0 {
			all = append(all, *fd)
		}
	}
	return all
}

// close gives up what was prepared.
func (h *handover) close() {
	closeFiles(h.open())
	*h = noHandover
}

// socket is the control socket, continued.
func (h *handover) socket(path string) (*controlSocket, error) {
	file := os.NewFile(uintptr(h.listener), path)
	h.listener = -1
	l, err := net.FileListener(file)
	file.Close()
	if err != nil {
		return nil, fmt.Errorf("take over control socket: %w", err)
	}
	unixListener, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("take over control socket: it is of another kind")
	}
	unixListener.SetUnlinkOnClose(false)
	s := &controlSocket{path: path, lock: os.NewFile(uintptr(h.lock), path+lockSuffix), listener: unixListener}
	h.lock = -1
	return s, nil
}

// config is the configuration of the device before, as a request to set it.
func (h *handover) config() (string, error) {
	file := os.NewFile(uintptr(h.state), "state")
	h.state = -1
	defer file.Close()
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("take over configuration: %w", err)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return "", fmt.Errorf("take over configuration: %w", err)
	}
	return settings(string(text)), nil
}

// settings makes a request to set of an answer to get: without what only the device can know.
func settings(answer string) string {
	var b strings.Builder
	for line := range strings.Lines(answer) {
		switch key, _, _ := strings.Cut(line, "="); key {
		case "last_handshake_time_sec", "last_handshake_time_nsec", "rx_bytes", "tx_bytes":
		default:
			b.WriteString(line)
		}
	}
	return b.String()
}

// keep adds a descriptor that stays open across execve.
func keep(to *int, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	fd := -1
	if e := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD, 3) }); e != nil || err != nil {
		return errors.Join(e, err)
	}
	*to = fd
	return nil
}

// upgrader replaces the process by the program now installed.
type upgrader struct {
	mu     sync.Mutex
	iface  *vnetTun
	bind   *udpBind
	socket *controlSocket
	server *server
	taken  *taken // nil: the kernel does not count
}

// prepare collects all that is handed over and checks that there is a program to hand it to. The function returned does
// it, and returns only when it fails; then this process goes on.
func (u *upgrader) prepare() (commit func() error, err error) {
	program, err := os.Executable() // its path even when the file was replaced
	if err != nil {
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	if err := unix.Access(program, unix.X_OK); err != nil {
		return nil, fmt.Errorf("upgrade: program %s: %w", program, err)
	}
	u.mu.Lock()
	u.server.set.Lock() // a change made from here on would be lost
	release := func() { u.server.set.Unlock(); u.mu.Unlock() }
	h := noHandover
	if err := u.collect(&h); err != nil {
		h.close()
		release()
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	u.server.pause(u.socket.listener)
	failpoint.Here("handover.collected")
	return func() error {
		defer release()
		failpoint.Here("handover.before")
		env := append(os.Environ(), handoverEnv+"="+h.String())
		thaw := u.iface.freeze()
		err := syscall.Exec(program, os.Args, env)
		thaw()
		h.close()
		u.server.resume(u.socket.listener)
		return fmt.Errorf("upgrade: execute %s: %w", program, err)
	}, nil
}

func (u *upgrader) collect(h *handover) error {
	tun, err := u.iface.in.keep()
	h.tun = tun
	errs := []error{err, keep(&h.listener, u.socket.listener), keep(&h.lock, u.socket.lock)}
	for i, fd := range []*int{&h.udp4, &h.udp6} {
		if side := u.bind.sides[i].Load(); side != nil {
			errs = append(errs, keep(fd, side.file))
		}
	}
	if u.taken != nil {
		h.prefixes, h.numbers, err = u.taken.keep()
		errs = append(errs, err)
	}
	text, err := u.server.dev.IpcGet()
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if h.state, err = unix.MemfdCreate("culvert-tunnel", 0); err != nil {
		return fmt.Errorf("memory file: %w", err)
	}
	for rest := []byte(text); len(rest) > 0; {
		n, err := unix.Write(h.state, rest)
		if err != nil {
			return fmt.Errorf("memory file: %w", err)
		}
		rest = rest[n:]
	}
	return nil
}

// run upgrades, for whoever does not wait for an answer.
func (u *upgrader) run() error {
	commit, err := u.prepare()
	if err != nil {
		return err
	}
	return commit()
}
