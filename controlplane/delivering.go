package controlplane

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/controlplane/delivery"
	"github.com/culvert-net/culvert/controlplane/evidence"
)

// toldTimes keep until when each node has told all that it recorded.
type toldTimes struct {
	mu sync.Mutex
	by map[string]time.Time
}

// heard notes that a node has told all of its records up to a time. A record does not say that: those of flows that begin and end come
// at once, before others of the same time. What says it is a seal that was made right after all counters were read. A clock that is
// ahead of the server's does not close windows early.
func (s *Server) heard(node string, until time.Time) {
	if now := s.cfg.Now(); until.After(now) {
		until = now
	}
	s.nodesTold.mu.Lock()
	defer s.nodesTold.mu.Unlock()
	if s.nodesTold.by == nil {
		s.nodesTold.by = map[string]time.Time{}
	}
	if until.After(s.nodesTold.by[node]) {
		s.nodesTold.by[node] = until
	}
}

// heardSeals takes what seals of a node say, that were taken: all before one that was made behind all counters is recorded, and was told.
func (s *Server) heardSeals(node string, lines []evidence.Line) {
	for _, l := range lines {
		if !l.Seal {
			continue
		}
		if made, is, err := seal.Parse(l.Data); err == nil && is && made.Full {
			s.heard(node, made.End)
		}
	}
}

// recordObject notes in the Merkle log that an object was delivered.
func (s *Server) recordObject(ctx context.Context, o delivery.Object) error {
	_, err := s.tree.Append(ctx, leaf.Leaf{Type: leaf.TypeObject, At: s.cfg.Now().UTC(), Object: &leaf.Object{FlowLog: o.FlowLog,
		Destination: o.Destination, Path: o.Path, Size: o.Size, SHA256: o.SHA256, Records: o.Records, First: o.First, Last: o.Last}})
	return err
}

func (s *Server) toldUntil(node string) time.Time {
	s.nodesTold.mu.Lock()
	defer s.nodesTold.mu.Unlock()
	return s.nodesTold.by[node]
}

// maxLag is how long records wait for their delivery: less than they are kept.
func (s *Server) maxLag() time.Duration {
	kept := s.cfg.FlowRetention
	if t := s.terms.of(api.RetainFlowRecords).Terms; len(t) > 0 { // the newest is the shortest that binds
		kept = t[len(t)-1].For
	}
	return max(kept-day, kept/2)
}

// newDelivery prepares what delivers flow logs; it needs the open flow log.
func (s *Server) newDelivery() *delivery.Deliverer {
	return delivery.New(delivery.Config{
		Dir: filepath.Join(s.cfg.DataDir, "flow-logs"), Store: s.flows, Resources: s.store.Snapshot, Told: s.toldUntil, Open: s.allowed.Open,
		Notes: flowNotes{s.store}, Record: s.recordObject,
		Free:   func() error { return s.room.Free(s.cfg.DataDir) },
		MaxLag: s.maxLag, Now: s.cfg.Now, Log: s.log,
	})
}

// failingFlowLogs tells an account which of its flow logs are not delivered; an administrator those of all.
func (c *call) failingFlowLogs(out *api.Status) {
	for id, f := range c.r.FlowLogs {
		if !c.visible(f) {
			continue
		}
		if d := c.s.delivery.State(id); d != nil && d.Status == api.DeliverFailed {
			out.FlowLogsFailing = append(out.FlowLogsFailing, f.Name+": "+d.ErrorMessage)
		}
	}
	slices.Sort(out.FlowLogsFailing)
	out.FlowLogsFailing = out.FlowLogsFailing[:min(len(out.FlowLogsFailing), api.MaxStatusNames)]
}
