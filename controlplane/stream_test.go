package controlplane

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
)

// identity is what the host's agent would keep, as far as opening views needs it.
func (h *host) identity() *state.Identity {
	return &state.Identity{Node: h.id, Mesh: h.join.Mesh.Number, ViewKey: h.join.ViewKey}
}

// views opens the host's stream. The channel closes when the stream ends, whose error then is in the other one.
func (h *host) views(t *testing.T) (<-chan *api.View, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	views, ended := make(chan *api.View, 100), make(chan error, 1)
	go func() {
		defer close(views)
		ended <- h.StreamViews(ctx, func(s api.SignedView) error {
			v, err := state.OpenView(h.identity(), s)
			if err == nil {
				views <- v
			}
			return err
		})
	}()
	return views, ended
}

// until reads views up to one that fits.
func until(t *testing.T, views <-chan *api.View, what string, fits func(*api.View) bool) *api.View {
	t.Helper()
	deadline := time.After(75 * time.Second)
	for {
		select {
		case v, ok := <-views:
			if !ok {
				t.Fatalf("the stream ended before %s", what)
			}
			if fits(v) {
				return v
			}
		case <-deadline:
			t.Fatalf("no view in time: %s", what)
		}
	}
}

func anyView(*api.View) bool { return true }

func TestViewStream(t *testing.T) {
	l := startLab(t, func(c *Config) { c.Tick = 200 * time.Millisecond })
	h := l.host("host-a")
	views, ended := h.views(t)
	first := until(t, views, "the first", anyView)
	if first.Node.Name != "host-a" || first.MaxAgeSeconds != uint32(DefaultViewMaxAge/time.Second) || len(first.GossipKeys) != 1 ||
		len(first.GossipKeys[0]) != gossipKeyLen || time.Since(first.IssuedAt) > time.Minute {
		t.Errorf("%+v", first)
	}
	refreshed := until(t, views, "the refresh", anyView)
	if refreshed.Revision != first.Revision || !refreshed.IssuedAt.After(first.IssuedAt) {
		t.Errorf("revision %d after %d, issued %s after %s", refreshed.Revision, first.Revision, refreshed.IssuedAt, first.IssuedAt)
	}

	shop := l.as("shop")
	l.network(shop, "shop")
	e := must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Node: "host-a"}))(t)
	v := until(t, views, "the interface", func(v *api.View) bool { return len(v.ENIs) == 1 })
	if v.ENIs[0].ID != e.ID || v.Revision < e.Revision {
		t.Errorf("%+v", v.ENIs[0])
	}
	// What concerns another node only still brings the revision.
	other := must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-b"}))(t)
	until(t, views, "the revision", func(v *api.View) bool { return v.Revision >= other.Revision })

	must(l.admin().RevokeNode(l.ctx(), "host-a"))(t)
	select {
	case err := <-ended:
		if !errors.Is(err, io.EOF) {
			t.Errorf("the stream ended with %v", err)
		}
	case <-time.After(75 * time.Second):
		t.Fatal("the stream outlives the revocation")
	}
	wantCode(t, h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id}), api.CodeNodeRevoked)
	wantCode(t, h.StreamViews(l.ctx(), func(api.SignedView) error { return nil }), api.CodeNodeRevoked)
	_, csr := testCSR(t)
	_, err := h.Renew(l.ctx(), api.RenewRequest{CSR: csr})
	wantCode(t, err, api.CodeNodeRevoked)
}

func TestStreamEndsWithServer(t *testing.T) {
	l := startLab(t, nil)
	views, ended := l.host("host-a").views(t)
	until(t, views, "the first", anyView)
	shop := l.as("shop")
	flows := make(chan error, 1)
	go func() {
		flows <- shop.Flows(context.Background(), api.FlowQuery{Follow: true}, func(api.FlowEnvelope) error { return nil })
	}()
	start := time.Now()
	l.stop()
	<-ended
	<-flows
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("stopping took %s", d)
	}
}

func TestConverged(t *testing.T) {
	l := startLab(t, nil)
	h := l.host("host-a")
	views, _ := h.views(t)
	v := until(t, views, "the first", anyView)
	got := must(l.admin().Converged(l.ctx(), v.Revision))(t)
	if got.Converged || got.Nodes != 1 || len(got.Waiting) != 1 || got.Waiting[0] != "host-a" {
		t.Errorf("%+v", got)
	}
	done := make(chan error, 1)
	go func() { done <- l.admin().WaitConverged(l.ctx(), v.Revision) }()
	if err := h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id, Revision: v.Revision}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := must(l.admin().Status(l.ctx()))(t); !s.Converged || s.NodesLive != 1 || s.NodesTotal != 1 || !s.Caller.Admin {
		t.Errorf("%+v", s)
	}
	// Not before the server itself has the revision.
	if got := must(l.admin().Converged(l.ctx(), v.Revision+1000))(t); got.Converged {
		t.Errorf("%+v", got)
	}
	// A node that is revoked is not waited for.
	done = make(chan error, 1)
	target := must(l.as("shop").CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t).Revision
	go func() { done <- l.admin().WaitConverged(l.ctx(), target) }()
	must(l.admin().RevokeNode(l.ctx(), "host-a"))(t)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
