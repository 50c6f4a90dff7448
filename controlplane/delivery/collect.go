package delivery

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/controlplane/flowlog"
)

const (
	// chunk is how much of the store is read for one file at most: as text that is less than AWS's 75 MB.
	chunk = 64 << 20
	// spoolLimit is how much waits for one destination; beyond that records wait in the store.
	spoolLimit = 256 << 20
	// maxQuiet is for how many windows at a time interfaces without traffic get a line each.
	maxQuiet = 12
)

// scope is what a flow log is about, as the resources are now.
type scope struct {
	flow   *api.FlowLog
	fields []format.Field
	enis   []*api.ENI // workloads whose own traffic it tells
	own    map[string]bool
	nodes  []string // that host them
	region string
	r      *api.Resources
	at     map[whereabouts]*api.ENI // the account's interfaces of all types
}

// whereabouts is an address in a VPC.
type whereabouts struct{ vpc, address string }

func scopeOf(r *api.Resources, f *api.FlowLog) (*scope, error) {
	fields, err := format.Parse(f.LogFormat)
	if err != nil {
		return nil, fmt.Errorf("flow log %s: %w", f.ID, err)
	}
	s := &scope{flow: f, fields: fields, region: r.Mesh.Region, r: r, own: map[string]bool{}, at: map[whereabouts]*api.ENI{}}
	nodes := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(r.ENIs)) {
		e := r.ENIs[id]
		if e.Account == f.Account {
			s.at[whereabouts{e.VPC, e.Address.String()}] = e
			if e.IPv6Address.IsValid() {
				s.at[whereabouts{e.VPC, e.IPv6Address.String()}] = e
			}
		}
		if e.Type != api.ENIWorkload || !f.Covers(e) {
			continue
		}
		s.enis, s.own[e.ID] = append(s.enis, e), true
		if e.Node != "" {
			nodes[e.Node] = true
		}
	}
	s.nodes = slices.Sorted(maps.Keys(nodes))
	return s, nil
}

// enrich completes a row by what is known of its interface and of the one behind it, if they are the account's own.
func (s *scope) enrich(row *format.Row) {
	row.Region = s.region
	e := s.r.ENIs[row.Interface]
	if e == nil || e.Account != s.flow.Account {
		return
	}
	row.InstanceID, row.SubnetID = e.Node, e.Subnet
	row.AZ = s.zone(e)
	if hop := s.at[whereabouts{e.VPC, row.Peer()}]; hop != nil {
		row.NextHop = format.Hop{Interface: hop.ID, VPC: hop.VPC, Subnet: hop.Subnet, AZ: s.zone(hop)}
	}
}

func (s *scope) zone(e *api.ENI) string {
	if sub := s.r.Subnets[e.Subnet]; sub != nil {
		return sub.Zone
	}
	return ""
}

// due is until when windows are to be closed now, and whether there is anything to write: v.Until where it is only too much to wait.
func (d *Deliverer) due(s *scope, v *progress, k *known, now time.Time) (until time.Time, any bool) {
	if v.Pos.Behind(k.store) > d.chunk { // files of the window that is open, or of one whose turn comes then
		return v.Until, true
	}
	until = closed(s.flow, s.nodes, k.told, now)
	return until, until.After(v.Until)
}

// collect writes files of what is due, and reports whether more waits in the store. a.v is changed when they are safe.
func (d *Deliverer) collect(ctx context.Context, r *api.Resources, a *active, k *known) (more bool, err error) {
	f, v, now := a.flow, a.v, d.cfg.Now()
	if !now.UTC().Truncate(windowOf(f)).After(v.Until) && v.Pos.Behind(k.store) <= d.chunk {
		return false, nil
	}
	s, err := scopeOf(r, f)
	if err != nil {
		return false, err
	}
	until, any := d.due(s, v, k, now)
	if !any {
		return false, nil
	}
	if queued(v.Queue) >= spoolLimit {
		return false, d.giveUp(ctx, a, k.store, now)
	}
	next := *v
	next.Until, next.Hold = until, until
	if until.After(v.Until) {
		next.Hold = until.Add(windowOf(f))
	}
	return !until.After(v.Until), d.gather(ctx, s, v, &next, k.store, k, now, func() {})
}

