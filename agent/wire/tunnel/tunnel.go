package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/internal/resident"
)

const (
	// DefaultInterface is the name of the tunnel's interface unless configured.
	DefaultInterface = "culvert0"

	// DefaultMTU leaves room for WireGuard over IPv6 in Ethernet's 1500 bytes: 40 + 8 + 32 bytes.
	DefaultMTU = device.DefaultMTU

	minMTU = 1280 // IPv6's least (RFC 8200, section 5)
	maxMTU = device.MaxContentSize - 48

	// smallHost is the number of CPUs up to which one thread serves the tunnel: on two, a second costs up to a sixth of
	// the throughput and a third of the new connections per second, being woken and put to sleep.
	smallHost = 2
)

// Config is what a tunnel process is told at start; keys and peers come through the socket.
type Config struct {
	Interface string       // name of the TUN interface; empty: DefaultInterface
	Socket    string       // path of the control socket, which gets mode 0600; at most 103 bytes
	MTU       int          // of the interface, 1280 to 65,455 bytes; 0: DefaultMTU
	ReadyFile string       // written, with the process id, when the socket answers; removed at the end; empty: none
	Log       *slog.Logger // nil: none

	// PartialChecksums leaves out the TCP and UDP checksums that the sending kernel left to us, and has the receiving
	// kernel trust the packet, as between two ends of a veth pair: between the tunnels WireGuard authenticates every
	// byte. A packet tells so by the highest bit of its flow label, which is then the tunnel's alone. All peers must be
	// configured alike, and none may be a WireGuard other than Culvert's: those know nothing of the bit.
	PartialChecksums bool
}

func (c *Config) complete() error {
	if c.Interface == "" {
		c.Interface = DefaultInterface
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case !validName(c.Interface):
		return fmt.Errorf("interface %q: not a name of an interface: want 1 to 15 bytes without / : %% and spaces",
			c.Interface)
	case c.MTU < minMTU || c.MTU > maxMTU:
		return fmt.Errorf("MTU %d: want %d to %d", c.MTU, minMTU, maxMTU)
	case c.Socket == "":
		return errors.New("socket: must be set")
	case len(c.Socket) > maxSocketPath:
		return fmt.Errorf("socket %s: path has %d bytes, at most %d fit", c.Socket, len(c.Socket), maxSocketPath)
	}
	return nil
}

// Run serves the tunnel until the context ends, and then returns nil; the interface stays. It fails when the interface
// or the socket cannot be had, or when the interface is removed under it.
//
// It is a process's whole body. On a host with up to two CPUs it sets GOMAXPROCS to 1, unless the environment does. On
// SIGUSR2, or when told so on its socket, it replaces itself by the program now installed at its own path, with the same
// arguments, interface, sockets and peers; should that fail, it goes on.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return fmt.Errorf("configure tunnel: %w", err)
	}
	if runtime.NumCPU() <= smallHost && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	h, err := inherited()
	if err != nil {
		return err
	}
	r := &runner{cfg: cfg, bind: newUDPBind(cfg.Log), upgrade: make(chan os.Signal, 1)}
	signal.Notify(r.upgrade, unix.SIGUSR2) // early: unheeded, the signal ends the process
	defer signal.Stop(r.upgrade)
	if err := r.open(h); err != nil {
		return err
	}
	defer r.socket.remove()
	return r.run(ctx, h)
}

// runner is one run of the tunnel.
type runner struct {
	cfg    Config
	socket *controlSocket
	iface  *vnetTun
	link   *linkWatch
	bind   *udpBind
	taken  *taken // nil: the kernel does not count what is given to the tunnel

	upgrade chan os.Signal
}

// open opens the control socket and the interface, or takes over those left by the process before.
func (r *runner) open(h *handover) (err error) {
	if h != nil {
		r.socket, err = h.socket(r.cfg.Socket)
	} else {
		r.socket, err = listenControl(r.cfg.Socket)
	}
	if err != nil {
		return err
	}
	failpoint.Here("tunnel.listening")
	if err = r.openInterface(h); err != nil {
		r.socket.remove()
	}
	return err
}

func (r *runner) openInterface(h *handover) (err error) {
	var fds []int
	if h != nil {
		fds, h.tun = h.tun, nil
		r.bind.adopt(h.udp4, h.udp6)
		err = setMTU(r.cfg.Interface, r.cfg.MTU)
	} else {
		fds, err = openInterface(r.cfg.Interface, r.cfg.MTU)
	}
	if err == nil {
		if err := lengthenQueues(r.cfg.Interface); err != nil { // in a user namespace of its own, or for want of memory
			r.cfg.Log.Warn("queues of the tunnel's interface stay short", logkey.Interface, r.cfg.Interface, logkey.Error, err)
		}
		r.iface, err = newVnetTun(fds, r.cfg.Interface, r.cfg.PartialChecksums)
	}
	if err != nil {
		return err
	}
	r.lanes(fds, h)
	if r.link, err = watchLink(r.cfg.Interface); err != nil {
		return errors.Join(err, r.iface.Close())
	}
	return nil
}

// lanes has packets find their lanes, as far as it can be had: whoever has no lane is served too. A process that took over
// may not be allowed to, and need not: the interface has the program of the one before.
func (r *runner) lanes(fds []int, h *handover) {
	if len(fds) == 1 {
		r.cfg.Log.Warn("the interface was made by an earlier version: accounts share its one queue until this machine boots",
			logkey.Interface, r.cfg.Interface)
	} else {
		r.steer(fds[0], h)
	}
	if err := dropRights(); err != nil {
		r.cfg.Log.Warn("rights that are needed no more are kept", logkey.Error, err)
	}
}

