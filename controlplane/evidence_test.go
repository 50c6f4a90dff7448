package controlplane

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/treelog"
)

// sealer writes what a node's log would.
type sealer struct {
	t        testing.TB
	h        *host
	key      ed25519.PrivateKey
	seq      uint64
	number   uint64
	previous string
	open     [][]byte
	at       time.Time
}

func newSealer(t testing.TB, h *host, at time.Time) *sealer {
	return &sealer{t: t, h: h, key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)), at: at.UTC()}
}

func (x *sealer) public() ed25519.PublicKey { return x.key.Public().(ed25519.PublicKey) }

func (x *sealer) record(r api.FlowRecord) api.FlowEnvelope {
	x.seq++
	r.End = x.at
	e := record(x.h.id, x.seq, r)
	var line bytes.Buffer // as an agent writes it
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	var whole api.FlowRecord
	if err := errors.Join(json.Unmarshal(e.Record, &whole), enc.Encode(&whole)); err != nil {
		x.t.Fatal(err)
	}
	e.Record = bytes.TrimSuffix(line.Bytes(), []byte("\n"))
	x.open = append(x.open, e.Record)
	return e
}

func (x *sealer) seal() api.FlowEnvelope {
	x.t.Helper()
	x.number++
	s := &seal.Seal{Version: seal.Version, Node: x.h.id, Boot: "boot", Number: x.number, First: x.seq + 1 - uint64(len(x.open)), Last: x.seq,
		Records: len(x.open), Start: x.at, Hash: seal.HashLines(x.open...), Previous: x.previous}
	x.at = x.at.Add(10 * time.Second)
	s.End = x.at
	if err := s.Sign(x.key); err != nil {
		x.t.Fatal(err)
	}
	data, err := s.Line()
	if err != nil {
		x.t.Fatal(err)
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	x.open, x.previous = nil, seal.HashLine(data)
	return api.FlowEnvelope{Kind: api.KindOfSeal, Boot: "boot", Seq: x.seq, End: s.End, Record: data}
}

func shaOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func (x *sealer) send(envelopes ...api.FlowEnvelope) *api.FlowReceipt {
	x.t.Helper()
	return must(x.h.SendFlows(context.Background(), envelopes))(x.t)
}

// leaves are those of a type in the server's log.
func (l *lab) leaves(kind string) (out []leaf.Leaf) {
	l.t.Helper()
	if err := l.s.tree.Leaves(l.ctx(), 0, func(_ uint64, x leaf.Leaf) error {
		if x.Type == kind {
			out = append(out, x)
		}
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
	return out
}

// What a node seals is evidence, byte for byte, also what it may not say; queries have what it may.
func TestSealedLogs(t *testing.T) {
	l := mesh(t, nil)
	h := l.host("host-c")
	x := newSealer(t, h, time.Now())
	lines := []api.FlowEnvelope{x.record(api.FlowRecord{Reason: "a<b&c>"}), x.record(api.FlowRecord{Account: "000000000000"})}
	end := x.seal()
	_, err := h.SendFlows(l.ctx(), append(slices.Clone(lines), end))
	if err == nil { // a node without a key has no evidence
		t.Log("lines are stored without evidence")
	}
	for range 2 { // again does no harm
		must(h.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: x.public()}))(t)
	}
	keys := l.leaves(leaf.TypeNodeKey)
	if len(keys) != 1 || keys[0].NodeKey.Node != h.id || !bytes.Equal(keys[0].NodeKey.Key, x.public()) {
		t.Errorf("leaves of keys: %+v", keys)
	}
	got := x.send(append(slices.Clone(lines), end)...)
	if got.Segments != 1 || got.SegmentsRefused != 0 || got.Refused != 1 {
		t.Errorf("%+v", got)
	}
	files := must(filepath.Glob(filepath.Join(l.s.evidenceDir(), "segments", h.id, "boot", "*.ndjson")))(t)
	if len(files) != 1 {
		t.Fatal(files)
	}
	want := string(lines[0].Record) + "\n" + string(lines[1].Record) + "\n" + string(end.Record) + "\n"
	if data := must(os.ReadFile(files[0]))(t); string(data) != want {
		t.Errorf("kept\n%s\nwant\n%s", data, want)
	}
	if seals := l.leaves(leaf.TypeSeal); len(seals) != 1 || seals[0].Seal.Line != seal.HashLine(end.Record) {
		t.Errorf("leaves of seals: %+v", seals)
	}
	if got := collect(t, l.admin(), api.FlowQuery{}); !slices.Equal(got, []uint64{1}) {
		t.Errorf("queries see %v", got)
	}
	if claims := l.leaves(leaf.TypeRefused); len(claims) != 1 || claims[0].Refused.Node != h.id || claims[0].Refused.Number != 1 ||
		!slices.Equal(claims[0].Refused.Ranges, []leaf.Range{{First: 2, Last: 2}}) {
		t.Errorf("of the line that was refused the log says %+v", claims)
	}
	// Another key is refused until it is told; the one before stays good.
	other := *x
	other.key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32))
	second := other.seal()
	_, err = h.SendFlows(l.ctx(), []api.FlowEnvelope{second})
	wantCode(t, err, api.CodeLogKeyUnknown)
	must(h.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: other.public()}))(t)
	if got := x.send(second); got.Segments != 1 {
		t.Errorf("%+v", got)
	}
	x.number, x.previous, x.at = other.number, other.previous, other.at
	if got := x.send(x.seal()); got.Segments != 1 {
		t.Errorf("%+v", got)
	}
	// Somebody else's seal is not the node's.
	thief := newSealer(t, l.host("host-d"), time.Now())
	must(thief.h.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: thief.public()}))(t)
	stolen := newSealer(t, h, time.Now())
	if got := thief.send(stolen.seal()); got.Segments != 0 || got.SegmentsRefused != 1 {
		t.Errorf("%+v", got)
	}
}

