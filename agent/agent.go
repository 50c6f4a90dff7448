package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/plan"
)

// Where an agent keeps what it has unless told otherwise. A server on the same machine has the directory above.
const (
	DefaultDataDir = "/var/lib/culvert/node"
	DefaultPinDir  = "/sys/fs/bpf/culvert"
)

// DefaultMetricsAddress is of the loopback: figures tell who is how busy, and are not for the network unless it is asked for.
const DefaultMetricsAddress = "127.0.0.1:7445"

// Entries of the flow table: two a flow and half, 200 bytes of kernel memory each.
const (
	DefaultFlowEntries = 524_288
	DefaultFlowShare   = plan.DefaultAccountShare
	DefaultFlowReserve = plan.DefaultReserve
	MinFlowEntries     = 1_024
	MaxFlowEntries     = 16_777_216
)

// Advance says whether the flow table takes its memory when it is made, which makes new flows cheaper and sure of it, or with each
// flow.
type Advance string

// AdvanceAuto is in advance where the whole table takes at most a sixteenth of the machine's memory.
const (
	AdvanceAuto   Advance = "auto"
	AdvanceAlways Advance = "always"
	AdvanceNever  Advance = "never"
)

// Valid says whether it is one of the three.
func (a Advance) Valid() bool { return a == AdvanceAuto || a == AdvanceAlways || a == AdvanceNever }

// onDemand decides for a table that takes so many bytes, on a machine with so much memory.
func (a Advance) onDemand(table, memory uint64) bool {
	return a == AdvanceNever || a != AdvanceAlways && table > memory/16
}

// Config of an agent. Zero fields get the defaults named.
type Config struct {
	DataDir       string        // identity, view, attachments, flow segments; default DefaultDataDir
	LocalSocket   string        // default local.DefaultSocket
	TunnelSocket  string        // UAPI of the tunnel process; default /run/culvert/tunnel.sock
	Tunnel        string        // interface; default host.DefaultTunnel
	TunnelMTU     int           // bytes; default host.DefaultTunnelMTU
	KernelTunnel  bool          // the tunnel is the kernel's WireGuard, made by the agent; else the tunnel process's
	PinDir        string        // in a bpffs; default DefaultPinDir
	WireGuardPort uint16        // UDP; Serve takes what the node joined with, else DefaultWireGuardPort
	GossipPort    uint16        // UDP and TCP; likewise, DefaultGossipPort
	GossipAddress string        // to bind to; default all
	FlowInterval  time.Duration // aggregation: 1, 10, 60 or 600 s; default 60 s
	FlowEntries   uint32        // which the flow table keeps until the machine boots; default DefaultFlowEntries
	FlowAdvance   Advance       // whether their memory is taken in advance; default AdvanceAuto
	FlowShare     uint32        // percent of them that one account may have; default DefaultFlowShare
	FlowReserve   uint32        // percent of them that are kept for accounts that have few; default DefaultFlowReserve
	Tick          time.Duration // between checks of the whole state; default 2 s
	// MetricsAddress is where GET /metrics is answered, HOST:PORT or unix:/PATH; "" is nowhere. Everybody who reaches it may read
	// the figures.
	MetricsAddress string
	ReadyFile      string // written when the first round is through; optional
	Log            *slog.Logger

	// AllowForwarders are where tenants' DNS forwarders may be besides the Internet, at any port.
	AllowForwarders []netip.Prefix
}

