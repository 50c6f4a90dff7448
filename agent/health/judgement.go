package health

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A host whose digests stay out for silentTicks is asked questions times, questionEvery apart. Only when it is silent to these,
// too, its targets are taken away: at least leastSilence after it was heard last, so that a suspicion alone does not hurry more
// than a busy machine can answer.
const (
	silentTicks   = 3
	questions     = 3
	questionEvery = 250 * time.Millisecond
	leastSilence  = 1250 * time.Millisecond
	// returnTime is how long a host that was silent must be heard, without such a silence, until it is believed to be back: two
	// digests in a row, as a target needs two good answers. One that runs for a moment now and then stays away.
	returnTime = 2 * Tick
	// restartTime is how long a host may be silent that has said that its agent ends, as it does for an upgrade.
	restartTime = 30 * time.Second
)

// muteTime is how long a tunnel must have brought nothing of a host that is asked and does not answer until flows to its targets
// are ended. A tunnel that is spoken to, as questions do, answers by itself within 10 s (WireGuard's keepalive timeout): so a host
// that only has lost its agent, and forwards as ever, keeps its flows. A host that was never heard is not taken for dead before:
// its agent may be one that knows nothing of health.
const muteTime = 15 * time.Second

// Removal velocity: of a target group at most half of the targets, and one at least, are away that were taken away within
// removalWindow. One that is back does not count: who flaps keeps nobody else's dead target in.
const removalWindow = 30 * time.Second

// slowSteps are the steps in which a target that came back gets to its full share.
const slowSteps = 10

// FullWeight is the weight, per mille of its own, of a target that is not in slow start.
const FullWeight = 1000

// Source is a target that this node may send to.
type Source struct {
	Key
	Node      uint32        // number of the node that hosts it
	VPC       uint32        // number of its VPC
	SlowStart time.Duration // 0: none
	End       bool          // flows of an unhealthy target are ended
	EndAfter  time.Duration // that it is unhealthy
}

// Fact is what goes into the tables.
type Fact struct {
	State  State
	Reason Reason
	Since  time.Time
	Weight uint16 // per mille of the target's own
	Ended  bool   // its flows are to end
}

// Judgement is what a node thinks of the targets that it may send to, from what their hosts say of them. A target of which
// nothing is known has no fact. What is heard is noted, which costs little; [Judgement.Settle] makes facts of it, which looks at
// all targets. The zero value knows no targets. It is not for several goroutines at once.
type Judgement struct {
	self        uint32
	targets     map[Key]*judged
	groups      map[uint32]int  // number of targets
	places      map[place][]Key // sorted
	hosts       map[uint32]*peer
	stale       bool   // something was noted that facts do not follow yet
	changes     uint64 // of facts
	unreachable uint64 // targets that went with their host
}

type judged struct {
	source Source
	said   State // by its host; Unknown: nothing yet
	reason Reason
	doubt  bool          // its host is not sure that it is dead
	age    time.Duration // of the state, when it was said first
	fact   Fact          // State Unknown: none
	told   Fact          // as of the last change that was counted
	gone   time.Time     // when it was taken away last
}

// peer is a node that hosts targets.
type peer struct {
	heard   time.Time
	patient time.Time // not asked before, however silent
	asked   time.Time // first question; zero: it is not being asked
	next    time.Time // of the next question
	count   int       // of questions
	silent  bool      // to questions
	back    time.Time // when it began to be heard again
	known   bool      // it was heard
	rx      uint64    // bytes that the tunnel brought
	brought time.Time // when it was seen that there are more
	seen    time.Time // when it was looked last
	boot    uint64    // of its last digest
	former  uint64    // the boot before
	seq     uint64
}

// NewJudgement is that of a node.
func NewJudgement(self uint32) *Judgement {
	return &Judgement{self: self, targets: map[Key]*judged{}, groups: map[uint32]int{}, hosts: map[uint32]*peer{}}
}

