package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
)

// fullStatus is what culvert status knows. What could not be asked is nil.
type fullStatus struct {
	Server *api.Status      `json:"server,omitempty"`
	Nodes  []api.NodeReport `json:"nodes,omitempty"`
	Node   *local.Status    `json:"node,omitempty"` // this machine
}

func (a *app) statusCommand() *cobra.Command {
	var counters bool
	c := command("status", "Show how the mesh and this node are", `
Show the state of the server, of the nodes, and of this machine's own node if an agent answers at --socket. It fails
when neither the server nor an agent answers.`, `
  culvert status
  culvert status --counters --socket /run/culvert/agent.sock`,
		func(cmd *cobra.Command, _ []string) error {
			s, err := a.gatherStatus(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) error { return s.write(w, counters) })
		})
	c.Flags().BoolVar(&counters, "counters", false, "with the counts of every reason on this node")
	c.Args = noArguments
	return c
}

func (a *app) gatherStatus(ctx context.Context) (s fullStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	errServer := a.serverStatus(ctx, &s)
	agent, err := a.agent()
	if err != nil {
		return s, err
	}
	node, errNode := agent.Status(ctx)
	if errNode == nil {
		s.Node = &node
	}
	incomplete := errors.Is(errServer, &api.Error{Code: api.CodeMissingParameter})
	switch {
	case incomplete && errNode == nil: // a node's own status needs no key
		return s, nil
	case a.server != "" && errServer != nil: // asked for and refused
		return s, errServer
	case a.socket != "" && errNode != nil:
		return s, errNode
	case errServer != nil && errNode != nil:
		var e *api.Error
		if errors.As(errServer, &e) && e.Code == api.CodeMissingParameter {
			e.Message += ", and no agent answers on this machine"
		}
		return s, errServer
	}
	return s, nil
}

func (a *app) serverStatus(ctx context.Context, s *fullStatus) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	if s.Server, err = c.Status(ctx); err != nil {
		s.Server = nil
		return err
	}
	s.Nodes, err = c.ListNodes(ctx)
	return err
}

func (s fullStatus) write(w io.Writer, counters bool) error {
	if s.Server != nil {
		who := "administrator"
		if !s.Server.Caller.Admin {
			who = s.Server.Caller.Account + " (" + s.Server.Caller.AccountName + ")"
		}
		converged := "all live nodes have it"
		if !s.Server.Converged {
			converged = "not all live nodes have it yet"
		}
		fmt.Fprintf(w, "Server    version %s, region %s, up since %s\n", s.Server.Version, s.Server.Region, stamp(s.Server.StartedAt))
		fmt.Fprintf(w, "Revision  %d, %s\n", s.Server.Revision, converged)
		fmt.Fprintf(w, "Nodes     %d live of %d\n", s.Server.NodesLive, s.Server.NodesTotal)
		fmt.Fprintf(w, "You are   %s\n", who)
	}
	if len(s.Nodes) > 0 {
		fmt.Fprintln(w)
		var rows [][]string
		for i := range s.Nodes {
			rows = append(rows, nodeKind.row(&s.Nodes[i]))
		}
		if err := table(w, nodeKind.head, rows); err != nil {
			return err
		}
	}
	if s.Node == nil {
		return nil
	}
	if s.Server != nil {
		fmt.Fprintln(w)
	}
	return writeNode(w, s.Node, counters)
}

func writeNode(w io.Writer, n *local.Status, counters bool) error {
	link := "connected to the server"
	if !n.Connected {
		if link = "NOT connected to the server"; n.ServerError != "" {
			link += ": " + n.ServerError
		}
	}
	fmt.Fprintf(w, "Node      %s (%s), version %s, %s\n", n.Name, n.Node, n.Version, link)
	fmt.Fprintf(w, "View      revision %d, generation %d, %s old\n", n.Revision, n.Generation, n.ViewAge.Round(time.Second))
	fmt.Fprintf(w, "Flows     %d open, %d records to send, %d lost\n", n.Flows, n.PendingSend, n.Lost)
	for _, e := range n.Errors {
		fmt.Fprintf(w, "Error     %s\n", e)
	}
	var peers, workloads, counts [][]string
	for _, p := range n.Peers {
		peers = append(peers, []string{p.Node, p.Underlay, stamp(p.LastHandshake), number(p.RxBytes), number(p.TxBytes)})
	}
	for _, x := range n.Workloads {
		address := "-" // not up
		if x.Address.IsValid() {
			address = x.Address.String()
		}
		state := x.State
		if x.Unnamed != "" {
			state += ", without the VPC's resolver: " + x.Unnamed
		}
		workloads = append(workloads, []string{x.ENI, address, x.Netns, x.Interface, state})
	}
	for _, c := range n.Counters {
		counts = append(counts, []string{c.ENI, c.Hook, c.Reason, number(c.Packets), number(c.Bytes)})
	}
	sections := []struct {
		head []string
		rows [][]string
	}{
		{[]string{"WORKLOAD", "ADDRESS", "NETNS", "INTERFACE", "STATE"}, workloads},
		{[]string{"PEER", "UNDERLAY", "LAST HANDSHAKE", "RECEIVED BYTES", "SENT BYTES"}, peers},
		{[]string{"INTERFACE", "HOOK", "REASON", "PACKETS", "BYTES"}, counts},
	}
	for i, s := range sections {
		if len(s.rows) == 0 || i == 2 && !counters {
			continue
		}
		fmt.Fprintln(w)
		if err := table(w, s.head, s.rows); err != nil {
			return err
		}
	}
	return nil
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }
