package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/culvert-net/culvert/internal/logkey"
)

// dummy is the address that every node advertises (RFC 7600's IPv4 dummy address) and that nobody uses: where a member
// is, says the list. The library wants one, and takes another for a conflict.
var dummy = net.IPv4(192, 0, 0, 8).To4()

const dummyPort = 1

// session is one run of the library, with one set of sockets.
type session struct {
	gossip  *Gossip
	members *memberlist.Memberlist
	ring    *memberlist.Keyring
	port    int                // that the sockets have
	cancel  context.CancelFunc // of dials

	mu     sync.Mutex // taken by callbacks, which run under the library's own lock
	states map[string]string
}

// start opens the sockets.
func (g *Gossip) start(keys [][]byte) (*session, error) {
	keys = distinct(keys)
	ring, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	logger := slog.NewLogLogger(g.cfg.Log.Handler(), slog.LevelDebug)
	sockets, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{g.cfg.Address}, BindPort: int(g.cfg.Port), Logger: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("gossip: %w (if the port is in use, free it or choose another with --gossip-port)", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{gossip: g, ring: ring, port: sockets.GetAutoBindPort(), cancel: cancel, states: map[string]string{}}
	c := memberlist.DefaultLANConfig()
	c.Name, c.Keyring, c.Logger = g.cfg.Node, ring, logger
	t := newTransport(ctx, sockets, &g.list, g.cfg.Address)
	c.Transport = t
	c.RequireNodeNames = true
	c.TCPTimeout = 3 * time.Second
	c.Alive, c.Events = s, s
	c.DNSConfigPath = "" // members have addresses
	if g.cfg.tune != nil {
		g.cfg.tune(c)
	}
	if s.members, err = memberlist.Create(c); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("gossip: %w", err), t.Shutdown())
	}
	return s, nil
}

// rotate changes the keys in place. It reports false when that cannot be done: the library takes only its last key out
// without disturbing who reads the others.
func (s *session) rotate(keys [][]byte) bool {
	keys = distinct(keys)
	if sameKeys(s.ring, keys) {
		return true
	}
	for _, k := range keys {
		if s.ring.AddKey(k) != nil {
			return false
		}
	}
	if s.ring.UseKey(keys[0]) != nil {
		return false
	}
	for {
		have := s.ring.GetKeys()
		last := have[len(have)-1]
		if holds(keys, last) {
			return sameKeys(s.ring, keys)
		}
		if s.ring.RemoveKey(last) != nil {
			return false
		}
	}
}

// end closes the sockets, after a word of parting when there is time for it.
func (s *session) end(part bool) {
	if part {
		if err := s.members.Leave(leaveTimeout); err != nil {
			s.gossip.cfg.Log.Debug("gossip: leave", logkey.Error, err)
		}
	}
	s.cancel()
	_ = s.members.Shutdown() // never fails
}

// state of a member; s may be nil.
func (s *session) state(node string) string {
	if s == nil {
		return Unknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return orUnknown(s.states[node])
}

func (s *session) set(node, state string) {
	if node == s.gossip.cfg.Node {
		return
	}
	s.mu.Lock()
	s.states[node] = state
	s.mu.Unlock()
	if _, ok := s.gossip.list.of(node); ok {
		s.gossip.cfg.Log.Debug("gossip: member", logkey.Node, node, logkey.State, state)
		s.gossip.cfg.Wake()
	}
}

// NotifyAlive implements memberlist.AliveDelegate: it refuses whoever is not in the list.
func (s *session) NotifyAlive(n *memberlist.Node) error {
	if !n.Addr.Equal(dummy) || n.Port != dummyPort {
		return fmt.Errorf("%s:%d: not the address that members advertise", n.Addr, n.Port)
	}
	if _, ok := s.gossip.list.of(n.Name); !ok && n.Name != s.gossip.cfg.Node {
		return errStranger
	}
	return nil
}

// NotifyJoin implements memberlist.EventDelegate.
func (s *session) NotifyJoin(n *memberlist.Node) { s.set(n.Name, Alive) }

// NotifyLeave implements memberlist.EventDelegate.
func (s *session) NotifyLeave(n *memberlist.Node) { s.set(n.Name, Gone) }

// NotifyUpdate implements memberlist.EventDelegate. Members carry no data.
func (s *session) NotifyUpdate(*memberlist.Node) {}

var errStranger = errors.New("not a member of this node's list")
