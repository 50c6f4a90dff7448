package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netns"
)

// Ports that a workload is asked at, which are not those that it serves at.
const (
	httpCheckPort  = 7950
	httpsCheckPort = 7951
	grpcCheckPort  = 7952
)

// clinic answers a workload's health checks.
type clinic struct {
	code   atomic.Int32  // of HTTP
	silent atomic.Bool   // to HTTPS
	quit   chan struct{} // ends silence
	grpc   *grpchealth.Server
}

// ill makes it fail each kind of check in another way.
func (c *clinic) ill() {
	c.code.Store(http.StatusOK)
	c.silent.Store(true)
	c.grpc.SetServingStatus("ledger", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
}

func (c *clinic) well() {
	c.code.Store(http.StatusNoContent)
	c.silent.Store(false)
	c.grpc.SetServingStatus("ledger", grpc_health_v1.HealthCheckResponse_SERVING)
}

// examine has a workload answer health checks until the test ends.
func (m *commandMesh) examine(t *testing.T, workload string) *clinic {
	t.Helper()
	c := &clinic{quit: make(chan struct{}), grpc: grpchealth.NewServer()}
	c.well()
	var doors []net.Listener
	if err := netns.Do(netns.Path(commandNS(workload)), func() error {
		for _, port := range []int{httpCheckPort, httpsCheckPort, grpcCheckPort} {
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			doors = append(doors, l)
		}
		return nil
	}); err != nil {
		t.Fatalf("checks of %s: %v", workload, err)
	}
	web := func(door net.Listener, answer http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(answer)
		s.Listener.Close()
		s.Listener = door
		t.Cleanup(s.Close)
		return s
	}
	web(doors[0], func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(int(c.code.Load()))
	}).Start()
	web(doors[1], func(_ http.ResponseWriter, r *http.Request) {
		if c.silent.Load() {
			select {
			case <-c.quit:
			case <-r.Context().Done():
			}
		}
	}).StartTLS()
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, c.grpc)
	served := make(chan error, 1)
	go func() { served <- s.Serve(doors[2]) }()
	t.Cleanup(func() {
		close(c.quit) // before the servers wait for what they answer
		s.Stop()
		<-served
	})
	return c
}

// checkedGroup is a target group with a kind of check, and what it says of a target that fails it.
type checkedGroup struct {
	name, flags string
	port        uint16
	reason      api.TargetReason
	why         string
	keeps       bool // it keeps the flows of an unhealthy target
}

var checkedGroups = []checkedGroup{
	{"http", "--health-protocol HTTP --health-path /healthz --health-matcher 204 --health-port 7950", 7050, api.ReasonResponseCodeMismatch,
		"HTTP status 200, want 204", false},
	{"https", "--health-protocol HTTPS --health-port 7951 --unhealthy-connection-termination=false", 7051, api.ReasonTimeout,
		"no answer in time", true},
	{"grpc", "--health-protocol GRPC --health-path ledger --health-port 7952", 7052, api.ReasonResponseCodeMismatch, "the service says NOT_SERVING", false},
}

