package state

import (
	"crypto/ed25519"
	"fmt"
)

// logKey is the content of the file.
type logKey struct {
	Seed []byte `json:"seed"` // of an Ed25519 key, 32 bytes
}

// LogKey is the key that signs this node's flow log. At the first call it is drawn and kept.
func (d Dir) LogKey() (ed25519.PrivateKey, error) {
	var k logKey
	found, err := d.readJSON(logKeyFile, &k)
	if err != nil {
		return nil, err
	}
	if found {
		if len(k.Seed) != ed25519.SeedSize {
			return nil, d.unusable(logKeyFile, fmt.Errorf("a seed of %d bytes, not %d", len(k.Seed), ed25519.SeedSize))
		}
		return ed25519.NewKeyFromSeed(k.Seed), nil
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("draw the key of the flow log: %w", err)
	}
	if err := d.writeJSON(logKeyFile, logKey{key.Seed()}); err != nil {
		return nil, err
	}
	return key, nil
}
