package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var flowLogKind = kind[api.FlowLog]{
	command: "flow-log", arg: "LOG", noun: "flow log", plural: "flow logs", sample: "shop",
	list: (*client.Client).ListFlowLogs, watch: (*client.Client).WatchFlowLogs,
	get: (*client.Client).GetFlowLog, remove: (*client.Client).DeleteFlowLog,
	head: []string{"ID", "NAME", "ACCOUNT", "RESOURCE", "TRAFFIC", "INTERVAL", "DESTINATION", "STATUS", "PROBLEM"},
	row: func(v *api.FlowLog) []string {
		status, problem := "", ""
		if v.Delivery != nil {
			status, problem = string(v.Delivery.Status), v.Delivery.ErrorMessage
		}
		return []string{v.ID, v.Name, v.Account, v.Resource, string(v.TrafficType), v.Interval().String(),
			string(v.DestinationType) + ":" + v.Destination, status, problem}
	},
	shown: func(v *api.FlowLog) any { return shownFlowLog{*v, flowLogDelivery(v)} },
	empty: "You have no flow log yet. Make one: culvert flow-log create NAME --resource vpc/VPC",
}

// shownFlowLog has what the server says of the delivery among its own fields.
type shownFlowLog struct {
	api.FlowLog
	api.FlowLogDelivery
}

func flowLogDelivery(v *api.FlowLog) api.FlowLogDelivery {
	if v.Delivery == nil {
		return api.FlowLogDelivery{}
	}
	return *v.Delivery
}

func (a *app) flowLogCommand() *cobra.Command {
	g := group("flow-log", "Which flow records are delivered, and whereto", `
A flow log has the flow records of a VPC, subnet, network interface, endpoint, service or account delivered: as files
in AWS's format and layout, or as a stream of JSON. Without one, records are kept for culvert flows query all the same.

Of a VPC, subnet, interface or account it is the traffic of workloads' own interfaces. Of an endpoint or service it is
both ends of its flows, of the other account's end only what culvert flows query shows.`, `
  culvert flow-log create shop --resource vpc/shop
  culvert flow-log list`)
	g.AddCommand(a.flowLogCreate(), flowLogKind.listCommand(a), flowLogKind.describeCommand(a), a.flowLogModify(),
		flowLogKind.deleteCommand(a, "What was delivered stays, what waits is dropped."))
	return g
}

// flowLogFlags are those of create and modify.
type flowLogFlags struct {
	traffic, format, to, destination, file, onLoss string
	interval                                       time.Duration
	hive, hours                                    bool
}

func (f *flowLogFlags) flags(c *cobra.Command) {
	s := c.Flags()
	choice(c, &f.traffic, "traffic-type", "ALL", "ACCEPT", "REJECT", "ALL")
	s.DurationVar(&f.interval, "max-aggregation-interval", time.Minute, "over how long records of a flow become one line: 1s, 10s, 1m or 10m")
	must(c.RegisterFlagCompletionFunc("max-aggregation-interval", cobra.FixedCompletions([]string{"1s", "10s", "1m", "10m"},
		cobra.ShellCompDirectiveNoFileComp)))
	s.StringVar(&f.format, "log-format", "", "`FIELDS` of a line, such as '${srcaddr} ${dstaddr} ${action}'; default: AWS's")
	choice(c, &f.to, "destination-type", "local", "local", "s3", "stream")
	s.StringVar(&f.destination, "destination", "", "`DIRECTORY` at the server, s3://BUCKET/PREFIX, or address of a stream (default flow-logs)")
	choice(c, &f.file, "file-format", "plain-text", "plain-text", "json", "parquet")
	s.BoolVar(&f.hive, "hive-compatible-partitions", false, "paths have year=2026/month=01/day=02")
	s.BoolVar(&f.hours, "per-hour-partition", false, "paths have the hour, too")
	choice(c, &f.onLoss, "on-loss", "count", "count", "refuse")
}

