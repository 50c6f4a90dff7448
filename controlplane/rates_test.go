package controlplane

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
)

func TestAKeyMayAskSoOften(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	l := startLab(t, func(c *Config) { c.unlimited, c.Now = false, func() time.Time { return *now.Load() } })
	l.as("shop")
	l.as("pay")
	user := l.rawClient(nil)
	ask := func(method, who string) *answer { return user.do(method, "/v1/vpcs/nothing", l.keys[who], "") }
	spend := func(method, who string, n int) {
		t.Helper()
		for i := range n {
			if a := ask(method, who); a.status != http.StatusNotFound {
				t.Fatalf("%s %d: %d %s", method, i, a.status, a.body)
			}
		}
	}
	refused := func(method, who string) {
		t.Helper()
		a := ask(method, who)
		e := a.refusal(t)
		if wait, err := strconv.Atoi(a.header.Get("Retry-After")); e.Code != api.CodeRequestLimit || e.Remedy == "" || err != nil || wait != 1 {
			t.Errorf("got %v, wait %q", e, a.header.Get("Retry-After"))
		}
	}
	spend("DELETE", "shop", api.WriteBurst)
	refused("DELETE", "shop")
	// Reading is another thing, and so are others; administrators may always.
	spend("GET", "shop", api.ReadBurst)
	refused("GET", "shop")
	spend("DELETE", "pay", 1)
	for range api.ReadBurst + 1 {
		if a := user.do("GET", "/v1/vpcs/nothing", l.adminKey, ""); a.status != http.StatusNotFound {
			t.Fatalf("an administrator: %d %s", a.status, a.body)
		}
	}
	// What no key may do is bounded with the rest.
	if e := user.do("POST", "/v1/accounts", l.keys["shop"], `{}`).refusal(t); e.Code != api.CodeRequestLimit {
		t.Errorf("%v", e)
	}
	later := at.Add(time.Second)
	now.Store(&later)
	spend("DELETE", "shop", api.WritesPerSecond)
	spend("GET", "shop", api.ReadsPerSecond)
	refused("DELETE", "shop")
	if err := l.s.flushRepeats(l.ctx(), true); err != nil {
		t.Fatal(err)
	}
	limited := map[string]uint64{}
	for _, e := range l.audited() {
		if e.Outcome == string(api.CodeRequestLimit) {
			limited[e.Action] += max(e.Count, 1)
		}
	}
	if len(limited) != 2 || limited["delete-vpc"] < 2 || limited["create-account"] != 1 {
		t.Errorf("of who asked too often: %v", limited)
	}
}

func TestANodeMayRenewSoOften(t *testing.T) {
	l := startLab(t, func(c *Config) { c.unlimited = false })
	h := l.host("host-a")
	machine := l.rawClient(h.cert)
	var e *api.Error
	for range 2 * api.WriteBurst {
		if a := machine.do("POST", "/v1/node/renew", "", `{"csr":"AA=="}`); a.status == http.StatusTooManyRequests {
			e = a.refusal(t)
			break
		}
	}
	if e == nil {
		t.Error("a node fills the audit log as fast as it can")
	}
}

// linesWith counts what is logged that has a text in it.
type linesWith struct {
	text string
	n    atomic.Int64
}

func (w *linesWith) Write(line []byte) (int, error) {
	if strings.Contains(string(line), w.text) {
		w.n.Add(1)
	}
	return len(line), nil
}

