package cli

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/query"
)

// answerFlags are what commands have that answer from records in files or of the server.
type answerFlags struct {
	flowFlags
	from     string
	flowLog  string
	s3Config string
	protocol string
	where    []string
	top      int
	late     time.Duration
}

// queryFlags are those of flows query beyond its filter.
type queryFlags struct {
	answerFlags
	groupBy, fields []string
	order           string
	join, names     bool
	maxGroups       int
}

// serverLimit is how many records the server is asked for at once where all count.
const serverLimit = 1_000_000

func (f *answerFlags) flags(a *app, c *cobra.Command) {
	f.flowFlags.flags(a, c)
	s := c.Flags()
	s.StringVar(&f.until, "until", "", "records that ended before this `time`, or so long ago")
	s.StringVar(&f.from, "from", "", "ask the files in this `DIR`, or s3://BUCKET/PREFIX, instead of the server: delivered ones, or evidence")
	must(c.MarkFlagDirname("from"))
	s.StringVar(&f.flowLog, "flow-log", "", "with --from: only the delivered files of the flow log with this `ID`")
	s.StringVar(&f.s3Config, "s3-config", "", "`file` with buckets and their keys, for --from s3://")
	must(c.MarkFlagFilename("s3-config"))
	s.StringVar(&f.protocol, "protocol", "", "`protocol`: tcp, udp, icmp, icmpv6 or IANA's number")
	must(c.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions([]string{"tcp", "udp", "icmp", "icmpv6"},
		cobra.ShellCompDirectiveNoFileComp)))
	s.StringArrayVar(&f.where, "where", nil, "`FIELD=VALUE` of flow logs, such as rule-id=sgr-1; of VALUE,VALUE one holds (may repeat)")
	must(c.RegisterFlagCompletionFunc("where", completeFields("=")))
	s.IntVar(&f.top, "top", 0, "only the first `N` rows")
	s.DurationVar(&f.late, "late", 24*time.Hour, "with --from: how `long` after its end a record may have been written")
}

// completeFields offers the fields of flow logs, with what comes behind them.
func completeFields(behind string) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, f := range format.Fields() {
			out = append(out, f.Name+behind+"\t"+f.Doc)
		}
		out = append(out, query.NameField+behind+"\tName that the client asked its resolver for before the flow.")
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// query is the filter as a query, after finish.
func (f *answerFlags) query(account string) (query.Query, error) {
	q := query.Query{Late: f.late, FlowLog: f.flowLog}
	switch {
	case f.flowLog == "":
	case f.from == "":
		return q, api.Errorf(api.CodeInvalidCombination, "--flow-log", "leave it out, or give --from", "the server's records are of no flow log")
	case !api.IsID(api.KindFlowLog.Prefix(), f.flowLog):
		return q, api.Errorf(api.CodeInvalidParameter, "--flow-log", "give the id, as culvert flow-log list shows it", "%q is no id of a flow log",
			api.Shortened(f.flowLog))
	}
	q.Filter(f.filter)
	if account != "" {
		q.Account(account)
	}
	if f.protocol != "" {
		n, err := protocolNumber(f.protocol)
		if err != nil {
			return q, err
		}
		q.Where = append(q.Where, query.Is("protocol", n))
	}
	for _, w := range f.where {
		field, values, ok := strings.Cut(w, "=")
		field = strings.ReplaceAll(field, "_", "-")
		if _, known := format.Lookup(field); !ok || !known && field != query.NameField {
			return q, api.Errorf(api.CodeInvalidParameter, "--where", "write FIELD=VALUE, with a field of docs/FLOWLOGS.md",
				"%q is no condition", api.Shortened(w))
		}
		words := strings.Split(values, ",")
		if field == query.NameField {
			for i, w := range words {
				words[i] = strings.ToLower(strings.TrimSuffix(w, ".")) + "." // as the index of names has them
			}
		}
		q.Where = append(q.Where, query.Is(field, words...))
	}
	if f.top < 0 {
		return q, api.Errorf(api.CodeInvalidParameter, "--top", "give a number, or none for all", "%d is no number of rows", f.top)
	}
	return q, nil
}

