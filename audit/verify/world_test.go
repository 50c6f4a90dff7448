package verify

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/audit/witness"
)

const (
	origin      = "mesh.example/log"
	witnessName = "witness.example"
	connID      = "vpce-conn-1"
	flowLog     = "fl-1"
)

func keyOf(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(n byte) ed25519.PublicKey { return keyOf(n).Public().(ed25519.PublicKey) }

func signerOf(t testing.TB) note.Signer {
	t.Helper()
	s, err := treelog.NewSigner(origin, keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// world makes evidence as a server and its nodes do.
type world struct {
	t     testing.TB
	now   time.Time
	log   *treelog.Mem
	files map[string][]byte
	keys  Keys
	text  string // of the keys
	run   string
	ticks uint64
	event uint64
	nodes []*sealer
}

// sealer is a node with its books.
type sealer struct {
	*world
	id, boot string
	side     string
	key      ed25519.PrivateKey
	number   uint64
	sequence uint64
	previous string
	sealed   time.Time
	lines    [][]byte
	to, seen map[seal.Position]seal.Count // counters now, and at the last full seal
	declare  []seal.Gap
	change   func(*seal.Seal) // before it is signed
	unlogged bool             // the next seal does not come into the log
	unkept   bool             // the next segment does not come into a file
	ends
}

func newWorld(t testing.TB, cosign bool) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 3, 1, 12, 58, 0, 0, time.UTC), files: map[string][]byte{}}
	signers := []note.Signer{signerOf(t)}
	text := treelog.VerifierKey(origin, public(1)) + " # the log\n\n"
	if cosign {
		s, err := witness.NewSigner(witnessName, keyOf(2))
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
		text += witness.VerifierKey(witnessName, public(2)) + "\n"
	}
	keys, err := ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	w.keys, w.text = keys, text
	w.log = treelog.NewMem(origin, func() time.Time { return w.now }, signers...)
	w.start()
	return w
}

