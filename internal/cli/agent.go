package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/agent"
	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/api"
)

func (a *app) agentCommand() *cobra.Command {
	var p processFlags
	var cfg agent.Config
	var forwarders []string
	c := command("agent [--data-dir DIR] [--socket PATH] [--flow-interval 1m]", "Run the agent of this node", `
Run this node's agent until it is stopped. The machine must have joined a mesh (agent join), and culvert tunnel runs
beside it; with --wireguard kernel the agent makes a link of the kernel's WireGuard instead, and nothing runs beside it.
Its death interrupts nothing: programs and maps stay in the kernel, and the next agent takes them up. Without the server
it works from the last view that it has heard, also after a restart.`, `
  culvert agent
  culvert agent --flow-interval 10s --log-format json
  culvert agent --wireguard kernel
  culvert agent join --server https://192.0.2.1:7443
  culvert agent leave`,
		func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("the agent"); err != nil {
				return err
			}
			if err := a.wireguard(cmd, &cfg.KernelTunnel); err != nil {
				return err
			}
			var err error
			if cfg.Log, err = p.logger(a.Err); err != nil {
				return err
			}
			cfg.LocalSocket, cfg.ReadyFile = cmp.Or(a.socket, a.getenv("CULVERT_AGENT_SOCKET")), p.ready
			if err := cmp.Or(checkAgent(&cfg), p.checkReady()); err != nil {
				return err
			}
			for _, s := range forwarders {
				prefix, err := parsePrefix("--allow-forwarder", s)
				if err != nil {
					return err
				}
				cfg.AllowForwarders = append(cfg.AllowForwarders, prefix)
			}
			if err := chooseMTU(&cfg.TunnelMTU, cfg.KernelTunnel); err != nil {
				return err
			}
			return agent.Serve(cmd.Context(), cfg)
		})
	nodeFlags(c, &cfg)
	f := c.Flags()
	wireguardFlag(c)
	f.IntVar(&cfg.TunnelMTU, "mtu", 0, mtuUsage+"; the same as culvert tunnel has")
	f.DurationVar(&cfg.FlowInterval, "flow-interval", time.Minute, "that a flow record covers: 1s, 10s, 1m or 10m")
	f.Uint32Var(&cfg.FlowEntries, "flow-table-entries", agent.DefaultFlowEntries,
		"`number` of entries in the flow table, two a flow; a table that is there keeps its size until this machine boots")
	f.StringVar((*string)(&cfg.FlowAdvance), "flow-table-preallocate", string(agent.AdvanceAuto),
		"the flow table takes its memory in advance: auto (when that is little of this machine's), always or never; `when`")
	f.Uint32Var(&cfg.FlowShare, "flow-share", agent.DefaultFlowShare, "of the flow table that one account may have, in `percent`")
	f.Uint32Var(&cfg.FlowReserve, "flow-reserve", agent.DefaultFlowReserve,
		"of the flow table that is kept for accounts that have little of it, in `percent`")
	f.StringVar(&cfg.GossipAddress, "gossip-address", "", "`address` of this machine to gossip from; default: all")
	metricsFlag(c, &cfg.MetricsAddress, agent.DefaultMetricsAddress)
	f.StringArrayVar(&forwarders, "allow-forwarder", nil,
		"`CIDR` where DNS forwarders of tenants may be besides the Internet, at any port (may repeat)")
	c.RegisterFlagCompletionFunc("flow-interval", cobra.FixedCompletions([]string{"1s", "10s", "1m", "10m"},
		cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("flow-table-preallocate", cobra.FixedCompletions([]string{"auto", "always", "never"},
		cobra.ShellCompDirectiveNoFileComp))
	p.flags(c)
	c.Args = noArguments
	c.AddCommand(a.agentJoin(), a.agentLeave(), a.agentDowngrade())
	return c
}

// nodeFlags say what on this machine is the node's.
func nodeFlags(c *cobra.Command, cfg *agent.Config) {
	dataDirFlag(c, &cfg.DataDir)
	tunnelSocketFlag(c, &cfg.TunnelSocket)
	c.Flags().StringVar(&cfg.Tunnel, "interface", host.DefaultTunnel, "`name` of the tunnel's network interface")
	c.Flags().StringVar(&cfg.PinDir, "pin-dir", agent.DefaultPinDir, "`directory` in a bpffs for programs and maps")
}

func dataDirFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "data-dir", agent.DefaultDataDir, "`directory` for identity, last view and flow records")
}

