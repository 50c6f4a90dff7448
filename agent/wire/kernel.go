package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernelTimeout bounds an exchange with the kernel whose context has no deadline.
const kernelTimeout = 10 * time.Second

// dumpTries bounds how often a listing is read again because the device changed while it was read.
const dumpTries = 10

// Kernel drives a WireGuard device that is the kernel's own: a link of type wireguard, which [agent/host] makes. It
// speaks generic netlink; numbers and layout are those of linux/wireguard.h. Sessions and peers are the kernel's, so
// they outlive every process, and it needs no [Kicker].
type Kernel struct {
	name  string
	netns string

	apply sync.Mutex // a change is made of what was observed before it
}

var _ Device = (*Kernel)(nil)

// NewKernel returns the device of that interface name. netns is the path of the network namespace that it is in;
// empty: the caller's. It does no I/O; a device that is missing shows as fs.ErrNotExist in the errors of later calls.
func NewKernel(name, netns string) *Kernel { return &Kernel{name: name, netns: netns} }

// Observe implements [Device].
func (k *Kernel) Observe(ctx context.Context) (State, error) {
	s, err := k.open(ctx)
	if err != nil {
		return State{}, fmt.Errorf("observe tunnel: %w", err)
	}
	defer s.close()
	state, err := s.observe()
	if err != nil {
		return State{}, fmt.Errorf("observe tunnel: %w", err)
	}
	return state, nil
}

// SetKey implements [Device]. The port is sent only when it differs: sending it moves the socket.
func (k *Kernel) SetKey(ctx context.Context, key PrivateKey, listenPort uint16) error {
	if key.IsZero() {
		return errors.New("set tunnel key: the key is zero")
	}
	s, err := k.open(ctx)
	if err != nil {
		return fmt.Errorf("set tunnel key: %w", err)
	}
	defer s.close()
	state, err := s.observe()
	if err != nil {
		return fmt.Errorf("set tunnel key: %w", err)
	}
	port := listenPort
	if port == state.ListenPort {
		port = 0
	}
	if state.PublicKey == key.Public() && port == 0 && state.Mark == 0 {
		return nil
	}
	message, err := keyMessage(k.name, key, port, state.Mark != 0)
	if err == nil {
		err = s.set(message)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("set tunnel key: UDP port %d is in use: free it or choose another: %w", listenPort, err)
	} else if err != nil {
		return fmt.Errorf("set tunnel key: %w", err)
	}
	return nil
}

// Apply implements [Device]. Prefixes that a peer keeps are not touched, so that no packet is lost on them. A change
// that needs several messages is not one step, but each of them leaves every prefix with its old owner, its new one,
// or nobody.
func (k *Kernel) Apply(ctx context.Context, change Change) error {
	if change.Empty() {
		return nil
	}
	k.apply.Lock()
	defer k.apply.Unlock()
	s, err := k.open(ctx)
	if err != nil {
		return fmt.Errorf("apply to tunnel: %w", err)
	}
	defer s.close()
	state, err := s.observe()
	if err != nil {
		return fmt.Errorf("apply to tunnel: %w", err)
	}
	if err := change.Validate(state.PublicKey); err != nil {
		return fmt.Errorf("apply to tunnel: %w", err)
	}
	edits, err := editsOf(change, state)
	if err != nil {
		return fmt.Errorf("apply to tunnel: %w", err)
	}
	messages, err := applyMessages(k.name, edits)
	if err != nil {
		return fmt.Errorf("apply to tunnel: %w", err)
	}
	for _, m := range messages {
		if err := s.set(m); err != nil {
			return fmt.Errorf("apply to tunnel: %w", err)
		}
	}
	return nil
}

// kernelSession is one connection to the kernel's WireGuard.
type kernelSession struct {
	name   string
	conn   *genetlink.Conn
	family uint16
	stop   func() bool
	ctx    context.Context
	cancel context.CancelFunc
}

func (k *Kernel) open(ctx context.Context) (*kernelSession, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var cfg netlink.Config
	if k.netns != "" {
		f, err := os.Open(k.netns)
		if err != nil {
			return nil, err
		}
		defer f.Close() // the socket keeps the namespace
		cfg.NetNS = int(f.Fd())
	}
	conn, err := genetlink.Dial(&cfg)
	if err != nil {
		return nil, fmt.Errorf("generic netlink: %w", err)
	}
	s := &kernelSession{name: k.name, conn: conn}
	s.ctx, s.cancel = context.WithTimeout(ctx, kernelTimeout)
	s.stop = context.AfterFunc(s.ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	family, err := conn.GetFamily(familyName) // asking loads the module
	if err != nil {
		s.close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ErrNoModule
		}
		return nil, fmt.Errorf("generic netlink family %s: %w", familyName, err)
	}
	s.family = family.ID
	return s, nil
}

func (s *kernelSession) close() {
	s.stop()
	s.cancel()
	s.conn.Close()
}

// ErrNoModule says that the kernel has no WireGuard.
var ErrNoModule = errors.New("this kernel has no WireGuard: load its module with: modprobe wireguard, " +
	"or run culvert agent with --wireguard user, and culvert tunnel")

// explain says what the kernel's error means for this device.
func (s *kernelSession) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		return s.ctx.Err()
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("interface %s: %w", s.name, fs.ErrNotExist)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("interface %s: is not the kernel's WireGuard: %w", s.name, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("interface %s: needs CAP_NET_ADMIN: %w", s.name, err)
	}
	return fmt.Errorf("interface %s: %w", s.name, err)
}

func (s *kernelSession) set(data []byte) error {
	_, err := s.conn.Execute(genetlink.Message{
		Header: genetlink.Header{Command: cmdSetDevice, Version: familyVersion}, Data: data,
	}, s.family, netlink.Request|netlink.Acknowledge)
	return s.explain(err)
}

func (s *kernelSession) observe() (State, error) {
	request, err := nameMessage(s.name)
	if err != nil {
		return State{}, err
	}
	for range dumpTries {
		state, whole, err := s.dump(request)
		if err != nil || whole {
			return state, s.explain(err)
		}
	}
	return State{}, fmt.Errorf("interface %s: changed %d times while it was read", s.name, dumpTries)
}

// dump reads the device once; whole is false when it changed meanwhile.
func (s *kernelSession) dump(request []byte) (state State, whole bool, err error) {
	if _, err := s.conn.Send(genetlink.Message{
		Header: genetlink.Header{Command: cmdGetDevice, Version: familyVersion}, Data: request,
	}, s.family, netlink.Request|netlink.Dump); err != nil {
		return State{}, false, err
	}
	messages, headers, err := s.conn.Receive()
	if err != nil {
		return State{}, false, err
	}
	var data [][]byte
	for _, m := range messages {
		data = append(data, m.Data)
	}
	state, err = parseDump(data)
	interrupted := slices.ContainsFunc(headers, func(m netlink.Message) bool {
		return m.Header.Flags&netlink.DumpInterrupted != 0
	})
	return state, !interrupted, err
}