func protocolNumber(word string) (string, error) {
	for n, name := range map[int]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"} {
		if strings.EqualFold(word, name) {
			return strconv.Itoa(n), nil
		}
	}
	if n, err := strconv.ParseUint(word, 10, 8); err == nil {
		return strconv.FormatUint(n, 10), nil
	}
	return "", api.Errorf(api.CodeInvalidParameter, "--protocol", "use tcp, udp, icmp, icmpv6 or a number to 255",
		"%q is no protocol", api.Shortened(word))
}

// answering prepares what answers queries: the files of --from, or the server. The query has the filter.
func (a *app) answering(ctx context.Context, f *answerFlags) (ask func(query.Query) (*query.Answer, error), q query.Query, err error) {
	c, errServer := a.client()
	if errServer != nil {
		c = nil
		if f.from == "" {
			return nil, q, errServer
		}
	}
	if err := f.finish(ctx, c, time.Now()); err != nil {
		return nil, q, err
	}
	// Lines tell seconds.
	f.filter.Since, f.filter.Until = f.filter.Since.Truncate(time.Second), f.filter.Until.Truncate(time.Second)
	if f.from == "" {
		if q, err = f.query(""); err != nil { // the server sees to the account
			return nil, q, err
		}
		return func(q query.Query) (_ *query.Answer, err error) {
			if q.IsNamed() {
				if q.Names, err = askNames(ctx, c, q); err != nil {
					return nil, err
				}
			}
			return a.askServer(ctx, c, f.filter, q)
		}, q, nil
	}
	account, err := a.accountID(ctx, c)
	if err != nil {
		return nil, q, err
	}
	if q, err = f.query(account); err != nil {
		return nil, q, err
	}
	src, err := openSource(ctx, f.from, f.s3Config)
	if err != nil {
		return nil, q, err
	}
	return func(q query.Query) (_ *query.Answer, err error) {
		if q.IsNamed() {
			if q.Names, err = query.Questions(ctx, src, q); err != nil {
				return nil, err
			}
		}
		answer, err := query.Run(ctx, src, q)
		if err == nil && a.output == "table" {
			fmt.Fprintf(a.Err, "%s\n", answer.Work)
		}
		return answer, err
	}, q, nil
}

// accountID is the id of the account that is acted for, which is what records have.
func (a *app) accountID(ctx context.Context, c *client.Client) (string, error) {
	if a.account == "" || api.IsAccountID(a.account) {
		return a.account, nil
	}
	if c == nil {
		return "", api.Errorf(api.CodeInvalidParameter, "--account", "give the id", "without a server, names such as %q mean nothing",
			api.Shortened(a.account))
	}
	account, err := c.GetAccount(ctx, a.account)
	if err != nil {
		return "", err
	}
	return account.ID, nil
}

// openSource is the files of a folder or of a bucket.
func openSource(ctx context.Context, from, s3Config string) (query.Source, error) {
	switch {
	case strings.HasPrefix(from, s3Scheme):
		return openBucket(ctx, from, s3Config)
	case s3Config != "":
		return nil, api.Errorf(api.CodeInvalidCombination, "--s3-config", "leave it out, or give s3://BUCKET with --from", "a folder is asked, and no bucket")
	}
	info, err := os.Stat(from)
	if err != nil || !info.IsDir() {
		return nil, api.Errorf(api.CodeInvalidParameter, "--from", "give a folder of delivered files or of evidence",
			"%q is no folder that can be read", api.Shortened(from))
	}
	return query.FS(os.DirFS(from)), nil
}

// askServer takes all records that the filter selects from the server, and answers from them here.
func (a *app) askServer(ctx context.Context, c *client.Client, f api.FlowFilter, q query.Query) (*query.Answer, error) {
	f.Limit, f.Since = serverLimit, q.Since
	for _, w := range q.Where {
		if f.Action == "" && len(w) == 1 && w[0].Field == "action" && !w[0].Not && len(w[0].Equal) == 1 {
			f.Action = w[0].Equal[0] // the server need not send what does not count
		}
	}
	return query.Records(func(yield func(*api.FlowRecord) error) error {
		page := func(f api.FlowFilter, each func(api.FlowEnvelope) error) error {
			return c.Flows(ctx, api.FlowQuery{FlowFilter: f}, each)
		}
		return everyFlow(page, f, func(e api.FlowEnvelope) error {
			r := new(api.FlowRecord)
			if err := json.Unmarshal(e.Record, r); err != nil {
				return fmt.Errorf("flow record %s/%d of node %s: %w", e.Boot, e.Seq, e.Node, err)
			}
			return yield(r)
		})
	}, q)
}

