package agent

import (
	"context"
	"errors"
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

// A stream counts once it has brought something, and once.
func TestStreamsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		v, err := state.SignView(b.priv, testView(1))
		if err != nil {
			t.Fatal(err)
		}
		for i, server := range []*streams{{err: errStreamEnded}, {view: &v}, {view: &v}} {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- b.agent.box.follow(ctx, func() ControlPlane { return server }) }()
			<-time.After(time.Minute)
			if n := b.agent.box.stream(); n != uint64(i) {
				t.Errorf("stream %d after %d", n, i)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// Who waits for a new view does not wait for the pause between two streams.
func TestPauseIsHurried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ctx, cancel := context.WithCancel(t.Context())
		asked := 0
		server := &counting{asked: &asked, err: errStreamEnded}
		done := make(chan error, 1)
		go func() { done <- b.agent.box.follow(ctx, func() ControlPlane { return server }) }()
		<-time.After(time.Minute) // the pauses have become long
		synctest.Wait()
		for range 3 {
			before := asked
			b.agent.box.hurry()
			synctest.Wait()
			if asked != before+1 {
				t.Errorf("asked %d times at once, want 1", asked-before)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// counting is a server that has no view.
type counting struct {
	fakeServer
	asked *int
	err   error
}

func (c *counting) Views(context.Context, func(api.SignedView) error) error {
	*c.asked++
	return c.err
}

// A server that was away is found within seconds, however long it was; one that refuses is not asked as often.
func TestPausesBetweenStreams(t *testing.T) {
	refused := &api.Error{Code: api.CodeNodeRevoked, Message: "the node node-1 is revoked", Remedy: "join again with a new token"}
	for _, c := range []struct {
		err         error
		least, most int // times that the server is asked in an hour
	}{
		{errors.New("connection refused"), 720, 2160}, // every 2.5 s
		{refused, 120, 360},                           // every 15 s
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			ctx, cancel := context.WithCancel(t.Context())
			asked := 0
			done := make(chan error, 1)
			go func() {
				done <- b.agent.box.follow(ctx, func() ControlPlane { return &counting{asked: &asked, err: c.err} })
			}()
			<-time.After(time.Hour)
			synctest.Wait()
			if asked < c.least || asked > c.most {
				t.Errorf("%v: asked %d times in an hour, want %d to %d", c.err, asked, c.least, c.most)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
