package controlplane

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// whole is a picture as text, without the revision.
func whole(r *api.Resources) string {
	n := *r
	n.Revision = 0
	text, err := json.Marshal(n)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// mention is a way to name a resource in a request: REF stands for it.
type mention struct {
	op   string
	args []string
	body string
}

// mentions are the places of requests that take a reference to something owned, by the kind of that.
var mentions = map[api.Kind][]mention{
	api.KindAccount: {{"get-account", args("REF"), ""}},
	api.KindVPC: {
		{"get-vpc", args("REF"), ""}, {"modify-vpc", args("REF"), `{}`}, {"delete-vpc", args("REF"), ""},
		{"create-subnet", nil, `{"vpcId":"REF","cidr":"10.0.9.0/24","zone":"a"}`}, {"list-subnets", args("?vpc=REF"), ""},
		{"list-enis", args("?vpc=REF"), ""}, {"create-security-group", nil, `{"vpcId":"REF","name":"x"}`},
		{"list-security-groups", args("?vpc=REF"), ""}, {"create-target-group", nil, `{"vpcId":"REF","protocol":"tcp","port":1}`},
		{"list-target-groups", args("?vpc=REF"), ""}, {"create-load-balancer", nil, `{"vpcId":"REF"}`},
		{"list-load-balancers", args("?vpc=REF"), ""}, {"create-endpoint", nil, `{"vpcId":"REF","service":"pay/ledger"}`},
		{"list-endpoints", args("?vpc=REF"), ""}, {"create-hosted-zone", nil, `{"domainName":"x.internal","vpcIds":["REF"]}`},
		{"create-firewall-rule-group", nil, `{"name":"x","vpcIds":["REF"]}`},
		{"create-flow-log", nil, `{"name":"x","resourceType":"vpc","resourceId":"REF"}`},
		{"create-query-log", nil, `{"name":"x","vpcIds":["REF"]}`},
		{"create-resolver-rule", nil, `{"domainName":"x.example.com","forwarders":["tls://9.9.9.9"],"vpcIds":["REF"]}`},
	},
	api.KindSubnet: {
		{"create-flow-log", nil, `{"name":"x","resourceType":"subnet","resourceId":"REF"}`},
		{"get-subnet", args("REF"), ""}, {"delete-subnet", args("REF"), ""}, {"create-eni", nil, `{"subnetId":"REF"}`},
		{"create-load-balancer", nil, `{"subnetIds":["REF"]}`},
		{"create-endpoint", nil, `{"vpcId":"shop","service":"pay/ledger","subnetIds":["REF"]}`},
		{"create-endpoint", nil, `{"vpcId":"shop","service":"pay/ledger","addresses":{"REF":"10.0.1.99"}}`},
	},
	api.KindENI: {
		{"create-flow-log", nil, `{"name":"x","resourceType":"eni","resourceId":"REF"}`},
		{"get-eni", args("REF"), ""}, {"modify-eni", args("REF"), `{}`}, {"delete-eni", args("REF"), ""},
		{"create-target-group", nil, `{"vpcId":"shop","protocol":"tcp","port":1,"targets":[{"eniId":"REF"}]}`},
		{"query-flows", args("?eni=REF"), ""}, {"query-dns", args("?eni=REF"), ""},
		{"explain-flow", args("?to=10.0.0.9&from=REF"), ""},
	},
	api.KindSecurityGroup: {
		{"get-security-group", args("REF"), ""}, {"delete-security-group", args("REF"), ""},
		{"authorize-ingress", args("REF"), `{"rules":[]}`}, {"authorize-egress", args("REF"), `{"rules":[]}`},
		{"revoke-rule", args("REF", "sgr-00000000000000000"), ""},
		{"create-eni", nil, `{"subnetId":"shop-a","securityGroupIds":["REF"]}`},
		{"create-endpoint", nil, `{"vpcId":"shop","service":"pay/ledger","securityGroupIds":["REF"]}`},
		{"create-load-balancer", nil, `{"vpcId":"shop","securityGroupIds":["REF"]}`},
	},
	api.KindTargetGroup: {
		{"get-target-group", args("REF"), ""}, {"delete-target-group", args("REF"), ""}, {"register-targets", args("REF"), `{"targets":[]}`},
		{"deregister-targets", args("REF"), `{"targets":[]}`},
		{"create-load-balancer", nil, `{"vpcId":"shop","listeners":[{"protocol":"tcp","port":1,"targetGroupId":"REF"}]}`},
	},
	api.KindLoadBalancer: {
		{"get-load-balancer", args("REF"), ""}, {"delete-load-balancer", args("REF"), ""},
		{"create-listener", args("REF"), `{"protocol":"tcp","port":1,"targetGroupId":"x"}`},
		{"delete-listener", args("REF", noListener), ""}, {"create-service", nil, `{"name":"x","loadBalancerIds":["REF"]}`},
	},
	api.KindService: {
		{"get-service", args("REF"), ""}, {"get-service-targets", args("REF"), ""},
		{"modify-service", args("REF"), `{}`}, {"delete-service", args("REF"), ""},
		{"allow-principals", args("REF"), `{"principals":["*"]}`}, {"disallow-principals", args("REF"), `{"principals":["*"]}`},
		{"list-connections", args("REF"), ""}, {"accept-connections", args("REF"), `{"endpointIds":["x"]}`},
		{"reject-connections", args("REF"), `{"endpointIds":["x"]}`}, {"modify-connections", args("REF"), `{"endpointIds":["x"]}`},
		{"create-endpoint", nil, `{"vpcId":"shop","service":"REF"}`}, {"create-endpoint", nil, `{"vpcId":"shop","service":"pay/REF"}`},
	},
	api.KindEndpoint: {
		{"get-endpoint", args("REF"), ""}, {"get-endpoint", args("REF", "?waitSeconds=0"), ""}, {"modify-endpoint", args("REF"), `{}`},
		{"delete-endpoint", args("REF"), ""},
		{"accept-connections", args("offer"), `{"endpointIds":["REF"]}`}, {"reject-connections", args("offer"), `{"endpointIds":["REF"]}`},
		{"modify-connections", args("offer"), `{"endpointIds":["REF"]}`},
	},
	api.KindDomain: {{"get-domain", args("REF"), ""}, {"verify-domain", args("REF"), ""}, {"delete-domain", args("REF"), ""}},
	api.KindHostedZone: {
		{"get-hosted-zone", args("REF"), ""}, {"delete-hosted-zone", args("REF"), ""}, {"change-records", args("REF"), `{"remove":[{"name":"@","type":"A"}]}`},
		{"associate-hosted-zone", args("REF"), `{"vpcIds":["shop"]}`}, {"disassociate-hosted-zone", args("REF"), `{"vpcIds":["shop"]}`},
	},
	api.KindResolverRule: {
		{"get-resolver-rule", args("REF"), ""}, {"delete-resolver-rule", args("REF"), ""}, {"modify-resolver-rule", args("REF"), `{}`},
		{"associate-resolver-rule", args("REF"), `{"vpcIds":["shop"]}`}, {"disassociate-resolver-rule", args("REF"), `{"vpcIds":["shop"]}`},
	},
	api.KindFlowLog: {
		{"get-flow-log", args("REF"), ""}, {"delete-flow-log", args("REF"), ""}, {"modify-flow-log", args("REF"), `{}`},
	},
	api.KindFirewallRuleGroup: {
		{"get-firewall-rule-group", args("REF"), ""}, {"delete-firewall-rule-group", args("REF"), ""},
		{"change-firewall-rules", args("REF"), `{"remove":[1]}`}, {"associate-firewall-rule-group", args("REF"), `{"vpcIds":["shop"]}`},
		{"disassociate-firewall-rule-group", args("REF"), `{"vpcIds":["shop"]}`},
	},
	api.KindFirewallDomainList: {
		{"get-firewall-domain-list", args("REF"), ""}, {"delete-firewall-domain-list", args("REF"), ""},
		{"change-firewall-domains", args("REF"), `{"operation":"ADD","domains":["b.test"]}`},
		{"change-firewall-rules", args("mine"), `{"put":[{"priority":1,"action":"ALLOW","domainListId":"REF"}]}`},
	},
	api.KindQueryLog: {
		{"get-query-log", args("REF"), ""}, {"delete-query-log", args("REF"), ""},
		{"associate-query-log", args("REF"), `{"vpcIds":["shop"]}`}, {"disassociate-query-log", args("REF"), `{"vpcIds":["shop"]}`},
	},
	api.KindConnection: {{"accept-connections", args("offer"), `{"endpointIds":["REF"]}`}},
}

// TestWhatIsNotYoursIsNotThere: an object of another account answers like one that does not exist, byte for byte.
func TestWhatIsNotYoursIsNotThere(t *testing.T) {
	l := mesh(t, func(c *Config) { c.LookupTXT = new(txt).lookup })
	pay := l.as("pay")
	l.offerFrom("shop", "offer")
	// What the provider hides from shop: a service that does not allow it, with an endpoint of its own.
	must(pay.CreateService(l.ctx(), api.CreateServiceRequest{Name: "secret", LoadBalancers: []string{"ledger"}}))(t)
	must(pay.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "pay", Service: "pay/secret", Name: "secret"}))(t)
	must(pay.CreateSecurityGroup(l.ctx(), api.CreateSecurityGroupRequest{VPC: "pay", Name: "secret"}))(t)
	must(pay.CreateHostedZone(l.ctx(), api.CreateHostedZoneRequest{Domain: "secret.internal", VPCs: []string{"pay"}}))(t)
	must(pay.CreateResolverRule(l.ctx(), api.CreateResolverRuleRequest{Domain: "secret.example.com", VPCs: []string{"pay"},
		Forwarders: []string{"tls://9.9.9.9"}}))(t)
	must(pay.CreateFlowLog(l.ctx(), api.CreateFlowLogRequest{Name: "secret", ResourceType: api.FlowLogVPC, Resource: "pay"}))(t)
	must(pay.CreateFirewallRuleGroup(l.ctx(), api.CreateFirewallRuleGroupRequest{Name: "secret", VPCs: []string{"pay"}}))(t)
	must(pay.CreateFirewallDomainList(l.ctx(), api.CreateFirewallDomainListRequest{Name: "secret"}))(t)
	must(l.as("shop").CreateFirewallRuleGroup(l.ctx(), api.CreateFirewallRuleGroupRequest{Name: "mine"}))(t)
	must(pay.CreateQueryLog(l.ctx(), api.CreateQueryLogRequest{Name: "secret", VPCs: []string{"pay"}}))(t)
	must(pay.CreateDomain(l.ctx(), api.CreateDomainRequest{Domain: "secret.example"}))(t)
	r := l.s.Resources()
	hidden := map[api.Kind]api.Resource{
		api.KindAccount: r.Accounts[l.account("pay")], api.KindVPC: find1(r.VPCs, "pay"), api.KindSubnet: find1(r.Subnets, "pay-a"),
		api.KindENI: find1(r.ENIs, "ledger"), api.KindSecurityGroup: find1(r.SecurityGroups, "secret"),
		api.KindTargetGroup: find1(r.TargetGroups, "ledger"), api.KindLoadBalancer: find1(r.LoadBalancers, "ledger"),
		api.KindService: find1(r.Services, "secret"), api.KindEndpoint: find1(r.Endpoints, "secret"),
		api.KindConnection: find1(r.Connections, "secret"), api.KindDomain: find1(r.Domains, "secret.example"),
		api.KindHostedZone: find1(r.HostedZones, "secret.internal"), api.KindResolverRule: find1(r.ResolverRules, "secret.example.com"),
		api.KindFlowLog:            find1(r.FlowLogs, "secret"),
		api.KindFirewallDomainList: find1(r.FirewallDomainLists, "secret"),
		api.KindFirewallRuleGroup:  find1(r.FirewallRuleGroups, "secret"), api.KindQueryLog: find1(r.QueryLogs, "secret"),
	}
	known, user, key := routes(l), l.rawClient(nil), l.keys["shop"]
	tried := 0
	for _, kind := range slices.Sorted(maps.Keys(mentions)) {
		res := hidden[kind].GetMeta()
		absent := res.ID[:len(res.ID)-1] + map[bool]string{true: "1", false: "0"}[strings.HasSuffix(res.ID, "0")]
		for _, m := range mentions[kind] {
			for _, pair := range [][2]string{{res.ID, absent}, {res.Name, "nothing"}} {
				ask := func(ref string) *answer {
					var filled []string
					for _, a := range m.args {
						filled = append(filled, strings.ReplaceAll(a, "REF", ref))
					}
					rt := known[m.op]
					return user.do(rt.method, rt.fill(filled...), key, strings.ReplaceAll(m.body, "REF", ref))
				}
				var there, gone *answer
				changed := true
				for tries := 0; changed && tries < 3; tries++ { // the server does things of its own, too
					before := l.s.Resources()
					there, gone = ask(pair[0]), ask(pair[1])
					changed = l.s.Resources() != before
				}
				if changed {
					t.Errorf("%s %v %s: something changed", m.op, m.args, m.body)
				}
				a, b := strings.ReplaceAll(there.withoutID(), pair[0], "REF"), strings.ReplaceAll(gone.withoutID(), pair[1], "REF")
				refused := there.status >= 400 || m.op == "query-flows" || m.op == "query-dns" // which find nothing by an id
				if !refused || there.status != gone.status || a != b {
					t.Errorf("%s %v %s:\n %d %s\n %d %s", m.op, m.args, m.body, there.status, a, gone.status, b)
				}
				if x, y := headersOf(there), headersOf(gone); x != y {
					t.Errorf("%s %v: headers %s and %s", m.op, m.args, x, y)
				}
				tried++
			}
		}
	}
	if tried < 100 {
		t.Errorf("only %d pairs were compared", tried)
	}
}

