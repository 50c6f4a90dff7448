package controlplane

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
)

// TestAConnectionIsShownAsItWas: at any time since, who approved it and by what policy, also after it and its service are changed
// and gone; and to each side only what is its own.
func TestAConnectionIsShownAsItWas(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	approver := must(pay.Status(l.ctx()))(t).Caller.Key
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	approved := time.Now()
	must(pay.DisallowPrincipals(l.ctx(), "ledger", []string{"shop"}))(t)
	must(pay.ModifyConnections(l.ctx(), "ledger", api.ModifyConnectionsRequest{Endpoints: []string{"ledger"}, Caps: &api.CapsRequest{}}))(t)
	must(shop.DeleteEndpoint(l.ctx(), "ledger"))(t)

	shown := func(c *client.Client, id string, at time.Time) (*api.AuditedState, map[api.Kind][]api.AuditedResource) {
		s := must(c.GetAuditedResource(l.ctx(), id, at))(t)
		of := map[api.Kind][]api.AuditedResource{}
		for _, r := range s.Related {
			of[r.Kind] = append(of[r.Kind], r)
		}
		return s, of
	}
	service := func(of map[api.Kind][]api.AuditedResource) (s api.Service) {
		if err := json.Unmarshal(of[api.KindService][0].State, &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []*client.Client{l.admin(), pay} {
		s, of := shown(c, e.Connection, approved)
		var con api.Connection
		if err := json.Unmarshal(s.Resource.State, &con); err != nil {
			t.Fatal(err)
		}
		if !s.Resource.Exists || con.State != api.Available || con.Approver != approver || s.Resource.Decision == nil ||
			s.Resource.Decision.Actor != approver || s.Resource.Decision.Action != "accept-connections" || s.Resource.Decision.RequestID == "" {
			t.Errorf("%+v", s.Resource)
		}
		if was := service(of); !was.AcceptanceRequired || !slices.Equal(was.AllowedPrincipals, []string{l.account("shop")}) {
			t.Errorf("%+v", was)
		}
		s, of = shown(c, e.Connection, time.Time{})
		if s.Resource.Exists || s.Resource.Decision == nil || s.Resource.Decision.Actor != approver {
			t.Errorf("in the end %+v", s.Resource)
		}
		if is := service(of); len(is.AllowedPrincipals) != 0 {
			t.Errorf("in the end %+v", is)
		}
	}
	// The provider learns nothing of the consumer's endpoint, the consumer nothing of who approved it.
	_, of := shown(pay, e.Connection, approved)
	if len(of[api.KindEndpoint]) != 0 || len(of[api.KindLoadBalancer]) != 1 || len(of[api.KindTargetGroup]) != 1 {
		t.Errorf("%v", of)
	}
	s, of := shown(shop, e.ID, approved)
	if len(of[api.KindConnection]) != 0 || len(of[api.KindSecurityGroup]) != 1 || s.Resource.Event.Action != "accept-connections" ||
		s.Resource.Event.Actor != "" || s.Resource.Event.Source != "" || s.Resource.Event.Resource != "" {
		t.Errorf("%+v, %v", s.Resource, of)
	}
	_, err := shop.GetAuditedResource(l.ctx(), e.Connection, approved)
	wantCode(t, err, api.CodeConnectionNotFound)
	_, err = l.admin().GetAuditedResource(l.ctx(), e.Connection, approved.Add(-time.Hour))
	wantCode(t, err, api.CodeConnectionNotFound)
	for _, event := range must(pay.ListAudit(l.ctx()))(t) {
		for _, c := range event.Changes {
			if c.Owner() != l.account("pay") {
				t.Errorf("pay is told of %+v", c)
			}
		}
	}
}

// TestAuditFilters: what is asked for is found, all of it, and nothing else.
func TestAuditFilters(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	_, err := shop.DeleteVPC(l.ctx(), "shop")
	wantCode(t, err, api.CodeDependencyViolation)
	_, err = shop.CreateToken(l.ctx(), api.CreateTokenRequest{})
	wantCode(t, err, api.CodeUnauthorized)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	vpc, service := find1(l.s.Resources().VPCs, "shop").ID, find1(l.s.Resources().Services, "ledger").ID
	all := l.allAudited()
	for name, c := range map[string]struct {
		f    api.AuditFilter
		want func(*api.AuditEvent) bool
	}{
		"action": {api.AuditFilter{Action: "create-subnet"}, func(e *api.AuditEvent) bool { return e.Action == "create-subnet" }},
		"actor":  {api.AuditFilter{Actor: "system"}, func(e *api.AuditEvent) bool { return e.Actor == "system" }},
		"an administrator by name": {api.AuditFilter{Actor: "first-admin", Action: "create-account"},
			func(e *api.AuditEvent) bool { return e.Role == api.RoleAdmin && e.Action == "create-account" }},
		"success": {api.AuditFilter{Outcome: api.OutcomeSuccess}, func(e *api.AuditEvent) bool { return e.Outcome == "success" }},
		"denied":  {api.AuditFilter{Outcome: api.OutcomeDenied}, func(e *api.AuditEvent) bool { return e.Outcome != "success" }},
		"a code": {api.AuditFilter{Outcome: string(api.CodeDependencyViolation)},
			func(e *api.AuditEvent) bool { return e.Outcome == string(api.CodeDependencyViolation) }},
		"what refuses": {api.AuditFilter{Resource: vpc}, func(e *api.AuditEvent) bool { return e.Resource == vpc || changes(e, vpc) }},
		"a resource": {api.AuditFilter{Resource: service, Outcome: "success"},
			func(e *api.AuditEvent) bool { return e.Resource == service || changes(e, service) }},
		"since": {api.AuditFilter{Since: all[10].At}, func(e *api.AuditEvent) bool { return !e.At.Before(all[10].At) }},
		"until": {api.AuditFilter{Until: all[10].At}, func(e *api.AuditEvent) bool { return e.At.Before(all[10].At) }},
	} {
		var want, got []uint64
		for i := range all {
			if c.want(&all[i]) {
				want = append(want, all[i].Seq)
			}
		}
		for _, e := range must(l.admin().ListAudit(l.ctx(), client.WithAuditFilter(c.f)))(t) {
			if e.Seq <= all[len(all)-1].Seq {
				got = append(got, e.Seq)
			}
		}
		if !slices.Equal(got, want) || len(want) == 0 || len(want) == len(all) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		// In pages, from the newest back.
		var paged []uint64
		for f := c.f; len(paged) < len(want); {
			f.Limit = 2
			page := must(l.admin().ListAudit(l.ctx(), client.WithAuditFilter(f)))(t)
			if len(page) == 0 {
				break
			}
			for _, e := range slices.Backward(page) {
				if e.Seq <= all[len(all)-1].Seq {
					paged = append(paged, e.Seq)
				}
			}
			f.Before = page[0].Seq
		}
		slices.Reverse(paged)
		if !slices.Equal(paged, want) {
			t.Errorf("%s, in pages: %v, want %v", name, paged, want)
		}
	}
	for _, e := range must(shop.ListAudit(l.ctx(), client.WithAuditFilter(api.AuditFilter{Resource: service})))(t) {
		if e.Action != "list-audit" {
			t.Errorf("shop is told of %+v", e)
		}
	}
}

func changes(e *api.AuditEvent, id string) bool {
	return slices.ContainsFunc(e.Changes, func(c api.AuditChange) bool { return c.ID == id })
}

// TestTheServersLifeIsAudited: it says that it starts and stops, and after a crash that the one before did not.
func TestTheServersLifeIsAudited(t *testing.T) {
	mem := store.NewMem()
	first := startLab(t, func(c *Config) { c.Store, c.Version = mem, "1.0" })
	key := first.adminKey
	first.stop()
	second := startLab(t, func(c *Config) { c.Store, c.Version = mem, "1.1" })
	second.stop()
	if err := mem.Put(t.Context(), keyRun, []byte(`{"startedAt":"2026-03-01T00:00:00Z","version":"1.2"}`)); err != nil { // and was killed
		t.Fatal(err)
	}
	third := startLab(t, func(c *Config) { c.Store, c.Version = mem, "1.3" })
	third.adminKey = key
	var got []string
	for _, e := range third.allAudited() {
		if e.Action == api.ActionStartServer || e.Action == api.ActionStopServer {
			what, _, unsaid := strings.Cut(e.Message, "; the server that started at 2026-03-01T00:00:00Z, version 1.2, did not say that it stopped")
			if got = append(got, e.Action+" "+what); unsaid {
				got = append(got, "(crash)")
			}
		}
	}
	want := []string{"start-server version 1.0", "stop-server version 1.0", "start-server version 1.1", "stop-server version 1.1",
		"start-server version 1.3", "(crash)"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestReadingLogsIsAudited: once at first, and then by count.
func TestReadingLogsIsAudited(t *testing.T) {
	l := startLab(t, nil)
	shop := l.as("shop")
	for range 5 {
		collect(t, shop, api.FlowQuery{})
	}
	if err := l.s.flushRepeats(l.ctx(), true); err != nil {
		t.Fatal(err)
	}
	var counts []uint64
	for _, e := range l.audited() {
		if e.Action == "query-flows" && e.Account == l.account("shop") && e.Role == api.RoleAccount && e.Outcome == api.OutcomeSuccess {
			counts = append(counts, e.Count)
		}
	}
	if !slices.Equal(counts, []uint64{0, 4}) {
		t.Errorf("%v", counts)
	}
}