// Set replaces the targets. One that is hosted by the same node as before keeps what is known of it.
func (j *Judgement) Set(now time.Time, sources []Source) {
	targets, hosts := make(map[Key]*judged, len(sources)), map[uint32]*peer{}
	j.places = make(map[place][]Key, len(sources))
	clear(j.groups)
	for _, s := range sources {
		t := j.targets[s.Key]
		if t == nil || t.source.Node != s.Node {
			t = &judged{}
		}
		t.source = s
		targets[s.Key] = t
		j.groups[s.TargetGroup]++
		at := place{s.VPC, s.Target}
		j.places[at] = append(j.places[at], s.Key)
		if s.Node == j.self || hosts[s.Node] != nil {
			continue
		}
		if hosts[s.Node] = j.hosts[s.Node]; hosts[s.Node] == nil {
			hosts[s.Node] = &peer{heard: now}
			hosts[s.Node].ask(now) // it answers with a digest
		}
	}
	for _, keys := range j.places {
		slices.SortFunc(keys, Key.Compare)
	}
	for k, t := range j.targets {
		if targets[k] != t && t.told.State != Unknown {
			j.changes++
		}
	}
	j.targets, j.hosts = targets, hosts
	j.Settle(now)
}

func (p *peer) ask(now time.Time) {
	if p.asked.IsZero() && !now.Before(p.patient) {
		p.asked, p.next, p.count = now, now, 0
	}
}

// patience is how long a host may be quiet before it is asked. One that is coming back is asked at the pace of digests.
func (p *peer) patience() time.Duration {
	if p.silent {
		return Tick
	}
	return silentTicks * Tick
}

// Ask has a host asked whether it is there, because something hints that it is not.
func (j *Judgement) Ask(now time.Time, node uint32) {
	if p := j.hosts[node]; p != nil {
		p.ask(now)
	}
}

// mute tells whether the tunnel brought nothing of a host that is asked, for longer than one that is there would be silent.
func (p *peer) mute() bool {
	since := p.brought
	if p.asked.After(since) { // nothing has to come of one that nobody speaks to
		since = p.asked
	}
	return !p.asked.IsZero() && p.seen.Sub(since) >= muteTime
}

// Listening says that this node hears from now on: that it heard nothing before says nothing of others.
func (j *Judgement) Listening(now time.Time) {
	for _, p := range j.hosts {
		if p.heard, p.back = now, now; !p.silent {
			p.asked = time.Time{}
			p.ask(now)
		}
	}
}

// Due are the nodes that a question goes to now.
func (j *Judgement) Due(now time.Time) (ask []uint32) {
	for _, node := range slices.Sorted(maps.Keys(j.hosts)) {
		p := j.hosts[node]
		if p.asked.IsZero() && now.Sub(p.heard) >= p.patience() {
			p.ask(now)
		}
		if p.asked.IsZero() || p.next.After(now) {
			continue
		}
		if p.count >= questions && now.Sub(p.heard) >= leastSilence && (p.known || p.mute()) {
			p.silent = true
		}
		p.count++
		p.next = now.Add(questionEvery)
		if p.silent || !p.known && p.count > questions { // it is asked on, at the pace of digests
			p.next = now.Add(Tick)
		}
		ask = append(ask, node)
	}
	j.Settle(now)
	return ask
}

// Next is when Due has something to do, or a fact changes by time alone; ok is false when never.
func (j *Judgement) Next(now time.Time) (at time.Time, ok bool) {
	if j.stale {
		return now, true
	}
	sooner := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	for _, p := range j.hosts {
		if !p.asked.IsZero() {
			sooner(p.next)
		} else if due := p.heard.Add(p.patience()); due.Before(p.patient) {
			sooner(p.patient)
		} else {
			sooner(due)
		}
	}
	var waiting bool
	var free time.Time // when the first removal leaves the window
	for _, t := range j.targets {
		if t.fact.Weight != 0 && t.fact.Weight < FullWeight {
			sooner(t.fact.Since.Add(t.source.SlowStart * time.Duration(t.fact.Weight) / FullWeight))
		}
		if due := t.fact.Since.Add(t.source.EndAfter); t.fact.State == Unhealthy && t.source.End && due.After(now) {
			sooner(due)
		}
		waiting = waiting || t.removed(j.wanted(t))
		if end := t.gone.Add(removalWindow); t.counts(now) && (free.IsZero() || end.Before(free)) {
			free = end
		}
	}
	if waiting && !free.IsZero() {
		sooner(free)
	}
	if ok && at.Before(now) {
		at = now
	}
	return at, ok
}