// Whoever has an old certificate of a node neither uses up what the node may ask nor fills the log.
func TestAReplacedCertificateDoesNotShutTheNodeOut(t *testing.T) {
	logged := &linesWith{text: "level=WARN"}
	now := time.Now()
	l := startLab(t, func(c *Config) {
		c.unlimited, c.Tick, c.Log = false, 10*time.Millisecond, slog.New(slog.NewTextHandler(logged, nil))
		c.Now = func() time.Time { return now } // so that no bucket fills meanwhile
	})
	first := l.host("host-a")
	second := l.renewed(first)
	status := func() error { return second.ReportStatus(l.ctx(), api.NodeStatus{Node: second.id}) }
	if err := status(); err != nil { // which retires the first certificate
		t.Fatal(err)
	}
	thief, node := l.rawClient(first.cert), l.rawClient(second.cert)
	for _, path := range []string{"/v1/node/status", "/v1/node/renew"} {
		limited := false
		for range 2 * api.ReadBurst {
			a := thief.do("POST", path, "", `{"csr":"AA=="}`)
			if a.status == http.StatusOK {
				t.Fatalf("%s: %s", path, a.body)
			}
			limited = limited || a.status == http.StatusTooManyRequests
		}
		if !limited {
			t.Errorf("%s: no end to what an old certificate may ask", path)
		}
		if a := node.do("POST", path, "", `{"csr":"AA=="}`); a.status == http.StatusTooManyRequests {
			t.Errorf("%s: the node is shut out: %s", path, a.body)
		}
	}
	l.eventually("the log to tell", func() bool { return logged.n.Load() > 0 })
	if n := logged.n.Load(); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

// The client waits as it is told.
func TestTheClientComesAgain(t *testing.T) {
	l := startLab(t, func(c *Config) { c.unlimited = false })
	shop := l.as("shop")
	id, _, _ := strings.Cut(l.keys["shop"], ".")
	const tries = 20 // where the machine stands still in between, a call finds a token
	for range tries {
		for l.s.rates.wait(id, true, time.Now()) == 0 {
		}
		start := time.Now()
		must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
		if time.Since(start) >= time.Second/2 {
			return
		}
	}
	t.Errorf("%d calls did not wait", tries)
}

func TestBucketsAreForgotten(t *testing.T) {
	var r rates
	now := time.Now()
	for i := range 10 {
		r.wait(fmt.Sprint(i), true, now.Add(time.Duration(i)*time.Second))
	}
	r.forget(now.Add(forgetAskers))
	if len(r.ask) != 9 {
		t.Errorf("%d left", len(r.ask))
	}
}

func TestAnswersOfAKeyAreBounded(t *testing.T) {
	l := startLab(t, nil)
	shop := l.as("shop")
	create := func(key string) error {
		_, err := shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}, client.WithIdempotencyKey(key))
		return err
	}
	if err := create("first"); err != nil {
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(l.keys["shop"], ".")
	l.s.answers.mu.Lock()
	have := l.s.answers.kept[id]
	l.s.answers.mu.Unlock()
	kvs := must(l.s.store.List(l.ctx(), store.PrefixIdempotency+id+"/", "", 10))(t)
	if len(kvs) != 1 || have != (keptAnswers{1, len(kvs[0].Value)}) {
		t.Errorf("counted %+v of %d", have, len(kvs))
	}
	before := l.s.Resources()
	for _, full := range []keptAnswers{{api.MaxAnswersPerKey, 0}, {1, api.MaxAnswerBytesPerKey - 1}} {
		l.s.answers.set(map[string]keptAnswers{id: full})
		if e := wantCode(t, create("second"), api.CodeLimitExceeded); e.Field != "Idempotency-Key" || e.Remedy == "" {
			t.Errorf("%v", e)
		}
		if err := create("first"); err != nil { // what is kept is still given
			t.Error(err)
		}
	}
	if l.s.Resources() != before {
		t.Error("something changed")
	}
	must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
	// Counting finds how many there are.
	if err := l.s.forgetAnswers(l.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := create("second"); err != nil {
		t.Error(err)
	}
	kvs = must(l.s.store.List(l.ctx(), store.PrefixIdempotency+id+"/", "", 10))(t)
	if len(kvs) != 2 {
		t.Fatalf("%d answers", len(kvs))
	}
	if want := (keptAnswers{2, len(kvs[0].Value) + len(kvs[1].Value)}); l.s.answers.kept[id] != want {
		t.Errorf("counted %+v, want %+v", l.s.answers.kept[id], want)
	}
}

func TestAStoreThatIsNearlyFull(t *testing.T) {
	mem := store.NewMem()
	l := mesh(t, func(c *Config) { c.Store, c.Tick = mem, 10*time.Millisecond })
	shop, pay, admin := l.as("shop"), l.as("pay"), l.client(l.adminKey, "shop")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	create := func(c *client.Client) error {
		_, err := c.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")})
		return err
	}
	mem.Filled.Store(79)
	if err := create(shop); err != nil {
		t.Fatal(err)
	}
	mem.Filled.Store(80)
	l.eventually("the server to notice", func() bool { return l.s.tight.Load() })
	if e := wantCode(t, create(shop), api.CodeLimitExceeded); e.Remedy == "" {
		t.Errorf("%v", e)
	}
	_, err := pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"})
	wantCode(t, err, api.CodeLimitExceeded)
	// To take away is possible, and so is what nodes and administrators do.
	must(pay.RejectConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	must(pay.DisallowPrincipals(l.ctx(), "ledger", []string{"shop"}))(t)
	must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger"}}))(t)
	must(shop.DeleteEndpoint(l.ctx(), "ledger"))(t)
	l.renewed(l.host("host-c"))
	must(l.admin().RevokeNode(l.ctx(), "host-c"))(t)
	if err := create(admin); err != nil {
		t.Error(err)
	}
	mem.Filled.Store(70)
	l.eventually("the server to notice", func() bool { return !l.s.tight.Load() })
	if err := create(shop); err != nil {
		t.Error(err)
	}
}
