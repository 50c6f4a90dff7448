package flow

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

// Sink is where lines go. A nil error means that they have arrived and are kept. The same lines may come again; node, boot, kind and
// sequence identify them.
type Sink interface {
	Send(ctx context.Context, lines []Entry) error
}

// SinkFunc is a function as a [Sink].
type SinkFunc func(ctx context.Context, lines []Entry) error

// Send implements [Sink].
func (f SinkFunc) Send(ctx context.Context, lines []Entry) error { return f(ctx, lines) }

// EnvelopeSink is a [Sink] that wraps lines for the control plane, byte for byte.
func EnvelopeSink(send func(context.Context, []api.FlowEnvelope) error) Sink {
	return SinkFunc(func(ctx context.Context, lines []Entry) error {
		es := make([]api.FlowEnvelope, len(lines))
		for i := range lines {
			es[i] = lines[i].envelope()
		}
		return send(ctx, es)
	})
}

// ShipperConfig configures a [Shipper]. Zero values are replaced by the defaults.
type ShipperConfig struct {
	Log     *Log
	Sink    Sink
	Batch   int           // lines in one Send; default 512
	Timeout time.Duration // of one Send; default 30 s
	// A failed Send is repeated after a random time of up to RetryMin (default 250 ms), doubled each time up to RetryMax (default 30 s).
	RetryMin, RetryMax time.Duration
	Logger             *slog.Logger
}

// Shipper sends the lines of a log, in order and at least once.
type Shipper struct{ cfg ShipperConfig }

// NewShipper makes a shipper; Run starts it.
func NewShipper(cfg ShipperConfig) *Shipper {
	cfg.Batch = cmp.Or(cfg.Batch, 512)
	cfg.Timeout = cmp.Or(cfg.Timeout, 30*time.Second)
	cfg.RetryMin = cmp.Or(cfg.RetryMin, 250*time.Millisecond)
	cfg.RetryMax = cmp.Or(cfg.RetryMax, 30*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Shipper{cfg: cfg}
}

// Run ships until ctx ends.
func (s *Shipper) Run(ctx context.Context) {
	fails := 0
	for ctx.Err() == nil {
		changed := s.cfg.Log.Changed()
		sent, err := s.once(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if fails == 0 {
				s.cfg.Logger.Warn("flow records are not accepted and wait", logkey.Error, err)
			}
			wait(ctx, nil, s.backoff(fails))
			fails++
		case sent:
			if fails > 0 {
				s.cfg.Logger.Info("flow records are accepted again", logkey.Failures, fails)
			}
			fails = 0
		default:
			wait(ctx, changed, 0)
		}
	}
}

// once sends one batch; not sent and no error: there is none.
func (s *Shipper) once(ctx context.Context) (sent bool, err error) {
	pos := s.cfg.Log.Shipped()
	lines, next, err := s.cfg.Log.Entries(pos, s.cfg.Batch)
	if err != nil || next == pos {
		return false, err
	}
	if len(lines) > 0 {
		sending, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
		defer cancel()
		if err := s.cfg.Sink.Send(sending, lines); err != nil {
			return false, err
		}
	}
	if err := s.cfg.Log.SetShipped(next, len(lines)); err != nil {
		// They have arrived; at worst they are sent again after a restart.
		s.cfg.Logger.Warn("position of shipped flow records is not kept", logkey.Error, err)
	}
	return true, nil
}

func (s *Shipper) backoff(fails int) time.Duration {
	bound := s.cfg.RetryMin
	for range fails {
		if bound *= 2; bound >= s.cfg.RetryMax {
			bound = s.cfg.RetryMax
			break
		}
	}
	return bound/2 + rand.N(bound/2+1)
}

// wait returns when ctx ends, ch is closed or, if it is not 0, d has passed.
func wait(ctx context.Context, ch <-chan struct{}, d time.Duration) {
	var after <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-ctx.Done():
	case <-ch:
	case <-after:
	}
}