// Alive says that a datagram of the node came: it is there, or coming back.
func (j *Judgement) Alive(now time.Time, node uint32) {
	p := j.hosts[node]
	if p == nil {
		return
	}
	if now.Sub(p.heard) >= leastSilence {
		p.back = now
	}
	p.heard, p.asked, p.patient, p.known = now, time.Time{}, time.Time{}, true
	if p.silent && now.Sub(p.back) >= returnTime {
		p.silent, j.stale = false, true
	}
}

// Received says how many bytes the tunnel has brought of a node.
func (j *Judgement) Received(now time.Time, node uint32, bytes uint64) {
	p := j.hosts[node]
	if p == nil {
		return
	}
	j.stale = j.stale || p.silent
	if p.seen = now; p.brought.IsZero() || p.rx != bytes {
		p.rx, p.brought = bytes, now
		p.silent = p.silent && p.known // one that was never heard is not missed while its tunnel answers
	}
}

// ends tells whether the flows of a target are to end: those of one that fails its probes beyond doubt when the group says so, and
// those of one whose host is gone when its tunnel is, too.
func (j *Judgement) ends(t *judged, now time.Time) bool {
	if t.fact.State != Unhealthy || !t.source.End || now.Sub(t.fact.Since) < t.source.EndAfter {
		return false
	}
	if t.fact.Reason != ReasonUnreachable {
		return !t.doubt
	}
	p := j.hosts[t.source.Node]
	return p != nil && p.mute()
}

// Hear takes a node's digest. Of targets that it does not host it says nothing, whatever it says.
func (j *Judgement) Hear(now time.Time, node uint32, d *Digest) {
	p := j.hosts[node]
	if p == nil || !p.newer(d) {
		return
	}
	j.Alive(now, node)
	if d.Leaving {
		p.patient = now.Add(restartTime)
	}
	for _, r := range d.Reports {
		j.report(node, r)
	}
}

// newer tells a digest from one that was overtaken. A boot that was left does not come back.
func (p *peer) newer(d *Digest) bool {
	switch {
	case d.Boot == p.boot && d.Seq < p.seq, d.Boot == p.former && p.former != 0:
		return false
	case d.Boot != p.boot:
		p.former, p.boot = p.boot, d.Boot
	}
	p.seq = d.Seq
	return true
}

// Own takes what this node found out of its own targets.
func (j *Judgement) Own(now time.Time, statuses []Status) {
	for _, s := range statuses {
		j.report(j.self, Report{Key: s.Key, State: s.State, Reason: s.Reason, Age: now.Sub(s.Since), Doubt: s.Doubt})
	}
}

// report notes what the host of a target says. That it begins to check anew, as after a restart of its agent, is no news of a
// target that is known.
func (j *Judgement) report(node uint32, r Report) {
	t := j.targets[r.Key]
	if t == nil || t.source.Node != node || r.State == Unknown || r.State == Initial && t.said != Unknown {
		return
	}
	if t.said != r.State {
		t.age = r.Age
	}
	j.stale = j.stale || t.said != r.State || t.reason != r.Reason || t.doubt != r.Doubt
	t.said, t.reason, t.doubt = r.State, r.Reason, r.Doubt
}

// wanted is what would be the fact if removals had no bound.
func (j *Judgement) wanted(t *judged) (State, Reason) {
	if p := j.hosts[t.source.Node]; p != nil && p.silent {
		return Unhealthy, ReasonUnreachable
	}
	return t.said, t.reason
}

// removed tells whether a target that takes new flows, as one does of which nothing is known, would take none any more. What its
// host says of it first is no removal: it was so before.
func (t *judged) removed(s State, r Reason) bool {
	return s == Unhealthy && (t.fact.State == Healthy || t.fact.State == Unknown && r == ReasonUnreachable)
}