func headersOf(a *answer) string {
	h := a.header.Clone()
	for _, name := range []string{"Date", "Content-Length", client.HeaderRequestID} {
		h.Del(name)
	}
	return fmt.Sprint(h)
}

// offerFrom makes a service without targets.
func (l *lab) offerFrom(account, name string) {
	l.t.Helper()
	c := l.as(account)
	must(c.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: account, Name: name}))(l.t)
	must(c.CreateService(l.ctx(), api.CreateServiceRequest{Name: name, LoadBalancers: []string{name}}))(l.t)
}

func TestListsHoldOnesOwn(t *testing.T) {
	l, _ := crowded(t)
	user := l.rawClient(nil)
	secrets := []string{l.account("pay"), find1(l.s.Resources().VPCs, "pay").ID, find1(l.s.Resources().Services, "ledger").ID}
	for op, r := range routes(l) {
		if !strings.HasPrefix(op, "list-") || op == "list-tokens" || op == "list-catalogue" || op == "list-connections" {
			continue
		}
		a := user.do(r.method, r.path, l.keys["stranger"], "")
		if a.status != 200 {
			t.Errorf("%s: %d %s", op, a.status, a.body)
		}
		for _, s := range secrets {
			if strings.Contains(string(a.body), s) {
				t.Errorf("%s tells the stranger %s", op, s)
			}
		}
	}
	// Secrets' hashes leave the server for nobody.
	for _, op := range []string{"list-api-keys", "list-tokens"} {
		a := user.do("GET", routes(l)[op].path, l.adminKey, "")
		if strings.Contains(string(a.body), "hash") {
			t.Errorf("%s: %s", op, a.body)
		}
	}
}

