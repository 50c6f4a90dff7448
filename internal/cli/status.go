package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
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
		if err := s.writeServer(w); err != nil {
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

// A screen has 24 lines. What does not fit is counted, and the worst is on top.
const (
	shownProblems = 3
	shownRows     = 4 // of each table
)

func (s fullStatus) writeServer(w io.Writer) error {
	v := s.Server
	who := "administrator"
	if !v.Caller.Admin {
		who = v.Caller.Account + " (" + v.Caller.AccountName + ")"
	}
	converged := "all live nodes have it"
	if !v.Converged {
		converged = "not all live nodes have it yet"
		if len(v.Waiting) > 0 {
			converged = "not applied yet by " + strings.Join(v.Waiting, ", ")
		}
	}
	fmt.Fprintf(w, "Server    version %s, region %s, up since %s\n", v.Version, v.Region, stamp(v.StartedAt))
	fmt.Fprintf(w, "Revision  %d, %s\n", v.Revision, converged)
	fmt.Fprintf(w, "Nodes     %d live of %d\n", v.NodesLive, v.NodesTotal)
	fmt.Fprintf(w, "You are   %s\n", who)
	problems := slices.Clone(v.Problems)
	if v.Pending > 0 {
		problems = append(problems, fmt.Sprintf("%d endpoints wait to be accepted: culvert service connections SERVICE", v.Pending))
	}
	for _, name := range v.WithoutTarget {
		problems = append(problems, "behind "+name+" no target is attached: culvert target-group describe GROUP")
	}
	for _, name := range v.FailingOpen {
		problems = append(problems, "behind "+name+" too few targets are healthy, so all are used: culvert target-group health GROUP")
	}
	for _, name := range v.FlowLogsFailing {
		problems = append(problems, "flow log "+name+": culvert flow-log describe LOG")
	}
	writeProblems(w, problems, "culvert status -o json")
	if len(s.Nodes) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	nodes := slices.Clone(s.Nodes)
	slices.SortStableFunc(nodes, func(a, b api.NodeReport) int { return cmp.Compare(badness(&b), badness(&a)) })
	var rows [][]string
	for i := range nodes {
		rows = append(rows, nodeKind.row(&nodes[i]))
	}
	return screenTable(w, nodeKind.head, rows, "culvert node list")
}

// badness of a node, to show the worst first.
func badness(n *api.NodeReport) int {
	switch {
	case n.State == api.NodeRevoked:
		return -1
	case n.Status != nil && len(n.Status.Errors) > 0:
		return 2
	case !n.Live:
		return 1
	}
	return 0
}

func writeNode(w io.Writer, n *local.Status, counters bool) error {
	link := "connected to the server"
	if !n.Connected {
		if link = "NOT connected to the server"; n.ServerError != "" {
			link += ": " + n.ServerError
		}
	}
	applied := "applied"
	if n.Received > n.Revision {
		applied = fmt.Sprintf("applied; revision %d came and is NOT applied yet", n.Received)
	}
	fmt.Fprintf(w, "Node      %s (%s), version %s, %s\n", n.Name, n.Node, n.Version, link)
	fmt.Fprintf(w, "View      revision %d, %s, generation %d, %s old\n", n.Revision, applied, n.Generation, n.ViewAge.Round(time.Second))
	fmt.Fprintf(w, "Flows     %d open, %d records to send, %d lost\n", n.Flows, n.PendingSend, n.Lost)
	fmt.Fprintf(w, "Targets   %d here, %d attached; %d endpoints, %d without a target\n", n.Targets.Hosted, n.Targets.Attached,
		n.Targets.Endpoints, n.Targets.Without)
	fmt.Fprintf(w, "Health    %d targets checked here, %d unhealthy; %d in use from here, %d unhealthy or out of reach\n",
		n.Targets.Checked, n.Targets.Unhealthy, n.Targets.Watched, n.Targets.Down)
	if n.LogKey != "" {
		fmt.Fprintf(w, "Log key   %s\n", n.LogKey)
	}
	fmt.Fprintf(w, "Tunnel    %d peers, %s\n", len(n.Peers), tunnelLoss(n.TunnelLost))
	writeProblems(w, n.Errors, "culvert status -o json")
	var workloads, counts [][]string
	for _, x := range worstWorkloads(n.Workloads) {
		address := dash(both(x.Address, x.IPv6Address)) // none while it is not up
		state := x.State
		if x.Unnamed != "" {
			state += ", without the VPC's resolver: " + x.Unnamed
		}
		workloads = append(workloads, []string{x.ENI, address, x.Netns, x.Interface, state})
	}
	for _, c := range n.Counters {
		counts = append(counts, []string{c.ENI, c.Hook, c.Reason, number(c.Packets), number(c.Bytes)})
	}
	if len(workloads) > 0 {
		fmt.Fprintln(w)
		if err := screenTable(w, []string{"WORKLOAD", "ADDRESS", "NETNS", "INTERFACE", "STATE"}, workloads, "culvert status -o json"); err != nil {
			return err
		}
	}
	if len(n.Peers) > 0 {
		fmt.Fprintln(w)
		heads := []string{"PEER", "UNDERLAY", "PATH MTU", "HANDSHAKE", "RECEIVED", "SENT"}
		if err := screenTable(w, heads, peerRows(n.Peers), "culvert status -o json"); err != nil {
			return err
		}
	}
	if counters && len(counts) > 0 {
		fmt.Fprintln(w)
		return table(w, []string{"INTERFACE", "HOOK", "REASON", "PACKETS", "BYTES"}, counts)
	}
	return nil
}

// worstWorkloads puts first what is not up.
func worstWorkloads(all []local.Workload) []local.Workload {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b local.Workload) int {
		return cmp.Compare(map[bool]int{true: 1}[a.State == "up"], map[bool]int{true: 1}[b.State == "up"])
	})
	return all
}

