package verify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/audit/treelog"
)

// What those who have a key could sign, and what an honest log does not have. Each is found, by what it is.
func TestWhatIsSignedAndWrong(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *world)
		want string // of the first finding; empty: there is none
	}{
		"nothing": {func(*world) {}, ""},
		"fewer records than counted": {func(w *world) {
			w.nodes[0].count("eni-i-a", "workload", "FORWARDED", 5)
		}, "segment 12: of eni-i-a out FORWARDED records and declared losses tell"},
		"more records than counted": {func(w *world) {
			w.nodes[1].record(api.FlowRecord{Interface: "eni-i-b", Action: api.ActionReject, Reason: "NO_FLOW", Stage: "tunnel", Packets: 1})
		}, "of eni-i-b tunnel NO_FLOW records and declared losses tell 1 packets of 0 bytes, counters only 0 packets"},
		"a counter that went back": {func(w *world) {
			w.nodes[0].change = func(s *seal.Seal) {
				s.Full = true
				s.Counters = []seal.Position{{ENI: "eni-i-a", Hook: "workload", Reason: "NONE", From: seal.Count{Packets: 1}}}
			}
		}, "the counter of eni-i-a workload NONE begins at"},
		"a record left out": {func(w *world) { w.nodes[0].sequence++ }, "begins with the record"},
		"a record left out and said to be lost": {func(w *world) {
			s := w.nodes[0]
			s.sequence++
			s.declare = []seal.Gap{{Cause: seal.CauseDamaged, FirstSequence: s.sequence, LastSequence: s.sequence, Records: 1}}
		}, ""},
		"a hole within a segment": {func(w *world) {
			s := w.nodes[0]
			s.refuse(1)
			s.sequence++
			s.change = func(s *seal.Seal) { s.First-- }
		}, "are missing before this line and not declared"},
		"a seal left out": {func(w *world) {
			s := w.nodes[0]
			s.unlogged, s.unkept = true, true
			s.flow(1, 1)
			s.seal(false)
		}, "has the number 12, the one before has 10"},
		"seals trimmed, declared by a later one": {func(w *world) {
			s := w.nodes[0]
			first := s.sequence + 1
			s.unlogged, s.unkept = true, true
			s.flow(1, 1)
			number := s.seal(false).Number
			lost := s.sequence
			w.live(1)
			s.declare = []seal.Gap{
				{Cause: seal.CauseTrimmed, FirstSeal: number, LastSeal: number, FirstSequence: first, LastSequence: lost},
				{Cause: seal.CauseTrimmed, FirstSeal: number, LastSeal: number, ENI: "eni-i-a", Hook: seal.Out, Reason: "FORWARDED", Packets: 1, Bytes: 100},
				{Cause: seal.CauseTrimmed, FirstSeal: number, LastSeal: number, ENI: "eni-i-a", Hook: seal.In, Reason: "FORWARDED", Packets: 1, Bytes: 100},
			}
		}, ""},
		"another key": {func(w *world) { w.nodes[0].key = keyOf(9) }, "which no leaf before gives to the node"},
		"a key that is told too late": {func(w *world) {
			late := &sealer{world: w, id: "i-z", side: "provider", key: keyOf(9)}
			late.reboot("boot-1")
			w.nodes = append(w.nodes, late)
			w.live(1)
			w.append(leaf.OfNodeKey(w.now, "i-z", public(9)))
		}, "which no leaf before gives to the node"},
		"another node's key": {func(w *world) { w.nodes[0].key = keyOf(4) }, "which no leaf before gives to the node"},
		"a new key": {func(w *world) {
			w.append(leaf.OfNodeKey(w.now, "i-a", public(9)))
			w.nodes[0].key = keyOf(9)
		}, "and nothing but the log says so"},
		"a seal with two contents": {func(w *world) {
			s := w.nodes[0]
			s.number--
			s.unkept = true
			s.seal(false)
		}, "says something else than leaf"},
		"a boot that came back": {func(w *world) {
			s := w.nodes[0]
			s.reboot("boot-2")
			w.live(1)
			s.reboot("boot-1")
			s.number, s.sequence = 10, 1000
		}, "is of a boot that ended"},
		"a new boot":                 {func(w *world) { w.nodes[0].reboot("boot-2") }, ""},
		"a seal without its segment": {func(w *world) { w.nodes[1].unkept = true }, "segment 11: leaf"},
		"a segment without its leaf": {func(w *world) {
			s := w.nodes[1]
			s.flow(1, 1)
			s.unlogged = true
			s.seal(false)
			s.number--
			s.sequence--
			s.unlogged = false
		}, "its seal is not the one in the log"},
		"the audit log": {func(w *world) { w.event++; w.audit(1) }, "the audit events 4 to 4 are not in the log"},
		"the audit log, late": {func(w *world) {
			w.event += 3
			w.audit(2)
			w.event -= 5
			w.audit(3)
			w.event = 8
		}, ""},
		"an audit event, twice": {func(w *world) { w.audit(1); w.event--; w.audit(1) }, ""},
		"an audit event with two contents": {func(w *world) {
			w.append(leaf.OfEvent(w.now, api.AuditEvent{Seq: 2, Action: "delete-vpc"}))
		}, "says something else than leaf"},
		"what a server of before said of both ends": {func(w *world) {
			w.append(leaf.Leaf{Type: leaf.TypeReconciliation, Reconciliation: &leaf.Reconciliation{Connection: connID, From: w.now.Add(time.Hour),
				Reply: leaf.Way{Sent: 2, Received: 3, Lost: 1}, Missing: "provider"}})
		}, ""},
		"a silent minute": {func(w *world) { w.now = w.now.Add(55 * time.Second); w.live(2) }, "no checkpoint was kept between"},
		"a clock that was set": {func(w *world) {
			w.now = w.now.Add(time.Hour)
			c, _ := w.log.Checkpoint(w.t.Context())
			w.ticks++
			w.append(leaf.Leaf{Type: leaf.TypeTick, Tick: &leaf.Tick{Server: w.run, Number: w.ticks, Checkpoint: string(c),
				SteppedMicros: time.Hour.Microseconds()}})
		}, ""},
		"a tick of another run":    {func(w *world) { w.run = "other"; w.tick() }, "which is not the one that was started last"},
		"a server that was killed": {func(w *world) { w.now = w.now.Add(time.Hour); w.start() }, ""},
		"a checkpoint of another tree": {func(w *world) {
			other := treelog.NewMem(origin, func() time.Time { return w.now.Add(time.Second) }, signerOf(w.t))
			size, _ := w.log.Size(w.t.Context())
			for i := range size {
				if _, err := other.Append(w.t.Context(), leaf.OfEvent(w.now, api.AuditEvent{Seq: i + 1})); err != nil {
					w.t.Fatal(err)
				}
			}
			w.keep(other.Checkpoint(w.t.Context()))
		}, "of which the entries here have another root"},
		"a checkpoint of the future": {func(w *world) {
			w.keep(tiles.Sign(origin, 1<<40, tiles.Hash{}, signerOf(w.t)))
		}, "which is none of the past"},
		"no checkpoint at all": {func(w *world) { w.keep([]byte("none"), nil) }, "keeps no checkpoint"},
		"a leaf of a later version": {func(w *world) {
			w.append(leaf.Leaf{Type: leaf.TypeReport, Report: &leaf.Report{Kind: "later", SHA256: "ab"}})
		}, ""},
		"a segment disposed of": {func(w *world) {
			s := w.nodes[1]
			s.unkept = true
			s.seal(false)
			w.append(leaf.Leaf{Type: leaf.TypeDisposal, Disposal: &leaf.Disposal{ID: "d", Class: "segments", By: "system",
				Runs: []leaf.Run{{Node: "i-b", Boot: "boot-1", First: 11, Last: 11, Line: s.previous}}}})
		}, ""},
	} {
		w := newWorld(t, false)
		w.audit(3)
		w.node("i-a", "boot-1", "consumer", keyOf(3))
		w.node("i-b", "boot-1", "provider", keyOf(4))
		w.live(10)
		c.do(w)
		w.live(4)
		w.tick()
		r := Run(w.dir(), w.keys, Options{})
		switch {
		case c.want == "" && !r.OK:
			t.Errorf("%s: %s", name, transcript(t, r))
		case c.want != "" && (r.OK || !strings.Contains(r.First().String(), c.want)):
			t.Errorf("%s: not %q first:\n%s", name, c.want, transcript(t, r))
		}
	}
}

