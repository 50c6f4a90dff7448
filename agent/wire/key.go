package wire

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/culvert-net/culvert/internal/ownfile"
)

// KeyLen is the length of a Curve25519 key in bytes, private or public (RFC 7748, section 5).
const KeyLen = 32

// PublicKey is a Curve25519 public key. Its text form is standard base64, as WireGuard's own tools print it. The zero
// value stands for "no key".
type PublicKey [KeyLen]byte

// PrivateKey is a Curve25519 private key. It prints as "(private)" with every verb and refuses to be marshalled, so
// that it cannot reach a log or a document by accident. The zero value stands for "no key".
type PrivateKey [KeyLen]byte

// NewPrivateKey draws a key from the system's random source.
func NewPrivateKey() (PrivateKey, error) {
	var k PrivateKey
	if _, err := rand.Read(k[:]); err != nil {
		return PrivateKey{}, fmt.Errorf("create private key: %w", err)
	}
	k.clamp()
	return k, nil
}

// clamp sets the bits that X25519 ignores to the values which all WireGuard tools store (RFC 7748, section 5).
func (k *PrivateKey) clamp() {
	k[0] &= 248
	k[31] = k[31]&127 | 64
}

// Public returns the matching public key; the zero key has none and gives the zero value.
func (k PrivateKey) Public() PublicKey {
	if k.IsZero() {
		return PublicKey{}
	}
	key, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		return PublicKey{} // only a wrong length is refused, and the type fixes it
	}
	return PublicKey(key.PublicKey().Bytes())
}

// IsZero reports whether there is no key, in constant time.
func (k PrivateKey) IsZero() bool {
	var zero PrivateKey
	return k.Equal(zero)
}

// Equal compares in constant time.
func (k PrivateKey) Equal(other PrivateKey) bool {
	return subtle.ConstantTimeCompare(k[:], other[:]) == 1
}

const privateText = "(private)"

// String hides the key.
func (PrivateKey) String() string { return privateText }

// GoString hides the key from %#v.
func (PrivateKey) GoString() string { return privateText }

// Format hides the key from all verbs, %d and %x included.
func (PrivateKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(privateText)) }

// LogValue hides the key from log/slog.
func (PrivateKey) LogValue() slog.Value { return slog.StringValue(privateText) }

// MarshalText always fails: nothing but [LoadOrCreateKey] and the device's own socket may carry a private key.
func (PrivateKey) MarshalText() ([]byte, error) {
	return nil, errors.New("marshal private key: a private key has no text form")
}

// String returns the base64 form.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero reports whether there is no key.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// Compare orders keys by their bytes.
func (k PublicKey) Compare(other PublicKey) int { return bytes.Compare(k[:], other[:]) }

// MarshalText gives the base64 form.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the base64 form.
func (k *PublicKey) UnmarshalText(text []byte) error {
	parsed, err := ParsePublicKey(string(text))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

// ParsePublicKey reads the base64 form. The zero key is refused: it is nobody's.
func ParsePublicKey(text string) (PublicKey, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text) // would pass over line ends, hence the length
	if err != nil || len(raw) != KeyLen || len(text) != base64.StdEncoding.EncodedLen(KeyLen) {
		return PublicKey{}, fmt.Errorf("parse public key %q: want %d bytes as base64 (44 characters)", text, KeyLen)
	}
	k := PublicKey(raw)
	if k.IsZero() {
		return PublicKey{}, fmt.Errorf("parse public key %q: the zero key belongs to nobody", text)
	}
	return k, nil
}

// LoadOrCreateKey reads the private key stored in the file at path, or draws a new one and stores it there: base64, one
// line, mode 0600, in a directory made with mode 0700. Two callers that race end with the same key. A file that group
// or others may read, or that holds no key, is an error: a node never replaces its identity on its own.
func LoadOrCreateKey(path string) (PrivateKey, error) {
	k, err := loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := createKey(path); err != nil {
		return PrivateKey{}, fmt.Errorf("create key %s: %w", path, err)
	}
	return loadKey(path)
}

// maxKeyFile bounds a key's file, in bytes.
const maxKeyFile = 128

func loadKey(path string) (PrivateKey, error) {
	raw, err := ownfile.Read(path, maxKeyFile)
	if err != nil && !errors.Is(err, ownfile.ErrTooLong) { // too long a text is no key either
		return PrivateKey{}, fmt.Errorf("load key %s: %w", path, err)
	}
	k, err := parsePrivateKey(string(raw))
	if err != nil {
		return PrivateKey{}, fmt.Errorf("load key %s: %w: restore the file, or remove it: then this node gets another key, and its peers "+
			"hear of that", path, err)
	}
	return k, nil
}

// parsePrivateKey reads what createKey writes.
func parsePrivateKey(text string) (PrivateKey, error) {
	decoded, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(text))
	if err != nil || len(decoded) != KeyLen || PrivateKey(decoded).IsZero() {
		return PrivateKey{}, fmt.Errorf("not a private key (want %d bytes as base64)", KeyLen)
	}
	return PrivateKey(decoded), nil
}

// createKey writes a fresh key under a temporary name and links it to path, which fails when path came into being in
// the meantime: the first writer wins.
func createKey(path string) error {
	k, err := NewPrivateKey()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(base64.StdEncoding.EncodeToString(k[:]) + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
