package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/agent/doctor"
	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/gossip"
	"github.com/culvert-net/culvert/agent/health/exchange"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/dns"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/internal/metrics"
	"github.com/culvert-net/culvert/internal/resident"
)

// flowDir is where the data directory keeps flow records.
const flowDir = "flows"

// memoryBound is what the agent's runtime has in memory before it collects more often, in bytes: of 128 MiB resident at most, a
// tenth is the program's file and a tenth what the kernel shows of its maps, or left.
const memoryBound = 88 << 20

// partRetry is the time between two starts of a part that failed.
const partRetry = time.Second

// Serve runs this machine's agent on its kernel and network until ctx ends. What it made there stays and goes on forwarding,
// also when it fails or dies at any moment; see Leave. Until a view is known, nothing is let through.
func Serve(ctx context.Context, cfg Config) (err error) {
	cfg.setDefaults()
	if err := doctor.CheckKernel(release()); err != nil {
		return err
	}
	if cfg.GossipAddress != "" {
		if _, err := netip.ParseAddr(cfg.GossipAddress); err != nil {
			return fmt.Errorf("gossip address %q: want an address of this machine", cfg.GossipAddress)
		}
	}
	dir := state.Dir(cfg.DataDir)
	id, err := openIdentity(dir, cfg.Log)
	if err != nil {
		return err
	}
	cfg.WireGuardPort = cmp.Or(id.WireGuardPort, cfg.WireGuardPort)
	cfg.GossipPort = cmp.Or(id.GossipPort, cfg.GossipPort)
	unlock, err := dir.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	m, err := openMachine(cfg, id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	return m.run(ctx)
}

// machine is an agent with the edges of a real one.
type machine struct {
	log      *slog.Logger
	agent    *Agent
	host     *host.Netlink
	datapath *datapath.Datapath
	source   *datapath.Source
	recorder *recorder
	resolver *resolver
	queries  *datapath.QueryLimit
	members  *gossip.Gossip
	health   *exchange.Exchange
	meter    part   // measures paths; nil: the tunnel's process does
	metrics  string // where they are served; "" nowhere
}

// openMachine takes up the programs and maps that are pinned, and prepares the rest without I/O.
func openMachine(cfg Config, id *state.Identity) (_ *machine, err error) {
	m := &machine{log: cfg.Log, host: host.New(host.Config{}), metrics: cfg.MetricsAddress}
	memory, err := machineMemory()
	if err != nil {
		return nil, err
	}
	if m.datapath, err = datapath.Open(datapath.Config{
		PinPath: cfg.PinDir, Sizes: datapath.Sizes{Flows: cfg.FlowEntries}, Log: cfg.Log, KernelTunnel: cfg.KernelTunnel,
		OnDemand: cfg.FlowAdvance.onDemand(uint64(cfg.FlowEntries)*datapath.FlowMemory, memory),
		Fold:     func(final []flow.Counter) []bool { return m.recorder.fold(final) },
	}); err != nil {
		return nil, fmt.Errorf("datapath: %w", err)
	}
	m.source = datapath.NewSource(m.datapath)
	if m.queries, err = datapath.NewQueryLimit(dns.DefaultRateLimit); err != nil {
		return nil, errors.Join(err, m.close())
	}
	m.resolver = newResolver(id, cfg.AllowForwarders, resolverEdges{
		guard: queryGuard{m.queries.Attach, m.queriesDropped}, queried: func(q dns.Query) { m.recorder.queries.take(q) },
		dialVPC: func(ctx context.Context, vpc uint32, network string, to netip.AddrPort) (net.Conn, error) {
			return m.agent.dialVPC(ctx, vpc, network, to)
		},
		reaches: func(vpc uint32) error { return m.agent.reaches(vpc) },
		wake:    func() { m.agent.Wake() },
	}, cfg.Log)
	teller := keyTeller{key: state.Dir(cfg.DataDir).LogKey, node: func() *state.Identity { return m.agent.identity() }}
	device, meter := tunnelDevice(cfg)
	m.meter = meter
	passed := newPassages(device)
	collector, err := newCollector(cfg, id, m.source, passed, m.datapath.SetLogReady, func(ctx context.Context, records []api.FlowEnvelope) error {
		return teller.send(ctx, m.agent.controlPlane(), records)
	})
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	questions := newQueryLog(collector, cfg.Log)
	questions.open = openQuestionsOf(cfg, id.Node)
	m.recorder = newRecorder(collector, questions)
	m.recorder.passed = passed
	m.members = gossip.New(gossip.Config{
		Node: id.Node, Address: cfg.GossipAddress, Port: cfg.GossipPort, Log: cfg.Log, Wake: func() { m.agent.Hint() },
	})
	probed := func(vpc uint32, at netip.AddrPort) bool { return m.agent.probes(vpc, at) }
	m.health = exchange.New(exchangeConfig(id, probed, func() { m.agent.Ill() }, func() { m.agent.Wake() }, cfg.Log))
	m.agent = New(cfg, Edges{
		Host: tunnelLinks{m.host}, Wire: device, Datapath: programs{m.datapath}, Names: m.resolver,
		Members: m.members, Recorder: m.recorder, Health: m.health, Namespaces: namespaces{}, Dial: dial, Now: failpoint.Now, BootTime: bootTime,
	})
	return m, nil
}

// queriesDropped counts what the kernel dropped before the resolver's socket. It can be read as long as the limit is open.
func (m *machine) queriesDropped() uint64 {
	n, err := m.queries.Dropped()
	if err != nil {
		m.log.Error("dropped queries cannot be read", logkey.Error, err)
	}
	return n
}

// bootTime never fails on Linux; 0 would make a view expire early.
func bootTime() time.Duration {
	now, _ := datapath.BootTime()
	return now
}

// machineMemory is how much there is, in bytes.
func machineMemory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read the size of memory: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}

