package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/internal/logkey"
)

// Server answers the workloads of one node. Its methods may be called from any goroutine.
type Server struct {
	cfg      Config
	state    atomic.Pointer[state]
	setMu    sync.Mutex // held while state is replaced
	rate     *rateLimit
	conns    *connLimit
	forwards *shares // queries that wait for a forwarder
	reading  *turns  // in which forwarders' answers are taken apart
	rotation atomic.Uint32
	stats    counters

	ready     chan struct{}
	readyOnce sync.Once
	addrMu    sync.Mutex
	addrs     []netip.AddrPort
	deaf      error // why it does not listen; nil while it does
}

// state is what queries are answered from; replaced as a whole.
type state struct {
	zone       *zone.Zone
	forwarders map[route]*forwarder
	recursive  map[uint32]bool // VPCs that have any
}

// New makes a Server; it does nothing until Run. Before the first Set it answers nobody.
func New(cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{
		cfg:      cfg,
		rate:     newRateLimit(cfg.RateLimit),
		conns:    newConnLimit(),
		forwards: newShares(maxForwards),
		reading:  newTurns(readingPlaces()),
		ready:    make(chan struct{}),
		deaf:     errNotRunning,
	}
	s.state.Store(&state{zone: &zone.Zone{}})
	return s
}

// Set replaces the names that the Server answers from; queries under way keep the old ones. Caches of VPCs whose
// forwarders stay the same are kept. A nil Zone is a fault of the caller: it is logged and the current names stay.
func (s *Server) Set(z *zone.Zone) {
	if z == nil {
		s.cfg.Log.Error("dns zone not replaced", logkey.Error, errors.New("set: zone is nil"))
		return
	}
	s.setMu.Lock()
	defer s.setMu.Unlock()
	old := s.state.Load().forwarders
	next := &state{zone: z, forwarders: map[route]*forwarder{}, recursive: map[uint32]bool{}}
	for _, v := range z.VPCs() {
		add := func(rule string, list []zone.Forwarder) {
			to := route{v.Number, rule}
			f := old[to]
			if f == nil || !f.same(v.Account, list) {
				f = s.newForwarder(to, v.Account, list)
			}
			next.forwarders[to] = f
			next.recursive[v.Number] = true
		}
		if list := z.Forwarders(v.Number); len(list) > 0 {
			add("", list)
		}
		for _, rule := range z.Rules(v.Number) {
			add(rule.ID, rule.Forwarders) // without any too: then nobody is asked
		}
	}
	divideCache(next.forwarders)
	s.state.Store(next)
	for to, f := range old {
		if next.forwarders[to] != f {
			f.close()
		}
	}
}

// divideCache gives each account the same part of the cache, and each of its routes the same part of that.
func divideCache(forwarders map[route]*forwarder) {
	routes := map[string]int{}
	for _, f := range forwarders {
		routes[f.account]++
	}
	for _, f := range forwarders {
		f.cache.resize(maxCache / len(routes) / routes[f.account])
	}
}

// Zone returns the names that the Server answers from, never nil.
func (s *Server) Zone() *zone.Zone { return s.state.Load().zone }

// Ready is closed once the Server listens.
func (s *Server) Ready() <-chan struct{} { return s.ready }

var (
	errNotRunning    = errors.New("the resolver does not run")
	errDeviceMissing = errors.New("the device does not exist")
)

// Listening is nil while the Server listens; else it says why not.
func (s *Server) Listening() error {
	s.addrMu.Lock()
	defer s.addrMu.Unlock()
	return s.deaf
}

// deafen notes that the Server does not listen. It reports whether that is news.
func (s *Server) deafen(why error) (news bool) {
	s.addrMu.Lock()
	news = s.deaf == nil || s.deaf.Error() != why.Error()
	s.addrs, s.deaf = nil, why
	s.addrMu.Unlock()
	if news {
		s.cfg.Changed()
	}
	return news
}

// Addrs are the addresses that the Server listens on, each for UDP and TCP.
func (s *Server) Addrs() []netip.AddrPort {
	s.addrMu.Lock()
	defer s.addrMu.Unlock()
	return append([]netip.AddrPort(nil), s.addrs...)
}

