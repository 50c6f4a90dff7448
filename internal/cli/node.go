package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var tokenKind = kind[api.JoinToken]{
	command: "token", arg: "TOKEN", noun: "join token", plural: "join tokens", sample: "token-0a1b2c3d4e5f60718",
	list: (*client.Client).ListTokens, watch: (*client.Client).WatchTokens,
	remove: (*client.Client).DeleteToken,
	head:   []string{"ID", "NODE", "EXPIRES", "USED BY"},
	row: func(v *api.JoinToken) []string {
		return []string{v.ID, v.NodeName, stamp(v.ExpiresAt), v.UsedBy}
	},
	whose: "They are the mesh's, for administrators only, and shown without their secrets.",
	empty: "There is no join token. Make one: culvert token create",
}

func (a *app) tokenCommand() *cobra.Command {
	g := group("token", "Join tokens: each lets one node join, once", `
A join token lets one machine become a node of the mesh, once. It carries the fingerprint of the server's CA, so that
the machine knows whom it joins.`, `
  culvert token create --node host-a
  culvert token list`)
	var r api.CreateTokenRequest
	var ttl time.Duration
	var m mutation
	create := command("create [--node NODE] [--ttl DURATION]", "Create a join token", `
Create a join token and print it; it is never shown again. With -q only the token is printed.`, `
  culvert token create --node host-a --ttl 24h
  CULVERT_JOIN_TOKEN=$(culvert token create -q)`,
		func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			r.TTLSeconds = int64(ttl.Seconds())
			token, err := cl.CreateToken(cmd.Context(), r, m.options()...)
			if err != nil {
				return err
			}
			if a.quiet {
				_, err := fmt.Fprintln(a.Out, token.Secret)
				return err
			}
			return a.print(token, func(w io.Writer) error {
				if err := table(w, tokenKind.head, [][]string{tokenKind.row(&token.JoinToken)}); err != nil {
					return err
				}
				_, err := fmt.Fprintf(w, "\nOn the machine that is to join, as root:\n\n"+
					"  export CULVERT_JOIN_TOKEN=%s\n  culvert agent join --server https://SERVER:7443\n", token.Secret)
				return err
			})
		})
	create.Flags().StringVar(&r.NodeName, "node", "", "name of the one `NODE` that may use it")
	create.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is good for: 1m to 720h")
	create.Args = noArguments
	m.flags(create)
	g.AddCommand(create, tokenKind.listCommand(a), tokenKind.deleteCommand(a, "A node that used one stays."))
	return g
}

var nodeKind = kind[api.NodeReport]{
	command: "node", arg: "NODE", noun: "node", plural: "nodes", sample: "host-a",
	list: (*client.Client).ListNodes, watch: (*client.Client).WatchNodes,
	get: (*client.Client).GetNode, remove: (*client.Client).DeleteNode,
	head: []string{"ID", "NAME", "STATE", "LIVE", "REVISION", "UNDERLAY", "VERSION", "ERRORS"},
	row: func(v *api.NodeReport) []string {
		revision, problems := "", ""
		if v.Status != nil {
			revision = fmt.Sprint(v.Status.Revision)
			problems = strings.Join(v.Status.Errors, "; ")
		}
		return []string{v.ID, v.Name, string(v.State), yesNo(v.Live), revision, strings.Join(v.Underlay, ","), v.Version, problems}
	},
	shown: func(v *api.NodeReport) any {
		type Status struct {
			AppliedRevision int64     `json:"applied revision"`
			SeenAt          time.Time `json:"seenAt"`
			Errors          []string  `json:"errors"`
			Attached        []string  `json:"attachedEniIds"`
			Generation      uint32    `json:"generation"`
		}
		n := struct {
			api.Node
			Live bool `json:"live"`
			*Status
		}{Node: v.Node, Live: v.Live}
		if s := v.Status; s != nil {
			n.Status = &Status{s.Revision, s.SeenAt, s.Errors, s.Attached, s.Generation}
		}
		return &n
	},
	whose: "They are the mesh's: everybody sees them, but only administrators their addresses, version and errors.",
	empty: "No machine has joined yet. Let one join: culvert token create",
}

func (a *app) nodeCommand() *cobra.Command {
	g := group("node", "Nodes: hosts that run an agent", `
A node is a host that runs an agent. LIVE says whether the server hears of it, REVISION what it has applied.`, `
  culvert node list
  culvert node drain host-a
  culvert node revoke host-a`)
	verb := func(name, short, long string,
		call func(*client.Client, context.Context, string, ...client.Option) (*api.Node, error)) *cobra.Command {
		m := new(mutation)
		c := command(name+" NODE", short, long, fmt.Sprintf("\n  culvert node %s host-a", name), nil)
		c.RunE = change(a, nodeKind, m,
			func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.NodeReport, error) {
				n, err := call(cl, ctx, args[0], o...)
				if err != nil {
					return nil, err
				}
				if m.dryRun {
					return &api.NodeReport{Node: *n}, nil
				}
				report, err := cl.GetNode(ctx, n.ID)
				if err == nil {
					report.Revision = n.Revision
				}
				return report, err
			})
		c.Args = exactly("NODE")
		c.ValidArgsFunction = complete(a, nodeKind)
		m.flags(c)
		return c
	}
	g.AddCommand(nodeKind.listCommand(a), nodeKind.describeCommand(a),
		verb("drain", "Put no new interfaces on a node", `
Let a node host no network interface that it does not host already. What it hosts goes on.`, (*client.Client).DrainNode),
		verb("undrain", "Take a drained node back", `
Let a drained node host network interfaces again.`, (*client.Client).UndrainNode),
		verb("revoke", "Shut a node out, for good", `
Shut a node out: its certificate and its WireGuard key are refused by the server and by every other node. It cannot be
undone; the machine may join again under a new identity.`, (*client.Client).RevokeNode),
		nodeKind.deleteCommand(a, "It must be revoked and host nothing."))
	return g
}