func newCollector(cfg Config, id *state.Identity, source flow.Source, passed flow.Tunnel, ready func(untilNS uint64) error,
	send func(context.Context, []api.FlowEnvelope) error) (*flow.Collector, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	dir := state.Dir(cfg.DataDir)
	return flow.New(flow.Config{
		Node: id.Node, Source: source, Interval: cfg.FlowInterval, Logger: cfg.Log, Sink: flow.EnvelopeSink(send),
		Kernel: kernelClock, Tunnel: passed, Ready: ready,
		Log: flow.LogConfig{Store: flow.Dir(dir.Path(flowDir)), Boot: boot, Word: bootWord, Now: failpoint.Now},
		Key: dir.LogKey,
		Clock: func() flow.Clock {
			return flow.Clock{Boot: uint64(bootTime()), Wall: failpoint.Now()}
		},
	})
}

// bootWord tells boots of a log directory that was emptied apart: 40 random bits.
func bootWord() string { return rand.Text()[:8] }

// kernelClock is what the kernel says of its clock (adjtimex(2)).
func kernelClock() seal.Clock {
	var t unix.Timex
	status, err := unix.Adjtimex(&t)
	if err != nil {
		return seal.Clock{}
	}
	offset := int64(t.Offset)
	if t.Status&unix.STA_NANO != 0 {
		offset /= 1000
	}
	return seal.Clock{Synced: status != unix.TIME_ERROR, MaxErrorMicros: int64(t.Maxerror), OffsetMicros: offset}
}

// bootID names this boot of the host.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

// run works until ctx ends or the agent fails. The parts around it end after it: the source, which takes flows out of the
// kernel, and the resolver before those that record, which then look a last time.
func (m *machine) run(ctx context.Context) error {
	base := context.WithoutCancel(ctx)
	bounded, unbound := context.WithCancel(base)
	defer unbound()
	go resident.Bound(bounded, memoryBound)
	stopSource := m.background(base, map[string]part{"flow source": m.source.Run, "dns": m.resolver.run, "gossip": m.members.Run,
		"health": m.health.Run, "health signals": m.signals})
	stopRecorder := m.background(base, map[string]part{"flow records": m.recorder.run})
	stopQueries := m.background(base, map[string]part{"query log": m.recorder.queries.run})
	if m.meter != nil {
		stopMeter := m.background(base, map[string]part{"paths": m.meter})
		defer stopMeter()
	}
	if m.metrics != "" {
		stopMetrics := m.background(base, map[string]part{"metrics": m.serveMetrics})
		defer stopMetrics()
	}
	err := m.agent.Run(ctx)
	stopSource()
	stopQueries()
	stopRecorder()
	return err
}

// part of an agent runs until ctx ends.
type part func(ctx context.Context) error

// background runs parts until stop, which waits for them. One that fails is started again: it must not take along others.
func (m *machine) background(ctx context.Context, parts map[string]part) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for name, run := range parts {
		wg.Go(func() { keep(ctx, m.log.With(logkey.Part, name), run) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// keep runs a part until ctx ends, however often it fails. The same failure is logged once.
func keep(ctx context.Context, log *slog.Logger, run part) {
	last := ""
	for {
		err := run(ctx)
		if ctx.Err() != nil {
			if err != nil {
				log.Error("a part of the agent did not end well", logkey.Error, err)
			}
			return
		}
		if text := fmt.Sprint(err); text != last {
			log.Error("a part of the agent failed and is started again", logkey.Error, err)
			last = text
		}
		if sleep(ctx, partRetry) != nil {
			return
		}
	}
}

func (m *machine) serveMetrics(ctx context.Context) error {
	metrics.Serve(ctx, m.metrics, metrics.Handler(m.registry()), m.log)
	return nil
}

// close lets go of the kernel; what is pinned stays.
func (m *machine) close() error {
	m.host.Close()
	err := m.datapath.Close()
	if m.queries != nil {
		err = errors.Join(err, m.queries.Close())
	}
	return err
}
