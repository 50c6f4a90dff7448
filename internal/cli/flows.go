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

// standardFlows is how many records the server gives where nothing is said.
const standardFlows = 1000

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
	g.AddCommand(a.flowsTail(), a.flowsQuery(), a.flowsExport(), a.flowsVerify())
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
	f.localFlag(c)
	return c
}

func (a *app) flowsQuery() *cobra.Command {
	f := queryFlags{}
	c := command("query [--from DIR] [--since TIME] [--until TIME] [--limit N] [--group-by FIELDS]", "Search flow records, and sum them", `
Search the flow records that are kept, oldest first. Times are absolute (RFC 3339) or so long ago (such as 15m).

A record belongs to the time in which it ended: at --since or later, and before --until, wherever records are asked.

With --from the files in a folder are asked instead of the server: files that flow logs delivered (Parquet, text, JSON
lines), or evidence. What file names, statistics and filters rule out is not read. Of files of several flow logs a line
counts once where their format tells it from others: node, boot-id, sequence, reply, log-status and records. --account
selects then.

--group-by sums packets and bytes by the fields of flow logs that are named, such as srcaddr,dstaddr; a record makes a
line for each direction, and both ends of a flow write one: --where flow-direction=egress takes what was sent, once.
--join makes one row of what both ends saw of a flow, with what was lost between them. --names adds the name that the
client had asked its node's resolver for, as the field queried-name, by which flows can be summed and selected, too; it
comes from the query logs of VPCs (culvert query-log), at the server or in evidence. For SQL take DuckDB on the same
files: docs/QUERIES.md.`, `
  culvert flows query --since 1h --action REJECT
  culvert flows query --endpoint ledger --port 443 -o json
  culvert flows query --from /srv/flow-logs --since 720h --group-by srcaddr,dstport --top 10
  culvert flows query --since 1h --join
  culvert flows query --since 1h --names --endpoint ledger
  culvert flows query --since 24h --group-by srcaddr,queried-name
  culvert flows query --from /srv/evidence --fields end,srcaddr,dstaddr,reason --where reason=GROUP_INGRESS -o csv`,
		func(cmd *cobra.Command, _ []string) error {
			plain := f.from == "" && len(f.groupBy) == 0 && len(f.fields) == 0 && !f.join && len(f.where) == 0 && f.protocol == "" && !f.names
			if f.local && !plain {
				return api.Errorf(api.CodeInvalidCombination, "--local", "leave it out, or ask for records only", "the agent lists records and no more")
			}
			if plain && a.output != "csv" {
				return a.flows(cmd.Context(), &f.flowFlags, false)
			}
			return a.answer(cmd.Context(), &f)
		})
	f.flags(a, c)
	f.own(c)
	c.Annotations = map[string]string{writesCSV: "true"}
	return c
}

// own are the flags of flows query alone.
func (f *queryFlags) own(c *cobra.Command) {
	s := c.Flags()
	f.localFlag(c)
	s.IntVar(&f.filter.Limit, "limit", 0, "the newest `N` (default 1000)")
	s.StringSliceVar(&f.groupBy, "group-by", nil, "sum by these `fields`, separated by commas")
	s.StringSliceVar(&f.fields, "fields", nil, "show these `fields`, separated by commas")
	must(c.RegisterFlagCompletionFunc("group-by", completeFields("")))
	must(c.RegisterFlagCompletionFunc("fields", completeFields("")))
	s.BoolVar(&f.names, "names", false, "with the name that the client asked its resolver for before the flow, of VPCs with a query log")
	choice(c, &f.order, "order", "bytes", "bytes", "packets", "lines")
	s.BoolVar(&f.join, "join", false, "one row for what both ends saw of a flow")
	s.IntVar(&f.maxGroups, "max-groups", 1_000_000, "refuse answers of more than `N` rows, which are held in memory")
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
	c.Args = noArguments
}

func (f *flowFlags) localFlag(c *cobra.Command) {
	c.Flags().BoolVar(&f.local, "local", false, "ask the agent on this machine")
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
	if err == nil && !follow && f.filter.Limit == 0 && out.n >= standardFlows {
		fmt.Fprintf(a.Err, "These are the newest %d records; there may be more: --limit.\n", out.n)
	}
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
