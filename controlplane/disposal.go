package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/controlplane/evidence"
)

// dispose removes what was kept long enough and is under no legal hold: the Merkle log says so first, then an audit event, then it goes.
// Who dies in between does it again, and the log knows the entry.
func (s *Server) dispose(ctx context.Context) error {
	if err := s.loadRetention(ctx); err != nil {
		return err
	}
	return errors.Join(s.disposeDays(ctx), s.disposeSegments(ctx), s.disposeDeliveries(ctx)) // what is wrong with one is in no way of the others
}

// errUnread: it is not known yet how far flow logs have read.
var errUnread = errors.New("deliveries of flow logs have not begun")

// disposal disposes of what may go, and says whether that is done until the next sweep.
func (s *Server) disposal(ctx context.Context) (done bool) {
	err := s.dispose(ctx)
	if errors.Is(err, errUnread) {
		return false
	}
	if ctx.Err() == nil {
		s.trouble("disposal", "disposing of what was kept long enough", err)
	}
	return true
}

// disposeDays removes days of flow records.
func (s *Server) disposeDays(ctx context.Context) error {
	days, err := s.flows.Days()
	if err != nil {
		return err
	}
	for _, d := range days {
		end := d.Begin.Add(day)
		if !s.expired(api.RetainFlowRecords, end) {
			continue
		}
		if subjects := s.holds.over(d.Begin, end); len(subjects) > 0 {
			held, err := s.flows.Mentions(d, subjects...)
			if err != nil {
				return err
			}
			if held {
				continue
			}
		}
		ready, err := s.delivery.LetGo(ctx, d.Begin.Format(time.DateOnly))
		if err != nil {
			return err
		}
		if !ready {
			return errUnread
		}
		sum, err := fileSum(d.Path)
		if err != nil {
			return err
		}
		l := leaf.Disposal{ID: "flows/" + d.Name + "/" + sum, Files: []leaf.Disposed{{Path: "flows/" + d.Name, SHA256: sum}}}
		if err := s.tellDisposal(ctx, api.RetainFlowRecords, end, l); err != nil {
			return err
		}
		if err := s.flows.Remove(d); err != nil {
			return err
		}
	}
	return nil
}

// disposeSegments removes hours of evidence.
func (s *Server) disposeSegments(ctx context.Context) error {
	snap, err := s.evidence.Snapshot(ctx, time.Time{}, endOfTime, s.tree.Size)
	if err != nil {
		return err
	}
	var errs []error // of one file, which is in no other's way
	for i := range snap.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		errs = append(errs, s.disposeFile(ctx, &snap.Files[i]))
	}
	return errors.Join(errs...)
}

// endOfTime is after all hours that a node can put into a seal.
var endOfTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)

// maxRuns bounds the runs of a disposal, in a leaf of 64 KiB.
const maxRuns = 150

// heldUntil is when a file of segments was complete. Its hour is the nodes' word: what came later than that is kept from then on, and
// what says it is of times to come, too.
func heldUntil(f *evidence.File) time.Time {
	over := f.Hour.Add(time.Hour)
	if f.Taken.After(over) || over.After(f.Taken.Add(maxAhead+time.Hour)) {
		return f.Taken
	}
	return over
}

// disposeFile removes an hour of evidence, where it is time.
func (s *Server) disposeFile(ctx context.Context, f *evidence.File) error {
	over := heldUntil(f)
	if !s.expired(api.RetainSegments, over) {
		return nil
	}
	if held, err := s.held(f, over); err != nil || held {
		return err
	}
	runs, err := f.Runs()
	if err != nil {
		return err
	}
	sum, err := f.Sum()
	if err != nil {
		return err
	}
	id := f.Path(false) + "/" + sum
	for first := 0; first == 0 || first < len(runs); first += maxRuns {
		d := leaf.Disposal{ID: id, Runs: runs[first:min(len(runs), first+maxRuns)]}
		if first > 0 {
			d.ID = fmt.Sprintf("%s/%d", id, first)
		}
		if err := s.tellDisposal(ctx, api.RetainSegments, over, d); err != nil {
			return err
		}
	}
	return s.evidence.Remove(f)
}

// held tells whether a file mentions what is under a hold of a time that its segments are of, or that it was kept from.
func (s *Server) held(f *evidence.File, over time.Time) (bool, error) {
	if len(s.holds.list()) == 0 {
		return false, nil
	}
	from, to, err := f.Span()
	if err != nil {
		return false, err
	}
	if from.IsZero() {
		from, to = f.Hour, over
	}
	subjects := s.holds.over(earlier(from, earlier(f.Hour, over)), later(to, later(f.Hour.Add(time.Hour), over)))
	if len(subjects) == 0 {
		return false, nil
	}
	return f.Mentions(subjects...)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// tellDisposal says in the Merkle log and in the audit log that something is removed now.
func (s *Server) tellDisposal(ctx context.Context, class api.RetentionClass, of time.Time, d leaf.Disposal) error {
	d.Class, d.By = string(class), actorSystem
	d.Reason = fmt.Sprintf("kept from %s until %s", of.UTC().Format(time.DateTime), s.terms.of(class).expires(of).UTC().Format(time.DateTime))
	if _, err := s.tree.Append(ctx, leaf.Leaf{Type: leaf.TypeDisposal, At: s.cfg.Now().UTC(), Disposal: &d}); err != nil {
		return fmt.Errorf("tell of a disposal: %w", err)
	}
	e := systemEvent(s.cfg.Now(), "dispose-"+string(class))
	e.Resource, e.Message = d.ID, d.Reason
	return s.writeEvents(ctx, []api.AuditEvent{e})
}

// fileSum is the SHA-256 of a file, in hexadecimal.
func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
