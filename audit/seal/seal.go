package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Version of the format that is written.
const Version = 1

// MaxLine bounds a seal line, in bytes: with its segment it has to fit into memory many times over.
const MaxLine = 16 << 20

// Seal closes a segment: the records since the seal before of the same node.
type Seal struct {
	Version int    `json:"version"`
	Node    string `json:"node"`
	Boot    string `json:"boot"`
	Number  uint64 `json:"number"` // 1, 2, 3 … within Boot

	First   uint64 `json:"first"`   // sequence of the first record; Last+1 == First when there is none
	Last    uint64 `json:"last"`    // of the last one
	Records int    `json:"records"` // lines

	Start time.Time `json:"start"` // when the seal before was made
	End   time.Time `json:"end"`   // when this one was; UTC
	Clock Clock     `json:"clock"`

	Hash     string `json:"hash"`               // hex SHA-256 of the record lines, newlines included
	Previous string `json:"previous,omitempty"` // hex SHA-256 of the seal line before, of the same node, across boots; empty: its first ever

	Full     bool       `json:"full"`               // made right after all counters were read: Counters are valid
	Counters []Position `json:"counters,omitempty"` // rows that changed since the last full seal; sorted by ENI, hook, reason
	Declared []Gap      `json:"declared,omitempty"` // what is missing, by cause and row
	Tunnel   []Passage  `json:"tunnel,omitempty"`   // rows that changed since the last full seal; sorted by peer and epoch

	Key       string `json:"key"`                 // hex SHA-256 of the public key's 32 bytes
	Signature []byte `json:"signature,omitempty"` // Ed25519 over the JSON without this field
}

// Clock is what the kernel says of the node's clock when the seal is made.
type Clock struct {
	Synced         bool  `json:"synced"`
	MaxErrorMicros int64 `json:"maxErrorMicros"`
	OffsetMicros   int64 `json:"offsetMicros"`
	// SteppedMicros is how far the clock was set since the seal before, forward or back, beside its running.
	SteppedMicros int64 `json:"steppedMicros,omitempty"`
}

// Position is where a counter of the datapath stood at this full seal and at the one before, counted from the node's boot. The sum of
// the records of the boot lies in [To-Slack, To]: Slack is what came while counters and flows were read.
type Position struct {
	ENI    string `json:"eni,omitempty"` // id; empty: none, or one that was not known
	Hook   string `json:"hook"`
	Reason string `json:"reason"`
	From   Count  `json:"from"`
	To     Count  `json:"to"`
	Slack  Count  `json:"slack"`
	Folded bool   `json:"folded,omitempty"` // final: the ENI has gone from this node
}

// Count is packets and their IP bytes.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Causes of a [Gap].
const (
	CauseRestart  = "restart"  // the agent died: what it had read and not written
	CauseLost     = "lost"     // the counters have it, no record does
	CauseOver     = "over"     // records tell it, the counters do not: counted for its flow and refused after that
	CauseTrimmed  = "trimmed"  // the log was full: whole segments that were not shipped
	CauseDamaged  = "damaged"  // lines that the disk did not keep
	CauseUnsealed = "unsealed" // lines from before there were seals
	CauseBoot     = "boot"     // what was counted after the last full seal of a boot that ended: not known
)

var causes = []string{CauseRestart, CauseLost, CauseOver, CauseTrimmed, CauseDamaged, CauseUnsealed, CauseBoot}

// MaxHoles bounds the gaps of a seal that name lines or seals: its leaf in the Merkle log repeats them, and has 64 KiB at most.
const MaxHoles = 200

// maxID bounds what names a node, a boot or an interface, in bytes.
const maxID = 64

// Hole tells whether the gap names lines or seals that are gone. What rows lost with them is said by gaps of their own beside it.
func (g *Gap) Hole() bool { return g.Hook == "" && (g.FirstSeal != 0 || g.FirstSequence != 0) }

// Gap is something that is missing, and says so. Zero fields say nothing.
type Gap struct {
	Cause  string `json:"cause"`
	Boot   string `json:"boot,omitempty"` // of the lines and seals that are gone; empty: the seal's own
	ENI    string `json:"eni,omitempty"`
	Hook   string `json:"hook,omitempty"`   // of the row of the balance that it is about, with Reason
	Reason string `json:"reason,omitempty"` // empty: of no row

	Packets uint64 `json:"packets,omitempty"`
	Bytes   uint64 `json:"bytes,omitempty"`
	Records uint64 `json:"records,omitempty"`

	FirstSequence uint64 `json:"firstSequence,omitempty"` // lines that are gone
	LastSequence  uint64 `json:"lastSequence,omitempty"`
	FirstSeal     uint64 `json:"firstSeal,omitempty"` // seals that are gone
	LastSeal      uint64 `json:"lastSeal,omitempty"`

	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
}

// KeyID names a public key in seals and leaves.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