// queryFields are the fields of records that are shown without --fields.
var queryFields = []string{"end", "action", "reason", "interface-id", "flow-direction", "protocol", "srcaddr", "srcport", "dstaddr",
	"dstport", "packets", "bytes", "service-name"}

// answer is flows query where it does more than list the server's records.
func (a *app) answer(ctx context.Context, f *queryFlags) error {
	if a.quiet {
		return api.Errorf(api.CodeInvalidCombination, "--quiet", "take what you need from -o json", "flow records have no ids")
	}
	if f.join && len(f.groupBy)+len(f.fields) > 0 || len(f.groupBy) > 0 && len(f.fields) > 0 {
		return api.Errorf(api.CodeInvalidCombination, "--group-by", "use one of --group-by, --fields and --join",
			"they ask for different rows")
	}
	ask, q, err := a.answering(ctx, &f.answerFlags)
	if err != nil {
		return err
	}
	q.MaxGroups = f.maxGroups
	q.Group, q.Fields = flowFields(f.groupBy), flowFields(f.fields)
	named := func(query.Flow) bool { return true }
	switch {
	case f.join:
		q.Group = slices.Clone(query.JoinFields)
		q.Where = append(q.Where, query.Is("action", api.ActionAccept))
		named = f.ofFlows(&q)
	case len(q.Group) == 0:
		q.Limit = cmp.Or(f.filter.Limit, f.top, standardFlows)
		if len(q.Fields) == 0 {
			q.Fields, q.Lenient = slices.Clone(queryFields), true
		}
	}
	f.addNames(&q)
	answer, err := ask(q)
	switch {
	case err != nil:
		return err
	case f.join:
		flows := slices.DeleteFunc(query.Join(answer.Groups), func(x query.Flow) bool { return !named(x) })
		if f.top > 0 && len(flows) > f.top {
			flows = flows[:f.top]
		}
		return a.printFlows(flows)
	case len(q.Group) == 0:
		if n := answer.Work.Matched - answer.Work.Again; n > int64(len(answer.Records)) && cmp.Or(f.filter.Limit, f.top) == 0 {
			fmt.Fprintf(a.Err, "These are the newest %d of %d lines: --limit gives more.\n", len(answer.Records), n)
		}
		return a.printLines(q.Fields, answer.Records)
	}
	groups, err := sorted(answer.Groups, f.order)
	if err != nil {
		return err
	}
	if f.top > 0 && len(groups) > f.top {
		groups = groups[:f.top]
	}
	return a.printGroups(q.Group, groups)
}

// ofFlows takes the conditions on names out of a query for both ends of flows, and returns what flows they hold for: the other end's lines
// have no name.
func (f *queryFlags) ofFlows(q *query.Query) (holds func(query.Flow) bool) {
	var names [][]string
	q.Where = slices.DeleteFunc(q.Where, func(c query.Clause) bool {
		if len(c) != 1 || c[0].Field != query.NameField {
			return false
		}
		names = append(names, c[0].Equal)
		return true
	})
	f.names = f.names || len(names) > 0
	return func(x query.Flow) bool {
		return !slices.ContainsFunc(names, func(list []string) bool { return !slices.Contains(list, x.Name) })
	}
}

// addNames adds the column of names to what is shown, unless it is there.
func (f *queryFlags) addNames(q *query.Query) {
	switch {
	case !f.names || q.IsNamed():
	case len(q.Group) > 0:
		q.Group = append(q.Group, query.NameField)
	default:
		q.Fields = append(q.Fields, query.NameField)
	}
}

// flowFields are fields as format strings name them; columns of Parquet files mean the same.
func flowFields(words []string) []string {
	out := slices.Clone(words)
	for i, w := range out {
		out[i] = strings.ReplaceAll(strings.TrimSpace(w), "_", "-")
	}
	return out
}

