package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/tunnel"
	"github.com/culvert-net/culvert/api"
)

// defaultTunnelSocket is the same for the tunnel, which listens there, and the agent, which asks.
const defaultTunnelSocket = "/run/culvert/tunnel.sock"

// mtuUsage of --mtu; 0 is chosen anew whenever a process starts.
const mtuUsage = "of the tunnel, in `bytes`; 0: what the default route's interface has, less 80, and 1420 to 8920"

func (a *app) tunnelCommand() *cobra.Command {
	var p processFlags
	var cfg tunnel.Config
	var kernel, check bool
	c := command("tunnel [--tunnel-socket PATH] [--interface culvert0] [--mtu BYTES]", "Run the tunnel of this node: WireGuard", `
Run this node's WireGuard device until it is stopped. It has a process of its own so that an agent may be restarted or
replaced without a packet noticing. Keys and peers come from the agent by --tunnel-socket; without an agent the tunnel
goes on with what it has. Its interface stays when it ends: packets wait there for the next one.

Where the agent runs with --wireguard kernel there is nothing for it to do and it refuses to start; --check tells so by
the exit status 1, which is what systemd's ExecCondition= understands.

With tunnel upgrade, or on SIGUSR2, it replaces itself by the program now installed, and keeps interface, port and
peers.`, `
  culvert tunnel
  culvert tunnel --mtu 8920 --log-format json
  culvert tunnel --check
  culvert tunnel upgrade`,
		func(cmd *cobra.Command, _ []string) error {
			if err := a.wireguard(cmd, &kernel); err != nil {
				return err
			}
			switch {
			case check && kernel:
				return exitStatus(1)
			case check:
				return nil
			case kernel:
				return api.Errorf(api.CodeInvalidParameter, "--wireguard", "run culvert agent alone, or both with --wireguard user",
					"the tunnel is the kernel's WireGuard here and needs no process")
			}
			if err := needRoot("the tunnel"); err != nil {
				return err
			}
			log, err := p.logger(a.Err)
			if err != nil {
				return err
			}
			if err := cmp.Or(checkMTU(cfg.MTU), checkTunnelSocket(cfg.Socket), p.checkReady(), chooseMTU(&cfg.MTU, false)); err != nil {
				return err
			}
			cfg.Log, cfg.ReadyFile = log, p.ready
			return tunnel.Run(cmd.Context(), cfg)
		})
	tunnelSocketFlag(c, &cfg.Socket)
	f := c.Flags()
	f.StringVar(&cfg.Interface, "interface", host.DefaultTunnel, "`name` of the network interface")
	f.IntVar(&cfg.MTU, "mtu", 0, mtuUsage)
	wireguardFlag(c)
	f.BoolVar(&check, "check", false, "do nothing; exit status 0: the tunnel is to run here, 1: it is the kernel's")
	p.flags(c)
	c.Args = noArguments
	c.AddCommand(a.tunnelUpgrade())
	return c
}

func tunnelSocketFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "tunnel-socket", defaultTunnelSocket, "`path` of the tunnel's control socket")
}

// wireguardFlag says whose WireGuard the tunnel is; tunnel and agent have the same.
func wireguardFlag(c *cobra.Command) {
	c.Flags().String("wireguard", wireguardUser,
		"whose: `user` (culvert tunnel's) or kernel (the agent's, without culvert tunnel) (CULVERT_WIREGUARD)")
	must(c.RegisterFlagCompletionFunc("wireguard", cobra.FixedCompletions([]string{wireguardUser, wireguardKernel},
		cobra.ShellCompDirectiveNoFileComp)))
}

// What --wireguard may be.
const (
	wireguardUser   = "user"
	wireguardKernel = "kernel"
)

// wireguard reads the flag, else the environment, which serves the units of agent and tunnel alike.
func (a *app) wireguard(c *cobra.Command, kernel *bool) error {
	field, value := "--wireguard", c.Flags().Lookup("wireguard").Value.String()
	if fromEnv := a.getenv("CULVERT_WIREGUARD"); fromEnv != "" && !c.Flags().Changed("wireguard") {
		field, value = "CULVERT_WIREGUARD", fromEnv
	}
	if value != wireguardUser && value != wireguardKernel {
		return invalidFlag(field, value, "use user or kernel")
	}
	*kernel = value == wireguardKernel
	return nil
}

// checkMTU refuses, by flag, what the tunnel would refuse without.
func checkMTU(mtu int) error {
	if mtu != 0 && (mtu < 1280 || mtu > 65455) {
		return invalidFlag("--mtu", strconv.Itoa(mtu), "use 1280 to 65455, or 0 for what the default route's interface has, less 80")
	}
	return nil
}

// chooseMTU puts in place of 0 what the default route's interface allows. The kernel's tunnel lets routers cut what it sends, so a
// path seems as wide as that: it takes more than is usual only when told.
func chooseMTU(mtu *int, kernel bool) error {
	if *mtu != 0 {
		return nil
	}
	if *mtu = host.DefaultTunnelMTU; kernel {
		return nil
	}
	underlay, err := host.DefaultRouteMTU()
	if err != nil {
		return fmt.Errorf("choose the tunnel's MTU, or use --mtu: %w", err)
	}
	*mtu = host.TunnelMTU(underlay)
	return nil
}

// checkTunnelSocket refuses, by flag, a socket in a directory that is not there: the tunnel makes only its own.
func checkTunnelSocket(path string) error {
	dir := filepath.Dir(path)
	if dir == filepath.Dir(defaultTunnelSocket) {
		return nil
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return api.Errorf(api.CodeInvalidParameter, "--tunnel-socket", "make it, or name a path in another",
			"there is no directory %s", dir)
	}
	return nil
}

func (a *app) tunnelUpgrade() *cobra.Command {
	var socket string
	c := command("upgrade [--tunnel-socket PATH]", "Replace the running tunnel by the program now installed", `
Have the tunnel that runs replace itself by the program that is now installed at its own path. Interface, port and peers
stay; connections live on. It returns when the new one answers, and fails when the old one had to go on.`, `
  culvert tunnel upgrade`,
		func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			u := wire.NewUAPI(socket)
			if err := u.Upgrade(ctx); err != nil {
				return fmt.Errorf("%w (is culvert tunnel running, are you root?)", err)
			}
			counters, err := u.Counters(ctx)
			if err != nil {
				return err
			}
			answer := struct {
				Started time.Time `json:"startedAt"`
			}{counters.Started}
			return a.print(answer, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "the new tunnel runs since %s\n", stamp(counters.Started))
				return err
			})
		})
	tunnelSocketFlag(c, &socket)
	c.Args = noArguments
	return c
}