func (w *world) append(l leaf.Leaf) uint64 {
	w.t.Helper()
	at, err := w.log.Append(w.t.Context(), l)
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

func (w *world) start() {
	w.run, w.ticks = fmt.Sprint("run-", w.now.Unix()), 0
	w.append(leaf.Leaf{Type: leaf.TypeStart, Server: &leaf.Server{ID: w.run, Version: "1"}})
}

func (w *world) stop() {
	w.append(leaf.Leaf{Type: leaf.TypeStop, Server: &leaf.Server{ID: w.run, Version: "1"}})
}

func (w *world) tick() {
	w.t.Helper()
	c, err := w.log.Checkpoint(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.ticks++
	w.append(leaf.Leaf{Type: leaf.TypeTick, Tick: &leaf.Tick{Server: w.run, Number: w.ticks, Checkpoint: string(c)}})
}

func (w *world) audit(n int) {
	for range n {
		w.event++
		w.append(leaf.OfEvent(w.now, api.AuditEvent{Seq: w.event, At: w.now, Action: "create-vpc", Actor: "key-1", Outcome: "success"}))
	}
}

func (w *world) node(id, boot, side string, key ed25519.PrivateKey) *sealer {
	s := &sealer{world: w, id: id, side: side, key: key}
	s.reboot(boot)
	w.append(leaf.OfNodeKey(w.now, id, key.Public().(ed25519.PublicKey)))
	w.nodes = append(w.nodes, s)
	return s
}

func (s *sealer) reboot(boot string) {
	s.boot, s.number, s.sequence, s.sealed = boot, 0, 0, s.clock()
	s.tally, s.short = seal.Tally{}, nil
	s.to, s.seen = map[seal.Position]seal.Count{}, map[seal.Position]seal.Count{}
}

// count counts packets in the datapath.
func (s *sealer) count(eni, hook, reason string, packets uint64) {
	p := seal.Position{ENI: eni, Hook: hook, Reason: reason}
	c := s.to[p]
	s.to[p] = seal.Count{Packets: c.Packets + packets, Bytes: c.Bytes + 100*packets}
}

// flow counts a flow's packets and records them.
func (s *sealer) flow(there, back uint64) {
	eni, in, out := "eni-"+s.id, "workload", "tunnel"
	if s.side == "provider" {
		in, out = out, in
	}
	s.count(eni, in, "NONE", there)
	s.count(eni, in, "FORWARDED", there)
	s.count(eni, out, "FORWARDED", back)
	s.record(api.FlowRecord{Interface: eni, Action: api.ActionAccept, Reason: "FORWARDED", Stage: in, Side: s.side, Connection: connID,
		Packets: there, Bytes: 100 * there, ReplyPackets: back, ReplyBytes: 100 * back})
}

// refuse counts refused packets and records them.
func (s *sealer) refuse(packets uint64) {
	s.count("eni-"+s.id, "workload", "NO_DESTINATION", packets)
	s.record(api.FlowRecord{Interface: "eni-" + s.id, Action: api.ActionReject, Reason: "NO_DESTINATION", Stage: "workload", Packets: packets,
		Bytes: 100 * packets})
}

func (s *sealer) record(r api.FlowRecord) {
	s.t.Helper()
	s.sequence++
	r.Node, r.Boot, r.Sequence = s.id, s.boot, s.sequence
	s.tally.Record(&r)
	if r.End.IsZero() {
		r.Start, r.End = s.clock(), s.clock()
	}
	b, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.lines = append(s.lines, b)
}

func (s *sealer) query() {
	s.sequence++
	s.lines = append(s.lines, fmt.Appendf(nil, `{"query":{"node":%q,"boot":%q,"sequence":%d,"name":"ledger.pay.internal."}}`, s.id, s.boot, s.sequence))
}

// seal closes the segment, tells the log and keeps the lines.
func (s *sealer) seal(full bool) *seal.Seal {
	s.t.Helper()
	s.number++
	var slack map[seal.Row]seal.Count
	if full && s.books {
		slack = s.balance()
	}
	s.tally.Declare(s.declare...)
	one := &seal.Seal{
		Version: seal.Version, Node: s.id, Boot: s.boot, Number: s.number, First: s.sequence + 1 - uint64(len(s.lines)), Last: s.sequence,
		Records: len(s.lines), Start: s.sealed, End: s.clock(),
		Clock: seal.Clock{Synced: true, SteppedMicros: s.stepped.Microseconds()}, Hash: seal.HashLines(s.lines...),
		Previous: s.previous, Full: full, Declared: s.declare,
	}
	if full {
		for p, c := range s.to {
			more, row := seal.Count{}, seal.Row{}
			if r, ok := seal.RowOf(p.ENI, p.Hook, p.Reason); ok {
				more, row = slack[r], r
			}
			if c != s.seen[p] || !more.Zero() {
				delete(slack, row) // stands in one position of the row
				p.From, p.To, p.Slack = s.seen[p], c, more
				one.Counters = append(one.Counters, p)
			}
		}
		slices.SortFunc(one.Counters, func(a, b seal.Position) int { return bytes.Compare(fmt.Append(nil, a), fmt.Append(nil, b)) })
		s.seen = maps.Clone(s.to)
		one.Tunnel = s.passages()
	}
	if s.change != nil {
		s.change(one)
	}
	if err := one.Sign(s.key); err != nil {
		s.t.Fatal(err)
	}
	line, err := one.Line()
	if err != nil {
		s.t.Fatal(err)
	}
	s.waiting = append(s.waiting, segmentOf(s.lines, one, line, !s.unlogged, !s.unkept))
	if !s.away {
		s.deliver()
	}
	s.previous, s.sealed, s.stepped = seal.HashLine(line), s.clock(), 0
	s.lines, s.declare, s.change, s.unlogged, s.unkept = nil, nil, nil, false, false
	return one
}

// pack compresses a file of segments.
func pack(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// live lets n times ten seconds pass, in which both nodes have traffic and seal.
func (w *world) live(n int) {
	for i := range n {
		w.now = w.now.Add(10 * time.Second)
		for j, s := range w.nodes {
			lost := uint64(i % 3 / 2)
			if s.side == "provider" {
				s.flow(10-lost, 8)
			} else {
				s.flow(10, 8)
			}
			if (i+j)%2 == 0 {
				s.refuse(3)
				s.query()
			}
			if i == 4 && j == 0 { // refused, counted, and lost: the node says so
				s.count("eni-"+s.id, "workload", "NO_DESTINATION", 7)
				s.declare = []seal.Gap{{Cause: seal.CauseLost, ENI: "eni-" + s.id, Hook: "workload", Reason: "NO_DESTINATION", Packets: 7,
					Bytes: 700, From: s.sealed, To: w.now}}
			}
			s.seal(i%2 == 1)
		}
		if i%2 == 1 {
			w.tick()
		}
	}
}

// deliver hands a file over.
func (w *world) deliver(path, content string) {
	sum := sha256.Sum256([]byte(content))
	w.append(leaf.Leaf{Type: leaf.TypeObject, Object: &leaf.Object{FlowLog: flowLog, Destination: "local", Path: path, Size: int64(len(content)),
		SHA256: hex.EncodeToString(sum[:]), Records: 1, First: w.now, Last: w.now}})
	w.files[deliveriesDir+flowLog+"/"+path] = []byte(content)
}

// dir is all files as they are, with the log's.
func (w *world) dir() fstest.MapFS {
	w.t.Helper()
	logged, err := w.log.Files(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	dir := fstest.MapFS{}
	for path, b := range logged {
		dir[logDir+path] = &fstest.MapFile{Data: b}
	}
	for path, b := range w.files {
		dir[path] = &fstest.MapFile{Data: b}
	}
	return dir
}

// honest is a small mesh's evidence: two nodes, one of which started anew, two hours of which the first is compressed.
func honest(t testing.TB) *world {
	t.Helper()
	w := newWorld(t, true)
	w.audit(3)
	w.node("i-a", "boot-1", "consumer", keyOf(3))
	w.node("i-b", "boot-1", "provider", keyOf(4))
	w.live(9)
	w.audit(256) // a second tile
	w.stop()
	w.now = w.now.Add(40 * time.Second)
	w.start()
	w.nodes[0].reboot("boot-2")
	w.live(8)
	report, err := leaf.OfReport(w.now, "daily", w.now.Add(-time.Hour), w.now, []byte(`{"denied":0}`))
	if err != nil {
		t.Fatal(err)
	}
	w.append(report)
	for i := range 3 {
		w.deliver(fmt.Sprintf("2026/03/01/part-%d.log", i), fmt.Sprintf("delivery %d of some records", i))
	}
	w.tick()
	w.now = w.now.Add(time.Second)
	w.tick()
	for path, b := range maps.Clone(w.files) {
		if hour, ok := hourOf(path[len(path)-len("2026-03-01T12.ndjson"):]); ok && hour == "2026-03-01T12" {
			w.files[path+".gz"] = pack(t, b)
			delete(w.files, path)
		}
	}
	return w
}

// transcript is a report as people read it.
func transcript(t testing.TB, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Transcript(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
