package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"sync"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/internal/version"
)

// Reconnects to the control plane wait a random time up to a bound that doubles from retryMin, so that many nodes do not come
// back at the same moment: to awayMax where no server answers, since whoever changes something waits for nodes that do not know
// yet that there is one again; to retryMax where one refuses, which the next try does not change.
const (
	retryMin = 500 * time.Millisecond
	awayMax  = 5 * time.Second
	retryMax = 30 * time.Second
)

// ControlPlane is the control plane as a node uses it.
type ControlPlane interface {
	// Views calls fn for the node's view at once and after every change, until the connection ends.
	Views(ctx context.Context, fn func(api.SignedView) error) error
	Report(ctx context.Context, s api.NodeStatus) error
	SendFlows(ctx context.Context, records []api.FlowEnvelope) error
	// PutLogKey tells what the node's flow log is sealed with.
	PutLogKey(ctx context.Context, key api.LogKeyRequest) (*api.Result, error)
	// Renew has a certificate request signed and tells what changed on this side.
	Renew(ctx context.Context, r api.RenewRequest) (*api.JoinResponse, error)
	// RotateKey has peers know the node by another WireGuard key.
	RotateKey(ctx context.Context, publicKey string) (*api.Result, error)
}

// inbox holds the newest good view. Putting wakes the loop; an older one that was not taken yet is forgotten.
type inbox struct {
	id   *state.Identity
	log  *slog.Logger
	wake func()
	now  func() time.Time // the wall clock

	mu        sync.Mutex
	view      *api.View
	signed    api.SignedView
	heard     time.Time // when the control plane was last heard
	skewed    error     // as of then, nil: the clocks agree
	connected bool
	streams   uint64 // that have brought something
	trouble   error  // why the last stream ended, or its last view was refused; nil once there is a good view

	hurried chan struct{} // closed when a pause between two streams is to end now; nil: there is no pause
}

// hurry ends the pause before the next stream, if there is one: somebody waits for what a new view may have.
func (b *inbox) hurry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hurried != nil {
		close(b.hurried)
		b.hurried = nil
	}
}

// pause waits before the next stream, until it is hurried, or returns ctx's error.
func (b *inbox) pause(ctx context.Context, d time.Duration) error {
	now := make(chan struct{})
	b.mu.Lock()
	b.hurried = now
	b.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	case <-now:
	}
	return nil
}

// put checks a view and keeps it when it is not older than what is held.
func (b *inbox) put(s api.SignedView, now time.Time) error {
	v, err := state.OpenView(b.id, s)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := state.Newer(b.view, v); err != nil {
		return err
	}
	b.view, b.signed, b.heard, b.connected, b.trouble = v, s, now, true, nil
	b.skewed = skewed(v.IssuedAt, b.now())
	b.wake()
	return nil
}

// restore puts in what was read from disk.
func (b *inbox) restore(v *api.View) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.view = v
}

func (b *inbox) latest() (*api.View, api.SignedView) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.view, b.signed
}

func (b *inbox) state() (heard time.Time, connected bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.heard, b.connected
}

// skew says that the clocks of server and node are apart, as of the last view that came.
func (b *inbox) skew() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.skewed
}

// lost notes that a stream has ended, and why.
func (b *inbox) lost(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.connected, b.trouble = false, why
}

// begun notes that a new stream has brought something.
func (b *inbox) begun() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams++
}

// stream numbers the streams: a server that has begun anew is never reached by the same.
func (b *inbox) stream() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.streams
}

// refused notes that a view was not good.
func (b *inbox) refused(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trouble = fmt.Errorf("view refused, the last good one stays: %w", why)
}

// problem is what keeps views from coming; nil: nothing that is known.
func (b *inbox) problem() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trouble
}

// errStreamEnded is where the server ended a stream without a word, as when it stops.
var errStreamEnded = errors.New("the server has ended the stream")

// follow keeps a stream of views open until ctx ends.
func (b *inbox) follow(ctx context.Context, cp func() ControlPlane) error {
	wait := retryMin
	for ctx.Err() == nil {
		start, first := time.Now(), true
		err := cp().Views(ctx, func(s api.SignedView) error {
			if first {
				first = false
				b.begun()
			}
			if err := b.put(s, time.Now()); err != nil {
				b.log.Error("view refused, the last good one stays", logkey.Error, err)
				b.refused(err)
			}
			return nil
		})
		if err == nil {
			err = errStreamEnded
		}
		b.lost(err)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(start) > retryMax {
			wait = retryMin
		}
		most := awayMax
		if answered(err) {
			most = retryMax
		}
		wait = min(wait, most)
		b.log.Warn("control plane stream ended", logkey.Error, err, logkey.RetryWithin, wait)
		if b.pause(ctx, time.Duration(mrand.Int64N(int64(wait)))+retryMin/10) != nil {
			return nil
		}
		wait *= 2
	}
	return nil
}

// sleep waits or returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// renewalCheck is how often it is looked whether the certificate is due: the clock may have been set meanwhile, or the server
// may take it for expired by its own.
const renewalCheck = time.Minute

// renewal keeps the node's certificate fresh: after two thirds of its life, then every few minutes until it works. An
// expired certificate still authenticates its own renewal for a while; see the control plane.
func renewal(ctx context.Context, a *Agent) error {
	var renewed time.Time // by this process
	for ctx.Err() == nil {
		if wait := a.untilRenewal(a.edges.Now(), renewed); wait > 0 {
			if sleep(ctx, min(wait, renewalCheck)) != nil {
				return nil
			}
			continue
		}
		if err := a.renew(ctx); err == nil {
			renewed = time.Now()
		} else if ctx.Err() == nil {
			a.log.Error("certificate not renewed", logkey.Error, err)
			if sleep(ctx, time.Minute+mrand.N(time.Minute)) != nil {
				return nil
			}
		}
	}
	return nil
}

// untilRenewal is how long the certificate is to be left alone. One that this process got is measured by the time since, as the
// wall clock may be wrong: it would be renewed without an end by a clock that is ahead.
func (a *Agent) untilRenewal(now, renewed time.Time) time.Duration {
	from, to, err := a.identity().Validity()
	if err != nil {
		return renewalCheck
	}
	young := to.Sub(from) * 2 / 3
	if !renewed.IsZero() && time.Since(renewed) < 2*renewalCheck {
		return young // the stream's next try shows whether the server takes it
	}
	if errors.Is(a.box.problem(), &api.Error{Code: api.CodeCertificateInvalid}) {
		return 0
	}
	if !renewed.IsZero() {
		return max(0, young-time.Since(renewed))
	}
	return max(0, from.Add(young).Sub(now))
}

// renew makes a new key, has it certified and takes both into use.
func (a *Agent) renew(ctx context.Context) error {
	keyPEM, csr, err := newCSR(a.identity().Name)
	if err != nil {
		return err
	}
	answer, err := a.controlPlane().Renew(ctx, api.RenewRequest{CSR: csr, Underlay: a.identity().Underlay,
		WireGuardPort: a.cfg.WireGuardPort, GossipPort: a.cfg.GossipPort, Version: version.Version(),
		LocalAddress: localAddress(ctx, first(a.identity().Servers))})
	if err != nil {
		return err
	}
	next := *a.identity()
	next.Take(answer, keyPEM)
	if _, err := next.Certificate(); err != nil {
		return fmt.Errorf("renew: the answer does not fit the key: %w", err)
	}
	if err := a.dir.SaveIdentity(&next); err != nil {
		return err
	}
	a.useIdentity(&next)
	return nil
}