func (c *Config) setDefaults() {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.DataDir, DefaultDataDir)
	def(&c.LocalSocket, local.DefaultSocket)
	def(&c.TunnelSocket, "/run/culvert/tunnel.sock")
	def(&c.Tunnel, host.DefaultTunnel)
	def(&c.PinDir, DefaultPinDir)
	if c.TunnelMTU == 0 {
		c.TunnelMTU = host.DefaultTunnelMTU
	}
	if c.WireGuardPort == 0 {
		c.WireGuardPort = DefaultWireGuardPort
	}
	if c.GossipPort == 0 {
		c.GossipPort = DefaultGossipPort
	}
	if c.FlowInterval == 0 {
		c.FlowInterval = time.Minute
	}
	if c.FlowEntries == 0 {
		c.FlowEntries = DefaultFlowEntries
	}
	if c.FlowAdvance == "" {
		c.FlowAdvance = AdvanceAuto
	}
	if c.Tick == 0 {
		c.Tick = 2 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// Members is gossip as the loop uses it.
type Members interface {
	SetMembers(members []api.ViewMember, keys [][]byte) error
	States() []local.MemberStatus
}

// Datapath is the BPF side as the loop uses it.
type Datapath interface {
	// Secure puts the program for that place at the interface, first in order, and repairs what is not so.
	Secure(ifindex int, place Place) error
	// Apply moves the tables to the plan: what permits is removed before anything is added; the configuration with the
	// generation comes last. It reports whether anything differed.
	Apply(ctx context.Context, p *plan.Plan) (changed bool, err error)
	// Repairs hands out once what calls since the last one found not as it was left, and put right.
	Repairs() []string
	// Generation that is in force; 0 when closed.
	Generation() (uint32, error)
	Counters() ([]Count, error)
	Flows() (int, error)
	// FlowEntries is how many entries the flow table has room for, two a flow.
	FlowEntries() int
	// Pressure lists what is used to 80 % or more of its bound.
	Pressure() []Charge
}

// Place is where a program sits.
type Place int

// Places.
const (
	AtWorkload Place = iota + 1
	AtTunnel
	AtHost
)

// Count is a counter of the datapath.
type Count struct {
	ENI            uint32
	Hook, Reason   string
	Packets, Bytes uint64
}

// Recorder gets the plans whose generations flow records name.
type Recorder interface {
	// Plan comes before the datapath gets the plan.
	Plan(v *api.View, p *plan.Plan)
	Query(ctx context.Context, f api.FlowFilter, follow bool, fn func(*api.FlowRecord) error) error
	Pending() (records int, lost uint64)
	// Limited are whose packets were refused at a cap or share.
	Limited() []flow.Limited
	// Problem says that records are not written, and what to do; nil: they are.
	Problem() error
}

// Edges are the agent's doors to kernel and network, each with a twin in memory.
type Edges struct {
	Host     host.Host
	Wire     wire.Device
	Datapath Datapath
	Names    Names
	Members  Members
	Recorder Recorder
	Health   Health
	// Namespaces are those that ENIs can be attached in.
	Namespaces Namespaces
	// Dial makes a client of the control plane.
	Dial func(id *state.Identity, certificate func() (*tls.Certificate, error)) (ControlPlane, error)
	// BootTime is the time since boot.
	BootTime func() time.Duration
	// Now is the wall clock; default time.Now.
	Now func() time.Time
}

// Agent is one node's agent.
type Agent struct {
	cfg   Config
	edges Edges
	dir   state.Dir
	log   *slog.Logger
	box   *inbox
	wake  chan struct{}
	hint  chan struct{}
	ill   chan struct{} // targets' health has changed
	rekey chan struct{} // the loop asks for another key
	made  time.Time
	run   string // names this run to the control plane
	clock keyClock

	// spaces is held, before mu, by whoever opens or closes attachments' namespaces: between looking at what is held and acting on it
	// nobody else may.
	spaces sync.Mutex

	mu          sync.Mutex
	id          *state.Identity
	cp          ControlPlane
	key         ownKey
	attachments []plan.Attachment
	held        map[string]*Namespace // of attachments, by ENI
	lost        []lost                // oldest first
	leaving     map[string]bool       // ENIs of which the host may still have something
	applied     *plan.Plan            // last plan that was applied whole
	halfApplied bool                  // one since was not
	appliedView *api.View
	// appliedFacts are those that the last plan was made of.
	appliedFacts plan.Facts
	dials        dials
	unsaved      bool          // appliedView came from the server and is not on the disk yet
	begun        uint64        // rounds that have looked at the attachments
	roundDone    chan struct{} // closed and replaced after each round
	linkErrors   map[string]error
	unnamed      map[string]string // why a workload does not have its resolver, by ENI
	linksSeen    uint64            // the round that linkErrors are of
	routes       underlayCheck     // the loop's own
	measured     map[string]uint16 // path MTUs in bytes, by the peer's public key
	pathMTU      map[string]uint16 // likewise, those in force
	errors       []string
	own          []string  // what this round put right, as far as the edges do not tell; the loop's
	repairs      []repair  // lately
	warned       bool      // that there is no view
	looked       time.Time // when the last round ended; the loop's
}

// New makes an agent; it does nothing yet.
func New(cfg Config, edges Edges) *Agent {
	cfg.setDefaults()
	if edges.Now == nil {
		edges.Now = time.Now
	}
	dir := state.Dir(cfg.DataDir)
	return &Agent{cfg: cfg, edges: edges, dir: dir, log: cfg.Log, made: time.Now(), run: rand.Text(), clock: keyClock{dir: dir, now: edges.Now},
		wake: make(chan struct{}, 1), hint: make(chan struct{}, 1), ill: make(chan struct{}, 1), rekey: make(chan struct{}, 1), roundDone: make(chan struct{}),
		linkErrors: map[string]error{}, held: map[string]*Namespace{}, leaving: map[string]bool{}}
}

// Wake makes the loop look again; it never blocks.
func (a *Agent) Wake() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Hint is Wake for what others can cause as often as they like, such as gossip and what workloads do to their interfaces:
// the loop looks again, but not at once after it has. It never blocks.
func (a *Agent) Hint() {
	select {
	case a.hint <- struct{}{}:
	default:
	}
}

// load reads what the node knows from its disk.
func (a *Agent) load() error {
	id, err := openIdentity(a.dir, a.log)
	if err != nil {
		return err
	}
	if a.attachments, err = a.dir.LoadAttachments(); err != nil {
		return err
	}
	a.box = &inbox{id: id, log: a.log, wake: a.Wake, now: a.edges.Now}
	v, err := a.dir.LoadView(id)
	if err != nil {
		a.log.Error("the view on disk is not usable; waiting for the control plane", logkey.Error, err)
	}
	a.box.restore(v)
	if err := a.loadKey(v); err != nil {
		return err
	}
	return a.useIdentity(id)
}

// openIdentity reads who this node is, after mending what has a good copy.
func openIdentity(dir state.Dir, log *slog.Logger) (*state.Identity, error) {
	mended, err := dir.Mend()
	for _, what := range mended {
		log.Warn("a file of the data directory was mended", logkey.File, what)
	}
	if err != nil {
		log.Error("the data directory could not be mended", logkey.Error, err)
	}
	return dir.LoadIdentity()
}

func (a *Agent) identity() *state.Identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.id
}

