package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// capFlags are the flags of caps, and which of them were given.
type capFlags struct {
	connections, flows uint32
	bits               uint64
}

func (x *capFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.Uint32Var(&x.connections, "max-connections-per-second", 0, "new flows in a second `n` of one endpoint; 0: no bound")
	f.Uint32Var(&x.flows, "max-flows", 0, "flows at a time `n` of one endpoint; 0: no bound")
	f.Uint64Var(&x.bits, "max-bits-per-second", 0, "bits in a second `n` of one endpoint, in each direction; 0: no bound")
}

// request is nil when no flag was given.
func (x *capFlags) request(c *cobra.Command) *api.CapsRequest {
	var r api.CapsRequest
	if c.Flags().Changed("max-connections-per-second") {
		r.MaxConnectionsPerSecond = &x.connections
	}
	if c.Flags().Changed("max-flows") {
		r.MaxFlows = &x.flows
	}
	if c.Flags().Changed("max-bits-per-second") {
		r.MaxBitsPerSecond = &x.bits
	}
	if r == (api.CapsRequest{}) {
		return nil
	}
	return &r
}

func (a *app) serviceCap() *cobra.Command {
	m := new(mutation)
	var caps capFlags
	var none bool
	c := command("cap SERVICE ENDPOINT... --max-flows N | --none", "Bound what endpoints may use", `
Bound what endpoints of a service, named by id or name or by their connections' ids, may use of it, in place of what the
service itself says: all of them, or none when one cannot be. A bound that is not given stays as it is. With --none they
have the service's again.`, `
  culvert service cap ledger vpce-0a1b2c3d4e5f60718 --max-connections-per-second 1000 --max-flows 20000
  culvert service cap ledger vpce-0a1b2c3d4e5f60718 --max-bits-per-second 1000000000
  culvert service cap ledger vpce-0a1b2c3d4e5f60718 --none`, nil)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		r := caps.request(cmd)
		if (r == nil) != none {
			return api.Errorf(api.CodeInvalidCombination, "--none", "give one or several of --max-connections-per-second, --max-flows, "+
				"--max-bits-per-second, or --none alone", "it is not clear what to change")
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		return a.changed(cmd.Context(), m, cl, func(o ...client.Option) ([]api.Connection, error) {
			return cl.ModifyConnections(cmd.Context(), args[0], api.ModifyConnectionsRequest{Endpoints: args[1:], Caps: r}, o...)
		})
	}
	c.Args = atLeast("SERVICE", "ENDPOINT")
	c.ValidArgsFunction = completeConnections(a)
	caps.flags(c)
	c.Flags().BoolVar(&none, "none", false, "the service's own caps again")
	m.flags(c)
	return c
}

// changed makes a change of connections, waits where that is asked for, and shows them.
func (a *app) changed(ctx context.Context, m *mutation, cl *client.Client,
	call func(...client.Option) ([]api.Connection, error)) error {
	connections, err := call(m.options()...)
	if err != nil {
		return err
	}
	var revision int64
	for _, x := range connections {
		revision = max(revision, x.Revision)
	}
	if err := m.converge(ctx, a, cl, revision); err != nil {
		return err
	}
	return connectionKind.showList(a, connections)
}
