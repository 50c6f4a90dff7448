package controlplane

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/controlplane/view"
)

func TestFlowLogs(t *testing.T) {
	l := mesh(t, nil)
	shop := l.as("shop")
	f := must(shop.CreateFlowLog(l.ctx(), api.CreateFlowLogRequest{Name: "all", ResourceType: api.FlowLogVPC, Resource: "shop"}))(t)
	if f.LogFormat != format.Default || f.TrafficType != api.TrafficAll || f.Destination != "flow-logs" || f.FileFormat != api.FilePlainText ||
		f.MaxAggregationIntervalSeconds != 60 || !api.IsID(api.KindVPC.Prefix(), f.Resource) || f.Delivery != nil {
		t.Errorf("%+v", f)
	}
	_, err := shop.CreateFlowLog(l.ctx(), api.CreateFlowLogRequest{Name: "all", Resource: f.Resource})
	if !errors.Is(err, &api.Error{Code: api.CodeDuplicateName}) {
		t.Errorf("twice: %v", err)
	}
	hours, text := true, "${srcaddr}   ${action}"
	g := must(shop.ModifyFlowLog(l.ctx(), "all", api.ModifyFlowLogRequest{PerHourPartition: &hours, LogFormat: &text}))(t)
	if !g.PerHourPartition || g.LogFormat != "${srcaddr} ${action}" || g.Destination != f.Destination {
		t.Errorf("%+v", g)
	}
	stream := api.DestinationStream
	_, err = shop.ModifyFlowLog(l.ctx(), "all", api.ModifyFlowLogRequest{DestinationType: &stream})
	if !errors.Is(err, &api.Error{Code: api.CodeInvalidCombination}) {
		t.Errorf("files to a stream: %v", err)
	}
	if _, err := shop.CreateFlowLog(l.ctx(), api.CreateFlowLogRequest{Name: "dry", Resource: f.Resource}, client.WithDryRun()); err != nil {
		t.Error(err)
	}
	if have := must(shop.ListFlowLogs(l.ctx()))(t); len(have) != 1 {
		t.Errorf("%+v", have)
	}
	if _, err := l.as("pay").GetFlowLog(l.ctx(), f.ID); !errors.Is(err, &api.Error{Code: api.CodeFlowLogNotFound}) {
		t.Errorf("of another account: %v", err)
	}
	must(shop.DeleteFlowLog(l.ctx(), "all"))(t)
}

// badFlowLogs are requests about flow logs that are refused. The shop has the flow log bad for its VPC.
func badFlowLogs(l *lab) []bad {
	have := find1(l.s.Resources().FlowLogs, "bad")
	if have == nil {
		have = must(l.as("shop").CreateFlowLog(l.ctx(), api.CreateFlowLogRequest{Name: "bad", ResourceType: api.FlowLogVPC, Resource: "shop"}))(l.t)
	}
	f := args(have.ID)
	create := func(more string) string {
		return `{"name":"new","resourceType":"vpc","resourceId":"shop",` + more + `}`
	}
	return []bad{
		{"create-flow-log", "shop", nil, `{"name":"Bad","resourceType":"vpc","resourceId":"shop"}`, api.CodeInvalidParameter, "name"},
		{"create-flow-log", "shop", nil, `{"name":"bad","resourceType":"vpc","resourceId":"shop"}`, api.CodeDuplicateName, "name"},
		{"create-flow-log", "admin", nil, create(`"trafficType":"ALL"`), api.CodeMissingParameter, "account"},
		{"create-flow-log", "shop", nil, `{"name":"new","resourceId":"shop"}`, api.CodeInvalidParameter, "resourceId"},
		{"create-flow-log", "shop", nil, `{"name":"new","resourceType":"node","resourceId":"shop"}`, api.CodeInvalidParameter, "resourceType"},
		{"create-flow-log", "shop", nil, `{"name":"new","resourceType":"subnet","resourceId":"` + noVPC + `"}`,
			api.CodeInvalidCombination, "resourceType"},
		{"create-flow-log", "shop", nil, `{"name":"new","resourceType":"vpc","resourceId":"pay"}`, api.CodeVPCNotFound, "resourceId"},
		{"create-flow-log", "shop", nil, `{"name":"new","resourceType":"subnet","resourceId":"` + noSubnet + `"}`,
			api.CodeSubnetNotFound, "resourceId"},
		{"create-flow-log", "shop", nil, `{"name":"new","resourceType":"eni","resourceId":"` + noENI + `"}`, api.CodeENINotFound, "resourceId"},
		{"create-flow-log", "shop", nil, `{"name":"new","resourceType":"endpoint","resourceId":"` + noEndpoint + `"}`,
			api.CodeEndpointNotFound, "resourceId"},
		{"create-flow-log", "shop", nil, `{"name":"new","resourceType":"service","resourceId":"ledger"}`, api.CodeServiceNotFound, "resourceId"},
		{"create-flow-log", "shop", nil, `{"name":"new","resourceType":"account","resourceId":"pay"}`, api.CodeAccountNotFound, "resourceId"},
		{"create-flow-log", "pay", nil, `{"name":"new","resourceType":"service","resourceId":"ledger","onLoss":"refuse"}`,
			api.CodeInvalidCombination, "onLoss"},
		{"create-flow-log", "shop", nil, create(`"trafficType":"DROP"`), api.CodeInvalidParameter, "trafficType"},
		{"create-flow-log", "shop", nil, create(`"maxAggregationIntervalSeconds":30`), api.CodeInvalidParameter, "maxAggregationIntervalSeconds"},
		{"create-flow-log", "shop", nil, create(`"logFormat":"${src}"`), api.CodeInvalidParameter, "logFormat"},
		{"create-flow-log", "shop", nil, create(`"logDestinationType":"tape"`), api.CodeInvalidParameter, "logDestinationType"},
		{"create-flow-log", "shop", nil, create(`"logDestination":"../x"`), api.CodeInvalidParameter, "logDestination"},
		{"create-flow-log", "shop", nil, create(`"logDestination":"/srv/x"`), api.CodeInvalidParameter, "logDestination"},
		{"create-flow-log", "shop", nil, create(`"logDestination":"` + strings.Repeat("x", 1025) + `"`), api.CodeInvalidParameter, "logDestination"},
		{"create-flow-log", "shop", nil,
			create(`"logDestinationType":"stream","logDestination":"tcp://192.0.2.1:9"`), api.CodeInvalidCombination, "fileFormat"},
		{"create-flow-log", "shop", nil, create(`"logDestinationType":"stream","fileFormat":"json","logDestination":"tcp://192.0.2.1:9"`),
			api.CodeInvalidParameter, "logDestination"},
		{"create-flow-log", "shop", nil,
			create(`"logDestinationType":"stream","fileFormat":"json","perHourPartition":true,"logDestination":"tcp://192.0.2.1:9"`),
			api.CodeInvalidCombination, "hiveCompatiblePartitions"},
		{"create-flow-log", "shop", nil, create(`"fileFormat":"xml"`), api.CodeInvalidParameter, "fileFormat"},
		{"create-flow-log", "shop", nil, create(`"onLoss":"panic"`), api.CodeInvalidParameter, "onLoss"},
		{"modify-flow-log", "shop", f, `{"logFormat":"srcaddr"}`, api.CodeInvalidParameter, "logFormat"},
		{"modify-flow-log", "shop", f, `{"trafficType":""}`, api.CodeMissingParameter, "trafficType"},
		{"modify-flow-log", "pay", f, `{}`, api.CodeFlowLogNotFound, "id"},
		{"get-flow-log", "pay", f, "", api.CodeFlowLogNotFound, "id"},
		{"delete-flow-log", "pay", args("fl-00000000000000000"), "", api.CodeFlowLogNotFound, "id"},
	}
}

