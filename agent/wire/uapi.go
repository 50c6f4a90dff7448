package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// uapiTimeout bounds an exchange whose context has no deadline. A tunnel may try for 2 s to bind its port.
const uapiTimeout = 10 * time.Second

// UAPI drives a WireGuard device of another process through its Unix socket.
type UAPI struct{ path string }

var (
	_ Device = (*UAPI)(nil)
	_ Kicker = (*UAPI)(nil)
)

// NewUAPI returns a client for the socket at path. It does no I/O; a socket that is missing, or that nobody listens on,
// shows as fs.ErrNotExist or syscall.ECONNREFUSED in the errors of later calls.
func NewUAPI(path string) *UAPI { return &UAPI{path: path} }

// Observe implements [Device].
func (u *UAPI) Observe(ctx context.Context) (State, error) {
	reply, err := u.exchange(ctx, "get=1\n\n")
	if err != nil {
		return State{}, fmt.Errorf("observe tunnel: %w", err)
	}
	state, err := ParseState(reply)
	if err != nil {
		return State{}, fmt.Errorf("observe tunnel %s: %w", u.path, err)
	}
	return state, nil
}

// SetKey implements [Device]. The port is sent only when it differs: sending it moves the socket.
func (u *UAPI) SetKey(ctx context.Context, key PrivateKey, listenPort uint16) error {
	if key.IsZero() {
		return errors.New("set tunnel key: the key is zero")
	}
	state, err := u.Observe(ctx)
	if err != nil {
		return fmt.Errorf("set tunnel key: %w", err)
	}
	var b strings.Builder
	b.WriteString("set=1\n")
	if state.PublicKey != key.Public() {
		fmt.Fprintf(&b, "private_key=%s\n", hexKey(key))
	}
	if listenPort != state.ListenPort && listenPort != 0 {
		fmt.Fprintf(&b, "listen_port=%d\n", listenPort)
	}
	if state.Mark != 0 {
		b.WriteString("fwmark=0\n")
	}
	b.WriteString("\n")
	if _, err = u.exchange(ctx, b.String()); errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("set tunnel key: UDP port %d is in use: free it or choose another: %w", listenPort, err)
	} else if err != nil {
		return fmt.Errorf("set tunnel key: %w", err)
	}
	return nil
}

// Apply implements [Device]. Prefixes that a peer keeps are not touched, so that no packet is lost on them; those that
// it loses go before any is given.
func (u *UAPI) Apply(ctx context.Context, change Change) error {
	if change.Empty() {
		return nil
	}
	state, err := u.Observe(ctx)
	if err != nil {
		return fmt.Errorf("apply to tunnel: %w", err)
	}
	if err := change.Validate(state.PublicKey); err != nil {
		return fmt.Errorf("apply to tunnel: %w", err)
	}
	if _, err := u.exchange(ctx, applyText(change, state)); err != nil {
		return fmt.Errorf("apply to tunnel: %w", err)
	}
	return nil
}

// Kick implements [Kicker], by a command that only Culvert's own tunnel process knows.
func (u *UAPI) Kick(ctx context.Context) error {
	if _, err := u.exchange(ctx, "kick=1\n\n"); err != nil {
		return fmt.Errorf("kick tunnel: %w", err)
	}
	return nil
}

// Counters is what Culvert's tunnel process counts beside the protocol, since it started.
type Counters struct {
	Started   time.Time
	NoSession uint64 // packets to peers dropped because there was no session with them
	NoRoom    uint64 // packets to peers dropped because the peer did not say for long that it has room
	Malformed uint64 // packets from the interface that could not be understood, and were dropped

	// Packets that stayed inside the device so long that they were no longer waited for, on their way to peers and from
	// peers: dropped without a trace (wrong source address, forged), or late.
	ForgivenOut, ForgivenIn uint64
}

// Counters asks for the process's counters, by a command that only Culvert's own tunnel process knows.
func (u *UAPI) Counters(ctx context.Context) (Counters, error) {
	reply, err := u.exchange(ctx, "counters=1\n\n")
	if err != nil {
		return Counters{}, fmt.Errorf("read tunnel counters: %w", err)
	}
	var c Counters
	var started uint64 // nanoseconds since 1970
	fields := map[string]*uint64{
		"started": &started, "no_session": &c.NoSession, "no_room": &c.NoRoom, "malformed": &c.Malformed,
		"forgiven_out": &c.ForgivenOut, "forgiven_in": &c.ForgivenIn,
	}
	for line := range strings.Lines(reply) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if field := fields[key]; field != nil {
			if *field, err = strconv.ParseUint(value, 10, 64); err != nil {
				return Counters{}, fmt.Errorf("read tunnel counters: %s: %w", key, err)
			}
		}
	}
	c.Started = time.Unix(0, int64(started))
	return c, nil
}