// sorted orders groups, the largest first; of equal ones by their values.
func sorted(groups []query.Group, order string) ([]query.Group, error) {
	of := map[string]func(query.Group) int64{
		"bytes":   func(g query.Group) int64 { return g.Bytes },
		"packets": func(g query.Group) int64 { return g.Packets },
		"lines":   func(g query.Group) int64 { return g.Lines },
	}[order]
	if of == nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--order", "use bytes, packets or lines", "%q is no order", api.Shortened(order))
	}
	slices.SortStableFunc(groups, func(x, y query.Group) int { return cmp.Compare(of(y), of(x)) })
	return groups, nil
}

func seconds(unix int64) string {
	if unix == 0 {
		return ""
	}
	return stamp(time.Unix(unix, 0))
}

func (a *app) printGroups(fields []string, groups []query.Group) error {
	head, rows := []string{}, make([][]string, len(groups))
	for _, f := range fields {
		head = append(head, columnHead(f))
	}
	head = append(head, "LINES", "PACKETS", "BYTES", "FIRST", "LAST")
	objects := make([]map[string]any, len(groups))
	for i, g := range groups {
		rows[i] = append(slices.Clone(g.Key), fmt.Sprint(g.Lines), fmt.Sprint(g.Packets), fmt.Sprint(g.Bytes), seconds(g.First),
			seconds(g.Last))
		objects[i] = map[string]any{"lines": g.Lines, "packets": g.Packets, "bytes": g.Bytes, "first": seconds(g.First),
			"last": seconds(g.Last)}
		for j, f := range fields {
			objects[i]["by_"+strings.ReplaceAll(f, "-", "_")] = nullable(g.Key[j])
		}
	}
	return a.printTable(objects, head, rows)
}

func (a *app) printLines(fields []string, records [][]string) error {
	head := make([]string, len(fields))
	for i, f := range fields {
		head[i] = columnHead(f)
	}
	objects := make([]map[string]any, len(records))
	for i, r := range records {
		objects[i] = map[string]any{}
		for j, name := range fields {
			var v any = nullable(r[j])
			if f, ok := format.Lookup(name); ok && f.Type != format.String && r[j] != "" {
				v = json.Number(r[j])
			}
			objects[i][strings.ReplaceAll(name, "-", "_")] = v
		}
	}
	return a.printTable(objects, head, records)
}

func columnHead(field string) string { return strings.ToUpper(strings.ReplaceAll(field, "-", " ")) }

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (a *app) printFlows(flows []query.Flow) error {
	head := []string{"FIRST", "LAST", "CONNECTION OR VPC", "PROTOCOL", "SOURCE", "DESTINATION", "SENT", "RECEIVED", "LOST", "REPLY SENT",
		"REPLY RECEIVED", "REPLY LOST", "SERVICE"}
	named := slices.ContainsFunc(flows, func(f query.Flow) bool { return f.Name != "" })
	if named {
		head = append(head, "NAME")
	}
	rows := make([][]string, len(flows))
	packets := func(c *query.Count) string {
		if c == nil {
			return ""
		}
		return strconv.FormatInt(c.Packets, 10)
	}
	for i, f := range flows {
		n, _ := strconv.Atoi(f.Protocol)
		rows[i] = []string{seconds(f.First), seconds(f.Last), cmp.Or(f.Connection, f.VPC), protocolName(n), hostPort(f.SrcAddr, f.SrcPort),
			hostPort(f.DstAddr, f.DstPort), packets(f.Sent), packets(f.Received), packets(f.Lost), packets(f.ReplySent),
			packets(f.ReplyReceived), packets(f.ReplyLost), f.ServiceName}
		if named {
			rows[i] = append(rows[i], f.Name)
		}
	}
	return a.printTable(flows, head, rows)
}

func hostPort(addr, port string) string {
	n, _ := strconv.ParseUint(port, 10, 16)
	return side(addr, uint16(n))
}

// printTable writes rows as a table or as CSV, or v as JSON or YAML.
func (a *app) printTable(v any, head []string, rows [][]string) error {
	if a.output == "csv" {
		w := csv.NewWriter(a.Out)
		names := make([]string, len(head))
		for i, h := range head {
			names[i] = strings.ToLower(strings.ReplaceAll(h, " ", "_"))
		}
		return cmp.Or(w.Write(names), w.WriteAll(rows))
	}
	return a.print(v, func(w io.Writer) error {
		if len(rows) == 0 {
			_, err := fmt.Fprintln(a.Err, "No flow record matches.")
			return err
		}
		return table(w, head, rows)
	})
}
