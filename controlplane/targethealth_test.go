package controlplane

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/controlplane/view"
	"github.com/culvert-net/culvert/internal/metrics"
)

// healthLab has a service whose target is on host-t, and another node, host-u.
type healthLab struct {
	*lab
	pay         *client.Client
	host, other *host
	eni, group  string
	later       atomic.Int64
}

func newHealthLab(t *testing.T) *healthLab { return newHealthLabWith(t, store.NewMem()) }

func newHealthLabWith(t *testing.T, mem *store.Mem) *healthLab {
	h := new(healthLab)
	h.lab = startLab(t, func(c *Config) {
		c.Store, c.Now = mem, func() time.Time { return time.Now().Add(time.Duration(h.later.Load())) }
	})
	h.host, h.other, h.pay = h.lab.host("host-t"), h.lab.host("host-u"), h.as("pay")
	h.network(h.pay, "pay")
	h.offer(h.pay, "pay", "ledger", "host-t")
	h.eni, h.group = find1(h.s.Resources().ENIs, "ledger").ID, find1(h.s.Resources().TargetGroups, "ledger").ID
	return h
}

func (h *healthLab) report(from *host, states []api.TargetHealth, transitions ...api.HealthTransition) {
	h.t.Helper()
	err := from.ReportStatus(h.ctx(), api.NodeStatus{Node: from.id, Revision: h.s.Resources().Revision, TargetHealth: states,
		HealthTransitions: transitions})
	if err != nil {
		h.t.Fatal(err)
	}
}

// shown is the state, reason and number of changes of the group's only target, and whether it fails open.
func (h *healthLab) shown() string {
	h.t.Helper()
	got := must(h.pay.TargetHealth(h.ctx(), "ledger"))(h.t)
	if len(got.Targets) != 1 {
		h.t.Fatalf("%+v", got)
	}
	return fmt.Sprintf("%s %s %d %t", got.Targets[0].State, got.Targets[0].Reason, len(got.Targets[0].History), got.FailOpen)
}

func (h *healthLab) expect(when, want string) {
	h.t.Helper()
	if got := h.shown(); got != want {
		h.t.Errorf("%s: %s, want %s", when, got, want)
	}
}