func TestAdministratorActsForAnAccount(t *testing.T) {
	l := startLab(t, nil)
	l.as("shop")
	for_ := l.client(l.adminKey, "shop")
	v := must(for_.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "x", CIDR: prefix("10.0.0.0/16")}))(t)
	if v.Account != l.account("shop") {
		t.Errorf("it belongs to %s", v.Account)
	}
	if all := must(l.admin().ListVPCs(l.ctx()))(t); len(all) != 1 {
		t.Errorf("the administrator sees %v", all)
	}
	if own := must(l.client(l.adminKey, l.account("shop")).ListVPCs(l.ctx()))(t); len(own) != 1 {
		t.Errorf("%v", own)
	}
	must(l.admin().DeleteVPC(l.ctx(), v.ID))(t)
}

func TestDeletedKeyIsRefused(t *testing.T) {
	l := startLab(t, nil)
	shop := l.as("shop")
	must(shop.ListVPCs(l.ctx()))(t)
	id, _, _ := strings.Cut(l.keys["shop"], ".")
	if k := find2(must(l.admin().ListAPIKeys(l.ctx()))(t), id); k.LastUsed.IsZero() || k.Hash != "" {
		t.Errorf("%+v", k)
	}
	must(l.admin().DeleteAPIKey(l.ctx(), id))(t)
	_, err := shop.ListVPCs(l.ctx())
	wantCode(t, err, api.CodeAuthFailure)
}

