package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var queryLogKind = kind[api.QueryLog]{
	command: "query-log", arg: "LOG", noun: "query log", plural: "query logs", sample: "shop",
	list: (*client.Client).ListQueryLogs, watch: (*client.Client).WatchQueryLogs,
	get: (*client.Client).GetQueryLog, remove: (*client.Client).DeleteQueryLog,
	head: []string{"ID", "NAME", "ACCOUNT", "VPCS"},
	row: func(v *api.QueryLog) []string {
		return []string{v.ID, v.Name, v.Account, strings.Join(v.VPCs, ",")}
	},
	empty: "You have no query log yet. Make one: culvert query-log create NAME --vpc VPC",
}

func (a *app) queryLogCommand() *cobra.Command {
	g := group("query-log", "Whose DNS questions are recorded", `
What workloads ask the nodes' resolvers is recorded for the VPCs of a query log: what was asked by whom, what the answer
was, where it came from, and what the query firewall did. See culvert queries.`, `
  culvert query-log create shop --vpc shop
  culvert queries find --vpc shop`)
	var r api.CreateQueryLogRequest
	var m mutation
	c := command("create NAME [--vpc VPC]...", "Create a query log", `
Have the DNS questions of VPCs of your account recorded. Records are kept as flow records are.`, `
  culvert query-log create shop --vpc shop`, nil)
	c.RunE = change(a, queryLogKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.QueryLog, error) {
			r.Name = args[0]
			return cl.CreateQueryLog(ctx, r, o...)
		})
	references(a, c, vpcKind, &r.VPCs, "vpc", "`VPC` whose questions are recorded")
	tags(c, &r.Tags)
	c.Args = exactly("NAME")
	m.flags(c)
	g.AddCommand(c, queryLogKind.listCommand(a), queryLogKind.describeCommand(a),
		queryLogKind.deleteCommand(a, "Nothing more is recorded. Records that there are stay."),
		vpcsCommand(a, queryLogKind, "associate", "Have a query log record more VPCs", "Have a query log record more VPCs.",
			"`VPC` whose questions are recorded", (*client.Client).AssociateQueryLog),
		vpcsCommand(a, queryLogKind, "disassociate", "Take that back", "Take VPCs out of a query log. Records that there are stay.",
			"`VPC` whose questions are recorded", (*client.Client).DisassociateQueryLog))
	return g
}

// questionFlags select query records.
type questionFlags struct {
	query        api.QueriesQuery
	since, until string
}

func (a *app) queriesCommand() *cobra.Command {
	g := group("queries", "DNS questions of workloads, and what they were answered", `
What workloads of VPCs with a query log asked the nodes' resolvers, let through or blocked.`, `
  culvert queries find --vpc shop --since 1h
  culvert queries tail --name ledger.pay.internal`)
	var find, tail questionFlags
	c := command("find [--vpc VPC] [--name NAME] [--client ADDRESS] [--since TIME] [--until TIME] [--limit N]", "Search DNS questions", `
Search the records of DNS questions that are kept, oldest first. --name finds a name and all below it. Times are
absolute (RFC 3339) or so long ago (such as 15m).`, `
  culvert queries find --vpc shop --since 1h --rcode NXDOMAIN
  culvert queries find --client 10.0.1.5 -o json`,
		func(cmd *cobra.Command, _ []string) error { return a.queries(cmd.Context(), &find) })
	find.flags(a, c)
	c.Flags().StringVar(&find.until, "until", "", "records that began before this `time`, or so long ago")
	c.Flags().IntVar(&find.query.Limit, "limit", 0, "the newest `N` (default 1000)")
	t := command("tail [--vpc VPC] [--name NAME] [--client ADDRESS]", "Show DNS questions as they come", `
Show the records of DNS questions as they come, until interrupted.`, `
  culvert queries tail --vpc shop
  culvert queries tail --firewall BLOCK`,
		func(cmd *cobra.Command, _ []string) error {
			tail.query.Follow = true
			err := a.queries(cmd.Context(), &tail)
			if cmd.Context().Err() != nil {
				return nil // interrupted, as meant
			}
			return err
		})
	tail.flags(a, t)
	g.AddCommand(c, t)
	return g
}