// A node that changes what it wrote is found, and shown until somebody has looked.
func TestTamperedLog(t *testing.T) {
	l := mesh(t, nil)
	h := l.host("host-c")
	x := newSealer(t, h, time.Now())
	must(h.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: x.public()}))(t)
	r := x.record(api.FlowRecord{Reason: "FORWARDED"})
	r.Record = bytes.Replace(r.Record, []byte("FORWARDED"), []byte("FORWARDEE"), 1)
	if got := x.send(r, x.seal()); got.SegmentsRefused != 1 {
		t.Errorf("%+v", got)
	}
	problem := func() bool {
		return slices.ContainsFunc(must(l.admin().Status(l.ctx()))(t).Problems, func(p string) bool {
			return strings.Contains(p, "host-c") && strings.Contains(p, "not those that were sealed")
		})
	}
	l.eventually("the problem", problem)
	l.eventually("the audit event", func() bool {
		return slices.ContainsFunc(must(l.admin().ListAudit(l.ctx()))(t), func(e api.AuditEvent) bool {
			return e.Action == "refuse-segment" && e.Resource == h.id && e.Actor == actorSystem
		})
	})
	if err := os.RemoveAll(filepath.Join(l.s.cfg.DataDir, "sealing", "aside", h.id)); err != nil {
		t.Fatal(err)
	}
	l.eventually("the problem to be gone", func() bool { return !problem() })
}

