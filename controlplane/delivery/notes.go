package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/flowlog"
)

// Note is what the creation of a flow log, or an edit of what its lines and files are, leaves behind in the same transaction.
type Note struct {
	Key string `json:"-"` // sorts in the order in which they were made
	// At is behind all records that came before.
	At flowlog.Position `json:"at"`
	// Before is the flow log as it was until then; nil: it was made.
	Before *api.FlowLog `json:"before,omitempty"`
}

// Notes are where notes are kept until they have served.
type Notes interface {
	// List returns those of a flow log, the oldest first.
	List(ctx context.Context, flowLog string) ([]Note, error)
	Remove(ctx context.Context, flowLog string, n Note) error
}

// SameForm tells whether an edit leaves lines and files as they were: where they go, and what is to be done about loss, is not their form.
func SameForm(a, b *api.FlowLog) bool {
	return a.TrafficType == b.TrafficType && a.MaxAggregationIntervalSeconds == b.MaxAggregationIntervalSeconds && a.LogFormat == b.LogFormat &&
		a.FileFormat == b.FileFormat && a.HiveCompatiblePartitions == b.HiveCompatiblePartitions && a.PerHourPartition == b.PerHourPartition
}

// begin is the progress of a flow log that is new: from where the store ended when it was made, so all that came since its creation was
// acknowledged is told. Where nothing tells that, because an older server made it or its progress was moved away, from now on.
func (d *Deliverer) begin(ctx context.Context, f *api.FlowLog, now time.Time) (*progress, error) {
	until := f.CreatedAt.UTC() // of the window that it was made in, the rest
	notes, err := d.notes(ctx, f.ID)
	if err != nil {
		return nil, err
	}
	if len(notes) > 0 && notes[0].Before == nil {
		return &progress{From: notes[0].At, Pos: notes[0].At, Until: until, Hold: until}, nil
	}
	end, err := d.cfg.Store.End()
	if err != nil {
		return nil, err
	}
	if window := now.UTC().Truncate(windowOf(f)); window.After(until) {
		until = window
	}
	return &progress{From: end, Pos: end, Until: until, Hold: until}, nil
}

func (d *Deliverer) notes(ctx context.Context, id string) ([]Note, error) {
	if d.cfg.Notes == nil {
		return nil, nil
	}
	return d.cfg.Notes.List(ctx, id)
}

// edits brings a.edits up to date with the flow log that a.flow is: the edits of which records that came before may not be written yet.
// a.mu is held. Since an edit and its note are one transaction, whoever knows the flow log as edited knows the note.
func (d *Deliverer) edits(ctx context.Context, a *active) error {
	if a.noted == a.flow.Revision {
		return nil
	}
	notes, err := d.notes(ctx, a.id)
	if err != nil {
		return err
	}
	served := func(n Note) bool { return n.Before == nil || n.Key <= a.v.Served }
	for _, n := range notes {
		if !served(n) {
			continue
		}
		if err := d.cfg.Notes.Remove(ctx, a.id, n); err != nil {
			return err
		}
	}
	a.edited = slices.DeleteFunc(notes, served)
	a.noted = a.flow.Revision
	return nil
}

// cut writes all that came before the oldest edit in the form of then, and holds nothing back: of windows that are open, too. So each
// record is in exactly one form, and none that comes after an edit was acknowledged is in the one before it.
func (d *Deliverer) cut(ctx context.Context, r *api.Resources, a *active, k *known) (more bool, err error) {
	v, n, now := a.v, a.edited[0], d.cfg.Now()
	if queued(v.Queue) >= spoolLimit {
		return false, d.giveUp(ctx, a, k.store, now)
	}
	s, err := scopeOf(r, n.Before)
	if err != nil {
		return false, err
	}
	to := n.At.Clone()
	for day, size := range v.Pos { // what came between the note and its commit may have been read already, in the form of before
		to[day] = max(to[day], size)
	}
	next := *v
	next.Hold = v.Until
	whole := func() bool { return next.Pos.Behind(to) == 0 || v.Pos.Behind(next.Pos) == 0 } // else there is more than a file takes
	if err := d.gather(ctx, s, v, &next, to, k, now, func() {
		if whole() {
			next.Served = n.Key
		}
	}); err != nil {
		return false, err
	}
	if a.v.Served != n.Key {
		return true, nil
	}
	a.edited = a.edited[1:]
	return true, d.cfg.Notes.Remove(ctx, a.id, n)
}

// part is a stretch of the store that is in one form.
type part struct {
	flow *api.FlowLog
	to   flowlog.Position
}

// parts of what is before a position; a.mu is held.
func (a *active) parts(to flowlog.Position) []part {
	var out []part
	for _, n := range a.edited {
		at := flowlog.Position{}
		for day, size := range to {
			at[day] = min(size, n.At[day])
		}
		out = append(out, part{n.Before, at})
	}
	return append(out, part{a.flow, to})
}
