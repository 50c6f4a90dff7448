package wire

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Device is one WireGuard interface. Calls are safe for concurrent use; each is one exchange with the device, and a
// failed one leaves what the next Observe tells.
type Device interface {
	// Observe returns what the device holds now, peers ordered by key and their prefixes by [netip.Prefix.Compare].
	Observe(ctx context.Context) (State, error)

	// SetKey gives the device its identity and its UDP port (host byte order; 0 lets the system choose), and takes a mark
	// away. Setting what is already set disturbs nothing; another key ends all sessions, another port moves the socket.
	SetKey(ctx context.Context, key PrivateKey, listenPort uint16) error

	// Apply makes the change whole or, when it does not validate, not at all. Removals come first.
	Apply(ctx context.Context, change Change) error
}

// Kicker is a Device that loses its sessions when its process restarts and can be told to start new ones at once.
type Kicker interface {
	// Kick starts a handshake with every peer whose underlay address is known and with which there is no session in
	// this process yet, and repeats it after 250 ms, 500 ms, 1 s and 2 s where no answer came. Without it a peer goes
	// on sending into a session that died with the old process, by protocol for up to 15 s. It returns at once.
	Kick(ctx context.Context) error
}

// Peer is one peer as it should be.
type Peer struct {
	PublicKey PublicKey

	// Underlay is the address to which the peer's datagrams go. The zero value means "unknown": wait for the peer to
	// speak first, and keep what was learnt.
	Underlay netip.AddrPort

	// AllowedIPs are the overlay addresses that are this peer's: where packets for them go, and the only sources it
	// may use. Each belongs to one peer at a time; giving it to another takes it from the first.
	AllowedIPs []netip.Prefix

	// Keepalive is the interval of unasked keepalive messages, in whole seconds up to 65,535 s; 0 sends none.
	Keepalive time.Duration
}

// PeerStatus is one peer as it is.
type PeerStatus struct {
	Peer // Underlay is where the peer was last heard from, when it moved

	LastHandshake time.Time // when the last session came about; zero: none since the device's process started
	RxBytes       uint64    // bytes received from the peer's underlay address, WireGuard's framing included
	TxBytes       uint64    // bytes sent to it

	// Preshared says that a preshared key is set. Ours have none, so no session with the peer can begin; an update takes it away.
	Preshared bool
}

// State is what a device holds.
type State struct {
	PublicKey  PublicKey // zero: no key set
	ListenPort uint16    // UDP port, host byte order; 0: not chosen yet
	Mark       uint32    // of what is sent on the underlay (fwmark), for somebody's routing rules; ours have none
	Peers      []PeerStatus
}

// Change is a step from one state to another.
type Change struct {
	Add    []Peer      // peers to create; one that exists is updated
	Update []Peer      // peers to change; one that is absent is created
	Remove []PublicKey // peers to remove; absent ones are no error
}

// Empty reports whether there is nothing to do.
func (c Change) Empty() bool { return len(c.Add)+len(c.Update)+len(c.Remove) == 0 }

// maxKeepalive is the largest interval the protocol's 16-bit field of seconds holds.
const maxKeepalive = 65535 * time.Second

// Validate checks the peer as such; own is the device's key, which cannot be a peer of itself.
func (p Peer) Validate(own PublicKey) error {
	switch {
	case p.PublicKey.IsZero():
		return fmt.Errorf("peer: public key: must be set")
	case p.PublicKey == own:
		return fmt.Errorf("peer %s: public key: is this device's own", p.PublicKey)
	case p.Underlay != (netip.AddrPort{}) && (!p.Underlay.IsValid() || p.Underlay.Port() == 0):
		return fmt.Errorf("peer %s: underlay %s: want address and port, or the zero value", p.PublicKey, p.Underlay)
	case p.Keepalive < 0 || p.Keepalive > maxKeepalive || p.Keepalive%time.Second != 0:
		return fmt.Errorf("peer %s: keepalive %s: want whole seconds from 0 to 65535", p.PublicKey, p.Keepalive)
	}
	for _, prefix := range p.AllowedIPs {
		if !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
			return fmt.Errorf("peer %s: allowed address %s: want a prefix without host bits", p.PublicKey, prefix)
		}
	}
	return nil
}

// Validate checks every peer, and that no peer is declared twice and no prefix given to two peers.
func (c Change) Validate(own PublicKey) error {
	seen := make(map[PublicKey]bool)
	owner := make(map[netip.Prefix]PublicKey)
	for _, p := range c.upserts() {
		if err := p.Validate(own); err != nil {
			return err
		}
		if seen[p.PublicKey] {
			return fmt.Errorf("peer %s: declared twice in one change", p.PublicKey)
		}
		seen[p.PublicKey] = true
		for _, prefix := range p.AllowedIPs {
			if first, taken := owner[prefix]; taken && first != p.PublicKey {
				return fmt.Errorf("peer %s: allowed address %s: given to peer %s in the same change",
					p.PublicKey, prefix, first)
			}
			owner[prefix] = p.PublicKey
		}
	}
	return nil
}

func (c Change) upserts() []Peer { return slices.Concat(c.Add, c.Update) }

// underlayStale is the age from which a session cannot be in use any more (WireGuard's REJECT_AFTER_TIME): until then
// the address a peer was last heard from is better than the one it was configured with.
const underlayStale = 180 * time.Second

// Diff returns the change that leads from the state observed to exactly the peers wanted. A peer that roamed is left at
// the address it was heard from while its last session is younger than 180 s.
func Diff(want []Peer, have State, now time.Time) Change {
	var c Change
	left := make(map[PublicKey]PeerStatus, len(have.Peers))
	for _, p := range have.Peers {
		left[p.PublicKey] = p
	}
	for _, w := range want {
		h, exists := left[w.PublicKey]
		delete(left, w.PublicKey)
		switch {
		case !exists:
			c.Add = append(c.Add, w)
		case !sameConfig(w, h, now):
			c.Update = append(c.Update, w)
		}
	}
	for key := range left {
		c.Remove = append(c.Remove, key)
	}
	slices.SortFunc(c.Remove, PublicKey.Compare)
	return c
}

func sameConfig(want Peer, have PeerStatus, now time.Time) bool {
	// A time that lies ahead is of before a step of the clock: it says as little as an old one.
	roamed := !have.LastHandshake.IsZero() && now.Sub(have.LastHandshake).Abs() < underlayStale
	sameUnderlay := want.Underlay == have.Underlay || want.Underlay == (netip.AddrPort{}) || roamed
	return sameUnderlay && !have.Preshared && want.Keepalive == have.Keepalive &&
		slices.Equal(sortedPrefixes(want.AllowedIPs), sortedPrefixes(have.AllowedIPs))
}

// sortedPrefixes returns a sorted copy without repetitions.
func sortedPrefixes(prefixes []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, netip.Prefix.Compare)
	return slices.Compact(sorted)
}