// A connected node that seals nothing is a problem within a minute after the last seal was due.
func TestNodesThatSealNothing(t *testing.T) {
	var ahead atomic.Int64
	l := mesh(t, func(c *Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	h, idle := l.host("host-c"), l.host("host-d")
	x := newSealer(t, h, time.Now())
	must(h.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: x.public()}))(t)
	must(idle.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)).Public().(ed25519.PublicKey)}))(t)
	keyless := l.host("host-e")
	keyless.views(t)
	h.views(t) // it is connected, and the other is not
	l.eventually("the stream", func() bool {
		_, on := l.s.hub.connectedSince(h.id)
		_, too := l.s.hub.connectedSince(keyless.id)
		return on && too
	})
	silent := func() bool {
		l.s.watchSeals()
		all := must(l.admin().Status(l.ctx()))(t).Problems
		if slices.ContainsFunc(all, func(p string) bool { return strings.Contains(p, "host-d") }) {
			t.Errorf("%q", all)
		}
		return slices.ContainsFunc(all, func(p string) bool { return strings.Contains(p, "host-c") && strings.Contains(p, "sealed nothing") })
	}
	for i, c := range []struct {
		passes time.Duration
		seals  bool
		want   bool
	}{
		{61 * time.Second, false, false}, {silentFor, false, true}, {0, true, false}, {61 * time.Second, false, false},
		{silentFor, false, true}, {time.Second, true, false},
	} {
		ahead.Add(int64(c.passes))
		if c.seals {
			x.at = l.s.cfg.Now()
			x.send(x.seal())
		}
		if got := silent(); got != c.want {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
		told := slices.ContainsFunc(must(l.admin().Status(l.ctx()))(t).Problems, func(p string) bool {
			return strings.Contains(p, "host-e") && strings.Contains(p, "told no key")
		})
		if told != (i > 0) {
			t.Errorf("%d: a node without a key is a problem: %v", i, told)
		}
	}
}

// The log's key is made once, is nobody else's to read, and signs what the server tells.
func TestLogKey(t *testing.T) {
	var dir string
	l := startLab(t, func(c *Config) { c.Tree, dir = nil, c.DataDir })
	first := must(l.as("shop").LogKey(l.ctx()))(t)
	info := must(os.Stat(filepath.Join(dir, "log.key")))(t)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("log.key has mode %v", info.Mode())
	}
	verifier := must(note.NewVerifier(first.VerifierKey))(t)
	checkpoint := must(l.s.tree.Published(l.ctx(), 0))(t)
	if n, err := note.Open(checkpoint, note.VerifierList(verifier)); err != nil || len(n.Sigs) != 1 || !strings.HasPrefix(n.Text, first.Origin+"\n") {
		t.Errorf("%s: %v", checkpoint, err)
	}
	l.stop()
	again := startLab(t, func(c *Config) { c.Tree, c.DataDir, c.Store = nil, dir, l.s.store })
	if got := must(again.client(l.adminKey, "").LogKey(again.ctx()))(t); *got != *first {
		t.Errorf("%+v, before %+v", got, first)
	}
	again.stop()
	if err := os.Remove(filepath.Join(dir, "log.key")); err != nil {
		t.Fatal(err)
	}
	s := New(Config{DataDir: dir, Listen: []string{"unix:" + filepath.Join(dir, "s.sock")}, Store: l.s.store})
	if err := s.Run(l.ctx()); err == nil || !strings.Contains(err.Error(), "restore it from a backup") {
		t.Errorf("a log without its key: %v", err)
	}
}