// peerRows are the peers, those first that were not heard of for longest.
func peerRows(peers []local.PeerStatus) (rows [][]string) {
	peers = slices.Clone(peers)
	silent := func(p local.PeerStatus) time.Duration {
		if p.LastHandshake.IsZero() {
			return math.MaxInt64
		}
		return p.HandshakeAge
	}
	slices.SortStableFunc(peers, func(a, b local.PeerStatus) int { return cmp.Compare(silent(b), silent(a)) })
	for _, p := range peers {
		age := "never"
		if !p.LastHandshake.IsZero() {
			age = p.HandshakeAge.Round(time.Second).String() + " ago"
		}
		mtu := "-"
		if p.PathMTU != 0 {
			mtu = strconv.Itoa(p.PathMTU)
		}
		rows = append(rows, []string{cmp.Or(p.Name, p.Node), p.Underlay, mtu, age, size(p.RxBytes), size(p.TxBytes)})
	}
	return rows
}

// tunnelLoss says what the tunnel lost.
func tunnelLoss(lost map[string]uint64) string {
	var parts []string
	total := uint64(0)
	for _, reason := range slices.Sorted(maps.Keys(lost)) {
		total += lost[reason]
		if lost[reason] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", reason, lost[reason]))
		}
	}
	switch {
	case lost == nil:
		return "its loss is not known"
	case total == 0:
		return "0 packets lost in it"
	}
	return fmt.Sprintf("%d packets lost in it (%s)", total, strings.Join(parts, ", "))
}

func writeProblems(w io.Writer, problems []string, rest string) {
	for i, e := range problems {
		if i == shownProblems {
			fmt.Fprintf(w, "          … and %d more: %s\n", len(problems)-i, rest)
			return
		}
		fmt.Fprintf(w, "Problem   %s\n", e)
	}
}

// screenTable writes as many rows as are shown, and how many more there are.
func screenTable(w io.Writer, head []string, rows [][]string, rest string) error {
	shown := rows[:min(len(rows), shownRows)]
	if err := table(w, head, shown); err != nil {
		return err
	}
	if more := len(rows) - len(shown); more > 0 {
		_, err := fmt.Fprintf(w, "… and %d more: %s\n", more, rest)
		return err
	}
	return nil
}

// size writes bytes with the largest binary prefix that leaves a whole number, to one digit after the point.
func size(n uint64) string {
	if n < 1<<10 {
		return number(n) + " B"
	}
	value, prefix := float64(n), -1
	for value >= 1<<10 {
		value /= 1 << 10
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[prefix])
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }
