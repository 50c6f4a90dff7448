package verify

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// idle lets time pass in which nobody has anything to tell but the log that it lives.
func (w *world) idle(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(20 * time.Second)
		w.tick()
	}
}

// did appends an audit event of a node's, or about one.
func (w *world) did(actor, action, resource string) {
	w.event++
	e := api.AuditEvent{Seq: w.event, At: w.now, Action: action, Actor: actor, Resource: resource, Outcome: api.OutcomeSuccess, Role: api.RoleAdmin}
	if actor == "" {
		e.Actor = "key-1"
	} else {
		e.Role = api.RoleNode
	}
	w.append(leaf.OfEvent(w.now, e))
}

// mesh is a world of two nodes that has lived for a minute.
func quietMesh(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, false)
	w.node("i-a", "boot-1", "consumer", keyOf(3))
	w.node("i-b", "boot-1", "provider", keyOf(4))
	w.live(6)
	return w
}

// TestNodesThatSealNothing: pauses are told, with what says that the node was there meanwhile, and are findings for who asks.
func TestNodesThatSealNothing(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(w *world)
		node  string // of the silence; "": there is none
		says  string // in the transcript
		finds bool   // where a pause of five minutes is the longest that is taken
	}{
		"none": {func(w *world) { w.live(6) }, "", "", false},
		"a short one": {func(w *world) {
			w.idle(100 * time.Second)
			w.live(6)
		}, "", "", false},
		"one": {func(w *world) {
			w.idle(10 * time.Minute)
			w.live(6)
		}, "i-a", "sealed nothing 1 times for more than 2m0s, 10m10s in all", true},
		"one of four minutes": {func(w *world) {
			w.idle(4 * time.Minute)
			w.live(6)
		}, "i-a", "4m10s in all", false},
		"a step of its clock": {func(w *world) {
			for _, s := range w.nodes {
				s.change = func(s *seal.Seal) {
					s.End = s.End.Add(time.Hour)
					s.Clock.SteppedMicros = time.Hour.Microseconds()
				}
				s.seal(false)
				s.change = func(s *seal.Seal) { s.Clock.SteppedMicros = -time.Hour.Microseconds() }
				s.seal(false)
			}
		}, "", "", false},
		"to the end": {func(w *world) { w.idle(10 * time.Minute) }, "i-a", ", the end of the log", true},
		"and it acted": {func(w *world) {
			w.idle(5 * time.Minute)
			w.did("i-a", "report-log-key", "")
			w.idle(5 * time.Minute)
			w.live(6)
		}, "i-a", "the log has it act 1 times meanwhile", true},
		"it went": {func(w *world) {
			w.did("", actionRevoke, "i-a")
			w.did("", actionRevoke, "i-b")
			w.idle(10 * time.Minute)
		}, "", "", false},
		"it told a key and no more": {func(w *world) {
			w.append(leaf.OfNodeKey(w.now, "i-c", public(5)))
			w.live(60)
		}, "i-c", "told a key and never sealed anything", true},
		"it joined and told no key": {func(w *world) {
			w.did("", actionJoin, "i-c")
			w.live(60)
		}, "i-c", "never told a key: what it recorded", true},
		"it has just joined": {func(w *world) {
			w.did("", actionJoin, "i-c")
			w.live(6)
		}, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := quietMesh(t)
			c.do(w)
			w.tick()
			w.stop()
			r := Run(w.dir(), w.keys, Options{})
			wantFinding(t, r, "")
			i := slices.IndexFunc(r.Silences, func(s Silence) bool { return s.Node == c.node })
			if (c.node == "") != (len(r.Silences) == 0) || c.node != "" && i < 0 || !strings.Contains(transcript(t, r), c.says) {
				t.Errorf("%+v\n%s", r.Silences, transcript(t, r))
			}
			want := ""
			if c.finds {
				want = "node " + c.node + ": sealed nothing from "
			}
			wantFinding(t, Run(w.dir(), w.keys, Options{Pause: 5 * time.Minute}), want)
			wantFinding(t, Run(w.dir(), w.keys, Options{Pause: 5 * time.Minute, Node: "i-d"}), "")
		})
	}
}

// TestDatesOfSeals: which seals are dated far from when the log got them is told; what only a node that lies has is found.
func TestDatesOfSeals(t *testing.T) {
	by := func(d time.Duration, step time.Duration) func(*seal.Seal) {
		return func(s *seal.Seal) {
			s.End = s.End.Add(d)
			s.Clock.SteppedMicros = step.Microseconds()
		}
	}
	for name, c := range map[string]struct {
		change []func(*seal.Seal)
		find   string
		says   string
	}{
		"in time":              {[]func(*seal.Seal){nil, nil}, "", ""},
		"a little ahead":       {[]func(*seal.Seal){by(time.Minute, 0)}, "", ""},
		"ahead":                {[]func(*seal.Seal){by(time.Hour, time.Hour)}, "", "1 are dated after the log got them, up to 1h0m0s"},
		"late":                 {[]func(*seal.Seal){by(-time.Hour, -time.Hour)}, "", "came up to 1h0m0s after their date; 1 are dated before the one before"},
		"days ahead":           {[]func(*seal.Seal){by(25*time.Hour, 25*time.Hour)}, "25h0m0s after the log got it", ""},
		"back without a word":  {[]func(*seal.Seal){by(-time.Hour, 0)}, "says of no step of the clock", ""},
		"back by a hair":       {[]func(*seal.Seal){by(-500*time.Millisecond, 0)}, "", ""},
		"back with the second": {[]func(*seal.Seal){by(time.Minute, time.Minute), by(-time.Minute, 0)}, "says of no step of the clock", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := quietMesh(t)
			s := w.nodes[0]
			for _, change := range c.change {
				s.change = change
				s.seal(false)
			}
			w.tick()
			w.stop()
			r := Run(w.dir(), w.keys, Options{})
			wantFinding(t, r, c.find)
			if text := transcript(t, r); !strings.Contains(text, c.says) || c.says == "" && c.find == "" && strings.Contains(text, "Dates ") {
				t.Errorf("%q is not in %s", c.says, text)
			}
			if c.find != "" {
				wantFinding(t, Run(w.dir(), w.keys, Options{Node: "i-b"}), "")
			}
		})
	}
}

// TestSlackIsSummed: what nodes say that came while they read is told in all, and where it is more than can have come.
func TestSlackIsSummed(t *testing.T) {
	w := quietMesh(t)
	s := w.nodes[0]
	for i, slack := range []uint64{3, 12, 30, 0} {
		s.flow(10, 0)
		s.change = func(x *seal.Seal) {
			for j := range x.Counters {
				if p := &x.Counters[j]; p.Hook == "workload" && p.Reason == "FORWARDED" {
					p.Slack = seal.Count{Packets: slack, Bytes: slack}
				}
			}
		}
		w.now = w.now.Add(time.Second)
		if s.seal(true); i == 3 {
			w.tick()
		}
	}
	w.stop()
	r := Run(w.dir(), w.keys, Options{})
	wantFinding(t, r, "")
	i := slices.IndexFunc(r.Slack, func(k Slack) bool { return k.Node == "i-a" })
	if i < 0 || r.Slack[i].Packets != 45 || r.Slack[i].Bytes != 45 || r.Slack[i].Wide != 1 || r.Slack[i].Counted < 100 {
		t.Errorf("%+v", r.Slack)
	}
	if text := transcript(t, r); !strings.Contains(text, "i-a: 45 packets of ") || !strings.Contains(text, "at 1 seals more than was counted") {
		t.Error(text)
	}
}

// TestALateTickSaysWhy: a minute without checkpoints is a finding, unless the tick behind it says what kept the log from being written.
func TestALateTickSaysWhy(t *testing.T) {
	for reason, want := range map[string]string{"": "no checkpoint was kept between", "could not be written: no space left": ""} {
		w := quietMesh(t)
		w.now = w.now.Add(10 * time.Minute)
		c, err := w.log.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.ticks++
		w.append(leaf.Leaf{Type: leaf.TypeTick, Tick: &leaf.Tick{Server: w.run, Number: w.ticks, Checkpoint: string(c), Reason: reason}})
		w.idle(time.Minute)
		w.stop()
		r := Run(w.dir(), w.keys, Options{})
		wantFinding(t, r, want)
		if reason != "" && (len(r.Away) != 1 || r.Away[0].Reason != reason || !strings.Contains(transcript(t, r), "no space left")) {
			t.Errorf("%+v", r.Away)
		}
	}
}

// TestClaims: lines that the server did not take are told by node; a leaf that says it of what is not there is found.
func TestClaims(t *testing.T) {
	for name, c := range map[string]struct {
		refused leaf.Refused
		want    string
	}{
		"two lines":          {leaf.Refused{Lines: 2, Ranges: []leaf.Range{{First: 1, Last: 1}, {First: 3, Last: 3}}}, ""},
		"all":                {leaf.Refused{Lines: 3, Ranges: []leaf.Range{{First: 1, Last: 3}}}, ""},
		"more than all":      {leaf.Refused{Lines: 4, Ranges: []leaf.Range{{First: 1, Last: 4}}}, "or names them twice"},
		"twice":              {leaf.Refused{Lines: 2, Ranges: []leaf.Range{{First: 2, Last: 2}, {First: 2, Last: 2}}}, "or names them twice"},
		"more than it names": {leaf.Refused{Lines: 2, Ranges: []leaf.Range{{First: 2, Last: 2}}}, "were not taken, and names 1"},
		"none":               {leaf.Refused{Lines: 1}, "were not taken, and names 0"},
		"of another segment": {leaf.Refused{Number: 9, Lines: 1, Ranges: []leaf.Range{{First: 2, Last: 2}}}, "whose seal is no leaf before"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false)
			s := w.node("i-a", "boot-1", "consumer", keyOf(3))
			for range 3 {
				s.flow(1, 1)
			}
			s.seal(true)
			c.refused.Node, c.refused.Boot, c.refused.Number = "i-a", "boot-1", max(c.refused.Number, 1)
			w.append(leaf.Leaf{Type: leaf.TypeRefused, Refused: &c.refused})
			w.tick()
			w.stop()
			r := Run(w.dir(), w.keys, Options{})
			wantFinding(t, r, c.want)
			told := len(r.Claims) == 1 && r.Claims[0] == Claims{Node: "i-a", Lines: c.refused.Lines, Segments: 1} &&
				strings.Contains(transcript(t, r), "lines in 1 segments, which the server did not take")
			if told != (c.want == "") {
				t.Errorf("%+v", r.Claims)
			}
		})
	}
}
