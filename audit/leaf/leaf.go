package leaf

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// MaxSize bounds an encoded leaf, in bytes (C2SP tlog-tiles).
const MaxSize = 1<<16 - 1

// Types of leaves.
const (
	TypeStart          = "start"
	TypeStop           = "stop"
	TypeTick           = "tick"
	TypeNodeKey        = "node-key"
	TypeSeal           = "seal"
	TypeRefused        = "refused"
	TypeAudit          = "audit"
	TypeObject         = "object"
	TypeDisposal       = "disposal"
	TypeReport         = "report"
	TypeReconciliation = "reconciliation"
)

// Leaf is one entry. Type says which of the pointers is set.
type Leaf struct {
	Type string    `json:"type"`
	At   time.Time `json:"at"` // when the server appended it, by its clock; UTC

	Server         *Server         `json:"server,omitempty"` // start and stop
	Tick           *Tick           `json:"tick,omitempty"`
	NodeKey        *NodeKey        `json:"nodeKey,omitempty"`
	Seal           *Seal           `json:"seal,omitempty"`
	Refused        *Refused        `json:"refused,omitempty"`
	Event          *api.AuditEvent `json:"event,omitempty"` // audit
	Object         *Object         `json:"object,omitempty"`
	Disposal       *Disposal       `json:"disposal,omitempty"`
	Report         *Report         `json:"report,omitempty"`
	Reconciliation *Reconciliation `json:"reconciliation,omitempty"`
}

// Server is the process that keeps the log, when it starts and when it stops.
type Server struct {
	ID      string `json:"id"` // another one with each start
	Version string `json:"version"`
	Reason  string `json:"reason,omitempty"`
	// Refusals: it says which lines of segments it did not take. Of a start; segments before the first such may have any.
	Refusals bool `json:"refusals,omitempty"`
}

// Tick shows that the log lives, and keeps its newest checkpoint.
type Tick struct {
	Server string `json:"server"`
	Number uint64 `json:"number"` // 1, 2, 3 … within the server's run
	// Checkpoint is the newest one that was published before, with all its signatures.
	Checkpoint string `json:"checkpoint"`
	// SteppedMicros is how far the server's clock was set since the tick before, forward or back, beside its running.
	SteppedMicros int64 `json:"steppedMicros,omitempty"`
	// Reason is why none came in time: since the tick before the log could not be written.
	Reason string `json:"reason,omitempty"`
}

// NodeKey says that what Key signs is the node's.
type NodeKey struct {
	Node string `json:"node"`
	Key  []byte `json:"key"` // Ed25519, 32 bytes
	ID   string `json:"id"`  // as seals name it: hex SHA-256 of Key
	// Proof is that the node's certificate vouches for the key; absent where an older agent told it.
	Proof *seal.Proof `json:"proof,omitempty"`
}

// Seal is the head of a seal. Line commits to all of it, so the log holds neither counters nor what is of others, and stays small.
type Seal struct {
	Node     string    `json:"node"`
	Boot     string    `json:"boot"`
	Number   uint64    `json:"number"`
	First    uint64    `json:"first"`
	Last     uint64    `json:"last"`
	Records  int       `json:"records"`
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Hash     string    `json:"hash"`               // of the records
	Previous string    `json:"previous,omitempty"` // Line of the seal before
	Line     string    `json:"line"`               // hex SHA-256 of the seal line, its newline included
	Key      string    `json:"key"`
	// Jumps are the seals and sequences that the seal declares as gone.
	Jumps []Jump `json:"jumps,omitempty"`
}

// Jump is a range of seals or sequences that do not exist any more.
type Jump struct {
	Cause         string `json:"cause"`
	Boot          string `json:"boot,omitempty"` // empty: the seal's own
	FirstSeal     uint64 `json:"firstSeal,omitempty"`
	LastSeal      uint64 `json:"lastSeal,omitempty"`
	FirstSequence uint64 `json:"firstSequence,omitempty"`
	LastSequence  uint64 `json:"lastSequence,omitempty"`
}

// Refused is which lines of a segment the server did not take as its node's word, mostly because they are about interfaces and connections
// that were not the node's. They stand in the segment, as the node sealed them, and in no answer of the server.
type Refused struct {
	Node   string  `json:"node"`
	Boot   string  `json:"boot"`
	Number uint64  `json:"number"` // of the segment, whose seal is a leaf before
	Lines  uint64  `json:"lines"`
	Ranges []Range `json:"ranges"` // their sequences, ascending; of more than MaxRanges the first, and the rest of Lines is behind them
}

