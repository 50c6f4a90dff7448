package dev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/netns"
)

// Region of a development mesh.
const Region = "dev-1"

// flowInterval that hosts aggregate flow records over: short, so that one sees what one just did.
const flowInterval = time.Second

// Up brings the mesh to at least the given number of hosts, with every process running and every workload attached. What
// is up already is left alone, so it may be called any time; hosts are never taken away.
func (l *Lab) Up(ctx context.Context, hosts int) error {
	if hosts < 1 || hosts > MaxHosts {
		return fmt.Errorf("hosts %d: want 1 to %d", hosts, MaxHosts)
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := l.Load()
	if errors.Is(err, ErrNoMesh) {
		r = &Record{Kernel: l.cfg.KernelTunnel, UnderlayMTU: l.cfg.UnderlayMTU, UnderlayIPv6: l.cfg.UnderlayIPv6}
		err = l.mayTake("underlay", "server")
	}
	if err != nil {
		return err
	}
	if l.cfg.KernelTunnel && !r.Kernel {
		return errors.New("this mesh has its tunnels in user space: remove it with culvert dev down first")
	}
	r.LogLevel, r.LogFormat = cmp.Or(l.cfg.LogLevel, r.LogLevel), cmp.Or(l.cfg.LogFormat, r.LogFormat)
	for i := len(r.Hosts); i < hosts; i++ {
		h := hostNumber(i)
		if err := l.mayTake(h.Netns); err != nil {
			return err
		}
		h.Netns = l.namespace(h.Netns)
		r.Hosts = append(r.Hosts, h)
	}
	if err := l.save(r); err != nil {
		return err
	}
	return l.bringUp(ctx, r)
}

// Start starts what is dead: all of it, or one host's processes, or one of them ("" means all).
func (l *Lab) Start(ctx context.Context, host, role string) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := l.Load()
	if err != nil {
		return err
	}
	if host == "" {
		return l.bringUp(ctx, r)
	}
	procs, err := l.pick(r, host, role)
	if err != nil {
		return err
	}
	return l.startAll(ctx, procs)
}

func (l *Lab) mayTake(suffixes ...string) error {
	for _, s := range suffixes {
		if ns := l.namespace(s); netns.Exists(netns.Path(ns)) {
			return fmt.Errorf("namespace %s: it is there already and not of a development mesh; remove it with: ip netns del %s",
				ns, ns)
		}
	}
	return nil
}

func (l *Lab) bringUp(ctx context.Context, r *Record) error {
	if err := mountBPF(); err != nil {
		return err
	}
	failpoint.Here("dev.recorded")
	if err := l.addUnderlay(); err != nil {
		return err
	}
	failpoint.Here("dev.underlay")
	mtu := r.underlayMTU()
	if err := l.plug("server", mtu, netip.PrefixFrom(serverAddress, underlayNet.Bits())); err != nil {
		return err
	}
	for _, h := range r.Hosts {
		suffix := h.Netns[len(l.cfg.Prefix)+1:]
		addresses := []netip.Prefix{netip.PrefixFrom(h.Address, underlayNet.Bits())}
		if r.UnderlayIPv6 {
			addresses = append(addresses, netip.PrefixFrom(h.six(), 64))
		}
		if err := l.plug(suffix, mtu, addresses...); err != nil {
			return err
		}
	}
	failpoint.Here("dev.plugged")
	if err := l.startAll(ctx, []*process{l.server(r)}); err != nil {
		return err
	}
	failpoint.Here("dev.server")
	admin, err := l.Admin("")
	if err != nil {
		return err
	}
	defer admin.Close()
	for _, h := range r.Hosts {
		if err := l.join(ctx, admin, h, r.UnderlayIPv6); err != nil {
			return err
		}
		failpoint.Here("dev.joined")
		if err := l.startAll(ctx, l.hostProcesses(r, h)); err != nil {
			return err
		}
		failpoint.Here("dev.host")
	}
	if err := awaitLive(ctx, admin, r.Hosts); err != nil {
		return err
	}
	for i := range r.Workloads {
		if err := l.attach(ctx, admin, &r.Workloads[i]); err != nil {
			return err
		}
	}
	return l.save(r)
}

func (l *Lab) startAll(ctx context.Context, procs []*process) error {
	for _, p := range procs {
		started, err := p.start(ctx, l.cfg.Program)
		if err != nil {
			return err
		}
		if started {
			l.step("started %s", p)
		}
	}
	return nil
}

func (l *Lab) server(r *Record) *process {
	p := &process{
		host: "server", role: "server", netns: l.namespace("server"), dir: l.RunDir("server"), log: l.LogFile("server", "server"),
		env: l.environment("server", "server"),
		args: r.logging(
			"server", "--data-dir", l.StateDir("server"), "--region", Region,
			"--listen", netip.AddrPortFrom(serverAddress, serverPort).String(), "--listen", l.ServerAddress(),
			"--admin-key-file", l.adminKeyFile(),
		),
	}
	p.args = append(p.args, l.cfg.ServerFlags...)
	return p
}

