package controlplane

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/bucket"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/controlplane/ca"
	"github.com/culvert-net/culvert/controlplane/delivery"
	"github.com/culvert-net/culvert/controlplane/evidence"
	"github.com/culvert-net/culvert/controlplane/flowlog"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/metrics"
)

// Defaults of Config.
const (
	DefaultRegion            = "local"
	DefaultViewMaxAge        = 72 * time.Hour
	DefaultAcceptanceTimeout = 7 * 24 * time.Hour
	DefaultFlowRetention     = 30 * 24 * time.Hour
	DefaultFlowLogRoom       = 16 << 30
	DefaultTick              = 30 * time.Second
	DefaultMetricsAddress    = "127.0.0.1:7444"
)

// Config says where a server keeps its data and where it listens.
type Config struct {
	// DataDir holds everything: etcd/ (with the CA's key), flows/, evidence/ and log.key, sealing/, flow-logs/, deliveries/,
	// related/, ca.pem. Made with mode 0700.
	DataDir string
	// Listen addresses, "HOST:PORT" (port 0: a free one) or "unix:/PATH". TLS on all of them.
	Listen []string
	Region string
	// ServerNames are further DNS names and addresses for the server's certificate. Our own client needs none.
	ServerNames []string
	// EtcdEndpoints and EtcdTLS name an external etcd; none: an embedded one.
	EtcdEndpoints []string
	EtcdTLS       *tls.Config
	// Store replaces etcd, and Tree the Merkle log, in tests.
	Store store.Store
	Tree  treelog.Tree
	// Witnesses cosign the Merkle log's checkpoints.
	Witnesses []treelog.Witness
	// WitnessRoots are the CAs of those at https://; nil: the machine's.
	WitnessRoots *x509.CertPool
	Version      string
	Log          *slog.Logger
	// Ready is called once, when all listeners answer.
	Ready func(Info)
	// AdminKey receives the first administrator's key, once in a data directory's life, or again when the server died while it was
	// told. Without it the key is lost.
	AdminKey func(secret string)

	// MetricsAddress is where GET /metrics is answered without TLS and key, HOST:PORT or unix:/PATH; "" is nowhere.
	MetricsAddress string

	ViewMaxAge        time.Duration // how long a node goes on with a view when it hears nothing newer
	AcceptanceTimeout time.Duration // PendingAcceptance becomes Expired
	FlowRetention     time.Duration // flow records older than this are deleted, by whole days
	FlowLogDirs       []string      // absolute directories that flow logs may be delivered to, beside DataDir/deliveries
	FlowLogStreams    []string      // HOST:PORT that they may be sent to
	FlowLogBuckets    bucket.Set    // that they may be put into
	FlowLogRoom       int64         // bytes of files that each account may have in DataDir/deliveries
	Tick              time.Duration // full views are sent again, housekeeping is done
	// LookupTXT asks for the records that prove domains; nil: no domain is proved. It must give up when ctx ends.
	LookupTXT func(ctx context.Context, name string) ([]string, error)
	// Now is the clock; default time.Now.
	Now func() time.Time

	audit     auditLimits // tests keep less
	unlimited bool        // tests ask as often as they like
	maxView   int         // bytes of JSON; tests have less
	// watchPatience is how long one that watches may stop reading; tests have less.
	watchPatience time.Duration
	// watchPause is the least time between two looks of a watch at its list; tests have less.
	watchPause time.Duration
}

// auditLimits say how much of the audit log is kept.
type auditLimits struct {
	each, all int // bytes of the store: of one account, of all together
	age       time.Duration
}

// Info tells what became of a Config.
type Info struct {
	Addresses []string // as clients take them: "https://HOST:PORT", "unix:/PATH"
	CA        []byte   // PEM; also in DataDir/ca.pem
}

// Server is a control plane.
type Server struct {
	cfg     Config
	log     *slog.Logger
	store   store.Store
	huma    huma.API
	handler http.Handler
	hub     *hub
	health  *healthBook
	started time.Time
	// verifier has the domains to be proved.
	verifier *verifier

	ca       *ca.Authority
	viewKey  ed25519.PrivateKey
	floor    time.Time // certificates are of then at least: see checkClock
	gossip   gossipRing
	repeats  repeats
	told     healthEvents
	rates    rates
	watches  watches
	answers  answers
	budgets  auditBudgets
	growth   auditGrowth
	tight    atomic.Bool // the store is nearly full
	problems alarms
	// Told of in the log: flow records that nodes may not write, and certificates that were replaced.
	refusedFlows, replaced tally
	diskFull               tally // writes that the store's disk had no room for
	strangers              tally // refused, without a key or certificate
	oddHealth              tally // what nodes said of targets that is malformed

	flows     *flowlog.Log
	delivery  *delivery.Deliverer
	allowed   *delivery.Allowed // where flow logs may go
	room      *delivery.Room    // that they have on the server's disk
	nodesTold toldTimes
	evidence  *evidence.Store
	findings  chan evidence.Finding
	tree      treelog.Tree // the Merkle log, once the server serves
	logKey    api.LogKey
	nodeKeys  nodeKeys
	terms     terms
	holds     holds
	sealing   sealing
	index     indexCache
	stopping  chan struct{}
	requests  atomic.Uint64
	figures   serverFigures
	// auditSearch has a place for each search of the audit log under way.
	auditSearch chan struct{}
	startSaid   bool // that the server started is in the audit log; housekeeping's own
	countedTold bool // so is what one counted that was killed; likewise
}

