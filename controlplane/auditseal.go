package controlplane

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// keySealed is the number of the newest audit event that is in the Merkle log.
	keySealed = "audit-sealed"
	// sealBatch is how many events go into the Merkle log at once.
	sealBatch = 256
	// maxSealLag is for how long an event may be in the store alone before that is a problem of the server.
	maxSealLag = time.Minute
	// sealPause is between two tries of what failed, and between two looks at how late sealing is.
	sealPause = 2 * time.Second
	// problemSealLag is its key.
	problemSealLag = "audit-lag"
)

// sealing is how far the audit log has come into the Merkle log.
type sealing struct {
	sealed  atomic.Uint64 // number of the newest event that is there
	pending atomic.Int64  // when the oldest one that is not was written, in nanoseconds since 1970; 0: there is none
}

// sealedUpTo is the number of the newest event that is in the Merkle log; events beyond it stay in the store.
func (s *Server) sealedUpTo(ctx context.Context) (uint64, error) {
	if s.tree == nil {
		return math.MaxUint64, nil
	}
	data, err := s.store.Get(ctx, keySealed)
	if err != nil || data == nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("server: the store's %s is damaged: restore a backup of the data directory: %w", keySealed, err)
	}
	return n, nil
}

// sealAudit puts audit events into the Merkle log, in order, as they are written, until ctx ends. It is the only one that does.
func (s *Server) sealAudit(ctx context.Context) {
	again := time.NewTicker(sealPause)
	defer again.Stop()
	failing := false
	for {
		_, next := s.store.Audited()
		err := s.sealPending(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			s.log.Error("audit events cannot be put into the Merkle log, it is tried again", logkey.Error, err)
		}
		if failing = err != nil; failing {
			next = nil
		}
		for waiting := true; waiting; {
			select {
			case <-next:
				waiting = false
			case <-again.C:
				waiting = !failing
			case <-ctx.Done():
				return
			}
		}
	}
}

// watchSealing says when sealing is late, also while it hangs, until ctx ends.
func (s *Server) watchSealing(ctx context.Context) {
	look := time.NewTicker(sealPause)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			s.lookAtSealing()
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) lookAtSealing() {
	since := s.sealing.pending.Load()
	late := s.cfg.Now().Sub(time.Unix(0, since))
	if since == 0 || late <= maxSealLag {
		s.problems.clear(problemSealLag)
		return
	}
	s.problems.set(problemSealLag, fmt.Sprintf("audit events are not in the Merkle log since %s: look for what is wrong with the disk of "+
		"the data directory", time.Unix(0, since).UTC().Format(time.RFC3339)))
}

// sealPending puts the events that are written into the Merkle log.
func (s *Server) sealPending(ctx context.Context) error {
	if s.tree == nil {
		return nil
	}
	sealed, err := s.sealedUpTo(ctx)
	if err != nil {
		return err
	}
	now, _ := s.store.Audited()
	s.sealing.sealed.Store(sealed)
	for sealed < now {
		batch, last, err := s.unsealed(ctx, sealed, now)
		if err != nil {
			return err
		}
		if len(batch) > 0 {
			s.sealing.pending.Store(batch[0].Event.At.UnixNano())
			if _, err := s.tree.AppendAll(ctx, batch); err != nil {
				return err
			}
			s.growth.sealed(batch)
		}
		failpoint.Here("audit.sealed")
		if err := s.store.Put(ctx, keySealed, strconv.AppendUint(nil, last, 10)); err != nil {
			return err
		}
		sealed = last
		s.sealing.sealed.Store(sealed)
		now, _ = s.store.Audited()
	}
	s.sealing.pending.Store(0)
	return nil
}

// unsealed are the next events, and the number of the last of them. What is not there was forgotten before there was a Merkle log.
func (s *Server) unsealed(ctx context.Context, sealed, now uint64) (batch []leaf.Leaf, last uint64, err error) {
	if sealed == 0 {
		if sealed, err = s.beforeOldest(ctx); err != nil {
			return nil, 0, err
		}
	}
	for last = sealed; last < now && len(batch) < sealBatch; {
		last++
		e, err := s.auditEvent(ctx, last, []byte("{}"))
		if err != nil {
			return nil, 0, err
		}
		if e == nil {
			return nil, 0, fmt.Errorf("audit event %d is not in the store", last)
		}
		batch = append(batch, leaf.OfEvent(s.cfg.Now(), *e))
	}
	return batch, last, nil
}

// beforeOldest is the number before that of the oldest event of the store.
func (s *Server) beforeOldest(ctx context.Context) (uint64, error) {
	oldest := uint64(1)
	err := s.eachSide(ctx, store.PrefixAudit, func(kv store.KV) (err error) {
		oldest, err = store.AuditSeq(kv.Key)
		return err
	})
	return oldest - 1, err
}

// sealRest puts what is written last into the Merkle log when the server stops; what it does not come to is done at the next start.
func (s *Server) sealRest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := s.sealPending(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
