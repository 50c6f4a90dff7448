package tiles

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
)

// Algorithms of keys in signed notes (C2SP signed-note).
const (
	AlgEd25519     = 1
	AlgCosignature = 4
)

// SignerKey writes a private key as signed notes have it.
func SignerKey(name string, key ed25519.PrivateKey) string {
	pub := key.Public().(ed25519.PublicKey)
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", name, keyHash(name, AlgEd25519, pub),
		base64.StdEncoding.EncodeToString(append([]byte{AlgEd25519}, key.Seed()...)))
}

// LogKey writes a log's public key as signed notes have it.
func LogKey(origin string, key ed25519.PublicKey) string {
	return verifierKey(origin, AlgEd25519, key)
}

// WitnessKey writes a witness's public key likewise.
func WitnessKey(name string, key ed25519.PublicKey) string {
	return verifierKey(name, AlgCosignature, key)
}

func verifierKey(name string, alg byte, key ed25519.PublicKey) string {
	return fmt.Sprintf("%s+%08x+%s", name, keyHash(name, alg, key), base64.StdEncoding.EncodeToString(append([]byte{alg}, key...)))
}

func keyHash(name string, alg byte, key ed25519.PublicKey) uint32 {
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write([]byte{alg})
	h.Write(key)
	return binary.BigEndian.Uint32(h.Sum(nil))
}
