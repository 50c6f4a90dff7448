package delivery

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/flowlog"
)

// noted are interfaces that had traffic, by the ends of windows of fileWindow: longer ones, which an edit may turn into those, are made of them.
type noted map[time.Time]map[string]bool

// notedIn is what is known of windows that are not closed.
func notedIn(v *progress) noted {
	out := noted{}
	for end, list := range v.Seen {
		for _, id := range list {
			out.note(end, id)
		}
	}
	return out
}

func (n noted) note(end time.Time, eni string) {
	if n[end] == nil {
		n[end] = map[string]bool{}
	}
	n[end][eni] = true
}

// behind are those of windows that end behind a time.
func (n noted) behind(until time.Time) map[time.Time][]string {
	out := map[time.Time][]string{}
	for at, list := range n {
		if at.After(until) {
			out[at] = slices.Sorted(maps.Keys(list))
		}
	}
	return out
}

// lose counts as lost what was not read of some days; a.mu is held. Their windows are not quiet: what is lost is declared.
func (d *Deliverer) lose(ctx context.Context, a *active, gone flowlog.Position) error {
	v := a.v
	if v.Pos.Behind(gone) == 0 {
		return nil
	}
	var lost uint64
	seen := notedIn(v)
	at := v.Pos
	for _, p := range a.parts(gone) {
		f := p.flow
		read, err := d.cfg.Store.ReadFrom(ctx, at, p.to, f.Account, 1<<62, func(r *api.FlowRecord) error {
			if f.Concerns(r) {
				seen.note(endOf(r.End, fileWindow), r.Interface)
			}
			if f.Takes(r) {
				lost++
			}
			return nil
		})
		if err != nil {
			return err
		}
		at = at.Clone()
		maps.Copy(at, read)
	}
	next := *v
	next.Pos = at
	next.Lost += lost
	next.Seen = seen.behind(v.Until)
	next.Undeclared += lost
	if err := d.place(a.id).save(&next); err != nil {
		return err
	}
	*v = next
	return nil
}

// LetGo counts as lost what flow logs have not read of a day whose records are removed now. ready is false where it is not known
// yet how far they are: the day has to stay until then.
func (d *Deliverer) LetGo(ctx context.Context, day string) (ready bool, err error) {
	d.mu.Lock()
	all, ready := slices.Collect(maps.Values(d.all)), d.ran
	d.mu.Unlock()
	if !ready {
		return false, nil
	}
	store, err := d.cfg.Store.End()
	if err != nil {
		return false, err
	}
	maps.DeleteFunc(store, func(at string, _ int64) bool { return at != day })
	for _, a := range all {
		a.mu.Lock()
		err := d.edits(ctx, a) // a server that has just started may not have looked yet
		if err == nil {
			err = d.lose(ctx, a, store)
		}
		a.show()
		a.mu.Unlock()
		if err != nil {
			return false, err
		}
	}
	return true, nil
}