func (l *Lab) hostProcesses(r *Record, h Host) []*process {
	make := func(role string, args ...string) *process {
		return &process{
			host: h.Name, role: role, netns: h.Netns, dir: l.RunDir(h.Name), log: l.LogFile(h.Name, role),
			args: r.logging(append([]string{role}, args...)...), env: l.environment(h.Name, role),
		}
	}
	tunnelSocket := l.RunDir(h.Name, "tunnel.sock")
	agent := make("agent", "--data-dir", l.nodeDir(h.Name), "--socket", l.AgentSocket(h.Name), "--tunnel-socket", tunnelSocket,
		"--pin-dir", l.bpfDir(h.Name), "--flow-interval", flowInterval.String())
	tunnel := make("tunnel", "--tunnel-socket", tunnelSocket)
	if r.UnderlayMTU != 0 {
		mtu := strconv.Itoa(r.UnderlayMTU - 80)
		agent.args, tunnel.args = append(agent.args, "--mtu", mtu), append(tunnel.args, "--mtu", mtu)
	}
	if l.cfg.AgentFlags != nil {
		agent.args = append(agent.args, l.cfg.AgentFlags(h.Name)...)
	}
	if r.Kernel {
		agent.args = append(agent.args, "--wireguard", "kernel")
		return []*process{agent}
	}
	return []*process{tunnel, agent}
}

// logging adds to a process's arguments how it logs.
func (r *Record) logging(args ...string) []string {
	if r.LogLevel != "" {
		args = append(args, "--log-level", r.LogLevel)
	}
	if r.LogFormat != "" {
		args = append(args, "--log-format", r.LogFormat)
	}
	return args
}

func (l *Lab) environment(host, role string) []string {
	if l.cfg.Environment == nil {
		return nil
	}
	return l.cfg.Environment(host, role)
}

func (l *Lab) nodeDir(host string) string       { return l.StateDir("nodes", host) }
func (l *Lab) adminKeyFile() string             { return l.StateDir("keys", "admin") }
func (l *Lab) LogFile(host, role string) string { return l.StateDir("log", host+"-"+role+".log") }

// processes of the whole mesh, in the order in which they start.
func (l *Lab) processes(r *Record) []*process {
	all := []*process{l.server(r)}
	for _, h := range r.Hosts {
		all = append(all, l.hostProcesses(r, h)...)
	}
	return all
}

// pick returns the processes of one host ("server" is one), or the one of a role.
func (l *Lab) pick(r *Record, host, role string) ([]*process, error) {
	var procs []*process
	if host == "server" {
		procs = []*process{l.server(r)}
	} else {
		h, err := r.host(host)
		if err != nil {
			return nil, fmt.Errorf("%w, and server", err)
		}
		procs = l.hostProcesses(r, *h)
	}
	if role == "" {
		return procs, nil
	}
	i := slices.IndexFunc(procs, func(p *process) bool { return p.role == role })
	if i < 0 {
		return nil, fmt.Errorf("process %q: %s has %s", role, host, orNone(roles(procs)))
	}
	return procs[i : i+1], nil
}

func roles(procs []*process) []string {
	var names []string
	for _, p := range procs {
		names = append(names, p.role)
	}
	return names
}

// Kill ends a host's processes, or one of them, with SIGKILL unless gentle; what they made in the kernel stays.
func (l *Lab) Kill(host, role string, gentle bool) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := l.Load()
	if err != nil {
		return err
	}
	procs, err := l.pick(r, host, role)
	if err != nil {
		return err
	}
	signal := unix.SIGKILL
	if gentle {
		signal = unix.SIGTERM
	}
	slices.Reverse(procs)
	for _, p := range procs {
		id, ok := p.running()
		if err := p.stop(signal); err != nil {
			return err
		}
		if ok {
			l.step("ended %s (process %d)", p, id.PID)
		} else {
			l.step("%s was not running", p)
		}
	}
	return nil
}

// join makes the host a node unless it is one. The token goes by the environment: arguments are for everyone to see.
func (l *Lab) join(ctx context.Context, admin *client.Client, h Host, six bool) error {
	if _, err := os.Stat(l.nodeDir(h.Name) + "/identity.json"); err == nil {
		return nil
	}
	token, err := admin.CreateToken(ctx, api.CreateTokenRequest{NodeName: h.Name, TTLSeconds: 600})
	if err != nil {
		return fmt.Errorf("join token for %s: %w", h.Name, err)
	}
	failpoint.Here("dev.token")
	server, underlay := "https://"+netip.AddrPortFrom(serverAddress, serverPort).String(), h.Address
	if six {
		underlay = h.six()
	}
	err = l.run(ctx, h.Netns, []string{"CULVERT_JOIN_TOKEN=" + token.Secret}, "agent", "join", "--server", server,
		"--data-dir", l.nodeDir(h.Name), "--name", h.Name, "--underlay-address", underlay.String())
	if err != nil {
		return fmt.Errorf("join %s: %w", h.Name, err)
	}
	l.step("joined %s at %s", h.Name, underlay)
	return nil
}

// awaitLive returns when the server hears of every host.
func awaitLive(ctx context.Context, admin *client.Client, hosts []Host) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * pollInterval)
	defer tick.Stop()
	for {
		nodes, err := admin.ListNodes(ctx)
		waiting := map[string]bool{}
		for _, h := range hosts {
			waiting[h.Name] = true
		}
		for i := range nodes {
			if nodes[i].Live {
				delete(waiting, nodes[i].Name)
			}
		}
		if err == nil && len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s nodes to report: %w (server: %v); see culvert dev logs HOST",
				strconv.Itoa(len(waiting)), ctx.Err(), err)
		case <-tick.C:
		}
	}
}
