package tiles

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Signed is a checkpoint with its signatures: a C2SP signed note.
type Signed struct {
	Origin string
	Size   uint64
	Root   Hash
	Text   string // what is signed
	By     []By
}

// By is one signature line.
type By struct {
	Name      string
	KeyHash   uint32
	Signature []byte // behind the key's hash
}

// MarshalCheckpoint is the text of a checkpoint.
func MarshalCheckpoint(origin string, size uint64, root Hash) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]))
}

// ParseSigned reads a checkpoint without judging its signatures. It has one form only: what says the same with other bytes is an error.
func ParseSigned(b []byte) (*Signed, error) {
	text, sigs, ok := strings.Cut(string(b), "\n\n")
	if !ok || !strings.HasSuffix(sigs, "\n") {
		return nil, errors.New("checkpoint: no signatures")
	}
	s := &Signed{Text: text + "\n"}
	lines := strings.Split(text, "\n")
	if len(lines) != 3 {
		return nil, fmt.Errorf("checkpoint: %d lines instead of origin, size and hash", len(lines))
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(s.Root) {
		return nil, errors.New("checkpoint: the third line is no SHA-256 in base64")
	}
	s.Origin, s.Root = lines[0], Hash(root)
	if s.Size, err = strconv.ParseUint(lines[1], 10, 64); err != nil {
		return nil, errors.New("checkpoint: the second line is no number")
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(sigs, "\n"), "\n") {
		by, err := parseBy(line)
		if err != nil {
			return nil, err
		}
		s.By = append(s.By, by)
	}
	if !bytes.Equal(s.Bytes(), b) {
		return nil, errors.New("checkpoint: not in the form in which checkpoints are written")
	}
	return s, nil
}

func parseBy(line string) (By, error) {
	rest, ok := strings.CutPrefix(line, "— ")
	name, text, ok2 := strings.Cut(rest, " ")
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || !ok2 || name == "" || err != nil || len(raw) < 5 {
		return By{}, fmt.Errorf("checkpoint: %q is no signature line", line)
	}
	return By{name, uint32(raw[0])<<24 | uint32(raw[1])<<16 | uint32(raw[2])<<8 | uint32(raw[3]), raw[4:]}, nil
}

// Bytes is the checkpoint as it is written.
func (s *Signed) Bytes() []byte {
	var b bytes.Buffer
	b.WriteString(MarshalCheckpoint(s.Origin, s.Size, s.Root))
	b.WriteByte('\n')
	for _, by := range s.By {
		raw := append([]byte{byte(by.KeyHash >> 24), byte(by.KeyHash >> 16), byte(by.KeyHash >> 8), byte(by.KeyHash)}, by.Signature...)
		fmt.Fprintf(&b, "— %s %s\n", by.Name, base64.StdEncoding.EncodeToString(raw))
	}
	return b.Bytes()
}

// SignedBy tells whether v has signed, and whether rightly.
func (s *Signed) SignedBy(v note.Verifier) (has, valid bool) {
	for _, by := range s.By {
		if by.Name == v.Name() && by.KeyHash == v.KeyHash() {
			return true, v.Verify([]byte(s.Text), by.Signature)
		}
	}
	return false, false
}

// Sign makes a checkpoint with signatures.
func Sign(origin string, size uint64, root Hash, signers ...note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: MarshalCheckpoint(origin, size, root)}, signers...)
}
