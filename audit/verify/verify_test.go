package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
)

func TestHonestEvidence(t *testing.T) {
	w := honest(t)
	r := Run(w.dir(), w.keys, Options{})
	if !r.OK {
		t.Fatal(transcript(t, r))
	}
	if r.Segments != 34 || r.Balanced < 12 || len(r.Nodes) != 2 || r.Nodes[0].Boots != 2 || r.Objects != 3 || r.LastEvent != 259 ||
		r.Checkpoints < 8 || len(r.Witnesses) != 1 || r.Witnesses[0].Checkpoints != r.Checkpoints || len(r.Away) != 1 || !r.Away[0].Clean ||
		len(r.Declared) != 1 || r.Declared[0].Packets != 14 || r.Ignored != 0 {
		t.Errorf("%+v", r)
	}
	for _, want := range []string{"VERIFIED", "i-a", "lost, 2 times: 14 packets", "Away", "under the newest checkpoint at", "Not proven by this"} {
		if text := transcript(t, r); !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// part leaves of a world what an export of its first hour has.
func part(t testing.TB, w *world) *world {
	t.Helper()
	m := Manifest{Version: 1, At: w.now, Origin: origin, Since: w.now.Truncate(time.Hour).Add(-time.Hour), Until: w.now.Truncate(time.Hour),
		Nodes: []string{"i-a", "i-b"}}
	m.TreeSize, _ = w.log.Size(t.Context())
	for path := range w.files {
		if strings.HasPrefix(path, segmentsDir) && !strings.Contains(path, "T12") {
			delete(w.files, path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(w.files)) {
		if strings.HasPrefix(path, segmentsDir) {
			sum := sha256.Sum256(w.files[path])
			m.Files = append(m.Files, ManifestFile{path, int64(len(w.files[path])), hex.EncodeToString(sum[:])})
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	w.files[manifestName] = b
	l, err := leaf.OfReport(w.now, KindExport, m.Since, m.Until, b)
	if err != nil {
		t.Fatal(err)
	}
	w.append(l)
	return w
}

func TestPartOfTheEvidence(t *testing.T) {
	w := part(t, honest(t))
	r := Run(w.dir(), w.keys, Options{})
	if !r.OK || r.Segments != 18 || r.Elsewhere != 16 || r.Copy == nil {
		t.Errorf("%+v\n%s", r, transcript(t, r))
	}
	r = Run(w.dir(), w.keys, Options{Node: "i-b"})
	if !r.OK || r.Segments != 9 {
		t.Errorf("one node: %s", transcript(t, r))
	}
	w = honest(t)
	r = Run(w.dir(), w.keys, Options{Since: w.now.Add(-time.Minute)})
	if !r.OK || r.Segments != 12 || r.Elsewhere != 0 {
		t.Errorf("since: %d segments\n%s", r.Segments, transcript(t, r))
	}
	r = Run(w.dir(), w.keys, Options{Until: w.now.Truncate(time.Hour).Add(-50 * time.Second)})
	if !r.OK || r.Segments == 0 || r.Segments >= 18 {
		t.Errorf("until: %d segments\n%s", r.Segments, transcript(t, r))
	}
}

func BenchmarkVerify(b *testing.B) {
	w := honest(b)
	w.live(100)
	dir := w.dir()
	var r *Report
	for b.Loop() {
		if r = Run(dir, w.keys, Options{}); !r.OK {
			b.Fatal(transcript(b, r))
		}
	}
	b.ReportMetric(float64(r.Records*b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(r.Segments*b.N)/b.Elapsed().Seconds(), "segments/s")
}