// What a node says of its own targets is shown to their owner, with its history; what it says of others' is not heard.
func TestTargetHealthIsShown(t *testing.T) {
	h := newHealthLab(t)
	h.expect("nothing was heard of the node", "unavailable Target.HostUnreachable 0 false")
	if err := h.host.ReportStatus(h.ctx(), api.NodeStatus{Node: h.host.id, Revision: 1}); err != nil {
		t.Fatal(err)
	}
	h.expect("the node does not know of the group", "initial Elb.RegistrationInProgress 0 true")
	h.report(h.host, nil)
	h.expect("the node says nothing", "unavailable Target.NoReport 0 false")
	at := time.Now().UTC().Truncate(time.Second)
	ill := api.TargetHealth{TargetGroup: h.group, ENI: h.eni, Port: 443, State: api.TargetUnhealthy, Reason: api.ReasonTimeout, Since: at}
	fell := api.HealthTransition{TargetGroup: h.group, ENI: h.eni, Port: 443, At: at, From: api.TargetHealthy, To: api.TargetUnhealthy,
		Reason: api.ReasonTimeout, Description: "no answer within 10 s"}
	h.report(h.other, []api.TargetHealth{ill}, fell)
	h.expect("another node speaks for it", "unavailable Target.NoReport 0 false")
	for range 2 { // the second time it is no news
		h.report(h.host, []api.TargetHealth{ill}, fell)
		h.expect("it is ill", "unhealthy Target.Timeout 1 true")
	}
	got := must(h.pay.TargetHealth(h.ctx(), "ledger"))(t).Targets[0]
	if !got.Since.Equal(at) || got.ENIName != "ledger" || got.Zone != "a" || got.Weight != 100 || !reflect.DeepEqual(got.History[0], fell) {
		t.Errorf("%+v", got)
	}
	if _, err := h.as("shop").TargetHealth(h.ctx(), h.group); err == nil {
		t.Error("a stranger is told")
	}
	shop := h.as("shop")
	h.network(shop, "shop")
	must(h.pay.AllowPrincipals(h.ctx(), "ledger", []string{"shop"}))(t)
	e := must(shop.CreateEndpoint(h.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger"}))(t)
	must(h.pay.AcceptConnections(h.ctx(), "ledger", []string{e.ID}))(t)
	if st := must(h.pay.Status(h.ctx()))(t); len(st.FailingOpen) != 0 || len(st.WithoutTarget) != 1 {
		t.Errorf("nothing is attached: %+v", st)
	}
	err := h.host.ReportStatus(h.ctx(), api.NodeStatus{Node: h.host.id, Attached: []string{h.eni}, TargetHealth: []api.TargetHealth{ill}})
	if err != nil {
		t.Fatal(err)
	}
	if st := must(h.pay.Status(h.ctx()))(t); len(st.FailingOpen) != 1 || st.FailingOpen[0] != "pay/ledger" || len(st.WithoutTarget) != 0 {
		t.Errorf("%+v", st)
	}
	w := httptest.NewRecorder()
	metrics.Handler(h.s.registry()).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for state, want := range map[string]string{"unhealthy": "1", "healthy": "0"} {
		line := `culvert_target_group_targets{state="` + state + `",target_group_id="` + h.group + `"}`
		if got := figure(t, w.Body.String(), line); got != want {
			t.Errorf("%s is %s, want %s", line, got, want)
		}
	}
	h.later.Store(int64(2 * liveFor))
	h.expect("its node is silent", "unavailable Target.HostUnreachable 1 false")
}

// An unhealthy target whose group ends its flows later drains until then, and is unhealthy in metrics all the while.
func TestUnhealthyTargetDrains(t *testing.T) {
	h := newHealthLab(t)
	attributes := func(ends bool, interval uint32) {
		t.Helper()
		must(h.pay.ModifyTargetGroup(h.ctx(), "ledger", api.ModifyTargetGroupRequest{GroupHealthRequest: api.GroupHealthRequest{
			UnhealthyConnectionTermination: &ends, UnhealthyDrainingIntervalSeconds: &interval}}))(t)
	}
	ill := func() {
		h.report(h.host, []api.TargetHealth{{TargetGroup: h.group, ENI: h.eni, Port: 443, State: api.TargetUnhealthy,
			Reason: api.ReasonTimeout, Since: time.Now()}})
	}
	attributes(true, 600)
	ill()
	h.expect("its flows go on for ten minutes", "unhealthy.draining Target.Timeout 0 true")
	w := httptest.NewRecorder()
	metrics.Handler(h.s.registry()).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if got := figure(t, w.Body.String(), `culvert_target_group_targets{state="unhealthy",target_group_id="`+h.group+`"}`); got != "1" {
		t.Errorf("%s targets are unhealthy in metrics, want 1", got)
	}
	attributes(true, 0)
	h.expect("its flows have ended", "unhealthy Target.Timeout 0 true")
	attributes(false, 0)
	h.expect("its flows never end", "unhealthy Target.Timeout 0 true")
	attributes(true, 5)
	ill()
	h.expect("its flows go on for five seconds", "unhealthy.draining Target.Timeout 0 true")
	h.later.Store(int64(6 * time.Second))
	h.expect("which are over", "unhealthy Target.Timeout 0 true")
}

// A watch tells of each change of a target's health, whoever tells it.
func TestTargetHealthIsWatched(t *testing.T) {
	h := newHealthLab(t)
	states := []api.TargetState{api.TargetHealthy, api.TargetUnhealthy, api.TargetHealthy}
	report := func(i int) {
		h.report(h.host, []api.TargetHealth{{TargetGroup: h.group, ENI: h.eni, Port: 443, State: states[i], Since: time.Now()}})
	}
	report(0)
	if all := must(h.pay.ListTargetHealth(h.ctx()))(t); len(all) != 1 || all[0].ID != h.group+"/"+h.eni+":443" {
		t.Fatalf("%+v", all)
	}
	if none := must(h.as("shop").ListTargetHealth(h.ctx()))(t); len(none) != 0 {
		t.Errorf("a stranger is told %+v", none)
	}
	seen := 0
	for e, err := range h.pay.WatchTargetHealth(h.ctx(), client.WithTargetGroup("ledger")) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Item == nil {
			continue
		}
		if e.Item.State != states[seen] {
			t.Fatalf("change %d is %s", seen, e.Item.State)
		}
		if seen++; seen == len(states) {
			break
		}
		report(seen)
	}
	if seen != len(states) {
		t.Errorf("%d changes", seen)
	}
}

// Of many changes the newest are kept, however they come; those of a target that is gone are forgotten.
func TestTargetHistoryIsBounded(t *testing.T) {
	h := newHealthLab(t)
	at := time.Now().Add(-api.MaxReportedTransitions * time.Second).UTC().Truncate(time.Second)
	var all []api.HealthTransition
	for i := range api.MaxReportedTransitions {
		all = append(all, api.HealthTransition{TargetGroup: h.group, ENI: h.eni, Port: 443, At: at.Add(time.Duration(i) * time.Second),
			To: []api.TargetState{api.TargetHealthy, api.TargetUnhealthy}[i%2]})
	}
	if news, _ := newHealthBook().take(h.host.id, nil, all); len(news) != 1 || news[0] != all[len(all)-1] {
		t.Errorf("%d changes of one target are told of, want the newest: %+v", len(news), news)
	}
	h.report(h.host, nil, all[500:]...)
	h.report(h.host, nil, all[:500]...)
	history := must(h.pay.TargetHealth(h.ctx(), "ledger"))(t).Targets[0].History
	if len(history) != api.MaxHealthHistory || !history[0].At.Equal(all[len(all)-1].At) || !history[19].At.Equal(all[len(all)-20].At) {
		t.Errorf("%d changes: %+v", len(history), history)
	}
	if st := h.s.hub.nodes[h.host.id].status; st.TargetHealth != nil || st.HealthTransitions != nil {
		t.Errorf("the stored status has them too: %+v", st)
	}
	must(h.pay.DeregisterTargets(h.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger"}}))(t)
	h.expect("it drains", "draining Target.DeregistrationInProgress 20 false")
	h.txn(func(tx *store.Tx) {
		g := *h.s.Resources().TargetGroups[h.group]
		g.Draining = nil
		tx.Put(&g)
	})
	h.s.health.forget(h.s.Resources())
	if len(h.s.health.history) != 0 {
		t.Error("the history of what is gone is kept")
	}
}

// Times that cannot be are left out of what a node tells, and what it told goes with the target to no other node.
func TestTargetHealthOfALiar(t *testing.T) {
	h := newHealthLab(t)
	now := time.Now().UTC().Truncate(time.Second)
	change := func(at time.Time) api.HealthTransition {
		return api.HealthTransition{TargetGroup: h.group, ENI: h.eni, Port: 443, At: at, To: api.TargetUnhealthy}
	}
	never := time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -(23*60+59)*60)) // in UTC no JSON can hold it
	state := api.TargetHealth{TargetGroup: h.group, ENI: h.eni, Port: 443, State: api.TargetUnhealthy, Reason: api.ReasonTimeout, Since: never}
	h.report(h.host, []api.TargetHealth{state}, change(never), change(now.Add(time.Hour)), change(time.Unix(0, 0)), change(now))
	h.expect("times that cannot be", "unhealthy Target.Timeout 1 true")
	if got := must(h.pay.ListTargetHealth(h.ctx()))(t); len(got) != 1 || !got[0].Since.IsZero() || !got[0].History[0].At.Equal(now) {
		t.Errorf("%+v", got)
	}
	var ahead []api.HealthTransition
	for i := range api.MaxHealthHistory {
		ahead = append(ahead, change(now.Add(4*time.Minute+time.Duration(i)*time.Second)))
	}
	h.report(h.host, []api.TargetHealth{state}, ahead...)
	h.expect("times a little ahead", "unhealthy Target.Timeout 20 true")
	h.txn(func(tx *store.Tx) {
		e := *h.s.Resources().ENIs[h.eni]
		e.Node = h.other.id
		tx.Put(&e)
	})
	state.State, state.Reason = api.TargetHealthy, ""
	h.report(h.other, []api.TargetHealth{state})
	h.expect("it moved", "healthy  0 false")
	h.report(h.other, []api.TargetHealth{state}, change(now))
	h.expect("the other node tells of a change", "healthy  1 false")
}

func TestTargetHealthReportsAreRefused(t *testing.T) {
	h := newHealthLab(t)
	h.report(h.host, []api.TargetHealth{{TargetGroup: h.group, ENI: h.eni, Port: 443, State: api.TargetHealthy}})
	for name, st := range map[string]api.NodeStatus{
		"too many":    {TargetHealth: make([]api.TargetHealth, api.MaxHealthChecksPerNode+1)},
		"transitions": {HealthTransitions: make([]api.HealthTransition, api.MaxReportedTransitions+1)},
	} {
		st.Node = h.host.id
		if err := h.host.ReportStatus(h.ctx(), st); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	h.expect("refused reports change nothing", "healthy  0 false")
}

// The longest report that is not refused for its numbers is not refused for its length either.
func TestLongReportsAreTaken(t *testing.T) {
	h := newHealthLab(t)
	words := strings.Repeat("<", api.MaxHealthDescriptionLen) // six bytes each in JSON
	state := api.TargetHealth{TargetGroup: h.group, ENI: h.eni, Port: 443, State: api.TargetUnhealthyDraining,
		Reason: api.TargetReason(strings.Repeat("<", maxTargetReasonLen)), Description: words, Since: time.Now()}
	change := api.HealthTransition{TargetGroup: h.group, ENI: h.eni, Port: 443, At: time.Now(), From: state.State, To: state.State,
		Reason: state.Reason, Description: words}
	st := api.NodeStatus{Node: h.host.id, TargetHealth: slices.Repeat([]api.TargetHealth{state}, api.MaxHealthChecksPerNode),
		HealthTransitions: slices.Repeat([]api.HealthTransition{change}, api.MaxReportedTransitions),
		Errors:            slices.Repeat([]string{strings.Repeat("<", api.MaxStatusErrorLen)}, api.MaxStatusErrors),
		Attached:          slices.Repeat([]string{h.eni}, api.MaxHealthChecksPerNode)}
	if err := h.host.ReportStatus(h.ctx(), st); err != nil {
		t.Error(err)
	}
}

// What is malformed of one target is left out, and the rest of the report is heard: the node, and other tenants' targets on it.
func TestMalformedTargetHealthIsLeftOut(t *testing.T) {
	h := newHealthLab(t)
	good := api.TargetHealth{TargetGroup: h.group, ENI: h.eni, Port: 443, State: api.TargetUnhealthy}
	other := func(f func(*api.TargetHealth)) api.TargetHealth {
		one := good
		one.Port = 444
		f(&one)
		return one
	}
	for name, st := range map[string]api.NodeStatus{
		"state":  {TargetHealth: []api.TargetHealth{other(func(x *api.TargetHealth) { x.State = "dead" })}},
		"reason": {TargetHealth: []api.TargetHealth{other(func(x *api.TargetHealth) { x.Reason = "a\nb" })}},
		"from":   {HealthTransitions: []api.HealthTransition{{TargetGroup: h.group, ENI: h.eni, Port: 443, From: "x", To: api.TargetHealthy}}},
		"to":     {HealthTransitions: []api.HealthTransition{{TargetGroup: h.group, ENI: h.eni, Port: 443, To: "x"}}},
	} {
		h.later.Add(int64(2 * liveFor))
		h.expect(name+": the node is silent", "unavailable Target.HostUnreachable 0 false")
		st.Node, st.TargetHealth = h.host.id, append(st.TargetHealth, good)
		if err := h.host.ReportStatus(h.ctx(), st); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		h.expect(name, "unhealthy  0 true")
		if malformed, _ := checkTargetHealth(&st); malformed == nil {
			t.Errorf("%s: nothing to tell of", name)
		}
	}
	long := good
	long.Description = "a\n\u200f" + strings.Repeat("é", api.MaxHealthDescriptionLen)
	h.report(h.host, []api.TargetHealth{long})
	got := must(h.pay.TargetHealth(h.ctx(), "ledger"))(t).Targets[0].Description
	if want := "a??" + strings.Repeat("é", (api.MaxHealthDescriptionLen-3)/2); got != want {
		t.Errorf("a long description is %q", got)
	}
}

// What a group's owner asks for reaches the nodes that host its targets and those that send there.
func TestHealthIsConfigured(t *testing.T) {
	h := newHealthLab(t)
	modify := func(text string) *api.TargetGroup {
		t.Helper()
		var r api.ModifyTargetGroupRequest
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		return must(h.pay.ModifyTargetGroup(h.ctx(), "ledger", r))(t)
	}
	checks := func() []api.ViewHealthCheck { return view.Compute(h.s.Resources(), h.host.id).HealthChecks }
	if c := checks(); len(c) != 1 || c[0].Check != api.DefaultHealthCheck(api.TCP) || len(c[0].Targets) != 1 || c[0].Targets[0].ENI != h.eni {
		t.Errorf("by default: %+v", c)
	}
	want := api.HealthCheck{Enabled: true, Protocol: api.HealthHTTP, Port: "8080", Path: "/", Matcher: "200-399", IntervalSeconds: 5,
		TimeoutSeconds: 5, HealthyThreshold: 3, UnhealthyThreshold: 2}
	if g := modify(`{"healthCheck":{"protocol":"HTTP","port":"8080","intervalSeconds":5,"healthyThreshold":3},"slowStartSeconds":60,` +
		`"minimumHealthyTargets":{"percentage":50},"unhealthyDrainingIntervalSeconds":30}`); g.HealthCheck != want || g.SlowStartSeconds != 60 ||
		g.MinimumHealthyTargets != (api.MinimumHealthy{Count: 1, Percentage: 50}) || g.UnhealthyDrainingIntervalSeconds != 30 {
		t.Errorf("changed: %+v", g)
	}
	if c := checks(); len(c) != 1 || c[0].Check != want {
		t.Errorf("changed: %+v", c)
	}
	g := modify(`{"healthCheck":{"path":"/healthz"},"unhealthyConnectionTermination":false}`)
	if want.Path = "/healthz"; g.HealthCheck != want || g.UnhealthyConnectionTermination || g.UnhealthyDrainingIntervalSeconds != 0 {
		t.Errorf("changed again: %+v", g)
	}
	if g := modify(`{"healthCheck":{"protocol":"GRPC"}}`); g.HealthCheck.Path != "" || g.HealthCheck.Matcher != "0" {
		t.Errorf("another protocol brings its own path and codes: %+v", g)
	}
	v := view.Compute(h.s.Resources(), h.host.id)
	if len(v.LoadBalancers) != 1 || *v.LoadBalancers[0].Listeners[0].Health != (api.ViewPoolHealth{MinimumCount: 1, MinimumPercentage: 50,
		SlowStartSeconds: 60}) {
		t.Errorf("%+v", v.LoadBalancers)
	}
	off := modify(`{"healthCheck":{"enabled":false}}`)
	if c := checks(); off.HealthCheck.Enabled || len(c) != 0 {
		t.Errorf("off: %+v", c)
	}
	h.report(h.host, nil)
	h.expect("nobody asks", "unavailable Target.HealthCheckDisabled 0 false")
	for text, enabled := range map[string]bool{`{}`: false, `{"healthCheck":{"port":"8080"}}`: true, `{"healthCheck":{"port":"1","enabled":false}}`: false} {
		r := api.CreateTargetGroupRequest{}
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		r.VPC, r.Protocol, r.Port, r.Targets = "pay", api.UDP, 53, []api.TargetRequest{{ENI: "ledger"}}
		g := must(h.pay.CreateTargetGroup(h.ctx(), r))(t)
		if got := must(h.pay.TargetHealth(h.ctx(), g.ID))(t).Targets[0]; g.HealthCheck.Enabled != enabled || got.Reason != api.ReasonNotInUse {
			t.Errorf("UDP, %s: %+v, %+v", text, g.HealthCheck, got)
		}
	}
}

// TestHealthIsAudited: each change is an event, once, and the history is there after a restart of the server.
func TestHealthIsAudited(t *testing.T) {
	mem := store.NewMem()
	h := newHealthLabWith(t, mem)
	at := time.Now().Add(-10 * time.Minute).UTC().Truncate(time.Second)
	change := func(i int, to api.TargetState) api.HealthTransition {
		return api.HealthTransition{TargetGroup: h.group, ENI: h.eni, Port: 443, At: at.Add(time.Duration(i) * time.Second), To: to,
			Reason: api.ReasonTimeout, Description: "no answer"}
	}
	told := []api.HealthTransition{change(0, api.TargetHealthy), change(1, api.TargetUnhealthy), change(2, api.TargetHealthy)}
	h.report(h.host, nil, told[:1]...)
	h.report(h.host, nil, told...)
	events := func(l *lab) (out []api.HealthTransition) {
		for _, e := range l.audited() {
			if e.Action != api.ActionTargetHealth {
				continue
			}
			if e.Actor != h.host.id || e.ActorName != "host-t" || e.Role != api.RoleNode || e.Account != h.account("pay") ||
				e.Resource != h.group || !strings.Contains(e.Message, string(api.ReasonTimeout)) {
				t.Errorf("%+v", e)
			}
			out = append(out, *e.Health)
		}
		return out
	}
	if got := events(h.lab); !reflect.DeepEqual(got, told) {
		t.Errorf("%+v", got)
	}
	h.stop()
	again := startLab(t, func(c *Config) { c.Store = mem })
	again.adminKey, again.keys = h.adminKey, h.keys
	history := must(again.as("pay").TargetHealth(again.ctx(), "ledger"))(t).Targets[0].History
	slices.Reverse(history)
	if !reflect.DeepEqual(history, told) {
		t.Errorf("after a restart %+v", history)
	}
	if got := events(again); len(got) != len(told) {
		t.Errorf("after a restart %+v", got)
	}
	// Who tells of a change all the time fills nothing.
	machine := again.hostWith(h.host.join, h.host.cert.PrivateKey.(*ecdsa.PrivateKey))
	for i := range 30 {
		var many []api.HealthTransition
		for j := range 10 {
			many = append(many, change(10*i+j+10, []api.TargetState{api.TargetHealthy, api.TargetUnhealthy}[j%2]))
		}
		(&healthLab{lab: again}).report(machine, nil, many...)
	}
	if err := again.s.flushRepeats(again.ctx(), true); err != nil {
		t.Fatal(err)
	}
	n, counted := 0, uint64(0)
	for _, e := range again.audited() {
		if e.Action == api.ActionTargetHealth {
			n, counted = n+1, counted+max(e.Count, 1)
		}
	}
	if n > len(told)+maxHealthEvents+4 || counted != uint64(len(told)+300) {
		t.Errorf("%d events of %d changes", n, counted)
	}
}