func (a *Agent) controlPlane() ControlPlane {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cp
}

// useIdentity switches to an identity and to a client that uses it.
func (a *Agent) useIdentity(id *state.Identity) error {
	cp, err := a.edges.Dial(id, func() (*tls.Certificate, error) {
		c, err := a.identity().Certificate()
		return &c, err
	})
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.id, a.cp = id, cp
	return nil
}

// Run works until ctx ends. Links, programs and maps stay behind, on purpose: see Leave.
func (a *Agent) Run(ctx context.Context) (err error) {
	if err := a.load(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.release()) }()
	defer a.removeReady()
	return together(ctx,
		a.loop,
		func(ctx context.Context) error { return a.box.follow(ctx, a.controlPlane) },
		func(ctx context.Context) error { return renewal(ctx, a) },
		a.rekeying,
		a.report,
		a.watchPaths,
		func(ctx context.Context) error { return a.edges.Host.Watch(ctx, a.Hint) },
		func(ctx context.Context) error { return local.Serve(ctx, a.cfg.LocalSocket, a, a.log) },
	)
}

// together runs all until the first ends or ctx does, and waits for all; the first error counts.
func together(ctx context.Context, fns ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, len(fns))
	for _, fn := range fns {
		go func() {
			err := fn(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("a part of the agent ended on its own")
			}
			cancel()
			errs <- err
		}()
	}
	var first error
	for range fns {
		if err := <-errs; err != nil && first == nil && !errors.Is(err, context.Canceled) {
			first = err
		}
	}
	return first
}

