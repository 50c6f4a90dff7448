package cli

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
)

func (a *app) explainCommand() *cobra.Command {
	var from, to, protocol string
	c := command("explain --from ENI --to NAME[:PORT] [--protocol PROTOCOL]", "Say what would happen to a new flow, and why", `
Walk the stages that a new flow from one of your network interfaces would meet, up to the one that lets it through or
stops it, from the live state of the node that hosts the interface, and say what to do. It sends nothing. The exit
status is 1 when the flow would be stopped.

The agent on the interface's node is asked, so call this there; on the mesh of culvert dev up it works from anywhere.
With a server configured, that adds what the other side decides.`, `
  culvert explain --from cart --to ledger.pay.internal:443
  culvert explain --from eni-0a1b2c3d4e5f60718 --to 10.0.1.200:53 --protocol udp`,
		func(cmd *cobra.Command, _ []string) error {
			r := local.ExplainRequest{From: from, Protocol: api.Protocol(protocol)}
			var err error
			if r.To, r.Port, err = parseDestination(to); err != nil {
				return err
			}
			x, err := a.explain(cmd, r)
			if err != nil {
				return err
			}
			if err := a.print(x, func(w io.Writer) error { return writeExplanation(w, x, r) }); err != nil {
				return err
			}
			if !x.Allowed {
				return exitStatus(1)
			}
			return nil
		})
	reference(a, c, eniKind, &from, "from", "the `ENI` that sends")
	c.Flags().StringVar(&to, "to", "", "`NAME:PORT` or address and port, such as ledger.pay.internal:443")
	choice(c, &protocol, "protocol", "tcp", "tcp", "udp", "icmp", "icmpv6")
	c.Args = noArguments
	required(c, "from", "to")
	return c
}

// explain asks the agent of the interface's node. Without a server, an id and the local agent will do.
func (a *app) explain(cmd *cobra.Command, r local.ExplainRequest) (*api.Explanation, error) {
	ctx := cmd.Context()
	var eni *api.ENI
	c, err := a.client()
	switch {
	case err == nil:
		defer c.Close()
		if eni, err = c.GetENI(ctx, r.From); err != nil {
			return nil, err
		}
		if eni.Node == "" {
			return nil, api.Errorf(api.CodeIncorrectState, "--from", "attach it: culvert eni attach "+r.From+" --netns NAME",
				"%s is on no node, so nothing of it is sent anywhere", r.From)
		}
		r.From = eni.ID
	case !strings.HasPrefix(r.From, "eni-"):
		return nil, err
	}
	agent, err := a.agentOf(ctx, c, eni)
	if err != nil {
		return nil, err
	}
	x, err := agent.Explain(ctx, r)
	if err != nil || c == nil {
		return &x, err
	}
	to := cmp.Or(x.Address, r.To)                                             // the server knows no health, hosted zones or rules
	if y, err := c.Explain(ctx, r.From, to, r.Port, r.Protocol); err == nil { // a node's own answer needs no server
		join(&x, y)
	}
	return &x, nil
}

// join completes what a node knows by what the server knows: how the receiver decides, and why an endpoint does not work.
func join(x, server *api.Explanation) {
	n := len(x.Stages)
	switch {
	case n == 0 || len(server.Stages) == 0:
	case x.Allowed && x.Stages[n-1].Name == "receiver":
		x.Stages, x.Allowed = append(x.Stages[:n-1], server.Stages...), server.Allowed
	case server.Stages[0].Name == "connection":
		x.Stages = append(x.Stages, server.Stages[0])
	}
}

// parseDestination reads NAME[:PORT].
func parseDestination(s string) (string, uint16, error) {
	if _, err := netip.ParseAddr(s); err == nil || !strings.Contains(s, ":") {
		return s, 0, nil
	}
	host, port, err := net.SplitHostPort(s)
	n, errPort := strconv.ParseUint(port, 10, 16)
	if err != nil || errPort != nil || n == 0 || host == "" {
		return "", 0, api.Errorf(api.CodeInvalidParameter, "--to", "write it as ledger.pay.internal:443",
			"%q is not NAME:PORT", s)
	}
	return host, uint16(n), nil
}

func writeExplanation(w io.Writer, x *api.Explanation, r local.ExplainRequest) error {
	var rows [][]string
	for _, s := range x.Stages {
		outcome := "pass"
		if !s.OK {
			outcome = s.Reason
			if outcome == "" {
				outcome = "stop"
			}
		}
		rows = append(rows, []string{s.Name, outcome, s.Detail})
	}
	if err := table(w, []string{"STAGE", "OUTCOME", "DETAIL"}, rows); err != nil {
		return err
	}
	to := r.To
	if r.Port != 0 {
		to = net.JoinHostPort(r.To, strconv.Itoa(int(r.Port)))
	}
	if x.Allowed {
		_, err := fmt.Fprintf(w, "\nA new flow from %s to %s would pass.\n", r.From, to)
		return err
	}
	change := ""
	if n := len(x.Stages); n > 0 && x.Stages[n-1].Remedy != "" {
		change = " " + remedy(x.Stages[n-1].Remedy)
	}
	_, err := fmt.Fprintf(w, "\nA new flow from %s to %s would be stopped.%s\n", r.From, to, change)
	return err
}