// A copy has what it says, and its last line says that it is whole.
func TestCopyOfEvidence(t *testing.T) {
	l := mesh(t, func(c *Config) { c.Tree = nil })
	h, other := l.host("host-c"), l.host("host-d")
	must(l.as("pay").CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	now := time.Now().UTC().Truncate(time.Hour).Add(time.Minute)
	x, y := newSealer(t, h, now), newSealer(t, other, now)
	y.key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))
	must(h.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: x.public()}))(t)
	must(other.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: y.public()}))(t)
	x.send(x.record(l.about("third", api.FlowRecord{})), x.seal())
	y.send(y.record(api.FlowRecord{}), y.seal())
	x.at = now.Add(-3 * time.Hour)
	x.send(x.record(api.FlowRecord{}), x.seal())
	copied := func(account string, since time.Time) (map[string]string, api.EvidenceManifest) {
		t.Helper()
		files := map[string]string{}
		if err := l.client(l.adminKey, account).Evidence(l.ctx(), api.EvidenceQuery{Since: since}, func(p api.EvidencePart) error {
			files[p.Path] += string(p.Data)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		var m api.EvidenceManifest
		if err := json.Unmarshal([]byte(files["manifest.json"]), &m); err != nil {
			t.Fatal(err)
		}
		return files, m
	}
	for name, c := range map[string]struct {
		account string
		since   time.Time
		nodes   []string
		files   int
	}{
		"all": {"", time.Time{}, nil, 3}, "this hour": {"", now, nil, 2}, "about an account": {"pay", time.Time{}, []string{h.id}, 2},
		"about nobody": {"stranger", time.Time{}, nil, 0},
	} {
		l.as("stranger")
		files, m := copied(c.account, c.since)
		if len(m.Files) != c.files || !slices.Equal(m.Nodes, c.nodes) || (m.Nodes == nil) != (c.account == "") || m.Origin != l.s.logKey.Origin {
			t.Errorf("%s: %+v", name, m)
		}
		for _, f := range m.Files {
			if int64(len(files[f.Path])) != f.Bytes || shaOf(files[f.Path]) != f.SHA256 {
				t.Errorf("%s: %s is not what the manifest says", name, f.Path)
			}
		}
		names := slices.Sorted(maps.Keys(files))
		if files["log/checkpoint"] == "" || !slices.ContainsFunc(names, func(s string) bool { return strings.HasPrefix(s, "log/tile/entries/") }) {
			t.Errorf("%s: the log is missing: %v", name, names)
		}
		exports := l.leaves(leaf.TypeReport)
		if last := exports[len(exports)-1].Report; last.Kind != "export" || last.SHA256 != shaOf(files["manifest.json"]) {
			t.Errorf("%s: the log does not know the manifest: %+v", name, last)
		}
	}
	// Of a node whose segments are gone nobody can say whom they were about.
	if err := os.RemoveAll(filepath.Join(l.s.evidenceDir(), "segments", other.id)); err != nil {
		t.Fatal(err)
	}
	want := []string{h.id, other.id}
	slices.Sort(want)
	if _, m := copied("pay", time.Time{}); !slices.Equal(m.Nodes, want) {
		t.Errorf("a copy after a node's segments went is of %v, want %v", m.Nodes, want)
	}
	if _, m := copied("pay", now.Add(-3*time.Hour)); !slices.Equal(m.Nodes, want) {
		t.Errorf("a copy of some hours is of %v, want %v", m.Nodes, want)
	}
	if !slices.ContainsFunc(must(l.admin().ListAudit(l.ctx()))(t), func(e api.AuditEvent) bool { return e.Action == "stream-evidence" }) {
		t.Error("who copied is not noted")
	}
}

// vouch is a request that tells a key of a node with the word of a host's certificate.
func vouch(t *testing.T, h *host, node string, key ed25519.PublicKey) api.LogKeyRequest {
	t.Helper()
	p := must(seal.Vouch(node, key, h.cert.Certificate[0], h.cert.PrivateKey.(crypto.Signer)))(t)
	return api.LogKeyRequest{PublicKey: key, Certificate: p.Certificate, Signature: p.Signature}
}

// TestAProofThatComesLater: a key that an older agent told gets its proof into the Merkle log when a newer one tells it, once.
func TestAProofThatComesLater(t *testing.T) {
	l := mesh(t, nil)
	h := l.host("host-c")
	x := newSealer(t, h, time.Now())
	must(h.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: x.public()}))(t)
	x.send(x.record(api.FlowRecord{}), x.seal())
	tree := l.s.tree.(*treelog.Mem)
	tree.Fail(errors.New("no room")) // the proof waits, and what the key signs is taken meanwhile
	must(h.PutLogKey(l.ctx(), vouch(t, h, h.id, x.public())))(t)
	if l.s.nodeKeys.get(h.id, seal.KeyID(x.public())) == nil || l.s.nodeKeys.waits(h.id) {
		t.Error("the key is no good any more")
	}
	tree.Fail(nil)
	for range 2 {
		must(h.PutLogKey(l.ctx(), vouch(t, h, h.id, x.public())))(t)
	}
	if got := x.send(x.record(api.FlowRecord{}), x.seal()); got.Segments != 1 {
		t.Errorf("%+v", got)
	}
	keys := l.leaves(leaf.TypeNodeKey)
	if len(keys) != 2 || keys[0].NodeKey.Proof != nil || keys[1].NodeKey.Proof == nil {
		t.Fatalf("%+v", keys)
	}
	must(keys[1].NodeKey.Proof.Check(h.id, x.public()))(t)
}

