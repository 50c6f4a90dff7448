package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

const (
	nextKeyFile = "wireguard.next"
	keyUseFile  = "wireguard.used"
)

// KeyUse says until when a WireGuard key was used, by this machine's wall clock. Every handshake carries that time, and whoever
// got one takes no earlier one from the same key.
type KeyUse struct {
	PublicKey string    `json:"publicKey"` // base64
	Latest    time.Time `json:"latest"`
}

// LoadKeyUse reads it; zero when there is none.
func (d Dir) LoadKeyUse() (KeyUse, error) {
	var u KeyUse
	_, err := d.readJSON(keyUseFile, &u)
	if err != nil {
		return KeyUse{}, err
	}
	return u, nil
}

// SaveKeyUse replaces it.
func (d Dir) SaveKeyUse(u KeyUse) error { return d.writeJSON(keyUseFile, u) }

// NextWireKey is the path of the WireGuard key that is to take the place of the one in use, while others do not know it yet.
func (d Dir) NextWireKey() string { return d.Path(nextKeyFile) }

// HasNextWireKey reports whether there is one.
func (d Dir) HasNextWireKey() (bool, error) {
	_, err := os.Lstat(d.NextWireKey())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("next WireGuard key: %w", err)
	}
	return true, nil
}

// UseNextWireKey puts the next WireGuard key in the place of the one before, of which nothing is left.
func (d Dir) UseNextWireKey() error {
	if err := os.Rename(d.NextWireKey(), d.WireKey()); err != nil {
		return fmt.Errorf("replace WireGuard key: %w", err)
	}
	return syncDir(string(d))
}

// DropNextWireKey removes it; none is fine.
func (d Dir) DropNextWireKey() error { return dropKey("next WireGuard key", d.NextWireKey()) }

// DropWireKey removes the WireGuard key, which nobody was told of; none is fine.
func (d Dir) DropWireKey() error { return dropKey("WireGuard key", d.WireKey()) }

func dropKey(what, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop %s: %w", what, err)
	}
	return nil
}