// checkAgent refuses, by flag, what agent.Serve would refuse without.
func checkAgent(cfg *agent.Config) error {
	if !slices.Contains(flow.Intervals, cfg.FlowInterval) {
		return invalidFlag("--flow-interval", cfg.FlowInterval.String(), "use 1s, 10s, 1m or 10m")
	}
	if n := cfg.FlowEntries; n < agent.MinFlowEntries || n > agent.MaxFlowEntries {
		return invalidFlag("--flow-table-entries", strconv.FormatUint(uint64(n), 10),
			fmt.Sprintf("use %d to %d; each takes 200 bytes of memory", agent.MinFlowEntries, agent.MaxFlowEntries))
	}
	if w := cfg.FlowAdvance; !w.Valid() {
		return invalidFlag("--flow-table-preallocate", string(w), "use auto, always or never")
	}
	if n := cfg.FlowShare; n < 1 || n > 100 {
		return invalidFlag("--flow-share", strconv.FormatUint(uint64(n), 10), "use 1 to 100")
	}
	if n := cfg.FlowReserve; n < 1 || n > 90 {
		return invalidFlag("--flow-reserve", strconv.FormatUint(uint64(n), 10), "use 1 to 90")
	}
	if err := checkMTU(cfg.TunnelMTU); err != nil {
		return err
	}
	if err := checkMetricsAddress(cfg.MetricsAddress); err != nil {
		return err
	}
	if cfg.GossipAddress != "" {
		_, err := parseAddress("--gossip-address", cfg.GossipAddress)
		return err
	}
	return nil
}

// joinFlags are what agent.JoinConfig is made of.
type joinFlags struct {
	agent.JoinConfig
	tokenFile string
}

func (a *app) agentJoin() *cobra.Command {
	var f joinFlags
	c := command("join --server https://HOST:PORT [--name NAME] [--underlay-address ADDRESS]...", "Make this machine a node", `
Make this machine a node of a mesh, with a join token (culvert token create), which works once. The token is read from
CULVERT_JOIN_TOKEN or --token-file, as arguments are visible to others; it carries the fingerprint of the server's CA.
Several servers may be given, separated by commas: the node goes from one to the next as they fail.

Other nodes send to --underlay-address, best first. Without it they use the address that this connection comes from.`, `
  CULVERT_JOIN_TOKEN=$(cat token) culvert agent join --server https://192.0.2.1:7443
  culvert agent join --server https://192.0.2.1:7443 --token-file - --name node-a --underlay-address 192.0.2.11`,
		func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("joining"); err != nil {
				return err
			}
			if err := a.prepareJoin(&f); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			id, err := agent.Join(ctx, f.JoinConfig)
			if err != nil {
				return err
			}
			answer := struct {
				Node string `json:"nodeId"`
				Name string `json:"name"`
			}{id.Node, id.Name}
			return a.print(answer, func(w io.Writer) error {
				if a.quiet {
					_, err := fmt.Fprintln(w, id.Node)
					return err
				}
				_, err := fmt.Fprintf(w, "This machine is node %s (%s). Now run, each for good:\n\n  culvert tunnel\n  culvert agent\n",
					id.Name, id.Node)
				return err
			})
		})
	fs := c.Flags()
	dataDirFlag(c, &f.DataDir)
	fs.StringVar(&f.Name, "name", "", "`name` of the node; default: this machine's host name")
	fs.StringVar(&f.tokenFile, "token-file", "", "`file` with the join token; - is standard input (CULVERT_JOIN_TOKEN)")
	fs.StringArrayVar(&f.Underlay, "underlay-address", nil, "`ADDRESS` or ADDRESS:PORT where other nodes reach this one (may repeat)")
	fs.Uint16Var(&f.WireGuardPort, "wireguard-port", agent.DefaultWireGuardPort, "UDP `port` of the tunnel")
	fs.Uint16Var(&f.GossipPort, "gossip-port", agent.DefaultGossipPort, "UDP and TCP `port` of gossip")
	c.Args = noArguments
	return c
}

// prepareJoin fills in what comes from elsewhere than flags, and checks.
func (a *app) prepareJoin(f *joinFlags) error {
	if err := a.resolve(); err != nil {
		return err
	}
	f.Servers = nil
	for s := range strings.SplitSeq(a.server, ",") {
		if s = strings.TrimSpace(s); s != "" {
			f.Servers = append(f.Servers, s)
		}
	}
	if len(f.Servers) == 0 {
		return api.Errorf(api.CodeMissingParameter, "--server", "give --server https://HOST:PORT or set CULVERT_SERVER",
			"no server is named")
	}
	if a.caFile != "" {
		pem, err := os.ReadFile(a.caFile)
		if err != nil {
			return fmt.Errorf("CA certificate: %w", err)
		}
		f.CA = pem
	}
	for _, u := range f.Underlay {
		_, errAddress := netip.ParseAddr(u)
		_, errPort := netip.ParseAddrPort(u)
		if errAddress != nil && errPort != nil {
			return invalidFlag("--underlay-address", u, "use ADDRESS or ADDRESS:PORT, such as 192.0.2.11")
		}
	}
	if f.WireGuardPort == 0 || f.GossipPort == 0 {
		return invalidFlag("--wireguard-port and --gossip-port", "0", "use a port from 1 to 65535")
	}
	if f.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("host name: %w", err)
		}
		f.Name, _, _ = strings.Cut(strings.ToLower(name), ".")
	}
	var err error
	f.Token, err = a.joinToken(f.tokenFile)
	return err
}

