package controlplane

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// unaudited are the operations that change something and leave no event.
var unaudited = map[string]string{
	"report-status": "it comes every few seconds and grants nothing",
	"send-flows":    "it is the log",
}

// logReads are those that read what is logged.
var logReads = []string{"stream-evidence", "list-audit", "query-flows", "query-dns", "get-audited-resource"}

// done is a request that changes something. Arguments that begin with $ are ids of what requests before it made.
type done struct {
	op, as string
	args   []string
	body   string
}

// everyChange has each operation that changes something at least once, in an order in which each succeeds. A new one goes in here.
var everyChange = []done{
	{"create-account", "admin", nil, `{"name":"new","domains":["new.internal"]}`},
	{"add-domain", "admin", args("new"), `{"domain":"b.internal"}`},
	{"remove-domain", "admin", args("new", "b.internal"), ""},
	{"create-api-key", "admin", nil, `{"account":"new","name":"k"}`},
	{"delete-api-key", "admin", args("$key"), ""},
	{"delete-account", "admin", args("new"), ""},
	{"create-token", "admin", nil, `{}`},
	{"delete-token", "admin", args("$token"), ""},
	{"modify-retention", "admin", args("segments"), `{"days":700,"minimumDays":30}`},
	{"create-legal-hold", "admin", nil, `{"nodeId":"host-a","from":"2026-03-01T00:00:00Z","to":"2026-04-01T00:00:00Z","reason":"case 1"}`},
	{"remove-legal-hold", "admin", args("$hold"), ""},
	{"create-vpc", "pay", nil, `{"name":"x","cidr":"10.9.0.0/16"}`},
	{"modify-vpc", "pay", args("x"), `{"forwarders":["tls://9.9.9.9"]}`},
	{"create-subnet", "pay", nil, `{"vpcId":"x","name":"x-a","cidr":"10.9.1.0/24","zone":"a"}`},
	{"create-security-group", "pay", nil, `{"vpcId":"x","name":"g"}`},
	{"authorize-ingress", "pay", args("g"), `{"rules":[{"protocol":"-1","cidr":"10.0.0.0/8"}]}`},
	{"authorize-egress", "pay", args("g"), `{"rules":[{"protocol":"tcp","fromPort":1,"toPort":2,"cidr":"10.0.0.0/8"}]}`},
	{"revoke-rule", "pay", args("g", "$rule"), ""},
	{"create-eni", "pay", nil, `{"subnetId":"x-a","name":"e","nodeId":"host-b"}`},
	{"modify-eni", "pay", args("e"), `{"securityGroupIds":["g"]}`},
	{"create-target-group", "pay", nil, `{"vpcId":"x","name":"t","protocol":"tcp","port":443}`},
	{"modify-target-group", "pay", args("t"), `{"stickiness":"source_ip"}`},
	{"register-targets", "pay", args("t"), `{"targets":[{"eniId":"e"}]}`},
	{"deregister-targets", "pay", args("t"), `{"targets":[{"eniId":"e"}]}`},
	{"create-load-balancer", "pay", nil, `{"vpcId":"x","name":"b"}`},
	{"modify-load-balancer", "pay", args("b"), `{"crossZone":false}`},
	{"create-listener", "pay", args("b"), `{"protocol":"tcp","port":443,"targetGroupId":"t"}`},
	{"create-service", "pay", nil, `{"name":"s","loadBalancerIds":["b"],"acceptanceRequired":true}`},
	{"modify-service", "pay", args("s"), `{"caps":{"maxFlows":100}}`},
	{"allow-principals", "pay", args("s"), `{"principals":["shop"]}`},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/s","name":"p"}`},
	{"accept-connections", "pay", args("s"), `{"endpointIds":["p"]}`},
	{"modify-connections", "pay", args("s"), `{"endpointIds":["p"],"caps":{"maxFlows":10}}`},
	{"modify-endpoint", "shop", args("p"), `{"privateDnsPriority":5}`},
	{"reject-connections", "pay", args("s"), `{"endpointIds":["p"]}`},
	{"delete-endpoint", "shop", args("p"), ""},
	{"disallow-principals", "pay", args("s"), `{"principals":["shop"]}`},
	{"delete-service", "pay", args("s"), ""},
	{"delete-listener", "pay", args("b", "$listener"), ""},
	{"delete-load-balancer", "pay", args("b"), ""},
	{"delete-target-group", "pay", args("t"), ""},
	{"delete-eni", "pay", args("e"), ""},
	{"delete-security-group", "pay", args("g"), ""},
	{"delete-subnet", "pay", args("x-a"), ""},
	{"create-domain", "pay", nil, `{"domainName":"proved.example"}`},
	{"verify-domain", "pay", args("proved.example"), ""},
	{"delete-domain", "pay", args("proved.example"), ""},
	{"create-hosted-zone", "pay", nil, `{"domainName":"corp.internal","vpcIds":["x"]}`},
	{"change-records", "pay", args("corp.internal"), `{"put":[{"name":"www.corp.internal","type":"A","values":["10.0.1.5"]}]}`},
	{"associate-hosted-zone", "pay", args("corp.internal"), `{"vpcIds":["pay"]}`},
	{"disassociate-hosted-zone", "pay", args("corp.internal"), `{"vpcIds":["pay"]}`},
	{"delete-hosted-zone", "pay", args("corp.internal"), ""},
	{"create-flow-log", "pay", nil, `{"name":"all","resourceType":"account"}`},
	{"modify-flow-log", "pay", args("all"), `{"perHourPartition":true}`},
	{"delete-flow-log", "pay", args("all"), ""},
	{"create-resolver-rule", "pay", nil, `{"domainName":"example.com","vpcIds":["x"],"forwarders":["tls://9.9.9.9"]}`},
	{"modify-resolver-rule", "pay", args("example.com"), `{"forwarders":["tls://1.1.1.1"]}`},
	{"associate-resolver-rule", "pay", args("example.com"), `{"vpcIds":["pay"]}`},
	{"disassociate-resolver-rule", "pay", args("example.com"), `{"vpcIds":["pay"]}`},
	{"delete-resolver-rule", "pay", args("example.com"), ""},
	{"create-firewall-domain-list", "pay", nil, `{"name":"d","domains":["a.test"]}`},
	{"change-firewall-domains", "pay", args("d"), `{"operation":"ADD","domains":["b.test"]}`},
	{"delete-firewall-domain-list", "pay", args("d"), ""},
	{"create-firewall-rule-group", "pay", nil, `{"name":"f","vpcIds":["x"]}`},
	{"change-firewall-rules", "pay", args("f"), `{"put":[{"priority":20,"action":"BLOCK","domains":["*.example.net"]}]}`},
	{"associate-firewall-rule-group", "pay", args("f"), `{"vpcIds":["pay"]}`},
	{"disassociate-firewall-rule-group", "pay", args("f"), `{"vpcIds":["pay"]}`},
	{"delete-firewall-rule-group", "pay", args("f"), ""},
	{"create-query-log", "pay", nil, `{"name":"q"}`},
	{"associate-query-log", "pay", args("q"), `{"vpcIds":["pay"]}`},
	{"disassociate-query-log", "pay", args("q"), `{"vpcIds":["pay"]}`},
	{"delete-query-log", "pay", args("q"), ""},
	{"delete-vpc", "pay", args("x"), ""},
	{"join", "", nil, "$join"},
	{"drain-node", "admin", args("joined"), ""},
	{"undrain-node", "admin", args("joined"), ""},
	{"revoke-node", "admin", args("joined"), ""},
	{"delete-node", "admin", args("joined"), ""},
	{"renew", "node", nil, `{"csr":"$csr"}`},
	{"rotate-key", "node", nil, `{"publicKey":"$wireKey"}`},
	{"report-log-key", "node", nil, `{"publicKey":"$wireKey"}`},
	{"leave", "node", nil, `{}`},
}

