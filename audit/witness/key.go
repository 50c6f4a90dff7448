package witness

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/internal/ownfile"
)

const (
	keyName = "witness.key"
	maxKey  = 1 << 10
)

// Key reads the key that is kept in a directory. Where there is none, directory and key are made.
func Key(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, keyName)
	text, err := ownfile.Read(path, maxKey)
	if errors.Is(err, fs.ErrNotExist) {
		seed := make([]byte, ed25519.SeedSize)
		_, _ = rand.Read(seed) // it never fails
		text = []byte(base64.StdEncoding.EncodeToString(seed) + "\n")
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = write(dir, keyName, text)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key of the witness: %w", err)
	}
	seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is damaged: restore it, a new key would be another witness", path)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// write replaces a file as a whole, mode 0600, and returns when it is on the disk.
func write(dir, name string, data []byte) error {
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// VerifierKey writes a witness's public key as auditors and logs take it.
func VerifierKey(name string, key ed25519.PublicKey) string { return tiles.WitnessKey(name, key) }

// NewSigner makes what cosigns.
func NewSigner(name string, key ed25519.PrivateKey) (note.Signer, error) {
	s, err := cosign.NewSignerForCosignatureV1(tiles.SignerKey(name, key))
	if err != nil {
		return nil, fmt.Errorf("key of the witness %q: %w", name, err)
	}
	return s, nil
}
