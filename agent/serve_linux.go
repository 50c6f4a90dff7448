package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/agent/doctor"
	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/gossip"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/internal/metrics"
)

// flowDir is where the data directory keeps flow records.
const flowDir = "flows"

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
	members  *gossip.Gossip
	metrics  string // where they are served; "" nowhere
}

// openMachine takes up the programs and maps that are pinned, and prepares the rest without I/O.
func openMachine(cfg Config, id *state.Identity) (_ *machine, err error) {
	m := &machine{log: cfg.Log, host: host.New(host.Config{}), metrics: cfg.MetricsAddress}
	m.resolver = newResolver(id, cfg.AllowForwarders, func() { m.agent.Wake() }, cfg.Log)
	if m.datapath, err = datapath.Open(datapath.Config{
		PinPath: cfg.PinDir, Sizes: datapath.Sizes{Flows: cfg.FlowEntries}, Log: cfg.Log,
	}); err != nil {
		return nil, fmt.Errorf("datapath: %w", err)
	}
	m.source = datapath.NewSource(m.datapath)
	collector, err := newCollector(cfg, id, m.source, func(ctx context.Context, records []api.FlowEnvelope) error {
		return m.agent.controlPlane().SendFlows(ctx, records)
	})
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	m.recorder = newRecorder(collector)
	m.members = gossip.New(gossip.Config{
		Node: id.Node, Address: cfg.GossipAddress, Port: cfg.GossipPort, Log: cfg.Log, Wake: func() { m.agent.Hint() },
	})
	m.agent = New(cfg, Edges{
		Host: tunnelLinks{m.host}, Wire: tunnelDevice(cfg), Datapath: programs{m.datapath}, Names: m.resolver,
		Members: m.members, Recorder: m.recorder, Namespaces: namespaces{}, Dial: dial, BootTime: bootTime,
	})
	return m, nil
}

// bootTime never fails on Linux; 0 would make a view expire early.
func bootTime() time.Duration {
	now, _ := datapath.BootTime()
	return now
}

func newCollector(cfg Config, id *state.Identity, source flow.Source,
	send func(context.Context, []api.FlowEnvelope) error) (*flow.Collector, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	return flow.New(flow.Config{
		Node: id.Node, Source: source, Interval: cfg.FlowInterval, Logger: cfg.Log, Sink: flow.EnvelopeSink(send),
		Log: flow.LogConfig{Store: flow.Dir(state.Dir(cfg.DataDir).Path(flowDir)), Boot: boot},
		Clock: func() flow.Clock {
			return flow.Clock{Boot: uint64(bootTime()), Wall: time.Now()}
		},
	})
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
// kernel, before the recorder, which then reads a last time.
func (m *machine) run(ctx context.Context) error {
	base := context.WithoutCancel(ctx)
	stopSource := m.background(base, map[string]part{"flow source": m.source.Run, "dns": m.resolver.run, "gossip": m.members.Run})
	stopRecorder := m.background(base, map[string]part{"flow records": m.recorder.run})
	if m.metrics != "" {
		stopMetrics := m.background(base, map[string]part{"metrics": m.serveMetrics})
		defer stopMetrics()
	}
	err := m.agent.Run(ctx)
	stopSource()
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
	return m.datapath.Close()
}