func (a *app) joinToken(file string) (string, error) {
	token := a.getenv("CULVERT_JOIN_TOKEN")
	if file != "" {
		var data []byte
		var err error
		if file == "-" {
			data, err = io.ReadAll(io.LimitReader(a.In, 4096))
		} else {
			data, err = os.ReadFile(file)
		}
		if err != nil {
			return "", fmt.Errorf("join token: %w", err)
		}
		token = string(data)
	}
	if token = strings.TrimSpace(token); token == "" {
		return "", api.Errorf(api.CodeMissingParameter, "--token-file",
			"make a token with culvert token create, and set CULVERT_JOIN_TOKEN or --token-file", "there is no join token")
	}
	if !joinTokens.MatchString(token) {
		return "", api.Errorf(api.CodeTokenInvalid, "--token-file",
			"give the whole of what culvert token create printed, here or in CULVERT_JOIN_TOKEN", "that is no join token")
	}
	return token, nil
}

// joinTokens are TOKENID.RANDOM.PIN as culvert token create prints them. The pin may be left out where --ca is given; whether
// it may be, the client says.
var joinTokens = regexp.MustCompile(`^token-[0-9a-f]{17}\.[A-Za-z0-9_-]{43}(\.[0-9a-f]{64})?$`)

func (a *app) agentLeave() *cobra.Command {
	var cfg agent.Config
	var o agent.LeaveOptions
	c := command("leave [--force] [--local]", "Make this machine no node any more", `
Take the node out of the mesh, and take off this machine everything that makes it one: its interfaces, those of its
workloads included, programs, maps, the resolver files that it wrote, its key and its identity. Stop culvert agent and
culvert tunnel first; while one of them runs nothing is changed. What was left by an interrupted leave, the next one
removes.

The server is told, by the node's own certificate, and forgets the node. While network interfaces are placed on it, the
server refuses: they are their accounts' to delete. With --force it revokes the node instead, as culvert node revoke
does. If no server can be reached nothing is changed; with --local none is asked, and an administrator has to revoke
the node.

Flow records that were never sent stay in the data directory, unless --force.`, `
  culvert agent leave
  culvert agent leave --force
  culvert agent leave --local`,
		func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("leaving"); err != nil {
				return err
			}
			left, err := agent.Leave(cmd.Context(), cfg, o)
			if err != nil {
				return err
			}
			return a.print(left, func(w io.Writer) error { return printLeft(w, left) })
		})
	nodeFlags(c, &cfg)
	c.Flags().BoolVar(&o.Force, "force", false,
		"leave also while network interfaces are placed here, and delete flow records that were never sent")
	c.Flags().BoolVar(&o.Local, "local", false, "do not tell the server")
	c.Args = noArguments
	return c
}

func (a *app) agentDowngrade() *cobra.Command {
	var cfg agent.Config
	var schema uint32
	c := command("downgrade [--schema N]", "Prepare flows for an older agent", `
Give programs and maps the form of an older schema, so that an agent of a version before takes up this node's flows and
counters. Only where CHANGELOG.md says that a version changed the schema, the way back to the one before needs it. Stop
culvert agent first; while it runs nothing is changed. From then on nothing passes until the older agent has applied its
view, which should be seconds: have its package at hand.

What flows remember and the older schema has no words for is forgotten, such as how often they sent again. What was
interrupted can be repeated; the newer agent, started again, takes all back.`, `
  culvert agent downgrade
  culvert agent downgrade --schema 2`,
		func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("a downgrade"); err != nil {
				return err
			}
			done, err := agent.Downgrade(cmd.Context(), cfg, schema)
			if err != nil {
				return err
			}
			return a.print(done, func(w io.Writer) error { return printDowngraded(w, done) })
		})
	dataDirFlag(c, &cfg.DataDir)
	c.Flags().StringVar(&cfg.PinDir, "pin-dir", agent.DefaultPinDir, "`directory` in a bpffs for programs and maps")
	c.Flags().Uint32Var(&schema, "schema", agent.OlderSchema, "`version` of the maps that the older agent has")
	c.Args = noArguments
	return c
}

// printDowngraded says what is left to do.
func printDowngraded(w io.Writer, done agent.Downgraded) error {
	_, err := fmt.Fprintf(w, "%d flow entries have schema %d now. Nothing passes until an agent with that schema runs: install and "+
		"start it.\n", done.Entries, done.To)
	if err == nil && done.Left > 0 {
		_, err = fmt.Fprintf(w, "%d flow entries could not be kept; their flows end.\n", done.Left)
	}
	return err
}

// printLeft says what became of the node, and what somebody else still has to do.
func printLeft(w io.Writer, left agent.Left) error {
	lines := []string{"This machine is no node any more."}
	switch {
	case left.Mesh == agent.MeshForgotten:
		lines = append(lines, "The server has forgotten it.")
	case left.Mesh == agent.MeshRevoked:
		lines = append(lines, "At the server it is revoked. Once no network interface is placed on it, an administrator removes it:",
			"  culvert node delete "+left.Node)
	case left.Node != "":
		lines = append(lines, "The server was not told. An administrator shuts the node out, and then removes it:",
			"  culvert node revoke "+left.Node, "  culvert node delete "+left.Node)
	}
	if left.Kept > 0 {
		lines = append(lines, fmt.Sprintf("%d flow records were never sent and are kept in %s.", left.Kept, left.KeptIn))
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}
