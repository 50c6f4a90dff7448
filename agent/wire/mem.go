package wire

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Mem is a [Device] in memory, with the same semantics as the real one. The zero value is ready; peers never speak
// unless [Mem.Touch] makes them.
type Mem struct {
	mu    sync.Mutex
	key   PublicKey
	port  uint16
	mark  uint32
	peers map[PublicKey]*PeerStatus // AllowedIPs unused
	owner map[netip.Prefix]PublicKey
	kicks int
	fail  error

	passages map[PublicKey]*Passage // of the device's file: they outlive its process
}

var (
	_ Device = (*Mem)(nil)
	_ Kicker = (*Mem)(nil)
)

// Fail makes every further call return err; nil ends that.
func (m *Mem) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Restart forgets everything, as the process of a real device does when it is killed.
func (m *Mem) Restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.key, m.port, m.mark, m.peers, m.owner = PublicKey{}, 0, 0, nil, nil
}

// Touch makes a peer speak: a handshake at the given time, from the given underlay address (zero: unchanged).
func (m *Mem) Touch(key PublicKey, at time.Time, from netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[key]
	if p == nil {
		return
	}
	p.LastHandshake = at
	if from.IsValid() {
		p.Underlay = from
	}
}

// Meddle does what root can do by hand: a preshared key for a peer, and a mark.
func (m *Mem) Meddle(key PublicKey, mark uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark = mark
	if p := m.peers[key]; p != nil {
		p.Preshared = true
	}
}

// Kicks returns how often Kick was called.
func (m *Mem) Kicks() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kicks
}

// Observe implements [Device].
func (m *Mem) Observe(ctx context.Context) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.fail, ctx.Err()); err != nil {
		return State{}, err
	}
	state := State{PublicKey: m.key, ListenPort: m.port, Mark: m.mark}
	for _, key := range slices.SortedFunc(maps.Keys(m.peers), PublicKey.Compare) {
		p := *m.peers[key]
		for prefix, owner := range m.owner {
			if owner == key {
				p.AllowedIPs = append(p.AllowedIPs, prefix)
			}
		}
		slices.SortFunc(p.AllowedIPs, netip.Prefix.Compare)
		state.Peers = append(state.Peers, p)
	}
	return state, nil
}

// SetKey implements [Device]. As in WireGuard, a peer that has the new key is removed, and another key ends sessions.
func (m *Mem) SetKey(ctx context.Context, key PrivateKey, listenPort uint16) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.fail, ctx.Err()); err != nil {
		return err
	}
	if key.IsZero() {
		return errors.New("set tunnel key: the key is zero")
	}
	m.key, m.mark = key.Public(), 0
	m.remove(m.key)
	if listenPort != 0 {
		m.port = listenPort
	}
	return nil
}

// Apply implements [Device].
func (m *Mem) Apply(ctx context.Context, change Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.fail, ctx.Err()); err != nil {
		return err
	}
	if change.Empty() {
		return nil
	}
	if err := change.Validate(m.key); err != nil {
		return err
	}
	for _, key := range change.Remove {
		m.remove(key)
	}
	if m.peers == nil {
		m.peers, m.owner = make(map[PublicKey]*PeerStatus), make(map[netip.Prefix]PublicKey)
	}
	for _, p := range change.upserts() {
		m.upsert(p)
	}
	return nil
}

// Kick implements [Kicker].
func (m *Mem) Kick(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.fail, ctx.Err()); err != nil {
		return err
	}
	m.kicks++
	return nil
}

func (m *Mem) remove(key PublicKey) {
	delete(m.peers, key)
	maps.DeleteFunc(m.owner, func(_ netip.Prefix, owner PublicKey) bool { return owner == key })
}

func (m *Mem) upsert(p Peer) {
	have := m.peers[p.PublicKey]
	if have == nil {
		have = &PeerStatus{Peer: Peer{PublicKey: p.PublicKey}}
		m.peers[p.PublicKey] = have
	}
	if p.Underlay.IsValid() {
		have.Underlay = p.Underlay
	}
	have.Keepalive, have.Preshared = p.Keepalive, false
	maps.DeleteFunc(m.owner, func(_ netip.Prefix, owner PublicKey) bool { return owner == p.PublicKey })
	for _, prefix := range p.AllowedIPs {
		m.owner[prefix] = p.PublicKey
	}
}
