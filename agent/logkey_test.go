package agent

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
)

// The key is told before the first line, and again when the server says that it does not know it.
func TestKeyIsToldBeforeLines(t *testing.T) {
	var asked []string
	server := &fakeServer{name: "s", asked: &asked, err: errors.New("away")}
	drawn := 0
	keyPEM, certPEM := selfSigned(t)
	k := keyTeller{node: func() *state.Identity {
		return &state.Identity{Node: "node-1", KeyPEM: keyPEM, CertificatePEM: certPEM}
	}, key: func() (ed25519.PrivateKey, error) {
		drawn++
		return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), nil
	}}
	expect := func(what string, calls int, want bool) {
		t.Helper()
		asked = nil
		if err := k.send(t.Context(), server, nil); (err == nil) != want || len(asked) != calls {
			t.Errorf("%s: %v after %v", what, err, slices.Clone(asked))
		}
	}
	expect("no line goes without the key", 1, false)
	server.err = nil
	expect("the key, then the lines", 2, true)
	expect("lines alone", 1, true)
	server.err = api.Errorf(api.CodeLogKeyUnknown, "", "tell it", "unknown")
	expect("the key is not known there", 1, false)
	server.err = nil
	expect("it is told again", 2, true)
	if drawn != 3 {
		t.Errorf("the key was read %d times", drawn)
	}
}