// upgradeTries bounds how often an upgrade is asked for: once more for each other one at the same time.
const upgradeTries = 5

// Upgrade asks Culvert's tunnel process to replace itself by the program now installed, handing over its interface,
// its sockets and its configuration. It returns when the new process answers.
func (u *UAPI) Upgrade(ctx context.Context) error {
	err := u.upgrade(ctx)
	for try := 1; try < upgradeTries && lost(err); try++ {
		err = u.upgrade(ctx) // another upgrade took the connection away, maybe to a program that is not the newest
	}
	return err
}

// lost reports whether the other end of a connection went without an answer.
func lost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (u *UAPI) upgrade(ctx context.Context) error {
	before, err := u.Counters(ctx)
	if err != nil {
		return fmt.Errorf("upgrade tunnel: %w", err)
	}
	if _, err := u.exchange(ctx, "upgrade=1\n\n"); err != nil {
		return fmt.Errorf("upgrade tunnel: %w", err)
	}
	after, err := u.Counters(ctx)
	if err != nil {
		return fmt.Errorf("upgrade tunnel: the new process does not answer: %w", err)
	}
	if after.Started.Equal(before.Started) {
		return errors.New("upgrade tunnel: the new program could not be started, the old one goes on: see its log")
	}
	return nil
}

// exchange sends one operation on a connection of its own and returns the lines of the answer without its status.
func (u *UAPI) exchange(ctx context.Context, request string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, uapiTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", u.path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := roundTrip(conn, request)
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s: %w", u.path, ctx.Err())
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", u.path, err)
	}
	return reply, nil
}

func roundTrip(conn io.ReadWriter, request string) (string, error) {
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	var reply strings.Builder
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("answer ends without a status: %w", err)
		}
		code, isStatus := strings.CutPrefix(line, "errno=")
		if !isStatus {
			reply.WriteString(line)
			continue
		}
		number, err := strconv.Atoi(strings.TrimSpace(code))
		if err != nil {
			return "", fmt.Errorf("answer has status %q: want a number", code)
		}
		if number != 0 {
			return "", fmt.Errorf("the tunnel refused: %w", syscall.Errno(max(number, -number)))
		}
		return reply.String(), nil
	}
}

// applyText writes the operation that makes the change in the state.
func applyText(change Change, state State) string {
	have := make(map[PublicKey]PeerStatus, len(state.Peers))
	for _, p := range state.Peers {
		have[p.PublicKey] = p
	}
	var b strings.Builder
	b.WriteString("set=1\n")
	for _, key := range change.Remove {
		fmt.Fprintf(&b, "public_key=%s\nupdate_only=true\nremove=true\n", hexKey(key))
		delete(have, key)
	}
	upserts := change.upserts()
	for _, p := range upserts {
		h, exists := have[p.PublicKey]
		if stale := without(h.AllowedIPs, p.AllowedIPs); exists && len(stale) > 0 {
			fmt.Fprintf(&b, "public_key=%s\nupdate_only=true\n", hexKey(p.PublicKey))
			writePrefixes(&b, "-", stale)
		}
	}
	for _, p := range upserts {
		h := have[p.PublicKey]
		fmt.Fprintf(&b, "public_key=%s\n", hexKey(p.PublicKey))
		if h.Preshared {
			fmt.Fprintf(&b, "preshared_key=%s\n", hexKey(PublicKey{})) // all zero stands for none
		}
		if p.Underlay.IsValid() && p.Underlay != h.Underlay {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Underlay)
		}
		writePrefixes(&b, "", without(p.AllowedIPs, h.AllowedIPs))
		if p.Keepalive != h.Keepalive {
			fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", p.Keepalive/time.Second)
		}
	}
	b.WriteString("\n")
	return b.String()
}

func writePrefixes(b *strings.Builder, sign string, prefixes []netip.Prefix) {
	for _, prefix := range prefixes {
		fmt.Fprintf(b, "allowed_ip=%s%s\n", sign, prefix)
	}
}

// without returns the prefixes of a that are not in b, sorted.
func without(a, b []netip.Prefix) []netip.Prefix {
	in := make(map[netip.Prefix]bool, len(b))
	for _, prefix := range b {
		in[prefix] = true
	}
	return slices.DeleteFunc(sortedPrefixes(a), func(p netip.Prefix) bool { return in[p] })
}
