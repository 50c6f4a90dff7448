package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/agent"
	"github.com/culvert-net/culvert/agent/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var cfg agent.Config
	var all bool
	c := command("doctor [--data-dir DIR] [--mtu BYTES] [--all]", "Say what on this machine keeps a node from working, and what to do", `
Look at this machine: the kernel's features, privileges, where programs are pinned, IPv6, the node's ports, the MTU of
the underlay, firewalls, the clock against the server's, the node's certificate, processes and disk. It changes nothing,
and asks nobody but the mesh's own server. It works before the machine has joined, too.

What is fine is left out unless --all is given. The exit status is 1 when something keeps a node from working.`, `
  culvert doctor
  culvert doctor --all
  culvert doctor --mtu 1320 -o json`,
		func(cmd *cobra.Command, _ []string) error {
			if err := cmp.Or(checkMTU(cfg.TunnelMTU), a.wireguard(cmd, &cfg.KernelTunnel)); err != nil {
				return err
			}
			if !cmd.Flags().Changed("wireguard") && a.getenv("CULVERT_WIREGUARD") == "" {
				cfg.KernelTunnel = unitsUseKernel(unitEnv)
			}
			if err := chooseMTU(&cfg.TunnelMTU, cfg.KernelTunnel); err != nil {
				return err
			}
			cfg.LocalSocket = cmp.Or(a.socket, a.getenv("CULVERT_AGENT_SOCKET"))
			findings := doctor.Examine(agent.Diagnose(cmd.Context(), cfg))
			if err := a.print(findings, func(w io.Writer) error { return writeFindings(w, findings, all) }); err != nil {
				return err
			}
			if doctor.Worst(findings) == doctor.Failure {
				return exitStatus(1)
			}
			return nil
		})
	nodeFlags(c, &cfg)
	wireguardFlag(c)
	f := c.Flags()
	f.IntVar(&cfg.TunnelMTU, "mtu", 0, mtuUsage)
	f.Uint16Var(&cfg.WireGuardPort, "wireguard-port", agent.DefaultWireGuardPort, "UDP `port`, for a machine that has not joined")
	f.Uint16Var(&cfg.GossipPort, "gossip-port", agent.DefaultGossipPort, "UDP and TCP `port`, for a machine that has not joined")
	f.BoolVar(&all, "all", false, "also print what is fine")
	c.Args = noArguments
	return c
}

// unitEnv is where the packages' units of agent and tunnel read their environment from.
const unitEnv = "/etc/culvert/agent.env"

// unitsUseKernel tells whether a file sets CULVERT_WIREGUARD to kernel, as systemd reads it: the last assignment counts.
func unitsUseKernel(path string) (kernel bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if value, is := strings.CutPrefix(strings.TrimSpace(line), "CULVERT_WIREGUARD="); is {
			kernel = strings.Trim(value, `"'`) == wireguardKernel
		}
	}
	return kernel
}

func writeFindings(w io.Writer, findings []doctor.Finding, all bool) error {
	counts := map[doctor.State]int{}
	for _, f := range findings {
		counts[f.State]++
		if f.State == doctor.OK && !all {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-8s %s: %s\n", f.State, f.Check, f.Detail); err != nil {
			return err
		}
		if f.Remedy != "" {
			if _, err := fmt.Fprintf(w, "         → %s\n", f.Remedy); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(w, "%d checks: %d fine, %d not looked at, %d warnings, %d that keep a node from working\n", len(findings),
		counts[doctor.OK], counts[doctor.Unknown], counts[doctor.Warning], counts[doctor.Failure])
	return err
}