// changer sends the requests of everyChange.
type changer struct {
	l    *lab
	user *raw
	node *raw
}

func (c *changer) value(t *testing.T, name string) string {
	r := c.l.s.Resources()
	switch name {
	case "$key":
		return find1(r.APIKeys, "k").ID
	case "$token":
		for id, token := range r.JoinTokens {
			if token.UsedBy == "" {
				return id
			}
		}
	case "$hold":
		return c.l.s.holds.list()[0].ID
	case "$rule":
		return find1(r.SecurityGroups, "g").Ingress[0].ID
	case "$listener":
		return find1(r.LoadBalancers, "b").Listeners[0].ID
	case "$join":
		_, request := c.l.joinRequest("joined")
		return string(must(json.Marshal(request))(t))
	case "$csr":
		_, csr := testCSR(t)
		return strings.Trim(string(must(json.Marshal(csr))(t)), `"`)
	case "$wireKey":
		return wireKey()
	}
	t.Fatalf("there is no %s", name)
	return ""
}

func (c *changer) do(t *testing.T, r route, d done) *answer {
	t.Helper()
	filled := make([]string, len(d.args))
	for i, a := range d.args {
		if filled[i] = a; strings.HasPrefix(a, "$") {
			filled[i] = c.value(t, a)
		}
	}
	body := d.body
	if before, name, found := strings.Cut(body, "$"); found {
		name, after, _ := strings.Cut(name, `"`)
		body = before + c.value(t, "$"+name)
		if after != "" || before != "" {
			body += `"` + after
		}
	}
	switch d.as {
	case "node":
		return c.node.do(r.method, r.fill(filled...), "", body)
	case "":
		return c.user.do(r.method, r.fill(filled...), "", body)
	case "admin":
		return c.user.do(r.method, r.fill(filled...), c.l.adminKey, body)
	}
	return c.user.do(r.method, r.fill(filled...), c.l.keys[d.as], body)
}

