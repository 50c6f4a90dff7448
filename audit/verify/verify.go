package verify

import (
	"crypto/ed25519"
	"crypto/sha256"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/audit/leaf"
)

// MaxSilence is how long a log may be without a leaf, and a leaf without a checkpoint.
const MaxSilence = time.Minute

// Options narrow what is judged. The log is judged as a whole in any case.
type Options struct {
	Since, Until time.Time // segments whose seals were made in [Since, Until); zero: no bound
	Node         string    // of this node only
	AuditOnly    bool      // no segments and no deliveries

	// AsOf is when the evidence was taken, as the one who judges it knows: a log that ends before is cut off. Zero: not known.
	AsOf time.Time
	// Checkpoint is a signed one of the log that was kept elsewhere: the log here must go on from it. Empty: none was kept.
	Checkpoint string

	// Kept are more of them, as witnesses tell them.
	Kept []Kept

	// Pause: a node that sealed nothing for longer is a finding. Zero: pauses are told, and none is one.
	Pause time.Duration

	// Each is called for every leaf in order, if it is set: what is in the log, once.
	Each func(index uint64, l *leaf.Leaf)

	memo *memo
}

// memo keeps what depends on bytes alone from one run to the next. Tests that judge thousands of nearly equal directories have one.
type memo struct {
	known map[[sha256.Size]byte]any
}

// remember returns f's result, which must depend on the parts alone.
func remember[T any](m *memo, f func() T, parts ...[]byte) T {
	if m == nil {
		return f()
	}
	h := sha256.New()
	for _, p := range parts {
		sum := sha256.Sum256(p)
		h.Write(sum[:])
	}
	key := [sha256.Size]byte(h.Sum(nil))
	if have, ok := m.known[key]; ok {
		return have.(T)
	}
	out := f()
	m.known[key] = out
	return out
}

type verifier struct {
	fsys     fs.FS
	keys     Keys
	o        Options
	report   *Report
	findings []Finding

	log      *logState
	earlier  []earlier // checkpoints that were kept elsewhere
	manifest *Manifest
	nodes    map[string]*node
	objects  map[string]*leaf.Object // newest by flow log and path
	files    map[string]string       // disposed: path to SHA-256
	exports  map[string]bool         // SHA-256 of manifests that the log knows
	books    *books
	sights   map[string]*sights  // by node
	slack    map[string]*slackOf // by node
	others   int                 // findings of nodes that were not asked for
}

// node is what the log says of one.
type node struct {
	keys    map[string]ed25519.PublicKey // by id
	given   []NodeKey                    // the same, in the order of the log
	order   []*sealed                    // as the log has them
	boots   []string                     // likewise
	seals   map[string]*boot
	gone    map[string][]leaf.Jump   // what seals declare as gone, by the boot of it
	trimmed bool                     // some of that are segments
	told    map[string]*DeclaredLoss // by cause
}

// boot is the seals of one, by number.
type boot struct {
	seals    map[uint64]*sealed
	disposed []leaf.Run
	claims   []leaf.Range // sequences of lines that the server did not take
}

// sealed is a seal of the log.
type sealed struct {
	leaf.Seal
	index uint64
	at    time.Time // when the log got it
	same  [sha256.Size]byte
	found bool

	// Of its segment, once that was read: how far the node's clock was set since the seal before.
	read    bool
	stepped time.Duration

	survey
	ahead int64 // seconds that its node's clock was surely ahead of the server's
	// Since when what it declares as lost was counted, and what its counters have moved by: no earlier, by the server's clock.
	untold, moved int64
}

// Run judges a directory of evidence, or a copy of a part of one.
func Run(fsys fs.FS, keys Keys, o Options) *Report {
	v := &verifier{
		fsys: fsys, keys: keys, o: o, report: &Report{Leaves: map[string]int{}},
		nodes: map[string]*node{}, objects: map[string]*leaf.Object{}, files: map[string]string{}, exports: map[string]bool{},
		sights: map[string]*sights{}, slack: map[string]*slackOf{},
	}
	v.readManifest()
	v.readEarlier()
	if !v.readLog() {
		v.finish()
		return v.report
	}
	v.judgeManifest()
	if !o.AuditOnly {
		v.segments()
		v.dates()
		v.silences()
		v.deliveries()
		v.strangers()
		v.compare()
	}
	v.elsewhere()
	v.finish()
	return v.report
}

func (v *verifier) node(id string) *node {
	n := v.nodes[id]
	if n == nil {
		n = &node{keys: map[string]ed25519.PublicKey{}, seals: map[string]*boot{}, gone: map[string][]leaf.Jump{},
			told: map[string]*DeclaredLoss{}}
		v.nodes[id] = n
	}
	return n
}

// signed tells whether a signature is right, and remembers it.
func (v *verifier) signed(key note.Verifier, text string, signature []byte) bool {
	f := func() bool { return key.Verify([]byte(text), signature) }
	if v.o.memo == nil {
		return f()
	}
	return remember(v.o.memo, f, []byte("note"), []byte(key.Name()), []byte{byte(key.KeyHash()), byte(key.KeyHash() >> 8),
		byte(key.KeyHash() >> 16), byte(key.KeyHash() >> 24)}, []byte(text), signature)
}
