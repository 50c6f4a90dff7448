package health

import (
	"cmp"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Damping: a target that changed twice within flapWindow is not taken back before the earlier of both changes is that long ago.
// It is always taken away at once.
const flapWindow = 30 * time.Second

// A suspected target is probed in a burst: as many probes as take it away, hurryTime apart at most, whatever the check's
// interval is. The whole burst begins within burstTime.
const (
	hurryTime = 100 * time.Millisecond
	burstTime = 400 * time.Millisecond
	// suspectEvery is the least time between two bursts of one target, whoever asks for them.
	suspectEvery = 200 * time.Millisecond
	// initialEvery bounds the time between probes of a target that was neither healthy nor unhealthy yet, and after one that came to
	// nothing.
	initialEvery = time.Second
)

// Probe is one that is to begin now.
type Probe struct {
	ID    uint64
	Check Check
	Hurry bool // the target is suspect: a connection that does not come about at once counts as failed
}

// Monitor is the state of the targets that a node hosts. The zero value has none. It is not for several goroutines at once.
type Monitor struct {
	targets map[Key]*target
	order   []*target       // all, by key
	places  map[place][]Key // what is at an address and port of a VPC
	pending map[uint64]outstanding
	serial  uint64
	changes uint64 // of states, so far
}

// outstanding is a probe that has begun.
type outstanding struct {
	target *target
	hurry  bool
}

// maxTransitions is how many are kept of each target, as many as by the control plane: none takes another one's place.
const maxTransitions = 20

type target struct {
	check     Check
	status    Status
	next      time.Time    // of the next probe of the interval
	burst     int          // probes of a burst that are to begin
	burstAt   time.Time    // when the next of them does
	suspected time.Time    // when the last burst was asked for
	asked     bool         // a probe of the interval is outstanding
	hurried   int          // probes of a burst that are
	good, bad int          // outcomes in a row
	late      int          // silences in a row that this node noticed late
	barrier   uint64       // failures of probes up to this one say nothing: one that began later has passed
	changed   [2]time.Time // when it did last, the earlier one first
	history   []Transition // the last ones, oldest first
}

// Set replaces the checks. A target that stays keeps its state, also when its check is another one now. Those of the first call
// are not new: an agent before this one may have known them, and until they are probed nothing is said of them.
func (m *Monitor) Set(now time.Time, checks []Check) (changed bool) {
	first := Status{State: Initial, Reason: ReasonInitial, Since: now}
	if m.targets == nil {
		m.targets, m.pending = map[Key]*target{}, map[uint64]outstanding{}
		first = Status{Since: now}
	}
	keep := make(map[Key]bool, len(checks))
	for _, c := range checks {
		keep[c.Key] = true
		t := m.targets[c.Key]
		if t == nil {
			t = &target{status: first, next: now}
			t.status.Key = c.Key
			m.targets[c.Key], changed = t, true
		} else if t.check != c {
			t.next = now // what was found out with another check says little
		}
		t.check = c
	}
	for k := range m.targets {
		if !keep[k] {
			delete(m.targets, k)
			changed = true
		}
	}
	m.order, m.places = make([]*target, 0, len(m.targets)), make(map[place][]Key, len(m.targets))
	for _, k := range slices.SortedFunc(maps.Keys(m.targets), Key.Compare) {
		t := m.targets[k]
		m.order = append(m.order, t)
		at := place{t.check.VPC, k.Target}
		m.places[at] = append(m.places[at], k)
	}
	return changed
}

// Find are this node's targets at an address and port of a VPC; several groups may have the same.
func (m *Monitor) Find(vpc uint32, at netip.AddrPort) []Key { return m.places[place{vpc, at}] }

// Suspect asks for a burst: somebody saw the target refuse a connection, or be silent. It tells whether there is one. There is
// none while probes of the last one are outstanding: they will tell.
func (m *Monitor) Suspect(now time.Time, k Key) bool {
	t := m.targets[k]
	if t == nil || t.status.State == Unhealthy || t.burst > 0 || t.hurried > 0 {
		return false
	}
	if !t.suspected.IsZero() && now.Sub(t.suspected) < suspectEvery {
		return false
	}
	t.suspected, t.burst, t.burstAt = now, t.check.UnhealthyThreshold, now
	return true
}

// Next is when a probe is due; ok is false when none will be.
func (m *Monitor) Next() (at time.Time, ok bool) {
	for _, t := range m.order {
		if due, will := t.due(); will && (!ok || due.Before(at)) {
			at, ok = due, true
		}
	}
	return at, ok
}

// due is when a target is probed next; ok is false when that waits for the probe that is outstanding.
func (t *target) due() (at time.Time, ok bool) {
	if t.burst > 0 && (t.asked || t.burstAt.Before(t.next)) {
		return t.burstAt, true
	}
	return t.next, !t.asked
}

// Due are the probes that begin now, by key. Each is answered by one Done. A target that takes its time is not probed again
// meanwhile, but for a burst: so there are never more probes than targets and their bursts.
func (m *Monitor) Due(now time.Time) (probes []Probe) {
	for _, t := range m.order {
		hurry := t.burst > 0 && !t.burstAt.After(now)
		switch {
		case hurry:
			t.burst--
			t.hurried++
			t.burstAt = now.Add(min(hurryTime, burstTime/time.Duration(max(1, t.check.UnhealthyThreshold-1))))
		case t.asked || t.next.After(now):
			continue
		default:
			t.asked = true
		}
		t.next = now.Add(t.interval())
		m.serial++
		m.pending[m.serial] = outstanding{t, hurry}
		probes = append(probes, Probe{ID: m.serial, Check: t.check, Hurry: hurry})
	}
	return probes
}

// interval until the next probe. The first ones come sooner, and each target at another moment, so that targets that were
// registered together are not probed together for ever.
func (t *target) interval() time.Duration {
	d := t.check.Interval
	if t.status.State == Initial || t.status.State == Unknown {
		d = min(d, initialEvery)
	}
	if t.good+t.bad == 0 && d > 2 {
		h := fnv.New32a()
		_, _ = h.Write([]byte(t.check.Target.String()))
		d = d/2 + time.Duration(h.Sum32())%(d/2)
	}
	return d
}

// maxLate is how many silences in a row, noticed late, say nothing of a target.
const maxLate = 3

// Done takes the outcome of a probe, and tells whether what others see of the target is another now. An outcome counts when it
// comes, but a failure is nothing when a probe that began later has passed.
func (m *Monitor) Done(now time.Time, id uint64, o Outcome) (changed bool) {
	p, ok := m.pending[id]
	delete(m.pending, id)
	if !ok {
		return false
	}
	t := p.target
	if p.hurry {
		t.hurried--
	} else {
		t.asked = false
	}
	if m.targets[t.check.Key] != t {
		return false
	}
	if o.Late {
		t.late++
	} else {
		t.late = 0
	}
	if o.Late && t.late > maxLate { // who always notices late must not keep dead targets for ever
		o = Outcome{Reason: ReasonTimeout, Detail: "no answer in time, and this node is slow", Doubt: p.hurry}
	}
	if o.Untried {
		if again := now.Add(initialEvery); again.Before(t.next) {
			t.next = again
		}
		return false
	}
	before := t.status
	if o.Reason == ReasonNone {
		t.passed(now, id)
	} else if id > t.barrier {
		t.failed(now, o)
	}
	if before.State != t.status.State {
		m.changes++
		t.history = append(t.history, Transition{Key: t.check.Key, Serial: m.changes, At: now, From: before.State, To: t.status.State,
			Reason: t.status.Reason, Detail: t.status.Detail})
		t.history = t.history[max(0, len(t.history)-maxTransitions):]
	}
	return before.State != t.status.State || before.Reason != t.status.Reason || before.Doubt != t.status.Doubt
}

// Transitions are the oldest that came after the one with that serial number, so many at most; of each target only the last
// maxTransitions are known.
func (m *Monitor) Transitions(after uint64, most int) (out []Transition) {
	if after >= m.changes {
		return nil
	}
	for _, t := range m.targets {
		i := slices.IndexFunc(t.history, func(tr Transition) bool { return tr.Serial > after })
		if i >= 0 {
			out = append(out, t.history[i:]...)
		}
	}
	slices.SortFunc(out, func(a, b Transition) int { return cmp.Compare(a.Serial, b.Serial) })
	return out[:min(len(out), most)]
}

func (t *target) passed(now time.Time, id uint64) {
	t.bad, t.burst, t.barrier = 0, 0, max(t.barrier, id)
	t.good++
	enough := t.good >= t.check.HealthyThreshold || t.status.Doubt && t.good == 1 // it was only busy
	t.status.Doubt = t.status.State == Unhealthy
	switch {
	case t.status.State == Healthy:
	case t.status.State == Unhealthy && !enough:
	case t.status.State == Unhealthy && !t.changed[0].IsZero() && now.Sub(t.changed[0]) < flapWindow:
		t.status.Reason, t.status.Detail = ReasonFlapping, "it passes its checks and changed twice in half a minute"
	default:
		t.become(now, Healthy, Outcome{})
	}
}

func (t *target) failed(now time.Time, o Outcome) {
	t.good = 0
	t.bad++
	switch {
	case t.status.State == Unhealthy && o.Doubt: // says no more than is known
	case t.status.State == Unhealthy:
		t.status.Reason, t.status.Detail, t.status.Doubt = o.Reason, o.Detail, false
	case t.bad >= t.check.UnhealthyThreshold:
		t.burst = 0
		if t.become(now, Unhealthy, o); o.Doubt {
			t.next = now // a probe that waits as long as the check says
		}
	}
}

func (t *target) become(now time.Time, s State, o Outcome) {
	if t.status.State != Unknown {
		t.changed = [2]time.Time{t.changed[1], now}
	}
	t.status.State, t.status.Reason, t.status.Detail, t.status.Since, t.status.Doubt = s, o.Reason, o.Detail, now, o.Doubt
}

// Statuses are all targets', by key.
func (m *Monitor) Statuses() []Status {
	out := make([]Status, len(m.order))
	for i, t := range m.order {
		out[i] = t.status
	}
	return out
}

// Status is a target's; ok is false when it is none of this node's.
func (m *Monitor) Status(k Key) (s Status, ok bool) {
	t := m.targets[k]
	if t == nil {
		return s, false
	}
	return t.status, true
}
