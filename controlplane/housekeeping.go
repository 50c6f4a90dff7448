package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// tokenMemory is how long a join token is listed after it expired, used or not.
	tokenMemory = 7 * 24 * time.Hour
	// sweepEvery is how often what is old in the store is looked for.
	sweepEvery = time.Hour
	// drainEvery is how late a deregistered target may end where its flows are to be ended; the delay is given in seconds.
	drainEvery = time.Second
	// makeRoomEvery is how often a store that is nearly full is made smaller; requests may wait for seconds meanwhile.
	makeRoomEvery = 3 * time.Minute
	// atOnce is how many resources housekeeping changes in one transaction at most; the rest waits for the next tick. Each is up to
	// four keys, with its endpoint and its audit event, and a connection with all its numbers 70 KB: etcd takes 8,192 and 16 MiB.
	atOnce = 200
)

// actorSystem is who does what nobody asked for.
const actorSystem = "system"

// keepHouse does what falls due, at each tick, until ctx ends.
func (s *Server) keepHouse(ctx context.Context) {
	tick, drain := time.NewTicker(s.cfg.Tick), time.NewTicker(drainEvery)
	defer tick.Stop()
	defer drain.Stop()
	var swept, madeRoom time.Time
	disposed := true
	for {
		now := s.cfg.Now()
		s.due(ctx, "look how full the store is", s.lookAtRoom)
		if s.tight.Load() && now.Sub(madeRoom) >= makeRoomEvery {
			madeRoom = now
			s.due(ctx, "make room in the store", s.makeRoom)
		}
		s.due(ctx, "expire connections and tokens", s.expire)
		s.saveStatuses(ctx)
		s.due(ctx, "save what nodes have to do with", s.saveRelated)
		s.tellTallies()
		s.due(ctx, "write that the server started", s.noteStart)
		s.due(ctx, "write what a server counted that was killed", s.tellCounted)
		s.due(ctx, "write changes of targets' health", s.flushHealth)
		s.due(ctx, "write counted audit events", func(ctx context.Context) error { return s.flushRepeats(ctx, false) })
		if now.Sub(swept) >= sweepEvery {
			swept, disposed = now, false
			s.due(ctx, "forget old answers", s.forgetAnswers)
			s.due(ctx, "prune audit log", s.pruneAudit)
			s.due(ctx, "forget targets' histories", s.forgetHealth)
		}
		disposed = disposed || s.disposal(ctx)
		s.due(ctx, "forget nodes", s.forgetNodes)
		s.due(ctx, "forget rates", s.forgetRates)
		s.due(ctx, "look who fills the audit log", s.lookAtBudgets)
		s.health.forget(s.store.Snapshot())
		for waiting := true; waiting; {
			select {
			case <-tick.C:
				waiting = false
			case <-drain.C:
				if drained(s.store.Snapshot(), s.cfg.Now()) {
					s.due(ctx, "end draining", s.expire)
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// due does one thing; its failure is no reason not to do the others.
func (s *Server) due(ctx context.Context, what string, f func(context.Context) error) {
	if err := f(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("housekeeping failed, it is tried again", logkey.Task, what, logkey.Error, err)
	}
}

// expire ends connections that wait for too long, removes join tokens that are long gone, and completes what is of an earlier
// version or had too few numbers. Each is a transaction of its own: one that fails keeps none of the others from being done.
func (s *Server) expire(ctx context.Context) error {
	var errs []error
	for _, step := range []func(*call) error{
		(*call).expireConnections, (*call).forgetTokens, (*call).endDraining, (*call).completeBalancers, (*call).completeNames,
		(*call).retagShort,
	} {
		_, err := s.store.Txn(ctx, func(tx *store.Tx) error {
			c := s.newCall(ctx, tx.Resources())
			c.tx = tx
			return step(c)
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// forgetTokens removes join tokens that are listed no longer.
func (c *call) forgetTokens() error {
	left := atOnce
	for _, t := range c.r.JoinTokens {
		if c.now.Sub(t.ExpiresAt) <= tokenMemory {
			continue
		}
		c.tx.Remove(t)
		c.bySystem("delete-token", "", t.ID)
		if left--; left == 0 {
			break
		}
	}
	return nil
}

// retagShort completes the tag numbers of connections whose endpoint says that it has too few.
func (c *call) retagShort() error {
	t := newTagger(c)
	left := atOnce
	for _, id := range slices.Sorted(maps.Keys(c.r.Endpoints)) {
		e := c.r.Endpoints[id]
		con := c.r.Connections[e.Connection]
		if e.Message != tooFewNumbers || con == nil || c.r.LoadBalancers[con.LoadBalancer] == nil {
			continue
		}
		before := len(con.TagNumbers)
		if err := t.retag(con, c.r.LoadBalancers[con.LoadBalancer]); err != nil {
			return err
		}
		if len(c.r.Connections[con.ID].TagNumbers) != before {
			c.bySystem("complete-connection", con.Account, con.ID)
		}
		if c.r.Connections[con.ID] == con && c.r.Endpoints[id] == e {
			continue
		}
		if left--; left == 0 {
			break
		}
	}
	return nil
}

// completeBalancers numbers load balancers of before they had numbers, and those whose VPC had too few.
func (c *call) completeBalancers() error {
	t := newTagger(c)
	left := atOnce
	for _, id := range slices.Sorted(maps.Keys(c.r.LoadBalancers)) {
		old := c.r.LoadBalancers[id]
		if old.Number != 0 && len(old.TagNumbers) == len(old.ENIs)*len(old.Listeners) {
			continue
		}
		b := *old
		if b.Number == 0 {
			var err error
			if b.Number, err = c.tx.Number(api.KindConnection); err != nil {
				return err
			}
		}
		if t.retagBalancer(&b); b.Number == old.Number && slices.Equal(b.TagNumbers, old.TagNumbers) {
			continue
		}
		if err := put(c, &b, nil, nil); err != nil {
			return err
		}
		c.bySystem("complete-load-balancer", b.Account, b.ID)
		if left--; left == 0 {
			break
		}
	}
	return nil
}

// makeRoom lets accounts go on if it helped.
func (s *Server) makeRoom(ctx context.Context) error {
	if err := s.store.MakeRoom(ctx); err != nil {
		return err
	}
	return s.lookAtRoom(ctx)
}

// forgetAnswers deletes answers that are not repeated any more, and counts the others.
func (s *Server) forgetAnswers(ctx context.Context) error {
	now := s.cfg.Now()
	kept := map[string]keptAnswers{}
	err := s.eachSide(ctx, store.PrefixIdempotency, func(kv store.KV) error {
		var old remembered
		if err := json.Unmarshal(kv.Value, &old); err == nil && now.Sub(old.At) <= idempotencyLife {
			key, _, _ := strings.Cut(strings.TrimPrefix(kv.Key, store.PrefixIdempotency), "/")
			kept[key] = kept[key].plus(len(kv.Value))
			return nil
		}
		return s.store.Delete(ctx, kv.Key)
	})
	s.answers.set(kept)
	return err
}

// forgetNodes drops what was remembered of nodes that are deleted.
func (s *Server) forgetNodes(ctx context.Context) error {
	r := s.store.Snapshot()
	for _, id := range s.hub.known() {
		if r.Nodes[id] != nil {
			continue
		}
		s.hub.forget(id)
		if err := errors.Join(s.store.Delete(ctx, store.PrefixStatus+id), s.forgetRelated(id), s.forgetNodeKeys(ctx, id)); err != nil {
			return err
		}
	}
	return nil
}

// eachSide calls f for every side key with a prefix.
func (s *Server) eachSide(ctx context.Context, prefix string, f func(store.KV) error) error {
	var errs []error
	for after := ""; ; {
		page, err := s.store.List(ctx, prefix, after, auditPage)
		if err != nil {
			return err
		}
		for _, kv := range page {
			errs = append(errs, f(kv))
			after = kv.Key
		}
		if len(page) == 0 {
			return errors.Join(errs...)
		}
	}
}