// health: targets are asked by each protocol, at a port of their own and with the group's matcher; who fails gets no new flows, loses
// those it has where the group says so, and is used again when it is well. Everybody who may can see why: the owner, events, metrics.
func (m *commandMesh) health(t *testing.T) {
	listeners := ""
	for _, g := range checkedGroups {
		m.run(t, "pay", fmt.Sprintf("target-group create well-%s --vpc pay --port %d --target t1 --target t3 --health-interval 3s %s",
			g.name, g.port, g.flags))
		listeners += fmt.Sprintf(" --listener %d:well-%s", g.port, g.name)
	}
	one := m.examine(t, "t1")
	m.examine(t, "t3")
	m.run(t, "pay", "load-balancer create well --subnet pay-1 --subnet pay-2"+listeners)
	m.run(t, "pay", "service create well --load-balancer well --allow shop")
	for _, g := range checkedGroups {
		m.greet(t, "t1", g.port)
		m.greet(t, "t3", g.port)
	}
	vip := m.connect(t, "shop", "well", "")["z1"]
	for _, g := range checkedGroups {
		m.awaitHealth(t, g, "t1", api.TargetHealthy, "")
		m.awaitHealth(t, g, "t3", api.TargetHealthy, "")
	}
	live := map[string]*talks{}
	for _, g := range checkedGroups {
		at := netip.AddrPortFrom(vip, g.port)
		eventually(t, 30*time.Second, "flows to both targets of "+g.name, func() error { return m.comesTo(at, "t1 t3") })
		if live[g.name] = m.converse(t, "cart", at, 16, false); len(live[g.name].to("t1")) == 0 {
			t.Fatalf("none of 16 connections of %s is with t1", g.name)
		}
	}

	one.ill()
	for _, g := range checkedGroups {
		at := netip.AddrPortFrom(vip, g.port)
		got := m.awaitHealth(t, g, "t1", api.TargetUnhealthy, g.reason)
		if !strings.Contains(got.Description, g.why) {
			t.Errorf("%s: t1 is unhealthy for %s, %q; want %s, %q", g.name, got.Reason, got.Description, g.reason, g.why)
		}
		if len(got.History) == 0 || got.History[0].To != api.TargetUnhealthy || !g.tells(string(got.History[0].Reason)) {
			t.Errorf("%s: its history is %+v", g.name, got.History)
		}
		if text := m.run(t, "pay", "target-group describe well-"+g.name); !strings.Contains(text, string(g.reason)) ||
			!strings.Contains(text, "1 of 2 targets take flows") {
			t.Errorf("%s is described as\n%s", g.name, text)
		}
		eventually(t, 30*time.Second, "no new flow of "+g.name+" to t1", func() error { return m.comesTo(at, "t3") })
		if !g.keeps {
			ends(t, &talks{all: live[g.name].to("t1")}, g.name+": flows of the unhealthy target end")
		}
		but := "t1"
		if g.keeps {
			but = ""
		}
		if err := live[g.name].whole(but); err != nil {
			t.Errorf("%s: flows that were to stay: %v", g.name, err)
		}
		m.healthIsTold(t, g)
	}

	one.well()
	for _, g := range checkedGroups {
		m.awaitHealth(t, g, "t1", api.TargetHealthy, "")
		at := netip.AddrPortFrom(vip, g.port)
		eventually(t, 30*time.Second, "flows of "+g.name+" to t1 again", func() error { return m.comesTo(at, "t1 t3") })
	}
}

// comesTo opens connections and demands the targets that they come to. One that is opened while tables change may be reset.
func (m *commandMesh) comesTo(at netip.AddrPort, want string) error {
	got := map[string]int{}
	for range 24 {
		c, err := m.dial("cart", at, slack*5*time.Second)
		if err != nil {
			return err
		}
		c.Close()
		got[c.target]++
	}
	if whose(got) != want {
		return fmt.Errorf("they come to %v", got)
	}
	return nil
}

// tells whether a text names why a target fails the check: on a busy machine an answer may have been late the first time.
func (g checkedGroup) tells(text string) bool {
	return strings.Contains(text, string(g.reason)) || strings.Contains(text, string(api.ReasonTimeout))
}

// awaitHealth waits for a target's state, and its reason if one is given, and returns what is said of it.
func (m *commandMesh) awaitHealth(t *testing.T, g checkedGroup, target string, state api.TargetState, reason api.TargetReason) (found api.DescribedTarget) {
	t.Helper()
	eventually(t, 60*time.Second, fmt.Sprintf("%s to be %s in %s", target, state, g.name), func() error {
		for _, d := range described[api.TargetGroupHealth](t, m, "pay", "target-group health well-"+g.name).Targets {
			if d.ENIName != target {
				continue
			}
			if found = d; d.State == state && (reason == "" || d.Reason == reason) {
				return nil
			}
			return fmt.Errorf("it is %s: %s %s", d.State, d.Reason, d.Description)
		}
		return errors.New("it is no target")
	})
	return found
}

// healthIsTold waits until events and the server's metrics have what happened to t1.
func (m *commandMesh) healthIsTold(t *testing.T, g checkedGroup) {
	t.Helper()
	group := described[api.TargetGroup](t, m, "pay", "target-group describe well-"+g.name).ID
	eventually(t, 30*time.Second, "an event about t1 of "+g.name, func() error {
		out, err := m.try(t, "pay", "", "audit list --action "+api.ActionTargetHealth+" --resource "+group+" -o json")
		if err == nil && !g.tells(out) {
			err = fmt.Errorf("none for %s in %s", g.reason, out)
		}
		return err
	})
	line := `culvert_target_group_targets\{state="unhealthy",target_group_id="` + group + `"\}`
	eventually(t, 30*time.Second, "the server's metrics of "+g.name, func() error {
		if n := figure(t, commandPrefix+"-server", "7444", line); n != 1 {
			return fmt.Errorf("they have %v unhealthy targets, want 1", n)
		}
		return nil
	})
}