// MaxRanges bounds the ranges of a leaf.
const MaxRanges = 500

// Range is sequences from First to Last.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Object is a file that was delivered.
type Object struct {
	FlowLog     string    `json:"flowLog"`
	Destination string    `json:"destination"`
	Path        string    `json:"path"` // below the destination
	Size        int64     `json:"size"`
	SHA256      string    `json:"sha256"`
	Records     int       `json:"records"`
	First       time.Time `json:"first,omitzero"` // of the records
	Last        time.Time `json:"last,omitzero"`
}

// Disposal is the removal of what was kept long enough. The leaf comes first: what it names may be there for a while.
type Disposal struct {
	ID     string     `json:"id"`
	Class  string     `json:"class"`          // retention class
	By     string     `json:"by"`             // actor, "system" for the retention's own
	Reason string     `json:"reason"`         // in words
	Runs   []Run      `json:"runs,omitempty"` // segments
	Files  []Disposed `json:"files,omitempty"`
}

// Run is consecutive segments of one boot.
type Run struct {
	Node  string `json:"node"`
	Boot  string `json:"boot"`
	First uint64 `json:"first"` // number
	Last  uint64 `json:"last"`
	Line  string `json:"line"` // of the last one
}

// Disposed is a file that was removed.
type Disposed struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

// Report is something that the server made and stands by.
type Report struct {
	Kind   string          `json:"kind"` // such as daily, export
	From   time.Time       `json:"from,omitzero"`
	To     time.Time       `json:"to,omitzero"`
	SHA256 string          `json:"sha256"`         // of the body's bytes, here or elsewhere
	Body   json.RawMessage `json:"body,omitempty"` // compact JSON; absent where it is too large for a leaf
}

// Reconciliation is what a server of before said of both ends of a connection, of the flows that it had settled in a period. None is made
// any more: who verifies compares what nodes sealed.
type Reconciliation struct {
	Connection string    `json:"connection"`
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
	Flows      uint64    `json:"flows"`
	Forward    Way       `json:"forward"` // from consumer to provider
	Reply      Way       `json:"reply"`   // and back
	// Missing is the side that told nothing, or not all: consumer or provider; either, where flows were settled early for want of
	// room. Such flows have a leaf of their own, in which nothing is lost.
	Missing string `json:"missing,omitempty"`
}

// Way is one direction, in packets.
type Way struct {
	Sent     uint64 `json:"sent"`
	Received uint64 `json:"received"`
	Lost     uint64 `json:"lost"` // between the two: Sent - Received
}

// OfSeal makes the leaf of a seal; line is the seal's line.
func OfSeal(at time.Time, s *seal.Seal, line []byte) Leaf {
	l := Seal{
		Node: s.Node, Boot: s.Boot, Number: s.Number, First: s.First, Last: s.Last, Records: s.Records, Start: s.Start, End: s.End,
		Hash: s.Hash, Previous: s.Previous, Line: seal.HashLine(line), Key: s.Key,
	}
	for _, g := range s.Declared {
		if g.Hole() {
			l.Jumps = append(l.Jumps, Jump{g.Cause, g.Boot, g.FirstSeal, g.LastSeal, g.FirstSequence, g.LastSequence})
		}
	}
	return Leaf{Type: TypeSeal, At: at.UTC(), Seal: &l}
}

// OfNodeKey makes the leaf of a node's key, the 32 bytes of an Ed25519 public key.
func OfNodeKey(at time.Time, node string, key []byte) Leaf {
	k := &NodeKey{Node: node, Key: key, ID: seal.KeyID(key)}
	return Leaf{Type: TypeNodeKey, At: at.UTC(), NodeKey: k}
}

// OfEvent makes the leaf of an audit event.
func OfEvent(at time.Time, e api.AuditEvent) Leaf {
	return Leaf{Type: TypeAudit, At: at.UTC(), Event: &e}
}