func find2(keys []api.APIKey, id string) (found api.APIKey) {
	for _, k := range keys {
		if k.ID == id {
			found = k
		}
	}
	return found
}

func TestRepeatedRequest(t *testing.T) {
	l := mesh(t, nil)
	shop := l.as("shop")
	r := api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}
	first := must(shop.CreateEndpoint(l.ctx(), r, client.WithIdempotencyKey("once")))(t)
	must(l.as("pay").AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	before := l.s.Resources()
	again := must(shop.CreateEndpoint(l.ctx(), r, client.WithIdempotencyKey("once")))(t)
	if again.ID != first.ID || again.State != first.State || again.Revision <= first.Revision || l.s.Resources() != before {
		t.Errorf("first %+v\nthen %+v", first, again)
	}
	r.Name = "other"
	_, err := shop.CreateEndpoint(l.ctx(), r, client.WithIdempotencyKey("once"))
	wantCode(t, err, api.CodeIdempotentMismatch)
	// The key is the caller's: another's is another.
	must(l.as("pay").CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}, client.WithIdempotencyKey("once")))(t)
	// What holds a secret is never kept.
	_, err = l.admin().CreateToken(l.ctx(), api.CreateTokenRequest{}, client.WithIdempotencyKey("t"))
	wantCode(t, err, api.CodeSecretNotReplayable)
	// A refusal is not kept: the next attempt is a new one.
	_, err = shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("8.0.0.0/16")}, client.WithIdempotencyKey("v"))
	wantCode(t, err, api.CodeVPCRange)
	must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}, client.WithIdempotencyKey("v")))(t)
}

