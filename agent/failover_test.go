package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
)

// fakeServer answers every call with its error.
type fakeServer struct {
	name  string
	err   error
	asked *[]string
}

func (f *fakeServer) answer() error {
	*f.asked = append(*f.asked, f.name)
	return f.err
}

func (f *fakeServer) Views(context.Context, func(api.SignedView) error) error { return f.answer() }
func (f *fakeServer) Report(context.Context, api.NodeStatus) error            { return f.answer() }
func (f *fakeServer) SendFlows(context.Context, []api.FlowEnvelope) error     { return f.answer() }
func (f *fakeServer) Renew(context.Context, api.RenewRequest) (*api.JoinResponse, error) {
	return &api.JoinResponse{Node: f.name}, f.answer()
}

func (f *fakeServer) PutLogKey(context.Context, api.LogKeyRequest) (*api.Result, error) {
	return &api.Result{}, f.answer()
}

func (f *fakeServer) RotateKey(context.Context, string) (*api.Result, error) {
	return &api.Result{}, f.answer()
}

func TestFailover(t *testing.T) {
	var asked []string
	a, b := &fakeServer{name: "a", asked: &asked}, &fakeServer{name: "b", asked: &asked}
	f := &failover{servers: []ControlPlane{a, b}}
	expect := func(what string, err, wantErr error, want ...string) {
		t.Helper()
		if !errors.Is(err, wantErr) || !slices.Equal(asked, want) {
			t.Errorf("%s: asked %v, error %v; want %v, %v", what, asked, err, want, wantErr)
		}
		asked = nil
	}
	ctx := t.Context()
	expect("all is well", f.Report(ctx, api.NodeStatus{}), nil, "a")
	a.err = errors.New("connection refused")
	expect("the first is away", f.SendFlows(ctx, nil), nil, "a", "b")
	expect("and is not asked again", f.Report(ctx, api.NodeStatus{}), nil, "b")
	refusal := &api.Error{Code: api.CodeNodeRevoked}
	b.err = refusal
	expect("a refusal is an answer", f.Report(ctx, api.NodeStatus{}), refusal, "b")
	b.err = errors.New("no route")
	expect("both are away", f.Report(ctx, api.NodeStatus{}), a.err, "b", "a")
	expect("a stream ends", f.Views(ctx, nil), b.err, "b")
	a.err = nil
	expect("the next stream goes elsewhere", f.Views(ctx, nil), nil, "a")
	answer, err := f.Renew(ctx, api.RenewRequest{})
	if err == nil && answer.Node != "a" {
		t.Errorf("renewed by %s", answer.Node)
	}
	expect("renewal", err, nil, "b", "a")
	over, cancel := context.WithCancel(ctx)
	cancel()
	a.err = context.Canceled
	expect("an end is no failure of the server", f.Report(over, api.NodeStatus{}), context.Canceled, "a")
}

func TestDialNeedsAServer(t *testing.T) {
	noCertificate := func() (*tls.Certificate, error) { return nil, nil }
	if _, err := dial(&state.Identity{}, noCertificate); err == nil {
		t.Error("an identity without a server")
	}
	if _, err := dial(&state.Identity{Servers: []string{"ftp://x"}}, noCertificate); err == nil {
		t.Error("an address that is none")
	}
}
