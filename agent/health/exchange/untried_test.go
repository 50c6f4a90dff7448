package exchange

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/health"
)

// unable is a Prober on a node that is in its own way.
type unable struct{ why atomic.Value }

func (u *unable) Probe(context.Context, health.Probe) health.Outcome {
	return health.Outcome{Untried: true, Detail: u.why.Load().(string)}
}

// A node that cannot probe says so now and then, and nothing of its targets. One that has only begun says nothing.
func TestNodeThatCannotProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := &unable{}, &bytes.Buffer{}
		p.why.Store("")
		x := New(Config{Node: 1, Port: port, Listen: newNetwork().listen(1), Address: address, NodeOf: nodeOf, Prober: p,
			Changed: func() {}, Listened: func() {}, Log: slog.New(slog.NewTextHandler(log, nil))})
		x.Set([]health.Check{{Key: key(1), VPC: vpc, Port: 443, Config: health.Config{Protocol: health.TCP, Interval: time.Minute,
			Timeout: time.Minute, HealthyThreshold: 2, UnhealthyThreshold: 2}}}, nil, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = x.Run(ctx) }()
		for _, why := range []string{"", "too many open files"} {
			p.why.Store(why)
			<-time.After(5*time.Minute - time.Millisecond)
		}
		cancel()
		<-done
		if c := x.Counters(); c.Untried < 550 || c.Untried > 1300 || c.Probes != 0 || c.Failed != 0 {
			t.Errorf("%+v", c)
		}
		if s := x.Statuses(); len(s) != 1 || s[0].State != health.Unknown || len(x.Transitions(0, 1)) != 0 {
			t.Errorf("%+v", s)
		}
		if n := strings.Count(log.String(), "too many open files"); n != 5 || strings.Count(log.String(), "cannot be probed") != n {
			t.Errorf("logged %d times:\n%s", n, log)
		}
	})
}
