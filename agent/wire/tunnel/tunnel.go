package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/culvert-net/culvert/agent/wire"
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
// or the socket cannot be had, or when the interface is removed under it. It is a process's whole body: on a host with
// up to two CPUs it sets GOMAXPROCS to 1, unless the environment does.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return fmt.Errorf("configure tunnel: %w", err)
	}
	if runtime.NumCPU() <= smallHost && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	socket, err := listenControl(cfg.Socket)
	if err != nil {
		return err
	}
	defer socket.remove()
	fd, err := openInterface(cfg.Interface, cfg.MTU)
	if err != nil {
		return err
	}
	iface, err := newVnetTun(fd, cfg.Interface, cfg.PartialChecksums)
	if err != nil {
		return err
	}
	return runDevice(ctx, cfg, socket, iface, newUDPBind(cfg.Log))
}

// runDevice runs a device over the interface and the sockets, and closes both.
func runDevice(ctx context.Context, cfg Config, socket *controlSocket, iface *vnetTun, bind conn.Bind) error {
	link, err := watchLink(cfg.Interface)
	if err != nil {
		return errors.Join(err, iface.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	f := newFlow(cfg.MTU)
	gated := newGatedBind(bind, f)
	dev := device.NewDevice(&gatedTun{Device: iface, f: f, link: link}, gated, deviceLog(cfg.Log))
	defer dev.Close()
	f.dst.flush = func(key wire.PublicKey) {
		if peer := dev.LookupPeer(device.NoisePublicKey(key)); peer != nil {
			peer.FlushStagedPackets()
		}
	}
	s := newServer(dev, f.dst, cfg.Log)
	k := newKicker(dev, gated, s.state, cfg.Log)
	s.commands["kick"] = k.kick
	s.commands["counters"] = func() (string, error) { return counters(f, iface), nil }
	wg.Go(func() { k.run(ctx) })
	wg.Go(func() { s.serve(socket.listener) })
	defer s.close()
	defer socket.listener.Close()

	if err := writeReady(cfg.ReadyFile); err != nil {
		return err
	}
	if cfg.ReadyFile != "" {
		defer os.Remove(cfg.ReadyFile)
	}
	cfg.Log.Info("tunnel runs", "interface", cfg.Interface, "mtu", cfg.MTU, "socket", cfg.Socket)
	select {
	case <-ctx.Done():
		return nil
	case <-dev.Wait():
		return fmt.Errorf("serve interface %s: it was removed or failed", cfg.Interface)
	}
}

// counters writes what was lost here and nowhere else counted.
func counters(f *flow, iface *vnetTun) string {
	return fmt.Sprintf("no_session=%d\nmalformed=%d\nforgiven_out=%d\nforgiven_in=%d\n",
		f.dst.refused.Load(), iface.bad.Load(), f.out.forgotten(), f.in.forgotten())
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