func (a *app) flowLogCreate() *cobra.Command {
	var resource string
	var labels map[string]string
	var f flowLogFlags
	var m mutation
	c := command("create NAME --resource RESOURCE [--destination-type TYPE] [--destination PLACE]", "Create a flow log", `
Have flow records delivered from now on. The resource is an id, or a kind and a name: vpc/shop, subnet/shop-a, eni/cart,
endpoint/ledger, service/ledger; or account, for all of yours.

Files cover five minutes, or the aggregation interval where that is longer. Without --destination they lie at the server
in DATA-DIR/deliveries/ACCOUNT/flow-logs; an absolute directory, a bucket, or a stream's address, must be allowed by the
operator.
Nodes write records as often as their --flow-interval says: lines are no finer than that.

With --on-loss refuse a workload gets no new flows while its node cannot record them.`, `
  culvert flow-log create shop --resource vpc/shop
  culvert flow-log create refused --resource account --traffic-type REJECT --max-aggregation-interval 10s \
    --log-format '${interface-id} ${srcaddr} ${dstaddr} ${dstport} ${reason} ${rule-id}' --file-format json
  culvert flow-log create siem --resource account --destination-type stream --destination https://192.0.2.5:8088/flows \
    --file-format json
  culvert flow-log create archive --resource account --destination-type s3 --destination s3://audit/prod \
    --file-format parquet`, nil)
	c.RunE = change(a, flowLogKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.FlowLog, error) {
			r := api.CreateFlowLogRequest{Name: args[0], TrafficType: api.TrafficType(strings.ToUpper(f.traffic)),
				MaxAggregationIntervalSeconds: uint32(f.interval / time.Second), LogFormat: f.format, DestinationType: api.DestinationType(f.to),
				Destination: f.destination, FileFormat: api.FileFormat(f.file), HiveCompatiblePartitions: f.hive, PerHourPartition: f.hours,
				OnLoss: api.OnLoss(f.onLoss), Tags: labels}
			var err error
			if r.ResourceType, r.Resource, err = flowLogResource(resource); err != nil {
				return nil, err
			}
			if err := f.check(); err != nil {
				return nil, err
			}
			return cl.CreateFlowLog(ctx, r, o...)
		})
	c.Flags().StringVar(&resource, "resource", "", "`RESOURCE` that it is about: an id, KIND/NAME such as vpc/shop, or account")
	required(c, "resource")
	f.flags(c)
	tags(c, &labels)
	c.Args = exactly("NAME")
	m.flags(c)
	return c
}

// check refuses intervals that are no whole seconds, which the request cannot say.
func (f *flowLogFlags) check() error {
	if f.interval < time.Second || f.interval%time.Second != 0 || f.interval > time.Hour {
		return invalidFlag("--max-aggregation-interval", f.interval.String(), "use 1s, 10s, 1m or 10m")
	}
	return nil
}

// flowLogResource splits KIND/NAME; an id says its kind itself.
func flowLogResource(ref string) (api.FlowLogResource, string, error) {
	if ref == string(api.FlowLogAccount) {
		return api.FlowLogAccount, "", nil
	}
	if kind := api.FlowLogResourceOf(ref); kind != "" {
		return kind, ref, nil
	}
	word, name, ok := strings.Cut(ref, "/")
	if !ok || name == "" || !slices.Contains(api.FlowLogResources, api.FlowLogResource(word)) {
		return "", "", api.Errorf(api.CodeInvalidParameter, "--resource",
			"write an id, vpc/NAME, subnet/NAME, eni/NAME, endpoint/NAME, service/NAME or account",
			"%q is no resource that has flow logs", api.Shortened(ref))
	}
	return api.FlowLogResource(word), name, nil
}

func (a *app) flowLogModify() *cobra.Command {
	var f flowLogFlags
	var m mutation
	c := command("modify LOG [--log-format FIELDS] [--destination PLACE]...", "Change a flow log", `
Change what a flow log delivers, in which form, and whereto; flags that are left out leave that as it is. Records that
came before keep the form of before, those that come after have the new one; files that wait go to the new place.`, `
  culvert flow-log modify shop --traffic-type REJECT --per-hour-partition
  culvert flow-log modify shop --log-format '${srcaddr} ${dstaddr} ${bytes} ${endpoint-id}'`, nil)
	c.RunE = change(a, flowLogKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.FlowLog, error) {
			var r api.ModifyFlowLogRequest
			set := c.Flags().Changed
			if set("max-aggregation-interval") {
				if err := f.check(); err != nil {
					return nil, err
				}
				r.MaxAggregationIntervalSeconds = present(true, uint32(f.interval/time.Second))
			}
			r.TrafficType = present(set("traffic-type"), api.TrafficType(strings.ToUpper(f.traffic)))
			r.DestinationType = present(set("destination-type"), api.DestinationType(f.to))
			r.FileFormat, r.OnLoss = present(set("file-format"), api.FileFormat(f.file)), present(set("on-loss"), api.OnLoss(f.onLoss))
			r.LogFormat, r.Destination = present(set("log-format"), f.format), present(set("destination"), f.destination)
			r.HiveCompatiblePartitions, r.PerHourPartition = present(set("hive-compatible-partitions"), f.hive), present(set("per-hour-partition"), f.hours)
			return cl.ModifyFlowLog(ctx, args[0], r, o...)
		})
	f.flags(c)
	c.Args = exactly("LOG")
	c.ValidArgsFunction = complete(a, flowLogKind)
	m.flags(c)
	return c
}

// present is a value where the user gave one.
func present[T any](is bool, v T) *T {
	if !is {
		return nil
	}
	return &v
}
