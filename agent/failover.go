package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
)

// failover is the control plane behind several addresses: a call goes to the server that answered last, and to the next
// one when it does not answer. A refusal is an answer.
type failover struct {
	servers []ControlPlane
	current atomic.Int64
}

// dial makes clients of all of an identity's servers. It does not connect.
func dial(id *state.Identity, certificate func() (*tls.Certificate, error)) (ControlPlane, error) {
	f := &failover{}
	for _, server := range id.Servers {
		r, err := dialControlPlane(id, server, certificate)
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		f.servers = append(f.servers, r)
	}
	if len(f.servers) == 0 {
		return nil, errors.New("identity: it names no server: join again")
	}
	return f, nil
}

// try calls fn with one server after another until one answers.
func (f *failover) try(ctx context.Context, fn func(ControlPlane) error) error {
	var err error
	for range f.servers {
		n := f.current.Load()
		if err = fn(f.servers[n]); err == nil || answered(err) || ctx.Err() != nil {
			return err
		}
		f.leave(n)
	}
	return err
}

func answered(err error) bool {
	var refused *api.Error
	return errors.As(err, &refused)
}

// leave goes on with the next server, unless somebody did meanwhile.
func (f *failover) leave(n int64) { f.current.CompareAndSwap(n, (n+1)%int64(len(f.servers))) }

// Views implements ControlPlane. Whoever calls it again, as one does when a stream has ended, gets the next server.
func (f *failover) Views(ctx context.Context, fn func(api.SignedView) error) error {
	n := f.current.Load()
	err := f.servers[n].Views(ctx, fn)
	if ctx.Err() == nil {
		f.leave(n)
	}
	return err
}

// Report implements ControlPlane.
func (f *failover) Report(ctx context.Context, s api.NodeStatus) error {
	return f.try(ctx, func(c ControlPlane) error { return c.Report(ctx, s) })
}

// SendFlows implements ControlPlane.
func (f *failover) SendFlows(ctx context.Context, records []api.FlowEnvelope) error {
	return f.try(ctx, func(c ControlPlane) error { return c.SendFlows(ctx, records) })
}

// PutLogKey implements ControlPlane.
func (f *failover) PutLogKey(ctx context.Context, key api.LogKeyRequest) (answer *api.Result, err error) {
	err = f.try(ctx, func(c ControlPlane) error {
		answer, err = c.PutLogKey(ctx, key)
		return err
	})
	return answer, err
}

// RotateKey implements ControlPlane.
func (f *failover) RotateKey(ctx context.Context, publicKey string) (answer *api.Result, err error) {
	err = f.try(ctx, func(c ControlPlane) error {
		answer, err = c.RotateKey(ctx, publicKey)
		return err
	})
	return answer, err
}

// Renew implements ControlPlane.
func (f *failover) Renew(ctx context.Context, r api.RenewRequest) (answer *api.JoinResponse, err error) {
	err = f.try(ctx, func(c ControlPlane) error {
		answer, err = c.Renew(ctx, r)
		return err
	})
	return answer, err
}