// gather writes what is due of the store before a position; done is called when it is known how far next has read.
func (d *Deliverer) gather(ctx context.Context, s *scope, v, next *progress, to flowlog.Position, k *known, now time.Time, done func()) error {
	seen := notedIn(v)
	records, err := d.read(ctx, s, v, next, to, seen)
	if err != nil {
		return err
	}
	done()
	windows := byWindow(format.Aggregate(records, s.flow.Interval()), windowOf(s.flow), s.enrich)
	windows = s.quiet(windows, v, next, seen, k.told)
	windows = declare(windows, s.flow, v, next, now)
	return d.write(d.place(s.flow.ID), s, v, next, windows)
}

// read takes the records that are due from the store: what was held back and is behind next.Until no more, and what is new. What belongs
// into the window behind it is held back, unless the store has more than one file takes. What interfaces had traffic is noted.
func (d *Deliverer) read(ctx context.Context, s *scope, v, next *progress, store flowlog.Position, seen noted) ([]api.FlowRecord, error) {
	f := s.flow
	var records []api.FlowRecord
	held := false
	take := func(r *api.FlowRecord) {
		s.note(seen, r)
		if r.Lost > 0 && f.Concerns(r) && !f.Takes(r) { // of the other traffic type; what is lost may be of this one
			r = &api.FlowRecord{Node: r.Node, Boot: r.Boot, Sequence: r.Sequence, Account: r.Account, VPC: r.VPC, Subnet: r.Subnet,
				Interface: r.Interface, Endpoint: r.Endpoint, Service: r.Service, Start: r.Start, End: r.End,
				LogStatus: format.StatusSkipData, Lost: r.Lost}
		}
		switch {
		case !f.Takes(r):
		case !r.End.Before(next.Until) && r.End.Before(next.Hold):
			held = true
		default:
			records = append(records, *r)
		}
	}
	_, err := d.cfg.Store.ReadFrom(ctx, v.From, v.Pos, f.Account, 1<<62, func(r *api.FlowRecord) error {
		if !r.End.Before(v.Until) && r.End.Before(v.Hold) {
			take(r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	heldBefore := held
	held = false
	next.Pos, err = d.cfg.Store.ReadFrom(ctx, v.Pos, store, f.Account, d.chunk, func(r *api.FlowRecord) error {
		take(r)
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case heldBefore:
		next.From = v.From
	case held:
		next.From = v.Pos
	default:
		next.From = next.Pos
	}
	return records, nil
}

// note notes that a record's interface had traffic, if that gets lines where it has none.
func (s *scope) note(seen noted, r *api.FlowRecord) {
	if s.own[r.Interface] && s.flow.Concerns(r) {
		seen.note(endOf(r.End, fileWindow), r.Interface)
	}
}

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

// between tells what interfaces had traffic in the windows that end behind start, and not behind end.
func (n noted) between(start, end time.Time) map[string]bool {
	out := map[string]bool{}
	for at, list := range n {
		if at.After(start) && !at.After(end) {
			maps.Copy(out, list)
		}
	}
	return out
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

// quiet adds a line for each interface without traffic in the windows that are closed: NODATA where its node has told past the
// window's end, and SKIPDATA where it has not: its records may still come. Streams have none.
func (s *scope) quiet(windows []*window, v, next *progress, seen noted, told toldTimes) []*window {
	if s.flow.DestinationType == api.DestinationStream {
		return windows
	}
	next.Seen = seen.behind(next.Until)
	if !next.Until.After(v.Until) {
		return windows
	}
	length := windowOf(s.flow)
	have := map[time.Time]*window{}
	for _, w := range windows {
		have[w.end] = w
	}
	start, at := v.Until, endOf(v.Until, length)
	if next.Until.Sub(v.Until) > maxQuiet*length { // the server was away: one line for all that time
		at = next.Until
	}
	for ; !at.After(next.Until); at = at.Add(length) {
		w := have[at]
		if w == nil {
			w = &window{end: at}
			windows = append(windows, w)
		}
		busy := seen.between(start, at)
		for _, e := range s.enis {
			if !busy[e.ID] && !e.CreatedAt.After(at) {
				w.rows = append(w.rows, s.without(e, start, at, told))
			}
		}
		start = at
	}
	slices.SortFunc(windows, func(a, b *window) int { return a.end.Compare(b.end) })
	return windows
}

// without is the line of an interface that has no records of a time.
func (s *scope) without(e *api.ENI, start, end time.Time, told toldTimes) format.Row {
	row := format.NoData(e.Account, e.ID, e.VPC, e.Subnet, start, end)
	if e.Node != "" && told[e.Node].Before(end) {
		row.LogStatus = format.StatusSkipData
	}
	s.enrich(&row)
	return row
}

// declare adds a line with SKIPDATA for records that were given up.
func declare(windows []*window, f *api.FlowLog, v, next *progress, now time.Time) []*window {
	if v.Undeclared == 0 {
		return windows
	}
	if len(windows) == 0 {
		windows = []*window{{end: endOf(now, windowOf(f))}}
	}
	last := windows[len(windows)-1]
	lost := &api.FlowRecord{Account: f.Account, Start: now.UTC(), End: now.UTC(), LogStatus: format.StatusSkipData, Lost: v.Undeclared}
	last.rows = append(last.rows, format.Row{FlowRecord: lost, LostHere: v.Undeclared})
	next.Undeclared = 0
	return windows
}

// write puts the windows' files into the spool, and then notes the progress: from then on they are delivered, and not made again.
func (d *Deliverer) write(p place, s *scope, v, next *progress, windows []*window) error {
	next.Queue = slices.Clone(v.Queue)
	for _, w := range windows {
		if len(w.rows) == 0 {
			continue
		}
		o, data, err := object(s.flow, s.fields, s.region, w)
		if err != nil {
			return err
		}
		o.File = fmt.Sprintf("%016d%s", next.Next, spoolSuffix)
		next.Next++
		if err := p.dir.Write(o.File, data); err != nil {
			return err
		}
		next.Queue = append(next.Queue, o)
	}
	if err := p.save(next); err != nil {
		return err
	}
	*v = *next
	return nil
}

func queued(list []Object) (n int64) {
	for _, o := range list {
		n += o.Size
	}
	return n
}

// giveUp counts records as lost that the store soon keeps no longer, while their destination takes nothing; a.mu is held.
func (d *Deliverer) giveUp(ctx context.Context, a *active, store flowlog.Position, now time.Time) error {
	oldest := now.Add(-d.cfg.MaxLag()).UTC().Format(time.DateOnly)
	gone := store.Clone()
	maps.DeleteFunc(gone, func(day string, _ int64) bool { return day >= oldest })
	return d.lose(ctx, a, gone)
}

// lose counts as lost what of some days was not read, or held back for the window that is open; a.mu is held. Their windows are not quiet: what
// is lost is declared.
func (d *Deliverer) lose(ctx context.Context, a *active, gone flowlog.Position) error {
	v := a.v
	lost, from, err := d.loseHeld(ctx, a, gone)
	if err != nil || lost == 0 && v.Pos.Behind(gone) == 0 {
		return err
	}
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
	for day := range gone {
		from[day] = at[day]
	}
	next := *v
	next.From, next.Pos = from, at
	next.Lost += lost
	next.Seen = seen.behind(v.Until)
	next.Undeclared += lost
	if err := d.place(a.id).save(&next); err != nil {
		return err
	}
	*v = next
	return nil
}

// loseHeld counts what of some days was read already, and held back; from is where else such records lie behind. They are of the form before the
// oldest edit, since none is held back over one.
func (d *Deliverer) loseHeld(ctx context.Context, a *active, gone flowlog.Position) (lost uint64, from flowlog.Position, err error) {
	v, f := a.v, a.parts(gone)[0].flow
	from = v.From.Clone()
	if from == nil {
		from = flowlog.Position{}
	}
	read := flowlog.Position{}
	for day := range gone {
		read[day] = v.Pos[day]
	}
	_, err = d.cfg.Store.ReadFrom(ctx, from, read, f.Account, 1<<62, func(r *api.FlowRecord) error {
		if !r.End.Before(v.Until) && r.End.Before(v.Hold) && f.Takes(r) {
			lost++
		}
		return nil
	})
	return lost, from, err
}

// LetGo counts as lost what flow logs have not told of a day whose records are removed now. ready is false where it is not known
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