// Run serves until ctx ends; then it returns nil, with all its goroutines ended. An error means that the Server could
// not listen at all. The sockets are made in the caller's goroutine, so they belong to the network namespace of its
// thread.
func (s *Server) Run(ctx context.Context) error {
	index := s.deviceIndex()
	set, err := s.bind(ctx)
	if err != nil {
		s.deafen(err)
		return err
	}
	defer s.closeForwarders()
	defer s.deafen(errNotRunning)
	checks, cancel := context.WithCancel(ctx)
	checked := make(chan struct{})
	go func() {
		defer close(checked)
		s.checkForwarders(checks)
	}()
	defer func() {
		cancel()
		<-checked
	}()
	for {
		s.announce(set)
		err := s.serveUntil(ctx, set, index)
		if ctx.Err() != nil {
			return nil
		}
		s.deafen(err)
		s.cfg.Log.Warn("dns sockets are made anew", logkey.Device, s.cfg.Device, logkey.Error, err)
		if index, set = s.rebind(ctx); set == nil {
			return nil
		}
	}
}

func (s *Server) announce(set *sockets) {
	s.addrMu.Lock()
	s.addrs = nil
	for _, p := range set.packets {
		if a, ok := addrPort(p.LocalAddr()); ok {
			s.addrs = append(s.addrs, a)
		}
	}
	s.deaf = nil
	s.addrMu.Unlock()
	s.readyOnce.Do(func() { close(s.ready) })
	s.cfg.Changed()
}

// rebind tries until it succeeds or ctx ends (then set is nil).
func (s *Server) rebind(ctx context.Context) (index int, set *sockets) {
	tick := time.NewTicker(deviceCheck)
	defer tick.Stop()
	for {
		err := errDeviceMissing
		index = s.deviceIndex()
		if index != 0 || s.cfg.Device == "" {
			if set, err = s.bind(ctx); err == nil {
				return index, set
			}
		}
		if s.deafen(err) {
			s.cfg.Log.Error("dns cannot listen", logkey.Device, s.cfg.Device, logkey.Error, err)
		}
		select {
		case <-ctx.Done():
			return 0, nil
		case <-tick.C:
		}
	}
}

// deviceIndex is 0 when there is no device, or none is asked for.
func (s *Server) deviceIndex() int {
	if s.cfg.Device == "" {
		return 0
	}
	i, err := net.InterfaceByName(s.cfg.Device)
	if err != nil {
		return 0
	}
	return i.Index
}

var errDeviceChanged = errors.New("the device was removed or made anew")

// serveUntil serves on a set of sockets until ctx ends, the device changes or a socket fails.
func (s *Server) serveUntil(ctx context.Context, set *sockets, index int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, p := range set.packets {
		socket, err := newPacketSocket(p)
		if err != nil {
			cancel(err)
			continue
		}
		busy := make(chan struct{}, 1)
		wg.Go(func() { cancel(s.servePackets(ctx, socket, &wg, busy)) })
		for range min(runtime.GOMAXPROCS(0), maxReaders) - 1 {
			wg.Go(func() { s.assist(ctx, socket, &wg, busy) })
		}
	}
	for _, l := range set.streams {
		wg.Go(func() { cancel(s.serveStreams(ctx, l, &wg)) })
	}
	tick := time.NewTicker(deviceCheck)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			if s.cfg.Device != "" && s.deviceIndex() != index {
				cancel(errDeviceChanged)
			}
		}
	}
	set.close()
	wg.Wait()
	return context.Cause(ctx)
}

// closeForwarders closes idle connections.
func (s *Server) closeForwarders() {
	for _, f := range s.state.Load().forwarders {
		f.close()
	}
}

// guard keeps a fault in the handling of one query from ending the process. It is deferred.
func (s *Server) guard() {
	if r := recover(); r != nil {
		s.stats.panics.Add(1)
		s.cfg.Log.Error("dns query dropped", logkey.Panic, r, logkey.Stack, string(debug.Stack()))
	}
}

// identify says who a remote address is, if it may ask here.
func (s *Server) identify(remote netip.Addr) (client, *state, bool) {
	st := s.state.Load()
	vpc, addr, ok := s.cfg.Identify(remote)
	if !ok || !st.zone.Serves(vpc, addr) {
		return client{}, nil, false
	}
	return client{vpc, addr}, st, true
}