// eventsOf are the events of a request.
func (c *changer) eventsOf(a *answer) (of []api.AuditEvent) {
	id := a.header.Get(client.HeaderRequestID)
	for _, e := range c.l.allAudited() {
		if e.RequestID == id && id != "" {
			of = append(of, e)
		}
	}
	return of
}

// TestEveryOperationLeavesOneEvent goes by the OpenAPI document: each operation that changes something leaves one event when it does,
// and one when it is refused; each that reads logs one when it is answered; and each question one when the caller may not ask it. Who
// shows no key is counted.
func TestEveryOperationLeavesOneEvent(t *testing.T) {
	l := mesh(t, func(c *Config) {
		c.LookupTXT = func(context.Context, string) ([]string, error) { return nil, nil }
	})
	h := l.host("spare")
	c := &changer{l, l.rawClient(nil), l.rawClient(h.cert)}
	operations, known := map[string]*huma.Operation{}, routes(l)
	for _, item := range l.s.huma.OpenAPI().Paths {
		for _, o := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if o != nil {
				operations[o.OperationID] = o
				known[o.OperationID] = route{o.Method, o.Path}
			}
		}
	}
	refused(t, c, operations, known)
	strangers(t, c, operations, known)
	changed := map[string]bool{}
	for _, d := range everyChange {
		if operations[d.op] == nil {
			t.Fatalf("there is no operation %s", d.op)
		}
		changed[d.op] = true
		a := c.do(t, known[d.op], d)
		if a.status >= http.StatusBadRequest {
			t.Fatalf("%s: %d %s", d.op, a.status, a.body)
		}
		events := c.eventsOf(a)
		if len(events) != 1 {
			t.Errorf("%s: %d events", d.op, len(events))
			continue
		}
		e := events[0]
		if e.Action != d.op || e.Outcome != api.OutcomeSuccess || e.Actor == "" || e.Role == "" || e.Source != "unix" || e.Resource == "" ||
			len(e.Changes) == 0 && d.op != "verify-domain" { // which looks, and finds what it has found before
			t.Errorf("%s: %+v", d.op, e)
		}
		for _, change := range e.Changes {
			if change.Before == nil && change.After == nil || strings.Contains(string(change.After), `"hash"`) {
				t.Errorf("%s: %+v", d.op, change)
			}
		}
	}
	for id, o := range operations {
		if o.Method != http.MethodGet && !changed[id] && unaudited[id] == "" {
			t.Errorf("%s changes something and is not in everyChange", id)
		}
	}
}

