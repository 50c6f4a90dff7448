package controlplane

import (
	"encoding/json"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/controlplane/view"
)

func resting(v *api.View) (n int) {
	for _, e := range v.Endpoints {
		for _, p := range e.Listeners {
			n += len(p.Resting)
		}
	}
	return n
}

func draining(v *api.View) (n int) {
	for _, g := range v.Grants {
		n += len(g.Draining)
	}
	return n
}

// A deregistered target drains, on both sides, until its delay is over; after that only where flows are not to be ended, until
// it is registered again or its interface is gone.
func TestDraining(t *testing.T) {
	var later atomic.Int64
	l := mesh(t, func(c *Config) {
		c.Tick, c.Now = 10*time.Millisecond, func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	shop, pay := l.as("shop"), l.as("pay")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	delay, yes := uint32(60), true
	provider, consumer := find1(l.s.Resources().Nodes, "host-b").ID, find1(l.s.Resources().Nodes, "host-a").ID
	count := func() [2]int {
		index := view.NewIndex(l.s.Resources())
		return [2]int{resting(index.View(consumer)), draining(index.View(provider))}
	}
	before := count()
	g := must(pay.ModifyTargetGroup(l.ctx(), "ledger", api.ModifyTargetGroupRequest{DeregistrationDelaySeconds: &delay}))(t)
	if g.DeregistrationDelaySeconds != 60 || g.ConnectionTermination {
		t.Fatalf("%+v", g)
	}
	g = must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger"}}))(t)
	if len(g.Targets) != 0 || len(g.Draining) != 1 || g.Draining[0].Port != g.Port || time.Until(g.Draining[0].Until).Round(10*time.Second) != time.Minute {
		t.Fatalf("%+v", g)
	}
	after := count()
	if after[0] <= before[0] || after[1] <= before[1] {
		t.Errorf("resting and draining in views: %v, before %v", after, before)
	}
	later.Store(int64(2 * time.Minute))
	other := must(pay.CreateTargetGroup(l.ctx(), api.CreateTargetGroupRequest{VPC: "pay", Name: "other", Protocol: api.TCP, Port: 443,
		Targets: []api.TargetRequest{{ENI: "ledger"}}, ConnectionTermination: true, DeregistrationDelaySeconds: &delay}))(t)
	must(pay.DeregisterTargets(l.ctx(), other.ID, []api.TargetRequest{{ENI: "ledger"}}))(t)
	later.Store(int64(4 * time.Minute))
	l.eventually("housekeeping to have passed", func() bool { return len(must(pay.GetTargetGroup(l.ctx(), other.ID))(t).Draining) == 0 })
	if g = must(pay.GetTargetGroup(l.ctx(), "ledger"))(t); len(g.Draining) != 1 {
		t.Errorf("without termination its flows go on: %+v", g)
	}
	g = must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger"}}))(t)
	if len(g.Draining) != 0 || len(g.Targets) != 1 || g.Targets[0].Weight != api.DefaultTargetWeight || count() != before {
		t.Errorf("registered again: %+v, %v, before %v", g, count(), before)
	}

	must(pay.ModifyTargetGroup(l.ctx(), "ledger", api.ModifyTargetGroupRequest{ConnectionTermination: &yes}))(t)
	must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger"}}))(t)
	if count() != after {
		t.Errorf("%v before the delay is over, want %v", count(), after)
	}
	later.Store(int64(6 * time.Minute))
	l.eventually("the delay to be over", func() bool { return len(must(pay.GetTargetGroup(l.ctx(), "ledger"))(t).Draining) == 0 })
	if c := count(); c[0] != 0 || c[1] != 0 {
		t.Errorf("the delay is over: %v", c)
	}
}

// A delay that is over is not prolonged to the next tick of housekeeping.
func TestDelayEndsInTime(t *testing.T) {
	var later atomic.Int64
	l := mesh(t, func(c *Config) {
		c.Tick, c.Now = time.Hour, func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	pay := l.as("pay")
	delay, yes := uint32(60), true
	must(pay.ModifyTargetGroup(l.ctx(), "ledger", api.ModifyTargetGroupRequest{DeregistrationDelaySeconds: &delay, ConnectionTermination: &yes}))(t)
	must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger"}}))(t)
	later.Store(int64(50 * time.Second))
	if g := must(pay.GetTargetGroup(l.ctx(), "ledger"))(t); len(g.Draining) != 1 {
		t.Errorf("before the delay is over: %+v", g)
	}
	later.Store(int64(61 * time.Second))
	l.eventually("the delay to be over", func() bool { return len(must(pay.GetTargetGroup(l.ctx(), "ledger"))(t).Draining) == 0 })
}

// A delay of zero ends flows at once where they are to be ended.
func TestNoDelay(t *testing.T) {
	l := mesh(t, nil)
	pay := l.as("pay")
	zero, yes := uint32(0), true
	must(pay.ModifyTargetGroup(l.ctx(), "ledger", api.ModifyTargetGroupRequest{DeregistrationDelaySeconds: &zero, ConnectionTermination: &yes}))(t)
	if g := must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger"}}))(t); len(g.Draining)+len(g.Targets) != 0 {
		t.Errorf("%+v", g)
	}
}

// Weight, stickiness and zones reach the view of a consumer's node.
func TestBalancingInViews(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	pool := func() api.ViewListenerPool {
		v := view.Compute(l.s.Resources(), find1(l.s.Resources().Nodes, "host-a").ID)
		if len(v.Endpoints) != 1 || len(v.Endpoints[0].Listeners) != 1 {
			t.Fatalf("%+v", v.Endpoints)
		}
		return v.Endpoints[0].Listeners[0]
	}
	if p := pool(); p.Zonal || p.Sticky || len(p.Targets) != 1 || p.Targets[0].Weight != 0 {
		t.Errorf("by default: %+v", p)
	}
	weight, no, sticky := uint16(7), false, api.SourceIP
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger", Weight: &weight}}))(t)
	must(pay.ModifyLoadBalancer(l.ctx(), "ledger", api.ModifyLoadBalancerRequest{CrossZone: &no}))(t)
	must(pay.ModifyTargetGroup(l.ctx(), "ledger", api.ModifyTargetGroupRequest{Stickiness: &sticky}))(t)
	if p := pool(); !p.Zonal || !p.Sticky || len(p.Targets) != 1 || p.Targets[0].Weight != 7 {
		t.Errorf("changed: %+v", p)
	}
	weight = 0
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger", Weight: &weight}}))(t)
	if p := pool(); len(p.Targets) != 0 || len(p.Resting) != 1 {
		t.Errorf("weight 0: %+v", p)
	}
}

// A load balancer of before has no number; housekeeping gives it one, with tag numbers that no connection of its VPC has.
func TestBalancersAreNumbered(t *testing.T) {
	l := mesh(t, func(c *Config) { c.Tick = 10 * time.Millisecond })
	pay := l.as("pay")
	b := must(pay.GetLoadBalancer(l.ctx(), "ledger"))(t)
	if b.Number == 0 || len(b.TagNumbers) != len(b.ENIs)*len(b.Listeners) || !b.CrossZone {
		t.Fatalf("a new one: %+v", b)
	}
	old := *b
	old.Number, old.TagNumbers = 0, nil
	l.txn(func(tx *store.Tx) { tx.Put(&old) })
	var again *api.LoadBalancer
	l.eventually("the load balancer to be numbered", func() bool {
		again = must(pay.GetLoadBalancer(l.ctx(), "ledger"))(t)
		return again.Number != 0 && len(again.TagNumbers) == len(b.TagNumbers)
	})
	must(pay.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "pay", Service: "pay/ledger", Name: "own"}))(t)
	used := map[uint16]bool{}
	numbers := slices.Clone(again.TagNumbers)
	for _, c := range l.s.Resources().Connections {
		if c.EndpointVPC == b.VPC {
			numbers = append(numbers, c.TagNumbers...)
		}
		if c.Number == again.Number {
			t.Errorf("connection %s has the number of the load balancer", c.ID)
		}
	}
	for _, n := range numbers {
		if used[n.Number] {
			t.Errorf("tag number %d is given twice: %+v", n.Number, numbers)
		}
		used[n.Number] = true
	}
	if len(used) <= len(again.TagNumbers) {
		t.Error("the endpoint in the load balancer's VPC has no number")
	}
}

// Records of before have none of the later fields.
func TestRecordsOfBefore(t *testing.T) {
	var b api.LoadBalancer
	var g api.TargetGroup
	for text, to := range map[string]any{`{"id":"lb-1","listeners":[]}`: &b, `{"id":"tg-1","targets":[{"eniId":"eni-1","port":0}]}`: &g} {
		if err := json.Unmarshal([]byte(text), to); err != nil {
			t.Fatal(err)
		}
	}
	if !b.CrossZone || b.ID != "lb-1" || g.DeregistrationDelaySeconds != api.DefaultDeregistrationDelay || g.Targets[0].Weight != api.DefaultTargetWeight {
		t.Errorf("%+v, %+v", b, g)
	}
}