// New prepares a server; Run does the rest.
func New(cfg Config) *Server {
	setDefault(&cfg.Region, DefaultRegion)
	setDefault(&cfg.ViewMaxAge, DefaultViewMaxAge)
	setDefault(&cfg.AcceptanceTimeout, DefaultAcceptanceTimeout)
	setDefault(&cfg.FlowRetention, DefaultFlowRetention)
	setDefault(&cfg.FlowLogRoom, int64(DefaultFlowLogRoom))
	setDefault(&cfg.Tick, DefaultTick)
	setDefault(&cfg.Version, "devel")
	setDefault(&cfg.audit, auditLimits{api.MaxAuditBytesPerAccount, api.MaxAuditBytes, api.AuditRetentionDays * 24 * time.Hour})
	setDefault(&cfg.maxView, api.MaxViewBytes)
	setDefault(&cfg.watchPatience, writeTimeout)
	setDefault(&cfg.watchPause, lookPause)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	room := &delivery.Room{Dir: filepath.Join(cfg.DataDir, "deliveries"), PerAccount: cfg.FlowLogRoom, Reserve: delivery.DefaultReserve}
	s := &Server{cfg: cfg, log: cfg.Log, store: cfg.Store, hub: newHub(), health: newHealthBook(), stopping: make(chan struct{}),
		findings: make(chan evidence.Finding, 256), figures: newServerFigures(), verifier: newVerifier(), auditSearch: make(chan struct{}, auditSearches),
		room: room,
		allowed: &delivery.Allowed{Local: room.Dir, Room: room, Dirs: cfg.FlowLogDirs, Streams: cfg.FlowLogStreams,
			Buckets: cfg.FlowLogBuckets}}
	if s.store == nil {
		ec := store.EtcdConfig{Dir: cfg.DataDir, Log: cfg.Log}
		if len(cfg.EtcdEndpoints) > 0 {
			ec = store.EtcdConfig{Endpoints: cfg.EtcdEndpoints, TLS: cfg.EtcdTLS, Log: cfg.Log}
		}
		s.store = store.NewEtcd(ec)
	}
	s.repeats.run = newID("run-")
	s.buildHTTP()
	return s
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Run serves until ctx ends, and returns when everything it started has ended.
func (s *Server) Run(ctx context.Context) error {
	if err := state.Dir(s.cfg.DataDir).Make(); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	unlock, err := state.Dir(s.cfg.DataDir).Lock() // the store would wait for the other one, and say nothing
	if errors.Is(err, state.ErrLocked) {
		return fmt.Errorf("server: %w: stop it, or choose another --data-dir", err)
	}
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	defer unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The store outlives everything that uses it.
	storeCtx, closeStore := context.WithCancel(context.WithoutCancel(ctx))
	opened, storeDone := make(chan struct{}), make(chan error, 1)
	stopOpening := context.AfterFunc(ctx, func() {
		select {
		case <-opened:
		default:
			closeStore()
		}
	})
	defer stopOpening()
	go func() {
		err := s.store.Run(storeCtx, func() { close(opened) })
		cancel(fmt.Errorf("server: store ended: %w", errors.Join(err, context.Canceled)))
		storeDone <- err
	}()
	select {
	case <-opened:
		err := s.serve(ctx)
		closeStore()
		return errors.Join(err, <-storeDone)
	case err := <-storeDone:
		closeStore()
		return err
	}
}

// serve runs with an open store.
func (s *Server) serve(ctx context.Context) (err error) {
	s.started = s.cfg.Now()
	if err := s.bootstrap(ctx); err != nil {
		return err
	}
	if err := s.loadRelated(); err != nil {
		return err
	}
	if err := s.loadRetention(ctx); err != nil {
		return err
	}
	if s.flows, err = flowlog.Open(filepath.Join(s.cfg.DataDir, "flows"), s.cfg.Now()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.flows.Close()) }()
	if err := s.openEvidence(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.closeEvidence()) }()
	s.due(ctx, "write that the server starts", s.noteStart)
	s.due(ctx, "write what a server counted that was killed", s.tellCounted)
	s.delivery = s.newDelivery()
	listeners, addresses, err := listen(s.cfg.Listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           s.handler,
		TLSConfig:         s.tlsConfig(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		wg.Go(func() {
			if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("server: listen on %s: %w", l.Addr(), err)
			}
		})
	}
	keepCtx, stopKeeping := context.WithCancel(ctx)
	s.keep(keepCtx, &wg)
	if s.cfg.Ready != nil {
		s.cfg.Ready(Info{Addresses: addresses, CA: s.ca.PEM()})
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	stopKeeping()
	close(s.stopping) // streams end
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if server.Shutdown(grace) != nil {
		_ = server.Close()
	}
	wg.Wait()
	s.saveStatuses(context.WithoutCancel(ctx))
	s.due(context.WithoutCancel(ctx), "save what nodes have to do with", s.saveRelated)
	s.due(context.WithoutCancel(ctx), "write counted audit events", func(ctx context.Context) error { return s.flushRepeats(ctx, true) })
	s.due(context.WithoutCancel(ctx), "write that the server stops", s.noteStop)
	s.due(context.WithoutCancel(ctx), "put the last audit events into the Merkle log", s.sealRest)
	return err
}