// steer has the kernel pick lanes and count what they are given. Where it cannot count, it only picks.
func (r *runner) steer(fd int, h *handover) {
	var err error
	if h != nil && h.prefixes >= 0 && h.numbers >= 0 {
		r.taken, err = inheritTaken(h.prefixes, h.numbers)
		h.prefixes, h.numbers = -1, -1
	} else {
		r.taken, err = makeTaken()
	}
	if err == nil {
		if err = steer(fd, r.taken); err == nil || r.taken.inherited { // its program is there
			return
		}
		r.taken.close()
		r.taken = nil
	}
	r.cfg.Log.Warn("what the tunnel's interface has no room for is not counted by peer", logkey.Interface, r.cfg.Interface, logkey.Error, err)
	if err := steer(fd, nil); err != nil && !(h != nil && errors.Is(err, unix.EPERM)) {
		r.cfg.Log.Warn("accounts share the queues of the tunnel's interface by flow", logkey.Interface, r.cfg.Interface,
			logkey.Error, err)
	}
}

// run runs a device over the interface and the sockets, and closes both.
func (r *runner) run(ctx context.Context, h *handover) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	f := newFlow(r.cfg.MTU)
	probes := newProber(f.dst, r.iface.MTU, r.iface.wake, r.cfg.Log)
	probes.buffer = r.bind.buffer
	d := &debtor{probes: probes}
	r.iface.owes, r.iface.told = d.sends, d.tell
	r.iface.came = (&arrivals{dst: f.dst}).came
	passes := r.count(f.dst)
	gated := newGatedBind(r.bind, f, probes, r.iface.rouse)
	dev := device.NewDevice(&gatedTun{Device: r.iface, f: f, link: r.link, bind: gated}, gated, deviceLog(r.cfg.Log))
	defer dev.Close()
	f.dst.flush = func(key wire.PublicKey) {
		if peer := dev.LookupPeer(device.NoisePublicKey(key)); peer != nil {
			peer.FlushStagedPackets()
		}
	}
	s := newServer(dev, f.dst, r.cfg.Log)
	s.paths, s.follow = probes.list, probes.nudge
	k := newKicker(dev, gated, s.state, r.cfg.Log)
	u := &upgrader{iface: r.iface, bind: r.bind, socket: r.socket, server: s, taken: r.taken}
	s.commands["kick"], s.upgrade = k.kick, u.prepare
	if passes != nil {
		s.commands["passages"] = passes.sync
		defer passes.sync()
	}
	started := time.Now()
	s.commands["counters"] = func() (string, error) { return counters(f, r.iface, started), nil }
	failpoint.Here("tunnel.opened")
	if err := r.configure(h, s, k); err != nil {
		r.link.start() // what closes the device waits for its end
		return err
	}
	r.link.start()
	wg.Go(func() { k.run(ctx) })
	wg.Go(func() { probes.run(ctx) })
	s.start(r.socket.listener)
	defer s.close()
	defer r.socket.listener.Close()
	defer cancel() // whoever waits for news of a path holds a connection open
	return r.await(ctx, dev, u)
}

// configure gives the device what the one before was configured with. It comes before the link's state is known, so
// that the sockets open on the right port.
func (r *runner) configure(h *handover, s *server, k *kicker) error {
	if h == nil {
		return nil
	}
	text, err := h.config()
	if err != nil {
		return err
	}
	if err := s.apply(text); err != nil {
		return fmt.Errorf("take over configuration: %w", err)
	}
	failpoint.Here("handover.configured")
	_, err = k.kick()
	return err
}

// await says that the tunnel is ready and returns at its end.
func (r *runner) await(ctx context.Context, dev *device.Device, u *upgrader) error {
	if err := writeReady(r.cfg.ReadyFile); err != nil {
		return err
	}
	failpoint.Here("tunnel.ready")
	if err := resident.Shed(); err != nil {
		r.cfg.Log.Warn("memory that only the start needed is kept", logkey.Error, err)
	}
	if r.cfg.ReadyFile != "" {
		defer os.Remove(r.cfg.ReadyFile)
	}
	r.cfg.Log.Info("tunnel runs", logkey.Interface, r.cfg.Interface, logkey.MTU, r.cfg.MTU, logkey.Socket, r.cfg.Socket)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-dev.Wait():
			return fmt.Errorf("serve interface %s: it was removed or failed", r.cfg.Interface)
		case <-r.upgrade:
			r.cfg.Log.Warn("tunnel goes on", logkey.Error, u.run()) // it returns only when it failed
		}
	}
}

// counters writes what was lost here and nowhere else counted.
func counters(f *flow, iface *vnetTun, started time.Time) string {
	return fmt.Sprintf("started=%d\nno_session=%d\nno_room=%d\nmalformed=%d\nforgiven_out=%d\nforgiven_in=%d\n",
		started.UnixNano(), f.dst.refused.Load(), iface.full.Load(), iface.bad.Load(), f.out.forgotten(), f.in.forgotten())
}

// writeReady tells whoever waits for the file that the socket answers.
func writeReady(path string) error {
	if path == "" {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	_, err = tmp.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("write ready file %s: %w", path, err)
	}
	return nil
}
