package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

const (
	// repeatWindow is how long what happens again and again is counted into one event.
	repeatWindow = time.Minute
	// A caller's refusals are events of their own, so many at once and then one in such a time; beyond that they are counted. Callers that
	// nobody knows are one.
	refusalBurst = 100
	refusalEvery = 10 * time.Second
	// maxAsked is how many addresses, and resources, are told apart in a count; what comes later is among otherSources.
	maxAsked     = 1024
	otherSources = "others"
)

// repeats counts what happens again and again: readings of one kind are an event at once, and those within the next minute one together;
// refusals are events of their own until they are too many. Of those counted the details of the last one are kept, and where from and
// of what most of them were. Counts of refusals are in the store before anybody is answered; those of readings a crash loses.
type repeats struct {
	// writing is held by who writes counts into the store, or takes them out of it: so none comes back that was told of.
	writing sync.Mutex

	mu     sync.Mutex
	open   map[repeat]*repetition
	single map[string]*rate.Limiter // by actor
	unsaid map[repeat]bool          // counts of refusals that the store does not have
	// Refusals that were counted, one after the other, and up to which of them counts are written.
	counted, written uint64
	run              string // begins the keys of this run's counts
	keys             int    // that were given
}

// repeat is a kind of what happens again. Callers that nobody knows are one, whatever they ask for: they must not fill anything.
type repeat struct{ actor, account, action, outcome string }

type repetition struct {
	since time.Time
	last  api.AuditEvent // Count: how many
	// Where from and of what, as counted.
	sources, resources map[string]uint64
	keys               []string // of the store, that hold the count
}

// due is what is to be written as an event, with the keys that held it until then.
type due struct {
	api.AuditEvent
	keys []string
}

func repeatOf(e *api.AuditEvent) repeat {
	if e.Role == api.RoleAnonymous {
		return repeat{actor: e.Actor, outcome: e.Outcome}
	}
	return repeat{e.Actor, e.Account, e.Action, e.Outcome}
}

// count takes in an event, or so many that an event stands for.
func (r *repetition) count(e api.AuditEvent, n uint64) {
	countBy(&r.sources, e.Sources, e.Source, n)
	countBy(&r.resources, e.Resources, cmp.Or(e.Resource, e.Asked), n)
	n += r.last.Count
	r.last = e
	r.last.Count, r.last.Sources, r.last.Resources = n, nil, nil
}

func countBy(into *map[string]uint64, from []api.AuditSource, one string, n uint64) {
	if *into == nil {
		*into = map[string]uint64{}
	}
	if len(from) == 0 && one != "" {
		from = []api.AuditSource{{Source: one, Count: n}}
	}
	for _, s := range from {
		if _, known := (*into)[s.Source]; !known && len(*into) >= maxAsked {
			s.Source = otherSources
		}
		(*into)[s.Source] += s.Count
	}
}

// told is the event that tells of the count.
func (r *repetition) told() api.AuditEvent {
	e := r.last
	e.Sources, e.Resources = most(r.sources), most(r.resources)
	return e
}

// most are those with the largest counts, and all others together.
func most(of map[string]uint64) (out []api.AuditSource) {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int {
		return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b))
	})
	rest := of[otherSources]
	for _, name := range names {
		switch {
		case name == otherSources:
		case len(out) < api.MaxAuditSources:
			out = append(out, api.AuditSource{Source: name, Count: of[name]})
		default:
			rest += of[name]
		}
	}
	if rest > 0 {
		out = append(out, api.AuditSource{Source: otherSources, Count: rest})
	}
	return out
}

// add returns what is to be written now. number is not 0 where the event is a refusal that was counted: saveRepeats has to write up to it.
func (r *repeats) add(e api.AuditEvent) (now []due, number uint64) {
	k := repeatOf(&e)
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.open[k]
	if o != nil && e.At.Sub(o.since) >= repeatWindow {
		now = r.close(k)
		o = nil
	}
	if e.Outcome != api.OutcomeSuccess {
		if r.alone(e.Actor, e.At) {
			return append(now, due{AuditEvent: e}), 0
		}
		if o == nil {
			o = r.begin(k, e.At)
		}
		o.count(e, 1)
		r.mark(k)
		r.counted++
		return now, r.counted
	}
	if o != nil {
		o.count(e, 1)
		return now, 0
	}
	r.begin(k, e.At)
	return append(now, due{AuditEvent: e}), 0
}

// alone reports whether an actor's refusal is an event of its own.
func (r *repeats) alone(actor string, at time.Time) bool {
	l := r.single[actor]
	if l == nil {
		if r.single == nil {
			r.single = map[string]*rate.Limiter{}
		}
		l = rate.NewLimiter(rate.Every(refusalEvery), refusalBurst)
		r.single[actor] = l
	}
	return l.AllowN(at, 1)
}