// keep starts what goes on beside requests, until ctx ends.
func (s *Server) keep(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() { s.keepHouse(ctx) })
	wg.Go(func() { s.delivery.Run(ctx) })
	wg.Go(func() { s.keepEvidence(ctx) })
	wg.Go(func() { s.sealAudit(ctx) })
	wg.Go(func() { s.watchSealing(ctx) })
	wg.Go(func() { s.makeReports(ctx) })
	if s.cfg.LookupTXT != nil {
		wg.Go(func() { s.verify(ctx) })
	}
	if s.cfg.MetricsAddress != "" {
		wg.Go(func() { metrics.Serve(ctx, s.cfg.MetricsAddress, metrics.Handler(s.registry()), s.log) })
	}
}

// listen opens every address; a Unix socket left behind by a dead server is replaced.
func listen(specs []string) (listeners []net.Listener, addresses []string, err error) {
	defer func() {
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
		}
	}()
	if len(specs) == 0 {
		return nil, nil, errors.New("server: no address to listen on; give --listen HOST:PORT or unix:/PATH")
	}
	for _, spec := range specs {
		path, isUnix := strings.CutPrefix(spec, "unix:")
		if !isUnix {
			l, err := listenTCP(spec)
			if err != nil {
				return listeners, nil, fmt.Errorf("server: listen on %s: %w", spec, err)
			}
			listeners, addresses = append(listeners, l), append(addresses, "https://"+l.Addr().String())
			continue
		}
		l, err := listenUnix(path)
		if err != nil {
			return listeners, nil, fmt.Errorf("server: listen on %s: %w", spec, err)
		}
		listeners, addresses = append(listeners, l), append(addresses, spec)
	}
	return listeners, addresses, nil
}

// peerPatience is how long a peer may be silent at TCP's level before its connection ends. Without it the kernel sends again for
// a quarter of an hour, and a watch whose client is long gone keeps its place as long.
const peerPatience = 45 * time.Second

// listenTCP opens a socket whose connections end when the peer does not answer, be it what is sent or, while nothing is, probes.
func listenTCP(address string) (net.Listener, error) {
	config := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: peerPatience / 3, Interval: peerPatience / 3, Count: 3},
		Control: func(_, _ string, c syscall.RawConn) error { // what is accepted has it from the listener
			var failed error
			err := c.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerPatience.Milliseconds()))
			})
			return errors.Join(err, failed)
		},
	}
	return config.Listen(context.Background(), "tcp", address)
}

func listenUnix(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, errors.New("another server answers there")
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Everyone may connect: an API key decides, as on any other address.
	if err := os.Chmod(path, 0o666); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func (s *Server) tlsConfig() *tls.Config {
	names, ips := []string{client.ServerName, "localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, n := range s.cfg.ServerNames {
		if ip := net.ParseIP(n); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, n)
		}
	}
	for _, l := range s.cfg.Listen {
		if host, _, err := net.SplitHostPort(l); err == nil {
			if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
				ips = append(ips, ip)
			}
		}
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A node's certificate is asked for, and verified per call: an expired one may still renew itself.
		ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.ca.ServerCertificate(s.certifying(s.cfg.Now()), names, ips)
		},
	}
}

// Resources is the newest picture, for who runs in the same process.
func (s *Server) Resources() *api.Resources { return s.store.Snapshot() }
