package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// flowFlags select flow records.
type flowFlags struct {
	filter       api.FlowFilter
	since, until string
	local        bool
}

func (a *app) flowsCommand() *cobra.Command {
	g := group("flows", "Flow records: every flow, let in or refused", `
Every flow that touches your network interfaces leaves records at both ends, let in or refused, with the reason, the
rule, both forms of its addresses, and what connection, endpoint and service it belongs to.`, `
  culvert flows tail
  culvert flows query --since 1h --action REJECT`)
	g.AddCommand(a.flowsTail(), a.flowsQuery())
	return g
}

func (a *app) flowsTail() *cobra.Command {
	var f flowFlags
	c := command("tail [--local]", "Show flow records as they come", `
Show flow records as they come, until interrupted. Records come when their interval ends or the flow closes. With
--local the agent on this machine is asked instead of the server: its own records, without delay.`, `
  culvert flows tail
  culvert flows tail --action REJECT --eni cart
  culvert flows tail --local -o json`,
		func(cmd *cobra.Command, _ []string) error {
			err := a.flows(cmd.Context(), &f, true)
			if cmd.Context().Err() != nil {
				return nil // interrupted, as meant
			}
			return err
		})
	f.flags(a, c)
	return c
}

func (a *app) flowsQuery() *cobra.Command {
	var f flowFlags
	c := command("query [--since TIME] [--until TIME] [--limit N]", "Search flow records", `
Search the flow records that are kept, oldest first. Times are absolute (RFC 3339) or so long ago (such as 15m).`, `
  culvert flows query --since 1h --action REJECT
  culvert flows query --endpoint ledger --port 443 -o json`,
		func(cmd *cobra.Command, _ []string) error { return a.flows(cmd.Context(), &f, false) })
	f.flags(a, c)
	c.Flags().StringVar(&f.until, "until", "", "records that began before this `time`, or so long ago")
	c.Flags().IntVar(&f.filter.Limit, "limit", 0, "the newest `N` (default 1000)")
	return c
}

func (f *flowFlags) flags(a *app, c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.since, "since", "", "records that ended after this `time`, or so long ago")
	choice(c, &f.filter.Action, "action", "", api.ActionAccept, api.ActionReject)
	reference(a, c, eniKind, &f.filter.Interface, "eni", "of this `ENI`")
	reference(a, c, endpointKind, &f.filter.Endpoint, "endpoint", "through this `ENDPOINT`")
	s.StringVar(&f.filter.Connection, "connection", "", "by this endpoint `connection`, id")
	serviceReference(a, c, &f.filter.Service, "to this service")
	reference(a, c, vpcKind, &f.filter.VPC, "vpc", "in this `VPC`")
	s.StringVar(&f.filter.Reason, "reason", "", "for this `reason`, such as GROUP_INGRESS")
	s.StringVar(&f.filter.Address, "address", "", "`address` on either side, before or after translation")
	s.Uint16Var(&f.filter.Port, "port", 0, "`port` on either side")
	s.BoolVar(&f.local, "local", false, "ask the agent on this machine")
	c.Args = noArguments
}

// finish reads times and turns names into ids, which is what records hold.
func (f *flowFlags) finish(ctx context.Context, c *client.Client, now time.Time) (err error) {
	if f.filter.Since, err = parseTime("--since", f.since, now); err != nil {
		return err
	}
	if f.filter.Until, err = parseTime("--until", f.until, now); err != nil {
		return err
	}
	f.filter.Action = strings.ToUpper(f.filter.Action)
	if a := f.filter.Action; a != "" && a != api.ActionAccept && a != api.ActionReject {
		return api.Errorf(api.CodeInvalidParameter, "--action", "use ACCEPT or REJECT", "%q is not an action", a)
	}
	if err := toID(ctx, c, vpcKind, "--vpc", api.KindVPC, &f.filter.VPC); err != nil {
		return err
	}
	if err := toID(ctx, c, eniKind, "--eni", api.KindENI, &f.filter.Interface); err != nil {
		return err
	}
	if err := toID(ctx, c, endpointKind, "--endpoint", api.KindEndpoint, &f.filter.Endpoint); err != nil {
		return err
	}
	if strings.Contains(f.filter.Service, "/") { // records have ACCOUNT/NAME too
		return nil
	}
	return toID(ctx, c, serviceKind, "--service", api.KindService, &f.filter.Service)
}

// toID replaces a name by the id of what it names, for which it needs the server.
func toID[T any](ctx context.Context, c *client.Client, k kind[T], flag string, of api.Kind, ref *string) error {
	if *ref == "" || api.IsID(of.Prefix(), *ref) {
		return nil
	}
	if c == nil {
		return api.Errorf(api.CodeInvalidParameter, flag, "give the id", "without a server, names such as %q mean nothing", *ref)
	}
	item, err := k.get(c, ctx, *ref)
	if err == nil {
		*ref = meta(item).ID
	}
	return err
}

