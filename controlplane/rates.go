package controlplane

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

// rates bounds how often one key, or one node, may ask. Administrators may always: who repairs must not wait behind who breaks.
type rates struct {
	mu  sync.Mutex
	ask map[string]*asker
}

// asker has one bucket for what only reads, one for what writes.
type asker struct {
	read, write *rate.Limiter
	seen        time.Time
}

// forgetAskers is after how long without a request a bucket is surely full again.
const forgetAskers = time.Minute

// wait takes a token, or tells how long it is until there is one.
func (r *rates) wait(id string, writes bool, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.ask[id]
	if a == nil {
		if r.ask == nil {
			r.ask = map[string]*asker{}
		}
		a = &asker{read: rate.NewLimiter(api.ReadsPerSecond, api.ReadBurst), write: rate.NewLimiter(api.WritesPerSecond, api.WriteBurst)}
		r.ask[id] = a
	}
	a.seen = now
	bucket := a.read
	if writes {
		bucket = a.write
	}
	token := bucket.ReserveN(now, 1)
	delay := token.DelayFrom(now)
	if delay > 0 {
		token.CancelAt(now)
	}
	return delay
}

// forget drops buckets that are full.
func (r *rates) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, a := range r.ask {
		if now.Sub(a.seen) >= forgetAskers {
			delete(r.ask, id)
		}
	}
}

// mayAsk refuses who asks too often, and says when to ask again.
func (s *Server) mayAsk(w http.ResponseWriter, who *caller, writes bool) *api.Error {
	if s.cfg.unlimited || who.admin() || who.id() == anonymous {
		return nil
	}
	bucket := who.id()
	if who.suspect { // whoever has an old certificate must not use up what the node may
		bucket = "replaced/" + bucket
	}
	delay := s.rates.wait(bucket, writes, s.cfg.Now())
	if delay == 0 {
		return nil
	}
	seconds := int(math.Ceil(delay.Seconds()))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	return api.Errorf(api.CodeRequestLimit, "", "wait for as many seconds as Retry-After says, then go on more slowly",
		"%s asks more often than it may", who.id())
}

// tightAt is how full the store may get by what accounts do. The rest is for what nodes must and administrators repair.
const tightAt = 0.8

// lookAtRoom finds out whether the store is nearly full.
func (s *Server) lookAtRoom(ctx context.Context) error {
	fill, err := s.store.Fill(ctx)
	if err != nil {
		return err
	}
	tight := fill >= tightAt
	if s.tight.Swap(tight) != tight {
		s.log.Warn("room in the store", logkey.NearlyFull, tight, logkey.Filled, fill)
	}
	return nil
}

// takesAway tells whether what an operation does makes less of what there is.
func (o operation) takesAway() bool {
	switch o.id {
	case "reject-connections", "disallow-principals", "deregister-targets":
		return true
	}
	return o.method == http.MethodDelete
}

// mayAdd refuses an account's request that would fill the store further. To take something away stays possible.
func (s *Server) mayAdd(who *caller, o operation) *api.Error {
	if !s.tight.Load() || who.key == nil || who.admin() || o.takesAway() {
		return nil
	}
	return api.Errorf(api.CodeLimitExceeded, "", "delete what is not needed, and try again some minutes later, when the server has made room",
		"the server's store is nearly full")
}

// forgetRates is housekeeping.
func (s *Server) forgetRates(context.Context) error {
	s.rates.forget(s.cfg.Now())
	return nil
}
