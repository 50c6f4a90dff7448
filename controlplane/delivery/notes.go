package delivery

import (
	"context"
	"slices"

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
