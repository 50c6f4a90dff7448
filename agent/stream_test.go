package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
)

// streams is a server that sends one view each time, if there is one, and ends the stream with the error.
type streams struct {
	fakeServer
	view *api.SignedView
	err  error
}

func (s *streams) Views(ctx context.Context, fn func(api.SignedView) error) error {
	if s.view == nil {
		return s.err
	}
	if err := fn(*s.view); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// Why no view comes shows in the status of the node, until one comes.
func TestStatusTellsWhyNoViewComes(t *testing.T) {
	revoked := &api.Error{Code: api.CodeNodeRevoked, Message: "the node node-1 is revoked", Remedy: "join again with a new token"}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		bad, err := state.SignView(b.priv, testView(1))
		if err != nil {
			t.Fatal(err)
		}
		good := bad
		bad.Signature = slices.Clone(bad.Signature)
		bad.Signature[0] ^= 1
		for _, c := range []struct {
			server    *streams
			connected bool
			want      string // in the errors; "": none
		}{
			{&streams{err: revoked}, false, "the node node-1 is revoked"},
			{&streams{}, false, "the server has ended the stream"},
			{&streams{view: &bad}, false, "view refused"},
			{&streams{view: &good}, true, ""},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- b.agent.box.follow(ctx, func() ControlPlane { return c.server }) }()
			<-time.After(time.Minute)
			synctest.Wait()
			s, err := b.agent.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			told := strings.Join(s.Errors, "\n")
			if s.Connected != c.connected || !strings.Contains(told, c.want) || !strings.Contains(s.ServerError, c.want) {
				t.Errorf("want %q: connected %v, %q, errors %q", c.want, s.Connected, s.ServerError, told)
			}
			if c.want == "" && (s.ServerError != "" || strings.Contains(told, "control plane")) {
				t.Errorf("connected: %q, errors %q", s.ServerError, told)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