func (f *questionFlags) flags(a *app, c *cobra.Command) {
	s := c.Flags()
	reference(a, c, vpcKind, &f.query.VPC, "vpc", "in this `VPC`")
	s.StringVar(&f.query.Name, "name", "", "for this `name`, or one below it")
	s.StringVar(&f.query.Client, "client", "", "from this `address`, IPv4")
	reference(a, c, eniKind, &f.query.Interface, "eni", "of this `ENI`")
	s.StringVar(&f.query.Type, "type", "", "for this `type` of record, such as AAAA")
	s.StringVar(&f.query.RCODE, "rcode", "", "answered with this `code`, such as NXDOMAIN")
	choice(c, (*string)(&f.query.FirewallAction), "firewall", "", string(api.FirewallAllow), string(api.FirewallBlock), string(api.FirewallAlert))
	s.StringVar(&f.query.Address, "address", "", "`address` in the answer")
	s.StringVar(&f.since, "since", "", "records that ended after this `time`, or so long ago")
	c.Args = noArguments
}

// finish reads what is not plain text, and turns names of resources into ids.
func (f *questionFlags) finish(ctx context.Context, c *client.Client, now time.Time) (err error) {
	q := &f.query
	if q.Since, err = parseTime("--since", f.since, now); err != nil {
		return err
	}
	if q.Until, err = parseTime("--until", f.until, now); err != nil {
		return err
	}
	q.Type, q.RCODE = strings.ToUpper(q.Type), strings.ToUpper(q.RCODE)
	q.FirewallAction = api.FirewallAction(strings.ToUpper(string(q.FirewallAction)))
	switch q.FirewallAction {
	case "", api.FirewallAllow, api.FirewallBlock, api.FirewallAlert:
	default:
		return api.Errorf(api.CodeInvalidParameter, "--firewall", "use ALLOW, BLOCK or ALERT", "%q is no action", q.FirewallAction)
	}
	for flag, text := range map[string]string{"--client": q.Client, "--address": q.Address} {
		if _, err := netip.ParseAddr(text); text != "" && err != nil {
			return api.Errorf(api.CodeInvalidParameter, flag, "give one such as 10.0.1.5", "%q is no address", api.Shortened(text))
		}
	}
	if err := toID(ctx, c, vpcKind, "--vpc", api.KindVPC, &q.VPC); err != nil {
		return err
	}
	return toID(ctx, c, eniKind, "--eni", api.KindENI, &q.Interface)
}

func (a *app) queries(ctx context.Context, f *questionFlags) error {
	if a.quiet {
		return api.Errorf(api.CodeInvalidCombination, "--quiet", "take what you need from -o json", "records of questions have no ids")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := f.finish(ctx, c, time.Now()); err != nil {
		return err
	}
	out := queryWriter{flowWriter{app: a, follow: f.query.Follow}}
	err = c.Queries(ctx, f.query, out.write)
	return errors.Join(err, out.end())
}

// queryWriter writes query records as flowWriter does flow records.
type queryWriter struct{ flowWriter }

var queryHead = []string{"TIME", "CLIENT", "NAME", "TYPE", "RCODE", "ANSWER", "FROM", "FIREWALL", "MICROSECONDS"}

// queryWidths are what most records need.
var queryWidths = []int{24, 15, 32, 5, 8, 24, 21, 8, 12}

func (w *queryWriter) write(r *api.QueryRecord) error {
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
		w.rows = append(w.rows, queryRow(r))
		return nil
	}
	if w.widths == nil {
		w.widths = slices.Clone(queryWidths)
		if err := w.line(queryHead); err != nil {
			return err
		}
	}
	return w.line(queryRow(r))
}

func queryRow(r *api.QueryRecord) []string {
	at := r.Start.UTC().Format("2006-01-02T15:04:05.000Z")
	if r.Client == "" {
		return []string{at, "", fmt.Sprintf("(%d questions without records)", r.Lost), "", "", "", "", "", ""}
	}
	firewall := string(r.FirewallAction)
	if r.FirewallRule != "" {
		firewall += " " + r.FirewallRule
	}
	took := max(0, r.End.Sub(r.Start).Microseconds())
	return []string{at, r.Client, r.Name, r.Type, r.RCODE, strings.Join(r.Addresses, ","), querySource(r), firewall, number(uint64(took))}
}

// querySource is where an answer came from.
func querySource(r *api.QueryRecord) string {
	switch {
	case r.Upstream != "" && r.CacheHit:
		return r.Upstream + " (cached)"
	case r.Upstream != "":
		return r.Upstream
	case r.Endpoint != "":
		return r.Endpoint
	}
	return r.HostedZone
}

// end writes the table of a search, or says that nothing was found.
func (w *queryWriter) end() error {
	if w.follow || w.output != "table" {
		return nil
	}
	if w.n > 0 {
		return table(w.Out, queryHead, w.rows)
	}
	_, err := fmt.Fprintln(w.Err, "No record matches. Which VPCs are recorded says: culvert query-log list")
	return err
}