// refused asks for what does not exist, or what an account may not.
func refused(t *testing.T, c *changer, operations map[string]*huma.Operation, known map[string]route) {
	for id, o := range operations {
		d := done{op: id, as: "shop", args: args("nothing", "nothing")}
		if o.RequestBody != nil {
			d.body = "{}"
		}
		byNode := slices.ContainsFunc(o.Security, func(s map[string][]string) bool { return s["nodeCertificate"] != nil })
		if byNode {
			d.as = "node"
		}
		switch id {
		case "leave": // which needs nothing
			d.body = `{"force":"yes"}`
		case "send-flows": // which leaves out what it does not like
			d.body = "nonsense"
		}
		if o.Method == http.MethodGet && (byNode || unaudited[id] != "") {
			continue // a stream that does not end
		}
		r := &c.l.s.repeats
		r.mu.Lock()
		r.single = nil // a caller is asked for more than are events of their own
		r.mu.Unlock()
		a := c.do(t, known[id], d)
		denied := slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound}, a.status)
		want := 0
		switch {
		case slices.Contains(logReads, id) && a.status == http.StatusOK:
			want = 1
		case a.status == http.StatusOK && o.Method == http.MethodGet, unaudited[id] != "" && !denied:
		case a.status < http.StatusBadRequest:
			t.Errorf("%s: %d %s", id, a.status, a.body)
		case o.Method != http.MethodGet || denied:
			want = 1
		}
		events := c.eventsOf(a)
		if len(events) != want {
			t.Errorf("%s, refused: %d events, want %d: %d %s", id, len(events), want, a.status, a.body)
			continue
		}
		if want == 1 && a.status >= http.StatusBadRequest {
			e := events[0]
			if said := a.refusal(t); e.Action != id || e.Outcome != string(said.Code) || e.Message != said.Message || e.Field != said.Field ||
				e.Role == "" {
				t.Errorf("%s: %+v, but the answer was %+v", id, e, said)
			}
		}
	}
}

// strangers asks everything without a key.
func strangers(t *testing.T, c *changer, operations map[string]*huma.Operation, known map[string]route) {
	if err := c.l.s.flushRepeats(c.l.ctx(), true); err != nil {
		t.Fatal(err)
	}
	before := len(c.l.allAudited())
	asked := uint64(0)
	for id, o := range operations {
		if len(o.Security) == 0 {
			continue
		}
		d := done{op: id, args: args("nothing", "nothing")}
		if o.RequestBody != nil {
			d.body = "{}"
		}
		if a := c.do(t, known[id], d); a.status != http.StatusUnauthorized && a.status != http.StatusForbidden {
			t.Errorf("%s without a key: %d", id, a.status)
		}
		asked++
	}
	if err := c.l.s.flushRepeats(c.l.ctx(), true); err != nil {
		t.Fatal(err)
	}
	counted, events := uint64(0), 0
	for _, e := range c.l.allAudited()[before:] {
		if e.Role != api.RoleAnonymous {
			continue
		}
		events++
		counted += max(e.Count, 1)
		if e.Count > 0 && (len(e.Sources) != 1 || len(e.Resources) > 2 || e.Sources[0] != (api.AuditSource{Source: "unix", Count: e.Count})) {
			t.Errorf("%+v", e)
		}
	}
	if counted != asked || events > refusalBurst+2 { // two kinds: no key, no certificate
		t.Errorf("%d events count %d requests, %d were sent", events, counted, asked)
	}
}
