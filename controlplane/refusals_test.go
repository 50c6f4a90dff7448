package controlplane

import (
	"net/http"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
)

// route is a described operation.
type route struct{ method, path string }

// routes lists every operation of the OpenAPI document by id.
func routes(l *lab) map[string]route {
	out := map[string]route{}
	for path, item := range l.s.huma.OpenAPI().Paths {
		for method, o := range map[string]*huma.Operation{http.MethodGet: item.Get, http.MethodPost: item.Post,
			http.MethodPatch: item.Patch, http.MethodDelete: item.Delete} {
			if o != nil {
				out[o.OperationID] = route{method, path}
			}
		}
	}
	return out
}

// fill puts values into a path's parameters, in order, and a query behind it.
func (r route) fill(args ...string) string {
	path := r.path
	for _, a := range args {
		if strings.HasPrefix(a, "?") {
			return path + a
		}
		open, rest, more := strings.Cut(path, "{")
		if !more {
			break
		}
		_, rest, _ = strings.Cut(rest, "}")
		path = open + a + rest
	}
	return path
}

// Well-formed ids of nothing.
const (
	noVPC      = "vpc-00000000000000000"
	noSubnet   = "subnet-00000000000000000"
	noENI      = "eni-00000000000000000"
	noGroup    = "sg-00000000000000000"
	noTargets  = "tg-00000000000000000"
	noBalancer = "lb-00000000000000000"
	noService  = "vpce-svc-00000000000000000"
	noEndpoint = "vpce-00000000000000000"
	noNode     = "node-00000000000000000"
	noListener = "listener-00000000000000000"
)

// bad is a request that must be refused. As whom: an account's name, "admin", "node" or "".
type bad struct {
	op, as string
	args   []string
	body   string
	code   api.ErrorCode
	field  string
}

func args(a ...string) []string { return a }

// crowded is a lab with one of everything: shop uses the service ledger of pay, whose node is host-a.
func crowded(t testing.TB) (*lab, *host) {
	l := startLab(t, nil)
	h := l.host("host-a")
	l.host("host-b")
	shop, pay := l.as("shop"), l.as("pay")
	l.as("stranger")
	l.network(shop, "shop")
	l.network(shop, "shop2")
	l.network(pay, "pay")
	must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Name: "cart", Node: "host-a"}))(t)
	l.offer(pay, "pay", "ledger", "host-b", "shop")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger",
		PrivateDNSEnabled: true}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	must(pay.CreateTargetGroup(l.ctx(), api.CreateTargetGroupRequest{VPC: "pay", Name: "dns", Protocol: api.UDP, Port: 53}))(t)
	must(pay.CreateSecurityGroup(l.ctx(), api.CreateSecurityGroupRequest{VPC: "pay", Name: "web"}))(t)
	must(pay.AuthorizeIngress(l.ctx(), "web", []api.RuleRequest{{Protocol: api.TCP, FromPort: 1, ToPort: 2,
		CIDR: prefix("10.0.0.0/8")}}))(t)
	return l, h
}

func TestEveryRouteRefusesBadInput(t *testing.T) {
	l, h := crowded(t)
	known := routes(l)
	user, machine := l.rawClient(nil), l.rawClient(h.cert)
	covered := map[string]bool{}
	for _, cases := range [][]bad{badAccounts, badNetworks, badBalancing(l), badServices(l), badEndpoints, badDNS(l), badFlowLogs(l), badNodes(h), badReads,
		badEvidence} {
		for _, b := range cases {
			r, ok := known[b.op]
			if !ok {
				t.Fatalf("there is no operation %q", b.op)
			}
			covered[b.op] = true
			path := r.fill(b.args...)
			t.Run(b.op+" "+path+" "+b.body[:min(len(b.body), 40)], func(t *testing.T) {
				before := l.s.Resources()
				var a *answer
				switch b.as {
				case "node":
					a = machine.do(r.method, path, "", b.body)
				case "admin":
					a = user.do(r.method, path, l.adminKey, b.body)
				default:
					a = user.do(r.method, path, l.keys[b.as], b.body)
				}
				e := a.refusal(t)
				if e.Code != b.code || e.Field != b.field {
					t.Errorf("got %v\nwant the code %s and the field %q", e, b.code, b.field)
				}
				if e.Message == "" || e.Remedy == "" {
					t.Errorf("a sentence is missing: message %q, remedy %q", e.Message, e.Remedy)
				}
				if l.s.Resources() != before {
					t.Error("something changed")
				}
			})
		}
	}
	for op := range known {
		if !covered[op] && !noInput[op] {
			t.Errorf("%s: no bad input is tried", op)
		}
	}
}

// noInput: operations without input to get wrong; their keys are tried in TestEveryRouteAsksWho.
var noInput = map[string]bool{"get-daily-reports": true, "get-log-key": true, "get-retention": true, "get-legal-holds": true,
	"list-accounts": true, "list-api-keys": true, "list-tokens": true, "list-vpcs": true,
	"list-services": true, "list-domains": true, "list-hosted-zones": true, "list-resolver-rules": true,
	"list-firewall-rule-groups": true, "list-firewall-domain-lists": true,
	"list-flow-logs": true, "list-query-logs": true,
	"list-catalogue": true, "list-nodes": true, "get-status": true, "stream-view": true}