func parseTime(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, api.Errorf(api.CodeInvalidParameter, flag, "write 15m, 2h or 2026-01-02T15:04:05Z", "%q is no time", s)
	}
	return t, nil
}

func (a *app) flows(ctx context.Context, f *flowFlags, follow bool) error {
	if a.quiet {
		return api.Errorf(api.CodeInvalidCombination, "--quiet", "take what you need from -o json", "flow records have no ids")
	}
	out := flowWriter{app: a, follow: follow}
	c, errServer := a.client()
	if errServer == nil {
		defer c.Close()
	}
	if f.local {
		if err := f.finish(ctx, c, time.Now()); err != nil {
			return err
		}
		agent, err := a.agent()
		if err != nil {
			return err
		}
		err = agent.Flows(ctx, f.filter, follow, out.write)
		return errors.Join(err, out.end())
	}
	if errServer != nil {
		return errServer
	}
	if err := f.finish(ctx, c, time.Now()); err != nil {
		return err
	}
	err := c.Flows(ctx, api.FlowQuery{FlowFilter: f.filter, Follow: follow}, func(e api.FlowEnvelope) error {
		r := new(api.FlowRecord)
		if err := json.Unmarshal(e.Record, r); err != nil {
			return fmt.Errorf("flow record %s/%d of node %s: %w", e.Boot, e.Seq, e.Node, err)
		}
		return out.write(r)
	})
	return errors.Join(err, out.end())
}

// flowWriter writes records: JSON one a line, YAML documents, or a table; when following, one of columns that widen as needed.
type flowWriter struct {
	*app
	follow bool
	n      int
	rows   [][]string
	widths []int
}

var flowHead = []string{"ENDED", "ACTION", "STATE", "REASON", "INTERFACE", "SIDE", "PROTOCOL", "SOURCE", "DESTINATION",
	"TRANSLATED TO", "PACKETS", "BYTES", "REPLY PACKETS", "REPLY BYTES", "SERVICE"}

// flowWidths are what most records need.
var flowWidths = []int{24, 6, 6, 14, 21, 8, 8, 21, 21, 13, 7, 8, 13, 11, 7}

func (w *flowWriter) write(r *api.FlowRecord) error {
	w.n++
	switch w.output {
	case "json":
		return json.NewEncoder(w.Out).Encode(r)
	case "yaml":
		b, err := toYAML(r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w.Out, "---\n%s", b)
		return err
	}
	if !w.follow {
		w.rows = append(w.rows, flowRow(r))
		return nil
	}
	if w.widths == nil {
		w.widths = slices.Clone(flowWidths)
		if err := w.line(flowHead); err != nil {
			return err
		}
	}
	return w.line(flowRow(r))
}

func flowRow(r *api.FlowRecord) []string {
	translated := ""
	if r.Translated != r.Tuple && r.Translated != (api.FlowTuple{}) {
		translated = side(r.Translated.SrcAddr, r.Translated.SrcPort) + ">" + side(r.Translated.DstAddr, r.Translated.DstPort)
	}
	return []string{
		r.End.UTC().Format("2006-01-02T15:04:05.000Z"), r.Action, r.State, r.Reason, r.Interface, r.Side, protocolName(r.Protocol),
		side(r.Tuple.SrcAddr, r.Tuple.SrcPort), side(r.Tuple.DstAddr, r.Tuple.DstPort), translated,
		number(r.Packets), number(r.Bytes), number(r.ReplyPackets), number(r.ReplyBytes), r.ServiceName,
	}
}

// side is one end of a flow. Addresses of 0.0.0.0/8 are numbers of nodes, of which workloads reach the resolver only.
func side(addr string, port uint16) string {
	if strings.HasPrefix(addr, "0.") {
		return "resolver"
	}
	if port == 0 {
		return addr
	}
	return net.JoinHostPort(addr, strconv.Itoa(int(port)))
}

func protocolName(n int) string {
	switch n {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return strconv.Itoa(n)
}

func (w *flowWriter) line(cells []string) error {
	var b strings.Builder
	for i, c := range cells {
		c = dash(c)
		w.widths[i] = max(w.widths[i], len(c))
		if i == len(cells)-1 {
			b.WriteString(c)
			break
		}
		fmt.Fprintf(&b, "%-*s  ", w.widths[i], c)
	}
	_, err := io.WriteString(w.Out, b.String()+"\n")
	return err
}

// end writes the table of a search, or says that nothing was found.
func (w *flowWriter) end() error {
	if w.follow || w.output != "table" {
		return nil
	}
	if w.n > 0 {
		return table(w.Out, flowHead, w.rows)
	}
	_, err := fmt.Fprintln(w.Err, "No flow record matches. Watch them come with: culvert flows tail")
	return err
}
