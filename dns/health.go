package dns

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/internal/logkey"
)

// Checks of forwarders that gave no usable answer. Others are not checked: the queries of clients show whether they answer.
const (
	checkInterval  = 200 * time.Millisecond // how often it is looked which checks are due
	firstCheck     = time.Second            // after the failure; then twice as long each time
	longestCheck   = 30 * time.Second
	maxChecks      = 16  // at once
	checkQuestions = "." // any resolver has heard of the root
)

// checkForwarders asks those that failed whether they answer again, until ctx ends. So no client's query has to find out, and
// each is asked first again as soon as it can be.
func (s *Server) checkForwarders(ctx context.Context) {
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxChecks)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.startChecks(ctx, now, slots, &wg)
		}
	}
}

// startChecks starts what is due and finds a slot; the rest is due still. Maps give no order, so nobody is always last.
func (s *Server) startChecks(ctx context.Context, now time.Time, slots chan struct{}, wg *sync.WaitGroup) {
	for _, f := range s.state.Load().forwarders {
		for _, u := range f.upstreams {
			if !u.due(now) {
				continue
			}
			select {
			case slots <- struct{}{}:
			default:
				return
			}
			u.checking.Store(true)
			wg.Go(func() {
				defer func() { <-slots }()
				defer u.checking.Store(false)
				s.check(ctx, u)
			})
		}
	}
}

var errStillFails = errors.New("forwarder answers SERVFAIL")

// check asks a forwarder that failed. An answer that refuses is one: it may serve other names than the root.
func (s *Server) check(ctx context.Context, u *upstream) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	m, err := u.exchange(ctx, question{name: checkQuestions, qtype: miekg.TypeNS})
	if err == nil && m.Rcode == miekg.RcodeServerFailure {
		err = errStillFails
	}
	if err == nil {
		u.succeeded()
		s.cfg.Log.Info("dns forwarder answers again", logkey.VPC, u.vpc, logkey.Forwarder, u.to.String())
		return
	}
	wait := min(2*time.Duration(u.wait.Load()), longestCheck)
	u.wait.Store(int64(wait))
	u.checkAt.Store(time.Now().Add(jittered(wait)).UnixNano())
}

// jittered is a duration between three quarters and all of d: nodes that lost a forwarder at once do not ask it at once.
func jittered(d time.Duration) time.Duration { return d - time.Duration(rand.Int64N(int64(d)/4+1)) }

// rank is 1 for an upstream that failed and was not heard of since, else 0.
func (u *upstream) rank() int {
	if u.bad.Load() {
		return 1
	}
	return 0
}

func (u *upstream) succeeded() { u.bad.Store(false) }

// failed reports whether it did not fail before.
func (u *upstream) failed(now time.Time) (news bool) {
	if u.bad.Load() {
		return false
	}
	u.wait.Store(int64(firstCheck))
	u.checkAt.Store(now.Add(jittered(firstCheck)).UnixNano())
	return !u.bad.Swap(true)
}

func (u *upstream) due(now time.Time) bool {
	return u.bad.Load() && !u.checking.Load() && now.UnixNano() >= u.checkAt.Load()
}
