package controlplane

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/metrics"
)

// figure finds one line of an answer.
func figure(t *testing.T, text, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindStringSubmatch(text)
	if m == nil {
		return "absent"
	}
	return m[1]
}

func TestMetrics(t *testing.T) {
	l := startLab(t, nil)
	scrape := func() string {
		w := httptest.NewRecorder()
		metrics.Handler(l.s.registry()).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	h := l.host("host-m")
	shop, pay := l.as("shop"), l.as("pay")
	consumer, provider := l.network(shop, "shop"), l.network(pay, "pay")
	l.offer(pay, provider.Name, "ledger", "host-m", "shop")
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: consumer.ID, Service: "pay/ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{e.ID}))(t)
	if err := h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id, Revision: 1, Errors: []string{"one", "two"}}); err != nil {
		t.Fatal(err)
	}
	_, err := l.as("shop").GetVPC(l.ctx(), "nothing")
	wantCode(t, err, api.CodeVPCNotFound)
	text := scrape()
	r := l.s.Resources()
	var service *api.Service
	for _, s := range r.Services {
		service = s
	}
	name := r.Accounts[service.Account].Name + "/" + service.Name
	for line, want := range map[string]string{
		`culvert_service_endpoints{service_id="` + service.ID + `",service_name="` + name + `"}`: "1",
		`culvert_endpoints{state="Available"}`:                                                   "1",
		`culvert_node_problems{node="host-m"}`:                                                   "2",
		`culvert_nodes_waiting`:                                                                  "1",
		`culvert_api_requests_total{operation="get-vpc",status="404"}`:                           "1",
		`culvert_api_request_duration_seconds_count{operation="report-status"}`:                  "1",
		`culvert_resources{kind="vpcs"}`:                                                         "2",
	} {
		if got := figure(t, text, line); got != want {
			t.Errorf("%s is %s, want %s", line, got, want)
		}
	}
	for _, secret := range []string{l.adminKey, strings.Split(l.adminKey, ".")[1]} {
		if strings.Contains(text, secret) {
			t.Error("a secret is shown")
		}
	}
}
