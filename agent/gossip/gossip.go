package gossip

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

// States of a member.
const (
	Alive   = "alive"
	Gone    = "gone"
	Unknown = "unknown"
)

const (
	joinInterval = 10 * time.Second       // between attempts to reach members that are not alive
	joinTries    = 3                      // of which so many are tried each time
	leaveTimeout = 500 * time.Millisecond // to tell others that this node leaves
)

// Config of a Gossip.
type Config struct {
	Node    string // own node id
	Address string // to bind to; empty: all
	Port    uint16 // UDP and TCP; 0: a free one
	// Wake is called when a member's state changed. It must not block.
	Wake func()
	Log  *slog.Logger // everything goes to debug; nil: none

	tune func(*memberlist.Config) // for tests
}

// Gossip is this node among the members. It opens its sockets at the first SetMembers with a key.
type Gossip struct {
	cfg  Config
	poke chan struct{} // capacity 1: Run shall look for members now

	mu      sync.Mutex // held while a session is started, changed or ended; never taken by its callbacks
	session *session   // nil: none
	ended   bool
	list    list
}

// New makes a Gossip; it does nothing yet.
func New(cfg Config) *Gossip {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Wake == nil {
		cfg.Wake = func() {}
	}
	return &Gossip{cfg: cfg, poke: make(chan struct{}, 1)}
}

// list is whom to gossip with, in the order of the view.
type list struct {
	mu      sync.RWMutex
	members []api.ViewMember
	address map[string]string // by node id
	known   map[netip.Addr]bool
}

// of is where a member is; not ok: it is none.
func (l *list) of(node string) (address string, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	address, ok = l.address[node]
	return address, ok
}

// has tells whether a member is at the address.
func (l *list) has(address netip.Addr) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.known[address]
}

func (l *list) all() []api.ViewMember {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.members
}

// set replaces the list; members whose address cannot be read are left out and named in the error.
func (l *list) set(members []api.ViewMember) (changed bool, err error) {
	var errs []error
	good := make([]api.ViewMember, 0, len(members))
	address, known := make(map[string]string, len(members)), make(map[netip.Addr]bool, len(members))
	for _, m := range members {
		to, err := netip.ParseAddrPort(m.Address)
		if err != nil || to.Port() == 0 {
			errs = append(errs, fmt.Errorf("member %s: %q is not ADDRESS:PORT", m.Node, m.Address))
			continue
		}
		good = append(good, m)
		address[m.Node], known[to.Addr().Unmap()] = to.String(), true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	changed = !slices.Equal(l.members, good)
	l.members, l.address, l.known = good, address, known
	return changed, errors.Join(errs...)
}

// SetMembers says whom to gossip with, and by which keys: the first encrypts, the others are understood too. Without a
// key there is no gossip. Calling it again with the same changes nothing.
func (g *Gossip) SetMembers(members []api.ViewMember, keys [][]byte) error {
	for i, k := range keys {
		if err := memberlist.ValidateKey(k); err != nil {
			return fmt.Errorf("gossip key %d: %w", i, err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return nil
	}
	changed, errList := g.list.set(members)
	started, err := g.use(keys)
	if changed || started {
		g.pokeRun()
	}
	return errors.Join(errList, err)
}

// use brings the session to the keys: it starts, rotates keys, starts anew or ends.
func (g *Gossip) use(keys [][]byte) (started bool, err error) {
	if g.session != nil && (len(keys) == 0 || !g.session.rotate(keys)) {
		g.session.end(false)
		g.session = nil
	}
	if g.session != nil || len(keys) == 0 {
		return false, nil
	}
	g.session, err = g.start(keys)
	return err == nil, err
}

// States are the members in the order of the view.
func (g *Gossip) States() []local.MemberStatus {
	g.mu.Lock()
	s := g.session
	g.mu.Unlock()
	var out []local.MemberStatus
	for _, m := range g.list.all() {
		out = append(out, local.MemberStatus{Node: m.Node, Address: m.Address, State: s.state(m.Node)})
	}
	return out
}

func (g *Gossip) pokeRun() {
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

// Run looks for members that are not alive, until ctx ends; then it leaves, and SetMembers has no effect any more.
func (g *Gossip) Run(ctx context.Context) error {
	for {
		g.reach(ctx)
		select {
		case <-ctx.Done():
			g.mu.Lock()
			defer g.mu.Unlock()
			g.ended = true
			if g.session != nil {
				g.session.end(true)
				g.session = nil
			}
			return nil
		case <-g.poke:
		case <-time.After(joinInterval/2 + rand.N(joinInterval)):
		}
	}
}

// reach exchanges what is known with a few members that are not alive here; who answers tells of the others.
func (g *Gossip) reach(ctx context.Context) {
	g.mu.Lock()
	s := g.session
	g.mu.Unlock()
	if s == nil {
		return
	}
	stop := context.AfterFunc(ctx, s.cancel) // a dial under way ends
	defer stop()
	members := slices.Clone(g.list.all())
	rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	tries := 0
	for _, m := range members {
		if ctx.Err() != nil || tries == joinTries {
			return
		}
		if s.state(m.Node) != Alive {
			tries++
			_, err := s.members.Join([]string{m.Node + "/" + m.Address})
			g.cfg.Log.Debug("gossip: looked for a member", logkey.Node, m.Node, logkey.Address, m.Address, logkey.Error, err)
		}
	}
}

// sameKeys reports whether the ring holds exactly these, the first first.
func sameKeys(ring *memberlist.Keyring, keys [][]byte) bool {
	have := ring.GetKeys()
	return len(have) == len(keys) && bytes.Equal(have[0], keys[0]) &&
		!slices.ContainsFunc(keys, func(k []byte) bool { return !holds(have, k) })
}

func holds(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}

// distinct drops repetitions and keeps the order.
func distinct(keys [][]byte) [][]byte {
	var out [][]byte
	for _, k := range keys {
		if !holds(out, k) {
			out = append(out, k)
		}
	}
	return out
}

func orUnknown(state string) string { return cmp.Or(state, Unknown) }