// TestAKeyThatIsNotToldYet: what a node sends before its key stands in the Merkle log is asked for again, with a proof that is good then.
func TestAKeyThatIsNotToldYet(t *testing.T) {
	var ahead atomic.Int64
	l := mesh(t, func(c *Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	h := l.host("host-c")
	x := newSealer(t, h, time.Now())
	tree := l.s.tree.(*treelog.Mem)
	tree.Fail(errors.New("no room"))
	must(h.PutLogKey(l.ctx(), vouch(t, h, h.id, x.public())))(t)
	lines := []api.FlowEnvelope{x.record(api.FlowRecord{}), x.seal()}
	refused := func() {
		t.Helper()
		_, err := h.SendFlows(l.ctx(), lines)
		wantCode(t, err, api.CodeLogKeyUnknown)
	}
	refused()
	tree.Fail(nil)
	ahead.Store(int64(3 * day)) // the certificate that vouched is long over
	if err := l.s.loadNodeKeys(l.ctx()); err != nil {
		t.Fatal(err)
	}
	ahead.Store(0)
	if keys := l.leaves(leaf.TypeNodeKey); len(keys) != 0 {
		t.Errorf("a proof that is not good is in the log: %+v", keys)
	}
	refused()
	fresh := vouch(t, h, h.id, x.public())
	must(h.PutLogKey(l.ctx(), fresh))(t)
	if keys := l.leaves(leaf.TypeNodeKey); len(keys) != 1 || !bytes.Equal(keys[0].NodeKey.Proof.Signature, fresh.Signature) {
		t.Errorf("%+v", keys)
	}
	if got := x.send(lines...); got.Segments != 1 || got.SegmentsRefused != 0 {
		t.Errorf("%+v", got)
	}
}

// TestKeysAreVouchedFor: the node's certificate says which key seals its log, and the Merkle log has that; what does not check is refused.
func TestKeysAreVouchedFor(t *testing.T) {
	l := mesh(t, nil)
	h := l.host("host-c")
	x := newSealer(t, h, time.Now())
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)).Public().(ed25519.PublicKey)
	half, wrong, stolen := vouch(t, h, h.id, x.public()), vouch(t, h, h.id, x.public()), vouch(t, l.host("host-d"), h.id, x.public())
	half.Signature, wrong.PublicKey = nil, other
	for name, r := range map[string]api.LogKeyRequest{"without signature": half, "of another key": wrong, "by another node's certificate": stolen} {
		_, err := h.PutLogKey(l.ctx(), r)
		if e := wantCode(t, err, api.CodeInvalidParameter); e.Field != "signature" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if keys := l.leaves(leaf.TypeNodeKey); len(keys) != 0 {
		t.Errorf("%+v", keys)
	}
	must(h.PutLogKey(l.ctx(), vouch(t, h, h.id, x.public())))(t)
	keys := l.leaves(leaf.TypeNodeKey)
	if len(keys) != 1 || keys[0].NodeKey.Proof == nil {
		t.Fatalf("%+v", keys)
	}
	cert := must(keys[0].NodeKey.Proof.Check(h.id, x.public()))(t)
	if node := must(l.s.ca.Node(cert, time.Now(), 0))(t); node != h.id {
		t.Errorf("it is vouched for by %s", node)
	}
}