// report tells the control plane what was applied: after each change, and every ten seconds. A change of a target's health is told
// once, and again to a server that may have begun anew: it keeps them in memory.
func (a *Agent) report(ctx context.Context) error {
	var told api.NodeStatus
	var last time.Time
	var stream, after uint64
	refused, more := "", false
	for {
		a.mu.Lock()
		done := a.roundDone
		a.mu.Unlock()
		if n := a.box.stream(); n != stream {
			stream, after = n, 0
		}
		s, newest, left := a.nodeStatus(after)
		if more || !sameStatus(s, told) || time.Since(last) > 10*time.Second {
			err := a.controlPlane().Report(ctx, s)
			if err == nil {
				told, last, after = s, time.Now(), newest
			}
			refused = a.tellRefused(err, refused)
			if more = err == nil && left; more {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-done:
		case <-time.After(10 * time.Second):
		}
	}
}

// sameStatus says that nothing is new since the report before.
func sameStatus(s, told api.NodeStatus) bool {
	return s.Revision == told.Revision && s.Generation == told.Generation && slices.Equal(s.Errors, told.Errors) &&
		slices.Equal(s.Attached, told.Attached) && slices.Equal(s.TargetHealth, told.TargetHealth)
}

// tellRefused logs that a report was refused, unless the one before was for the same reason. That the control plane is not reached,
// who follows its views logs.
func (a *Agent) tellRefused(err error, before string) (why string) {
	if err == nil {
		return ""
	}
	refusal, ok := errors.AsType[*api.Error](err)
	if !ok {
		return before
	}
	if refusal.Message != before {
		a.log.Error("the control plane refuses the node's reports: it will take the node for dead", logkey.Error, err)
	}
	return refusal.Message
}

// nodeStatus has the oldest changes of targets' health after one; last is the newest of these, more whether there may be others.
func (a *Agent) nodeStatus(after uint64) (s api.NodeStatus, last uint64, more bool) {
	var targets []api.TargetHealth
	var changes []api.HealthTransition
	last = after
	if v, _ := a.box.latest(); v != nil {
		targets, changes, last, more = a.targetHealth(v, after)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s = api.NodeStatus{Node: a.id.Node, SeenAt: time.Now(), Errors: reported(a.problems()), Run: a.run,
		TargetHealth: targets, HealthTransitions: changes}
	if a.applied != nil {
		s.Revision, s.Generation = a.applied.Revision, a.applied.Generation
		for _, e := range a.applied.ENIs {
			s.Attached = append(s.Attached, e.ID)
		}
		slices.Sort(s.Attached)
	}
	return s, last, more
}

// reported are errors as the control plane takes them: the first, shortened.
func reported(errors []string) []string {
	out := slices.Clone(errors)
	if over := len(out) - api.MaxStatusErrors; over > 0 {
		out = append(out[:api.MaxStatusErrors-1], fmt.Sprintf("%d more: see culvert status on this node", over+1))
	}
	for i, e := range out {
		out[i] = shortened(e, api.MaxStatusErrorLen)
	}
	return out
}

// shortened is a text of at most so many bytes.
func shortened(s string, most int) string {
	const ellipsis = "…"
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len(ellipsis)], "") + ellipsis
}

// removeReady takes back what writeReady said.
func (a *Agent) removeReady() {
	if a.cfg.ReadyFile == "" {
		return
	}
	if err := os.Remove(a.cfg.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Error("ready file", logkey.Error, err)
	}
}

// writeReady tells whoever waits for the first round.
func (a *Agent) writeReady() {
	if a.cfg.ReadyFile == "" {
		return
	}
	dir, name := filepath.Dir(a.cfg.ReadyFile), filepath.Base(a.cfg.ReadyFile)
	if err := state.Dir(dir).Write(name, fmt.Appendf(nil, "%d\n", os.Getpid())); err != nil {
		a.log.Error("ready file", logkey.Error, err)
	}
}