// Stale tells whether something was noted that facts do not follow yet.
func (j *Judgement) Stale() bool { return j.stale }

// Settle makes facts of what is wanted, the oldest removals first. Due does it, too.
func (j *Judgement) Settle(now time.Time) {
	j.stale = false
	var removals []*judged
	for _, t := range j.targets {
		state, reason := j.wanted(t)
		switch {
		case state == Unknown:
			if t.fact.Reason == ReasonUnreachable { // its host is back, and has said nothing of it
				t.fact = Fact{}
			}
		case t.removed(state, reason):
			removals = append(removals, t)
		case t.fact.State != state:
			t.become(now, state, reason)
		default:
			t.fact.Reason = reason
		}
	}
	slices.SortFunc(removals, func(a, b *judged) int {
		return cmp.Or(cmp.Compare(b.age, a.age), a.source.Key.Compare(b.source.Key))
	})
	j.remove(now, removals)
	for _, t := range j.targets {
		t.fact.Weight = t.weight(now)
		t.fact.Ended = j.ends(t, now)
		j.count(t)
	}
}

// count notes that a fact is another one.
func (j *Judgement) count(t *judged) {
	if t.fact == t.told || t.fact.State == Unknown && t.told.State == Unknown {
		return
	}
	j.changes++
	if t.fact.Reason == ReasonUnreachable && t.told.Reason != ReasonUnreachable {
		j.unreachable++
	}
	t.told = t.fact
}

// Changes grows whenever facts change.
func (j *Judgement) Changes() uint64 { return j.changes }

// Unreachable is how many targets have gone with their host.
func (j *Judgement) Unreachable() uint64 { return j.unreachable }

// remove takes targets away, as many as may go.
func (j *Judgement) remove(now time.Time, targets []*judged) {
	if len(targets) == 0 {
		return
	}
	gone := map[uint32]int{} // by group
	for _, t := range j.targets {
		if t.counts(now) {
			gone[t.source.TargetGroup]++
		}
	}
	for _, t := range targets {
		group := t.source.TargetGroup
		if gone[group] >= max(1, j.groups[group]/2) {
			continue
		}
		gone[group]++
		_, reason := j.wanted(t)
		t.become(now, Unhealthy, reason)
		t.gone = now
	}
}

// counts tells whether a target is away that was taken away within the window.
func (t *judged) counts(now time.Time) bool {
	return t.fact.State == Unhealthy && !t.gone.IsZero() && now.Sub(t.gone) < removalWindow
}

func (t *judged) become(now time.Time, s State, r Reason) {
	since := now
	if t.fact.State == Unknown { // it was so before this node heard of it
		since = now.Add(-t.age)
	}
	t.fact.State, t.fact.Reason, t.fact.Since = s, r, since
}

// weight of a target in slow start grows in steps, so that tables change seldom.
func (t *judged) weight(now time.Time) uint16 {
	age := now.Sub(t.fact.Since)
	if t.fact.State != Healthy || t.source.SlowStart <= 0 || age >= t.source.SlowStart {
		return FullWeight
	}
	step := int64(age)*slowSteps/int64(t.source.SlowStart) + 1
	return uint16(step * FullWeight / slowSteps)
}

// Facts are those of all targets of which something is known.
func (j *Judgement) Facts() map[Key]Fact {
	facts := make(map[Key]Fact, len(j.targets))
	for k, t := range j.targets {
		if t.fact.State != Unknown {
			facts[k] = t.fact
		}
	}
	return facts
}

// Node is the host of a target; ok is false for one that is not this node's business.
func (j *Judgement) Node(k Key) (node uint32, ok bool) {
	t := j.targets[k]
	if t == nil {
		return 0, false
	}
	return t.source.Node, true
}

// Find are the targets at an address and port of a VPC; several groups may have the same.
func (j *Judgement) Find(vpc uint32, at netip.AddrPort) []Key { return j.places[place{vpc, at}] }