func (r *repeats) begin(k repeat, at time.Time) *repetition {
	if r.open == nil {
		r.open = map[repeat]*repetition{}
	}
	o := &repetition{since: at}
	r.open[k] = o
	return o
}

func (r *repeats) mark(k repeat) {
	if r.unsaid == nil {
		r.unsaid = map[repeat]bool{}
	}
	r.unsaid[k] = true
}

// close ends a kind's count.
func (r *repeats) close(k repeat) []due {
	o := r.open[k]
	delete(r.open, k)
	delete(r.unsaid, k)
	if o.last.Count == 0 {
		return nil
	}
	return []due{{o.told(), o.keys}}
}

// unwritten are the counts that the store does not have as they are, by the keys that they are to have, and the number of the newest
// refusal that is in them.
func (r *repeats) unwritten() (out map[string]api.AuditEvent, kinds []repeat, upTo uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out = map[string]api.AuditEvent{}
	for k := range r.unsaid {
		o := r.open[k]
		if o == nil {
			continue
		}
		if len(o.keys) == 0 {
			r.keys++
			o.keys = []string{fmt.Sprintf("%s%s/%d", store.PrefixCounted, r.run, r.keys)}
		}
		out[o.keys[0]] = o.told()
		kinds = append(kinds, k)
	}
	r.unsaid = nil
	return out, kinds, r.counted
}

// waits reports whether the store lacks the count of a refusal.
func (r *repeats) waits(number uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written < number
}

// wrote notes that the store has all counts up to a refusal.
func (r *repeats) wrote(upTo uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written = upTo
}

// again marks counts that could not be written.
func (r *repeats) again(kinds []repeat) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range kinds {
		if r.open[k] != nil {
			r.mark(k)
		}
	}
}

// take returns the counts that are complete, or all of them.
func (r *repeats) take(now time.Time, all bool) (out []due) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, o := range r.open {
		if all || now.Sub(o.since) >= repeatWindow {
			out = append(out, r.close(k)...)
		}
	}
	slices.SortFunc(out, func(a, b due) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.RequestID, b.RequestID))
	})
	maps.DeleteFunc(r.single, func(_ string, l *rate.Limiter) bool { return l.TokensAt(now) >= refusalBurst })
	return out
}

// putBack keeps what could not be written: counts, and single ones, which are counted from then on.
func (r *repeats) putBack(events []due) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		k := repeatOf(&e.AuditEvent)
		o := r.open[k]
		if o == nil {
			o = r.begin(k, e.At)
		}
		newest := o.last
		o.count(e.AuditEvent, max(e.Count, 1))
		o.keys = append(o.keys, e.keys...)
		if newest.Count > 0 { // it came after
			newest.Count = o.last.Count
			o.last = newest
		}
		if e.Outcome != api.OutcomeSuccess {
			r.mark(k)
		}
	}
}

// saveRepeats writes the counts of refusals that the store lacks, those of all who wait at once, so that a flood costs no more than one
// write at a time. It returns when the refusal with a number is there: at once, where somebody else wrote it since it was counted.
func (s *Server) saveRepeats(ctx context.Context, number uint64) error {
	s.repeats.writing.Lock()
	defer s.repeats.writing.Unlock()
	if !s.repeats.waits(number) {
		return nil
	}
	counts, kinds, upTo := s.repeats.unwritten()
	_, err := s.store.Txn(ctx, func(tx *store.Tx) error {
		for key, e := range counts {
			data, err := json.Marshal(e)
			if err != nil {
				return err
			}
			tx.SetSide(key, data)
		}
		return nil
	})
	if err != nil {
		s.repeats.again(kinds)
		return err
	}
	s.repeats.wrote(upTo)
	return nil
}

// writeDue writes events, and counts on with them where that fails.
func (s *Server) writeDue(ctx context.Context, events []due) error {
	if len(events) == 0 {
		return nil
	}
	err := s.putEvents(ctx, events)
	if err != nil {
		s.repeats.putBack(events)
	}
	return err
}

// putEvents writes events, and takes the counts that they tell of out of the store.
func (s *Server) putEvents(ctx context.Context, events []due) error {
	_, err := s.store.Txn(ctx, func(tx *store.Tx) error {
		for _, e := range events {
			tx.Audit(e.AuditEvent)
			for _, key := range e.keys {
				tx.SetSide(key, nil)
			}
		}
		return nil
	})
	return err
}

// flushRepeats writes the counts that are complete, or all of them.
func (s *Server) flushRepeats(ctx context.Context, all bool) error {
	s.repeats.writing.Lock()
	defer s.repeats.writing.Unlock()
	return s.writeDue(ctx, s.repeats.take(s.cfg.Now(), all))
}