// Sign sets Key and Signature. Times are brought to UTC, as they are signed.
func (s *Seal) Sign(key ed25519.PrivateKey) error {
	s.Start, s.End = s.Start.Round(0).UTC(), s.End.Round(0).UTC()
	for i := range s.Declared {
		s.Declared[i].From, s.Declared[i].To = s.Declared[i].From.Round(0).UTC(), s.Declared[i].To.Round(0).UTC()
	}
	s.Key = KeyID(key.Public().(ed25519.PublicKey))
	s.Signature = nil
	body, err := encode(s)
	if err != nil {
		return err
	}
	s.Signature = ed25519.Sign(key, body)
	return nil
}

// Check tells whether the seal is signed by key.
func (s *Seal) Check(key ed25519.PublicKey) error {
	body, err := s.Signed()
	switch {
	case err != nil:
		return err
	case len(key) != ed25519.PublicKeySize:
		return fmt.Errorf("key has %d bytes instead of %d", len(key), ed25519.PublicKeySize)
	case s.Key != KeyID(key):
		return fmt.Errorf("seal names key %s, not %s", s.Key, KeyID(key))
	case !ed25519.Verify(key, body, s.Signature):
		return errors.New("signature does not fit the seal")
	}
	return nil
}

// Signed is what the signature is over.
func (s *Seal) Signed() ([]byte, error) {
	bare := *s
	bare.Signature = nil
	return encode(&bare)
}

type line struct {
	Seal *Seal `json:"seal"`
}

var prefix = []byte(`{"seal":`)

// Line is the seal as a line of the log, with its newline.
func (s *Seal) Line() ([]byte, error) {
	b, err := encode(line{s})
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// Parse reads a line, with or without its newline. The bool tells whether it is a seal line at all. A seal has one form only: a line
// that says the same with other bytes is an error.
func Parse(b []byte) (*Seal, bool, error) {
	b = bytes.TrimSuffix(b, []byte("\n"))
	if !bytes.HasPrefix(b, prefix) {
		return nil, false, nil
	}
	if len(b) > MaxLine {
		return nil, true, fmt.Errorf("seal of %d bytes, more than %d", len(b), MaxLine)
	}
	var l line
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return nil, true, fmt.Errorf("seal: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || l.Seal == nil {
		return nil, true, errors.New("seal: not one JSON object")
	}
	again, err := encode(l)
	if err != nil {
		return nil, true, err
	}
	if !bytes.Equal(again, b) {
		return nil, true, errors.New("seal: not in the form in which seals are written")
	}
	if err := l.Seal.sound(); err != nil {
		return nil, true, fmt.Errorf("seal %d of boot %s: %w", l.Seal.Number, l.Seal.Boot, err)
	}
	return l.Seal, true, nil
}

// sound checks what a seal must be whoever made it.
func (s *Seal) sound() error {
	switch {
	case s.Version != Version:
		return fmt.Errorf("version %d is not known here, %d is", s.Version, Version)
	case s.Node == "" || s.Boot == "" || s.Number == 0:
		return errors.New("node, boot and number are required")
	case len(s.Node) > maxID || len(s.Boot) > maxID:
		return fmt.Errorf("node or boot has more than %d bytes", maxID)
	case s.Records < 0 || s.First == 0 || s.Last+1 < s.First:
		return fmt.Errorf("first %d, last %d and %d records are no range", s.First, s.Last, s.Records)
	case uint64(s.Records) > s.Last+1-s.First:
		return fmt.Errorf("%d records do not fit into sequences %d to %d", s.Records, s.First, s.Last)
	case !isHash(s.Hash) || s.Previous != "" && !isHash(s.Previous) || !isHash(s.Key):
		return errors.New("hash, previous or key is no SHA-256 in hex")
	case len(s.Signature) != ed25519.SignatureSize:
		return fmt.Errorf("signature has %d bytes instead of %d", len(s.Signature), ed25519.SignatureSize)
	case !s.Full && len(s.Counters)+len(s.Tunnel) > 0:
		return errors.New("counters in a seal that is not full")
	}
	if err := soundPassages(s.Tunnel); err != nil {
		return err
	}
	times := []time.Time{s.Start, s.End}
	holes := 0
	for _, g := range s.Declared {
		times = append(times, g.From, g.To)
		if !slices.Contains(causes, g.Cause) {
			return fmt.Errorf("%.40q is no cause of a gap", g.Cause)
		}
		if len(g.Boot) > maxID {
			return fmt.Errorf("the boot of a gap has more than %d bytes", maxID)
		}
		if g.Hole() {
			holes++
		}
	}
	if holes > MaxHoles {
		return fmt.Errorf("%d gaps name lines or seals, more than %d", holes, MaxHoles)
	}
	if slices.ContainsFunc(times, func(t time.Time) bool { return t.Location() != time.UTC }) {
		return errors.New("times are not in UTC")
	}
	return nil
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && hex.EncodeToString(b) == s
}

// HashLines is the hex SHA-256 of lines, each with its newline.
func HashLines(lines ...[]byte) string {
	h := sha256.New()
	for _, l := range lines {
		h.Write(l)
		if !bytes.HasSuffix(l, []byte("\n")) {
			h.Write([]byte("\n"))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// HashLine is the hex SHA-256 of one line with its newline: what Previous of the next seal says of a seal line.
func HashLine(line []byte) string { return HashLines(line) }

// encode writes compact JSON without escapes for HTML and without a newline.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode seal: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