// What nodes send comes out as files, and a view tells a node whose flows must be recorded.
func TestFlowLogIsDelivered(t *testing.T) {
	var later atomic.Int64 // all of it is past: clients look at the server's certificate
	l := mesh(t, func(c *Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load()) - time.Hour) }
	})
	shop, h := l.as("shop"), l.host("host-c")
	must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Name: "till", Node: "host-c"}))(t)
	f := must(shop.CreateFlowLog(l.ctx(), api.CreateFlowLogRequest{Name: "all", ResourceType: api.FlowLogAccount, OnLoss: api.LossRefuse,
		LogFormat: "${interface-id} ${az-id} ${instance-id} ${packets} ${log-status}"}))(t)
	if v := view.Compute(l.s.Resources(), h.id); len(v.ENIs) != 1 || !v.ENIs[0].StrictLog {
		t.Errorf("%+v", v.ENIs)
	}
	pay := find1(l.s.Resources().ENIs, "ledger")
	if v := view.Compute(l.s.Resources(), pay.Node); len(v.ENIs) == 0 || v.ENIs[0].StrictLog {
		t.Errorf("another account's: %+v", v.ENIs)
	}
	// What comes at once is told: nobody has to wait until the server has seen the flow log.
	r := l.about("till", api.FlowRecord{LogStatus: "OK", Action: api.ActionAccept, Packets: 3, Direction: "egress", End: l.s.cfg.Now().UTC()})
	if got := must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 1, r)}))(t); got.Stored != 1 {
		t.Fatalf("%+v", got)
	}
	later.Store(int64(30 * time.Minute))
	l.eventually("files have arrived", func() bool {
		g := must(shop.GetFlowLog(l.ctx(), f.ID))(t)
		return g.Delivery != nil && g.Delivery.Objects > 0 && g.Delivery.Waiting == 0 && g.Delivery.Status == api.DeliverSuccess
	})
	text := delivered(t, filepath.Join(l.s.cfg.DataDir, "deliveries", f.Account, "flow-logs"))
	objects := 0
	if err := l.s.tree.Leaves(l.ctx(), 0, func(_ uint64, x leaf.Leaf) error {
		if x.Type == leaf.TypeObject && x.Object.FlowLog == f.ID && x.Object.Destination == "local:flow-logs" && x.Object.SHA256 != "" {
			objects++
		}
		return nil
	}); err != nil || objects == 0 {
		t.Errorf("%d objects in the Merkle log, %v", objects, err)
	}
	cart := find1(l.s.Resources().ENIs, "cart")
	for _, want := range []string{r.Interface + " a " + h.id + " 3 OK\n", cart.ID + " a " + cart.Node + " - SKIPDATA\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// delivered is the text of all files below a directory.
func delivered(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		z, err := gzip.NewReader(file)
		if err != nil {
			return err
		}
		_, err = io.Copy(&all, z)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
