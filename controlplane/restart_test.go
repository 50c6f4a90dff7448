package controlplane

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
)

// TestRestartKeepsEverything stops a server on a real etcd and starts it again on the same directory.
func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(must(os.MkdirTemp("", "culvert"))(t), "s.sock")
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(socket)) })
	config := func(c *Config) {
		c.DataDir, c.Store, c.Listen, c.Log = dir, nil, []string{"unix:" + socket}, slog.New(slog.DiscardHandler)
	}
	l := mesh(t, config)
	shop, pay := l.as("shop"), l.as("pay")
	r := api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}
	e := must(shop.CreateEndpoint(l.ctx(), r, client.WithIdempotencyKey("k")))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	h := l.host("host-c")
	must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 1, l.about("third", api.FlowRecord{}))}))(t)
	if err := h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id, Revision: 7}); err != nil {
		t.Fatal(err)
	}
	before, events, ca := l.s.Resources(), l.audited(), string(l.info.CA)
	l.stop()

	again := startLab(t, config)
	if again.adminKey != "" {
		t.Error("a second administrator's key was made")
	}
	again.adminKey, again.keys = l.adminKey, l.keys
	after := again.s.Resources()
	if whole(before) != whole(after) || after.Revision < before.Revision {
		t.Errorf("revision %d, then %d:\n%s\n%s", before.Revision, after.Revision, whole(before), whole(after))
	}
	if string(again.info.CA) != ca {
		t.Error("another CA")
	}
	if got := again.audited(); len(got) != len(events) || got[len(got)-1].Seq != events[len(events)-1].Seq {
		t.Errorf("%d events, then %d", len(events), len(got))
	}
	if n := must(again.admin().GetNode(again.ctx(), "host-c"))(t); n.Status == nil || n.Status.Revision != 7 {
		t.Errorf("status %+v", n.Status)
	}
	if got := collect(t, again.as("pay"), api.FlowQuery{}); len(got) != 1 {
		t.Errorf("flows %v", got)
	}
	// What was known goes on: the answer to a repeated call, the node's certificate, its flow numbers, tag numbers.
	if second := must(again.as("shop").CreateEndpoint(again.ctx(), r, client.WithIdempotencyKey("k")))(t); second.ID != e.ID {
		t.Errorf("a second endpoint %s", second.ID)
	}
	h = &host{Client: h.Client, id: h.id, join: h.join, cert: h.cert}
	views, _ := h.views(t)
	until(t, views, "the view", func(v *api.View) bool { return v.Revision >= before.Revision && len(v.ENIs) == 1 })
	if r := must(h.SendFlows(again.ctx(), []api.FlowEnvelope{record(h.id, 1, again.about("third", api.FlowRecord{}))}))(t); r.Duplicates != 1 {
		t.Errorf("%+v", r)
	}
	must(again.as("shop").CreateEndpoint(again.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "second"}))(t)
	again.check()
}

// A second server on the same directory is refused at once, and the first one does not notice.
func TestOneServerPerDirectory(t *testing.T) {
	var dir string
	l := startLab(t, func(c *Config) { dir = c.DataDir })
	other := New(Config{DataDir: dir, Listen: []string{"unix:" + filepath.Join(t.TempDir(), "s")}})
	if err := other.Run(t.Context()); !errors.Is(err, state.ErrLocked) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a second server: %v", err)
	}
	must(l.admin().Status(l.ctx()))(t)
}

func TestHousekeeping(t *testing.T) {
	now := time.Now()
	mem := store.NewMem()
	l := startLab(t, func(c *Config) { c.Store, c.Tick = mem, 20*time.Millisecond })
	shop := l.as("shop")
	must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}, client.WithIdempotencyKey("old")))(t)
	unused := must(l.admin().CreateToken(l.ctx(), api.CreateTokenRequest{TTLSeconds: 60}))(t)
	h := l.host("host-a")
	must(l.admin().CreateToken(l.ctx(), api.CreateTokenRequest{TTLSeconds: api.MaxTokenTTL}))(t)
	if err := h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id, Revision: 1}); err != nil {
		t.Fatal(err)
	}
	must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 1, api.FlowRecord{End: now.Add(-29 * 24 * time.Hour)}),
		record(h.id, 2, api.FlowRecord{})}))(t)
	l.stop()

	// Eight days later. (Nobody can speak to this server: its certificate is not valid yet today.)
	later := startLab(t, func(c *Config) {
		c.Store, c.DataDir, c.Tick = mem, l.s.cfg.DataDir, 20*time.Millisecond
		c.Now = func() time.Time { return now.Add(8 * 24 * time.Hour) }
	})
	later.eventually("old tokens to be removed", func() bool { return len(later.s.Resources().JoinTokens) == 1 })
	if later.s.Resources().JoinTokens[unused.ID] != nil {
		t.Error("the token that was good for a minute is still there")
	}
	later.eventually("old answers to be forgotten", func() bool {
		return len(must(mem.List(later.ctx(), store.PrefixIdempotency, "", 10))(t)) == 0
	})
	later.eventually("old flow records to be deleted", func() bool {
		files := must(filepath.Glob(filepath.Join(l.s.cfg.DataDir, "flows", "*.ndjson")))(t)
		return len(files) == 1
	})
	if data := must(mem.Get(later.ctx(), store.PrefixStatus+h.id))(t); data == nil {
		t.Error("the node's status is forgotten")
	}
	for _, action := range []string{"delete-token", "dispose-flow-records"} {
		if !slices.ContainsFunc(must(mem.List(later.ctx(), store.PrefixAudit, "", 100))(t), func(kv store.KV) bool {
			return strings.Contains(string(kv.Value), action) && strings.Contains(string(kv.Value), actorSystem)
		}) {
			t.Errorf("no event says %s", action)
		}
	}
}

// TestLostAnswer: a creation whose answer is lost is made once, and the client gets the answer; a deletion is not done again, since
// the name could be another's by then.
func TestLostAnswer(t *testing.T) {
	l := startLab(t, nil)
	shop := l.as("shop")
	l.lose.Store(2)
	v := must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "shop", CIDR: prefix("10.0.0.0/16")}))(t)
	if all := must(shop.ListVPCs(l.ctx()))(t); len(all) != 1 || all[0].ID != v.ID || l.lose.Load() != 0 {
		t.Errorf("made %+v, there are %+v", v, all)
	}
	l.lose.Store(1)
	_, err := shop.DeleteVPC(l.ctx(), "shop")
	var e *api.Error
	if err == nil || errors.As(err, &e) {
		t.Errorf("the deletion was done again: %v", err)
	}
	l.lose.Store(1)
	_, err = shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("8.0.0.0/16")})
	wantCode(t, err, api.CodeVPCRange) // a refusal is lost, too
	if all := must(shop.ListVPCs(l.ctx()))(t); len(all) != 0 {
		t.Errorf("there are %+v", all)
	}
}