// Key names what the leaf is about. Two leaves with one key say the same, or one of them is wrong.
func (l *Leaf) Key() string {
	join := func(parts ...string) string { return l.Type + "/" + strings.Join(parts, "/") }
	n := func(n uint64) string { return strconv.FormatUint(n, 10) }
	switch l.Type {
	case TypeStart, TypeStop:
		return join(l.Server.ID)
	case TypeTick:
		return join(l.Tick.Server, n(l.Tick.Number))
	case TypeNodeKey:
		parts := []string{l.NodeKey.Node, l.NodeKey.ID}
		if p := l.NodeKey.Proof; p != nil { // it may come later than the key, and another one after a crash
			parts = append(parts, hash(slices.Concat(p.Certificate, p.Signature)))
		}
		return join(parts...)
	case TypeSeal:
		return join(l.Seal.Node, l.Seal.Boot, n(l.Seal.Number))
	case TypeRefused:
		return join(l.Refused.Node, l.Refused.Boot, n(l.Refused.Number))
	case TypeAudit:
		return join(n(l.Event.Seq))
	case TypeObject:
		return join(l.Object.FlowLog, l.Object.Path, l.Object.SHA256, l.Object.Destination)
	case TypeDisposal:
		return join(l.Disposal.ID)
	case TypeReport:
		return join(l.Report.Kind, l.Report.From.UTC().Format(time.RFC3339Nano), l.Report.SHA256)
	case TypeReconciliation:
		r := l.Reconciliation
		parts := []string{r.Connection, r.From.UTC().Format(time.RFC3339Nano)}
		if r.Missing != "" {
			parts = append(parts, r.Missing)
		}
		return join(parts...)
	}
	return l.Type
}

// Same is a hash of all that the leaf says but the time at which it was appended: what is appended twice has it twice.
func (l *Leaf) Same() ([sha256.Size]byte, error) {
	bare := *l
	bare.At = time.Time{}
	b, err := bare.Encode()
	return sha256.Sum256(b), err
}

// Encode writes the leaf: compact JSON, without a newline.
func (l *Leaf) Encode() ([]byte, error) {
	if err := l.sound(); err != nil {
		return nil, err
	}
	out := *l
	out.At = l.At.Round(0).UTC()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&out); err != nil {
		return nil, fmt.Errorf("encode %s leaf: %w", l.Type, err)
	}
	data := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%s leaf has %d bytes, more than %d: put a hash of the large part in it", l.Type, len(data), MaxSize)
	}
	return data, nil
}

// ErrUnknown is the error of [Decode] for a leaf of a type that this version does not know.
var ErrUnknown = errors.New("leaf of an unknown type")

// Decode reads a leaf. Fields that it does not know are left out: the log proves bytes, and later versions may say more.
func Decode(data []byte) (Leaf, error) {
	var l Leaf
	if err := json.Unmarshal(data, &l); err != nil {
		return Leaf{}, fmt.Errorf("leaf: %w", err)
	}
	return l, l.sound()
}

// sound checks that the leaf has what its type says.
func (l *Leaf) sound() error {
	have := map[string]bool{
		TypeStart: l.Server != nil, TypeStop: l.Server != nil, TypeTick: l.Tick != nil, TypeNodeKey: l.NodeKey != nil,
		TypeSeal: l.Seal != nil, TypeAudit: l.Event != nil, TypeObject: l.Object != nil, TypeDisposal: l.Disposal != nil,
		TypeRefused: l.Refused != nil, TypeReport: l.Report != nil, TypeReconciliation: l.Reconciliation != nil,
	}
	is, known := have[l.Type]
	switch {
	case !known:
		return fmt.Errorf("%w: %q", ErrUnknown, l.Type)
	case !is:
		return fmt.Errorf("leaf of type %s without its content", l.Type)
	case l.Type == TypeNodeKey && l.NodeKey.ID != seal.KeyID(l.NodeKey.Key):
		return fmt.Errorf("node-key leaf of node %s: the key does not have the id %s", l.NodeKey.Node, l.NodeKey.ID)
	case l.Type == TypeReport && l.Report.Body != nil && hash(l.Report.Body) != l.Report.SHA256:
		return fmt.Errorf("report leaf of kind %s: the body does not have the hash %s", l.Report.Kind, l.Report.SHA256)
	}
	return nil
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// OfReport makes the leaf of a report. The body is JSON; one that does not fit into a leaf stays where the caller keeps it.
func OfReport(at time.Time, kind string, from, to time.Time, body []byte) (Leaf, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, body); err != nil {
		return Leaf{}, fmt.Errorf("report of kind %s: %w", kind, err)
	}
	r := &Report{Kind: kind, From: from.UTC(), To: to.UTC(), SHA256: hash(b.Bytes()), Body: b.Bytes()}
	l := Leaf{Type: TypeReport, At: at.UTC(), Report: r}
	if b.Len() > MaxSize-1024 {
		r.Body = nil
	}
	return l, nil
}
