package api

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestHealthCheckIsValid(t *testing.T) {
	group := func(change func(*TargetGroup)) *TargetGroup {
		g := &TargetGroup{Meta: meta(KindTargetGroup), VPC: "vpc-" + hex17, Protocol: TCP, Port: 8443, UnhealthyConnectionTermination: true,
			HealthCheck: DefaultHealthCheck(TCP), MinimumHealthyTargets: MinimumHealthy{Count: 1}}
		change(g)
		return g
	}
	check := func(change func(*HealthCheck)) *TargetGroup {
		return group(func(g *TargetGroup) { change(&g.HealthCheck) })
	}
	http := func(path, matcher string) *TargetGroup {
		return check(func(h *HealthCheck) { h.Protocol, h.Path, h.Matcher = HealthHTTP, path, matcher })
	}
	grpc := func(path, matcher string) *TargetGroup {
		return check(func(h *HealthCheck) { h.Protocol, h.Path, h.Matcher = HealthGRPC, path, matcher })
	}
	for name, g := range map[string]*TargetGroup{
		"default": group(func(*TargetGroup) {}), "http": http("/healthz?full=1", "200,204,300-399"),
		"escaped": http("/50%25/a:b?%zz", "200"), "grpc": grpc("ledger.v1.Ledger", "0"),
		"grpc, whole server": grpc("", "0-99"), "port": check(func(h *HealthCheck) { h.Port = "65535" }),
		"draining": group(func(g *TargetGroup) { g.UnhealthyDrainingIntervalSeconds = 360_000 }),
		"slow":     group(func(g *TargetGroup) { g.SlowStartSeconds = 30 }), "half": group(func(g *TargetGroup) { g.MinimumHealthyTargets.Percentage = 50 }),
	} {
		wantCode(t, name, g.Validate(), "")
	}
	for field, bad := range map[string][]*TargetGroup{
		"healthCheck.protocol": {check(func(h *HealthCheck) { h.Protocol = "UDP" }), check(func(h *HealthCheck) { h.Protocol = "" })},
		"healthCheck.port": {check(func(h *HealthCheck) { h.Port = "0" }), check(func(h *HealthCheck) { h.Port = "65536" }),
			check(func(h *HealthCheck) { h.Port = "080" }), check(func(h *HealthCheck) { h.Port = "" })},
		"healthCheck.path": {http("", "200"), http("healthz", "200"), http("/a b", "200"), http("/a\r\nHost: x", "200"), http("/#a", "200"),
			http("/%zz", "200"), http("/50%", "200"), http("//other/", "200"), http("//u@/", "200"),
			http("/"+strings.Repeat("a", 1024), "200"), grpc("/AWS.ALB/healthcheck", "0"), check(func(h *HealthCheck) { h.Path = "/" })},
		"healthCheck.matcher": {http("/", ""), http("/", "199"), http("/", "600"), http("/", "300-200"), http("/", "200;204"), http("/", "200,"),
			http("/", strings.Repeat("200,", 16)+"200"), grpc("", "100"), check(func(h *HealthCheck) { h.Matcher = "200" })},
		"healthCheck.intervalSeconds": {check(func(h *HealthCheck) { h.IntervalSeconds = 0 }), check(func(h *HealthCheck) { h.IntervalSeconds = 301 })},
		"healthCheck.timeoutSeconds": {check(func(h *HealthCheck) { h.TimeoutSeconds = 0 }), check(func(h *HealthCheck) { h.TimeoutSeconds = 11 }),
			check(func(h *HealthCheck) { h.IntervalSeconds, h.TimeoutSeconds = 300, 121 })},
		"healthCheck.healthyThreshold":   {check(func(h *HealthCheck) { h.HealthyThreshold = 1 })},
		"healthCheck.unhealthyThreshold": {check(func(h *HealthCheck) { h.UnhealthyThreshold = 11 })},
		"unhealthyDrainingIntervalSeconds": {group(func(g *TargetGroup) { g.UnhealthyDrainingIntervalSeconds = 360_001 }),
			group(func(g *TargetGroup) { g.UnhealthyConnectionTermination, g.UnhealthyDrainingIntervalSeconds = false, 1 })},
		"slowStartSeconds": {group(func(g *TargetGroup) { g.SlowStartSeconds = 29 }), group(func(g *TargetGroup) { g.SlowStartSeconds = 901 })},
		"minimumHealthyTargets.count": {group(func(g *TargetGroup) { g.MinimumHealthyTargets.Count = 0 }),
			group(func(g *TargetGroup) { g.MinimumHealthyTargets.Count = 1001 })},
		"minimumHealthyTargets.percentage": {group(func(g *TargetGroup) { g.MinimumHealthyTargets.Percentage = 101 })},
	} {
		for _, g := range bad {
			var e *Error
			if err := g.Validate(); !errors.As(err, &e) || e.Field != field || e.Remedy == "" {
				t.Errorf("%+v: %v, want something about %s", g, err, field)
			}
		}
	}
}

func TestHealthCheckCodesAndPorts(t *testing.T) {
	h := HealthCheck{Port: TrafficPort, Matcher: "200-204,301"}
	for code, want := range map[int]bool{199: false, 200: true, 204: true, 205: false, 301: true, 302: false, -1: false} {
		if h.Matches(code) != want {
			t.Errorf("code %d matches %s: %t", code, h.Matcher, !want)
		}
	}
	if h.Matcher = ""; h.Matches(200) || h.Matches(0) {
		t.Error("nothing matches everything")
	}
	if got := h.ProbePort(8443); got != 8443 {
		t.Errorf("traffic port is %d", got)
	}
	if h.Port = "8080"; h.ProbePort(8443) != 8080 {
		t.Errorf("port 8080 is %d", h.ProbePort(8443))
	}
}

// A group that was made before there was health gets the checks of a new one; one of UDP is not asked by a protocol that nobody chose.
func TestGroupsOfBeforeHaveHealth(t *testing.T) {
	for text, enabled := range map[string]bool{`{"protocol":"tcp"}`: true, `{"protocol":"udp"}`: false} {
		var g TargetGroup
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			t.Fatal(err)
		}
		if e := g.validateHealth(); e != nil || g.HealthCheck.Enabled != enabled || !g.UnhealthyConnectionTermination {
			t.Errorf("%s: %+v, %v", text, g, e)
		}
	}
}
