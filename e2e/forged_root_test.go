package e2e

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/audit/verify"
)

// forger changes evidence and signs it anew: with the keys of all nodes, and with the log's where he has that.
type forger struct {
	t        *testing.T
	dir      string // a copy, which he changes
	nodes    map[string]ed25519.PrivateKey
	log      note.Signer // nil: he does not have it
	segments []*forged   // by node and number
}

// forged is a segment that may be changed.
type forged struct {
	file  string // below the directory
	lines [][]byte
	seal  *seal.Seal
	line  []byte // of the seal
}

// forger begins with a copy of evidence. Its manifest goes: it has sums of the files, and is needed for nothing where the copy is whole.
func (m *lossyMesh) forger(t *testing.T, e evidence, withLog bool) *forger {
	t.Helper()
	f := &forger{t: t, dir: filepath.Join(t.TempDir(), "forged"), nodes: map[string]ed25519.PrivateKey{}}
	if err := os.CopyFS(f.dir, os.DirFS(e.dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(f.dir, "manifest.json")); err != nil {
		t.Fatal(err)
	}
	for name, id := range m.nodes {
		key, err := state.Dir(m.lab.StateDir("nodes", name)).LogKey()
		if err != nil {
			t.Fatal(err)
		}
		f.nodes[id] = key
	}
	if withLog {
		key, err := os.ReadFile(m.lab.StateDir("server", "log.key"))
		if err != nil {
			t.Fatal(err)
		}
		if f.log, err = note.NewSigner(strings.TrimSpace(string(key))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range (evidence{dir: f.dir}).segments(t) {
		f.read(name)
	}
	slices.SortFunc(f.segments, func(a, b *forged) int {
		return cmp.Or(cmp.Compare(a.seal.Node, b.seal.Node), cmp.Compare(a.seal.Number, b.seal.Number))
	})
	return f
}

// read takes the segments of a file. One that is compressed is written plainly again.
func (f *forger) read(name string) {
	f.t.Helper()
	content, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	plain, packed := strings.CutSuffix(name, ".gz")
	if packed {
		if slices.ContainsFunc(f.segments, func(s *forged) bool { return s.file == plain }) {
			return // of an hour that is being compressed both are there
		}
		z, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			f.t.Fatal(err)
		}
		if content, err = io.ReadAll(z); err != nil {
			f.t.Fatal(err)
		}
	}
	one := &forged{file: plain}
	for line := range bytes.Lines(content) {
		s, is, err := seal.Parse(line)
		switch {
		case err != nil:
			f.t.Fatal(err)
		case is:
			one.seal, one.line = s, line
			f.segments = append(f.segments, one)
			one = &forged{file: plain}
		default:
			one.lines = append(one.lines, line)
		}
	}
}

// flowLine is a line of a connection, which one side has written.
type flowLine struct {
	*forged
	at int // in its lines
	api.FlowRecord
}

// records are those of a side of a connection.
func (f *forger) records(connection, side string) (out []*flowLine) {
	f.t.Helper()
	for _, s := range f.segments {
		for at, line := range s.lines {
			r := &flowLine{forged: s, at: at}
			if seal.IsQuery(line) {
				continue
			}
			if err := json.Unmarshal(line, &r.FlowRecord); err != nil {
				f.t.Fatal(err)
			}
			if r.Connection == connection && r.Side == side {
				out = append(out, r)
			}
		}
	}
	return out
}

// put has a changed record stand where it was.
func (f *forger) put(r *flowLine) {
	f.t.Helper()
	line, err := json.Marshal(&r.FlowRecord)
	if err != nil {
		f.t.Fatal(err)
	}
	r.lines[r.at] = append(line, '\n')
}

// uncount has the datapath's counter of what a record's interface sent, from the record's segment on, tell so many packets less.
func (f *forger) uncount(r *flowLine, packets uint64) {
	f.t.Helper()
	begun := false
	for _, s := range f.segments {
		if s.seal.Node != r.Node || s.seal.Number < r.seal.Number {
			continue
		}
		for i := range s.seal.Counters {
			c := &s.seal.Counters[i]
			if c.ENI != r.Interface || c.Hook != r.Stage || c.Reason != r.Reason {
				continue
			}
			if c.To.Packets -= packets; begun {
				c.From.Packets -= packets
			}
			begun = true
		}
	}
	if !begun {
		f.t.Fatalf("no counter of %s is behind the record", r.Interface)
	}
}

// seal signs all segments anew, and writes them, and the log if he can.
func (f *forger) seal() {
	f.t.Helper()
	files, previous := map[string][]byte{}, map[string]string{}
	for _, s := range f.segments {
		s.seal.Hash, s.seal.Previous = seal.HashLines(s.lines...), previous[s.seal.Node]
		if err := s.seal.Sign(f.nodes[s.seal.Node]); err != nil {
			f.t.Fatal(err)
		}
		var err error
		if s.line, err = s.seal.Line(); err != nil {
			f.t.Fatal(err)
		}
		previous[s.seal.Node] = seal.HashLine(s.line)
		files[s.file] = slices.Concat(files[s.file], slices.Concat(s.lines...), s.line)
	}
	if err := os.RemoveAll(filepath.Join(f.dir, "segments")); err != nil {
		f.t.Fatal(err)
	}
	for name, content := range files {
		f.write(name, content)
	}
	if f.log != nil {
		f.relog()
	}
}

// relog makes the log anew, with the seals as they are now: each leaf at its old time, checkpoints in it over the same leaves.
func (f *forger) relog() {
	f.t.Helper()
	type id struct {
		node, boot string
		number     uint64
	}
	sealed := map[id]*forged{}
	for _, s := range f.segments {
		sealed[id{s.seal.Node, s.seal.Boot, s.seal.Number}] = s
	}
	log := treelog.NewMem(f.log.Name(), nil, f.log)
	checkpoints := map[uint64][]byte{} // by size
	for _, l := range f.leaves() {
		switch l.Type {
		case leaf.TypeSeal:
			s := sealed[id{l.Seal.Node, l.Seal.Boot, l.Seal.Number}]
			if s == nil { // its segment came after the copy was made: something that says nothing has its place
				l = leaf.Leaf{Type: leaf.TypeReport, At: l.At, Report: &leaf.Report{Kind: "none", From: l.At, SHA256: l.Seal.Line}}
				break
			}
			l = leaf.OfSeal(l.At, s.seal, s.line)
		case leaf.TypeTick:
			c, err := tiles.ParseSigned([]byte(l.Tick.Checkpoint))
			if err != nil || checkpoints[c.Size] == nil {
				f.t.Fatalf("a tick has the checkpoint %q, %v", l.Tick.Checkpoint, err)
			}
			l.Tick.Checkpoint = string(checkpoints[c.Size])
		}
		index, err := log.Append(f.t.Context(), l)
		if err != nil {
			f.t.Fatal(err)
		}
		if checkpoints[index+1], err = log.Checkpoint(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
	}
	f.writeLog(log)
}

// writeLog has the log's files be those of another one.
func (f *forger) writeLog(log *treelog.Mem) {
	f.t.Helper()
	files, err := log.Files(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(f.dir, "log")); err != nil {
		f.t.Fatal(err)
	}
	for name, content := range files {
		f.write("log/"+name, content)
	}
}

// write writes a file of the copy.
func (f *forger) write(name string, content []byte) {
	f.t.Helper()
	path := filepath.Join(f.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	write(f.t, path, string(content))
}

// leaves are those of the log as it is.
func (f *forger) leaves() (all []leaf.Leaf) {
	f.t.Helper()
	log := filepath.Join(f.dir, "log")
	checkpoint, err := os.ReadFile(filepath.Join(log, tiles.Checkpoint))
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := tiles.ParseSigned(checkpoint)
	if err != nil {
		f.t.Fatal(err)
	}
	for name, n := range tiles.Bundles(c.Size) {
		bundle, err := os.ReadFile(filepath.Join(log, filepath.FromSlash(name)))
		if err != nil {
			f.t.Fatal(err)
		}
		entries, err := tiles.ParseBundle(bundle, n)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, data := range entries {
			l, err := leaf.Decode(data)
			if err != nil {
				f.t.Fatal(err)
			}
			all = append(all, l)
		}
	}
	return all
}

// kept is the newest checkpoint that the log keeps of itself.
func (f *forger) kept() string {
	f.t.Helper()
	for _, l := range slices.Backward(f.leaves()) {
		if l.Type == leaf.TypeTick {
			return l.Tick.Checkpoint
		}
	}
	f.t.Fatal("the log keeps no checkpoint")
	return ""
}

// cut has the log end with the checkpoint that it keeps of itself, and nodes with what they had sealed by then. No key is needed for that.
func (f *forger) cut() {
	f.t.Helper()
	kept := f.kept()
	c, err := tiles.ParseSigned([]byte(kept))
	if err != nil {
		f.t.Fatal(err)
	}
	log := treelog.NewMem(c.Origin, nil)
	sealed := map[string]bool{} // lines
	for _, l := range f.leaves()[:c.Size] {
		if _, err := log.Append(f.t.Context(), l); err != nil {
			f.t.Fatal(err)
		}
		if l.Type == leaf.TypeSeal {
			sealed[l.Seal.Line] = true
		}
	}
	f.segments = slices.DeleteFunc(f.segments, func(s *forged) bool { return !sealed[seal.HashLine(s.line)] })
	f.writeLog(log)
	f.write("log/"+tiles.Checkpoint, []byte(kept))
}

// lower takes half of its packets from the greatest record of the consumer.
func (f *forger) lower(connection string, uncounted bool) *flowLine {
	f.t.Helper()
	r := slices.MaxFunc(f.records(connection, "consumer"), func(a, b *flowLine) int { return cmp.Compare(a.Packets, b.Packets) })
	half := r.Packets / 2
	r.Packets -= half
	f.put(r)
	if uncounted {
		f.uncount(r, half)
	}
	return r
}

// rename has the records of a side tell another client, and returns the first of them.
func (f *forger) rename(connection, side string) *flowLine {
	f.t.Helper()
	all := f.records(connection, side)
	for _, r := range all {
		for _, a := range []*string{&r.Tuple.SrcAddr, &r.Translated.SrcAddr} {
			was, err := netip.ParseAddr(*a)
			if err != nil {
				f.t.Fatal(err)
			}
			*a = was.Next().String()
		}
		f.put(r)
	}
	return all[0]
}

// What somebody signs anew who has the keys of nodes, and of the log, is found: by the log; by what the other end told; by a checkpoint of before; by a
// witness. Nobody who has but the files and such keys sees an edit of both ends that agrees, or that the newest part is missing.
func (m *lossyMesh) forged(t *testing.T, e evidence) {
	kept, witnessed, bare := filepath.Join(e.dir, "log", tiles.Checkpoint), filepath.Join(t.TempDir(), "witnessed"), m.publicKeys(t, "bare", false)
	write(t, witnessed, m.cosigned(t))
	ledger := m.connections["ledger"]
	lower := func(f *forger) *flowLine { return f.lower(ledger, false) }
	uncount := func(f *forger) *flowLine { return f.lower(ledger, true) }
	both := func(f *forger) *flowLine { f.rename(ledger, "provider"); return f.rename(ledger, "consumer") }
	one := func(f *forger) *flowLine { return f.rename(ledger, "consumer") }
	nothing := func(*forger) *flowLine { return nil }
	cut := func(f *forger) *flowLine { f.cut(); return nil }
	for name, c := range map[string]struct {
		withLog bool
		edit    func(*forger) *flowLine
		keys    string
		args    []string
		want    string // of what is found; empty: nothing is
	}{
		"nothing but the log, signed by the log alone":     {true, nothing, bare, nil, ""},
		"fewer packets, with the node's key":               {false, lower, e.keys, nil, "its seal is not the one in the log"},
		"fewer packets, with the log's, too":               {true, lower, bare, nil, "records and declared losses tell"},
		"fewer packets, and fewer counted":                 {true, uncount, bare, nil, "packets were received until"},
		"another client, with the node's key":              {false, one, e.keys, nil, "its seal is not the one in the log"},
		"another client, with the log's, too":              {true, one, bare, nil, "packets were received until"},
		"another client, at both ends":                     {true, both, bare, nil, ""},
		"the same beside a checkpoint of before":           {true, both, bare, []string{"--checkpoint", kept}, "two logs under one key"},
		"the same where a witness's key is among the keys": {true, both, e.keys, nil, "has not cosigned"},
		"the newest part cut off, without a key":           {false, cut, e.keys, nil, ""},
		"the same beside what the witness tells":           {false, cut, e.keys, []string{"--witness", witnessed}, "what came then was cut off"},
	} {
		f := m.forger(t, e, c.withLog)
		r := c.edit(f)
		f.seal()
		report, status := m.verifyWith(t, evidence{f.dir, c.keys}, c.args...)
		said := func(f verify.Finding) bool { return strings.Contains(f.String(), c.want) }
		switch first := report.First(); {
		case c.want == "" && (status != 0 || !report.OK):
			t.Errorf("%s: verify ends with %d: %v", name, status, report.Findings)
		case c.want == "":
		case status != 1 || report.OK || !slices.ContainsFunc(report.Findings, said): // one of several connections' may come before
			t.Errorf("%s: verify ends with %d, without %q: %v", name, status, c.want, report.Findings)
		case !c.withLog && r != nil && (first.Node != r.Node || first.Segment != r.seal.Number):
			t.Errorf("%s: segment %d of %s was changed first, named is %v", name, r.seal.Number, r.Node, first)
		}
	}
}

// verifyWith runs culvert flows verify with more arguments.
func (m *lossyMesh) verifyWith(t *testing.T, e evidence, args ...string) (r verify.Report, status int) {
	t.Helper()
	out, errs, status := m.output(t, "", append([]string{"flows", "verify", e.dir, "--keys", e.keys, "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("verify: %v: %s%s", err, out, errs)
	}
	return r, status
}

// Any byte of what nodes and server wrote counts: one that is another, one that is gone or put in, and files that end early are found.
func (e evidence) edited(t *testing.T) {
	const edits = 100
	text, err := os.ReadFile(e.keys)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := verify.ParseKeys(string(text))
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	if err := fs.WalkDir(os.DirFS(e.dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files[name] = &fstest.MapFile{}
			files[name].Data, err = os.ReadFile(filepath.Join(e.dir, name))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	names := append(e.segments(t), "manifest.json", "log/"+tiles.Checkpoint)
	for name := range tiles.Bundles(verify.Run(files, keys, verify.Options{}).Size) {
		names = append(names, "log/"+name)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range edits {
		name := names[random.IntN(len(names))]
		was := files[name].Data
		at := random.IntN(len(was))
		other := was[at] ^ byte(1+random.IntN(255))
		changed := [][]byte{
			slices.Concat(was[:at], []byte{other}, was[at+1:]), slices.Concat(was[:at], was[at+1:]), slices.Concat(was[:at], []byte{other}, was[at:]), was[:at],
		}
		files[name].Data = changed[random.IntN(len(changed))]
		if r := verify.Run(files, keys, verify.Options{}); r.OK || r.First() == nil {
			t.Errorf("%s was changed at byte %d, from %d to %d bytes, and nothing is found", name, at, len(was), len(files[name].Data))
		}
		files[name].Data = was
	}
	if r := verify.Run(files, keys, verify.Options{}); !r.OK {
		t.Errorf("put back: %v", r.Findings)
	}
	t.Logf("n=%d edits of %d files were found", edits, len(names))
}