func TestEveryRouteAsksWho(t *testing.T) {
	l, h := crowded(t)
	nobody, machine := l.rawClient(nil), l.rawClient(h.cert)
	for op, r := range routes(l) {
		path := r.fill("x", "y")
		forNodes := strings.HasPrefix(r.path, "/v1/node/")
		if op == "join" {
			continue // anyone may, who has a token
		}
		t.Run(op, func(t *testing.T) {
			code := api.CodeAuthFailure
			if forNodes {
				code = api.CodeCertificateInvalid
			}
			for _, key := range []string{"", "key-00000000000000000.xxxx", "nonsense", l.adminKey + "x"} {
				if forNodes && key != "" {
					continue
				}
				if e := nobody.do(r.method, path, key, "{}").refusal(t); e.Code != code || e.Remedy == "" {
					t.Errorf("with the key %q: %v", key, e)
				}
			}
			if forNodes { // a user is no node
				if e := nobody.do(r.method, path, l.adminKey, "{}").refusal(t); e.Code != code {
					t.Errorf("administrator: %v", e)
				}
			} else if e := machine.do(r.method, path, "", "{}").refusal(t); e.Code != code { // and a node no user
				t.Errorf("node: %v", e)
			}
		})
	}
}

func TestOnlyAdministrators(t *testing.T) {
	l, _ := crowded(t)
	user := l.rawClient(nil)
	before := l.s.Resources()
	for op, r := range routes(l) {
		switch op {
		case "create-account", "delete-account", "add-domain", "remove-domain", "create-api-key", "delete-api-key", "create-token",
			"list-tokens", "delete-token", "drain-node", "undrain-node", "revoke-node", "delete-node":
			if e := user.do(r.method, r.fill("host-a", "y"), l.keys["shop"], "{}").refusal(t); e.Code != api.CodeUnauthorized {
				t.Errorf("%s: %v", op, e)
			}
		}
	}
	if l.s.Resources() != before {
		t.Error("something changed")
	}
}

func TestStrangeRequests(t *testing.T) {
	l, _ := crowded(t)
	user := l.rawClient(nil)
	key := l.keys["shop"]
	for name, c := range map[string]struct {
		a     *answer
		code  api.ErrorCode
		field string
	}{
		"no such route":  {user.do("GET", "/v1/nothing", key, ""), api.CodeRouteNotFound, ""},
		"no such method": {user.do("PUT", "/v1/vpcs", key, "{}"), api.CodeRouteNotFound, ""},
		"no body":        {user.do("POST", "/v1/vpcs", key, ""), api.CodeInvalidParameter, "body"},
		"no JSON":        {user.do("POST", "/v1/vpcs", key, "{"), api.CodeInvalidParameter, "body"},
		"no object":      {user.do("POST", "/v1/vpcs", key, "[]"), api.CodeInvalidParameter, "body"},
		"too large":      {user.do("POST", "/v1/vpcs", key, strings.Repeat(" ", maxBody+1)), api.CodeRequestTooLarge, "body"},
		"a type not known": {user.do("POST", "/v1/vpcs", key, "{}", "Content-Type", "text/csv"), api.CodeInvalidParameter,
			"Content-Type"},
		"an unknown property": {user.do("POST", "/v1/vpcs", key, `{"cidr":"10.0.0.0/16","colour":1}`), api.CodeInvalidParameter,
			"colour"},
		"an unknown query":  {user.do("DELETE", "/v1/vpcs/shop?dryrun=true", key, ""), api.CodeInvalidParameter, "dryrun"},
		"dry run of what?":  {user.do("DELETE", "/v1/vpcs/shop?dryRun=yes", key, ""), api.CodeInvalidParameter, "dryRun"},
		"another's account": {user.do("GET", "/v1/vpcs", key, "", "Culvert-Account", "pay"), api.CodeAccountNotFound, "account"},
		"no account": {user.do("GET", "/v1/vpcs", l.adminKey, "", "Culvert-Account", "nobody"), api.CodeAccountNotFound,
			"account"},
		"a long repeat key": {user.do("POST", "/v1/vpcs", key, `{"cidr":"10.0.0.0/16"}`, "Idempotency-Key", strings.Repeat("x", 200)),
			api.CodeInvalidParameter, "Idempotency-Key"},
		"an administrator for nobody": {user.do("POST", "/v1/vpcs", l.adminKey, `{"cidr":"10.0.0.0/16"}`), api.CodeMissingParameter,
			"account"},
	} {
		e := c.a.refusal(t)
		if e.Code != c.code || e.Field != c.field || e.Remedy == "" {
			t.Errorf("%s: got %v, want the code %s and the field %q", name, e, c.code, c.field)
		}
	}
}