func TestRepeatedAtOnce(t *testing.T) {
	l := startLab(t, nil)
	shop := l.as("shop")
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			v, err := shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}, client.WithIdempotencyKey("k"))
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = v.ID
		})
	}
	wg.Wait()
	if slices.Sort(ids); len(slices.Compact(ids)) != 1 || len(l.s.Resources().VPCs) != 1 {
		t.Errorf("made %d VPCs, answered %v", len(l.s.Resources().VPCs), ids)
	}
}

// TestDryRun: every mutation of a story, tried first, answers as it will and changes nothing; the audit log
// has only what was refused.
func TestDryRun(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, admin := l.as("shop"), l.as("pay"), l.admin()
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "first"}))(t)
	events := len(l.audited())
	before, dry := l.s.Resources(), client.WithDryRun()
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}, dry))(t)
	if len(e.ENIs) != 2 || e.State != api.PendingAcceptance {
		t.Errorf("%+v", e)
	}
	cons := must(pay.AcceptConnections(l.ctx(), "ledger", []string{"first"}, dry))(t)
	if cons[0].State != api.Available {
		t.Errorf("%+v", cons[0])
	}
	must(shop.DeleteEndpoint(l.ctx(), "first", dry))(t)
	must(admin.RevokeNode(l.ctx(), "host-a", dry))(t)
	must(admin.CreateToken(l.ctx(), api.CreateTokenRequest{}, dry))(t)
	must(pay.CreateListener(l.ctx(), "ledger", api.ListenerRequest{Protocol: api.TCP, Port: 80, TargetGroup: "ledger"}, dry))(t)
	_, err := pay.DeleteLoadBalancer(l.ctx(), "ledger", dry)
	wantCode(t, err, api.CodeDependencyViolation)
	if l.s.Resources() != before {
		t.Error("something changed")
	}
	// Of what was refused there is an event all the same: who tries what he may not is no less of a stranger for it.
	if told := l.audited()[events:]; len(told) != 1 || told[0].Action != "delete-load-balancer" || !strings.HasPrefix(told[0].Message, "dry run: ") ||
		told[0].Outcome != string(api.CodeDependencyViolation) {
		t.Errorf("audit events of dry runs: %+v", told)
	}
	a := l.rawClient(nil).do("POST", "/v1/vpcs?dryRun=true", l.keys["shop"], `{"cidr":"10.0.0.0/16"}`)
	if a.status != 200 || a.header.Get(client.HeaderDryRun) != "true" {
		t.Errorf("%d %v", a.status, a.header)
	}
}