// keep makes a tick that keeps this as its checkpoint.
func (w *world) keep(checkpoint []byte, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	w.ticks++
	w.append(leaf.Leaf{Type: leaf.TypeTick, Tick: &leaf.Tick{Server: w.run, Number: w.ticks, Checkpoint: string(checkpoint)}})
}

// What is found names the first bad segment, whichever file is read first.
func TestTheFirstBadSegmentIsNamed(t *testing.T) {
	w := newWorld(t, false)
	w.node("i-b", "boot-1", "provider", keyOf(4))
	w.node("i-a", "boot-1", "consumer", keyOf(3))
	w.live(12)
	w.tick()
	dir := w.dir()
	late, early := segmentsDir+"i-a/boot-1/2026-03-01T12.ndjson", segmentsDir+"i-b/boot-1/2026-03-01T12.ndjson"
	for name, number := range map[string]int{late: 9, early: 4} {
		var out []string
		for line := range strings.Lines(string(dir[name].Data)) {
			s, is, _ := seal.Parse([]byte(line))
			if is && int(s.Number) == number-1 {
				line += "{}\n"
			}
			out = append(out, line)
		}
		dir[name] = &fstest.MapFile{Data: []byte(strings.Join(out, ""))}
	}
	r := Run(dir, w.keys, Options{})
	first := r.First()
	if r.OK || first.Node != "i-b" || first.Segment != 4 || first.File != early || first.Line == 0 || len(r.Findings) != 2 {
		t.Errorf("%+v\n%s", first, transcript(t, r))
	}
	if i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Node == "i-a" && f.Segment == 9 }); i != 1 {
		t.Errorf("segment 9 is finding %d", i)
	}
	lines := strings.Split(string(dir[early].Data), "\n")
	if lines[first.Line-1] != "{}" {
		t.Errorf("line %d is %q", first.Line, lines[first.Line-1])
	}
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `"ok":false`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestKeys(t *testing.T) {
	w := newWorld(t, true)
	logKey := treelog.VerifierKey(origin, public(1))
	for name, c := range map[string]struct{ text, want string }{
		"none":           {"# nothing\n", "no key of a log"},
		"not a key":      {logKey + "\nhello\n", "line 2 is no verifier key"},
		"two logs":       {logKey + "\n" + treelog.VerifierKey("other.example", public(5)) + "\n", "keys of two logs"},
		"wrong hash":     {strings.Replace(logKey, "+", "+0", 1) + "\n", "line 1 is no verifier key"},
		"algorithm":      {"log+00000000+" + "BQ==" + "\n", "algorithm 5 is not known"},
		"only a witness": {tiles.WitnessKey(witnessName, public(2)), "no key of a log"},
	} {
		if _, err := ParseKeys(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	foreign, err := ParseKeys(treelog.VerifierKey(origin, public(8)))
	if err != nil {
		t.Fatal(err)
	}
	if r := Run(w.dir(), foreign, Options{}); r.OK || !strings.Contains(r.First().What, "whose key") {
		t.Error("another log's key:", transcript(t, r))
	}
	bare, err := ParseKeys(logKey)
	if err != nil {
		t.Fatal(err)
	}
	if r := Run(w.dir(), bare, Options{}); r.OK || !strings.Contains(r.First().What, witnessName) {
		t.Error("a witness's signature that nobody can judge:", transcript(t, r))
	}
	unseen := newWorld(t, false)
	if r := Run(unseen.dir(), w.keys, Options{}); r.OK || !strings.Contains(r.First().What, "has not cosigned") {
		t.Error("without the witness's signature:", transcript(t, r))
	}
	if r := Run(fstest.MapFS{}, w.keys, Options{}); r.OK || !strings.Contains(r.First().What, "cannot be read: file does not exist") {
		t.Error("an empty directory:", transcript(t, r))
	}
}

// A log that has grown since its checkpoint, with what its keeper needs beside it, is as good.
func TestALogThatGrows(t *testing.T) {
	w := honest(t)
	dir := w.dir()
	old := dir[logDir+tiles.Checkpoint]
	w.audit(300)
	grown := w.dir()
	for path, f := range dir { // what was partial then is there for a while
		if strings.Contains(path, ".p/") {
			grown[path] = f
		}
	}
	for path := range dir { // and may be gone when the full one is there
		if strings.Contains(path, "tile/0/001.p/") || strings.Contains(path, "tile/entries/001.p/") {
			delete(grown, path)
		}
	}
	grown[logDir+tiles.Checkpoint] = old
	grown[logDir+".state/treeState"] = &fstest.MapFile{Data: []byte("{}")}
	grown[logDir+tiles.Checkpoint+"225919818"] = &fstest.MapFile{Data: []byte("half of")} // the keeper was killed
	r := Run(grown, w.keys, Options{})
	if !r.OK || r.Ignored == 0 {
		t.Error(transcript(t, r))
	}
	grown[logDir+"notes.txt"] = &fstest.MapFile{}
	if r := Run(grown, w.keys, Options{}); r.OK {
		t.Error("a strange file beside the log is not found")
	}
	events := 0
	r = Run(grown, w.keys, Options{AuditOnly: true, Each: func(_ uint64, l *leaf.Leaf) {
		if l.Type == leaf.TypeAudit {
			events++
		}
	}})
	if !r.OK || events != 259 || r.Segments != 0 {
		t.Errorf("%d events\n%s", events, transcript(t, r))
	}
}

func ExampleFinding_String() {
	fmt.Println(Finding{File: "segments/i-1/b/2026-03-01T12.ndjson", Line: 7, Node: "i-1", Boot: "b", Segment: 3, What: "is bad"})
	// Output: segments/i-1/b/2026-03-01T12.ndjson:7: node i-1, boot b, segment 3: is bad
}
