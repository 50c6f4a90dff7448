// Package randomly says what random tests draw from.
package randomly

import (
	"os"
	"strconv"
	"testing"
)

// Seed is 1, unless CULVERT_SEED says another, and is printed: a test that never saw a change fails by that change, and not by chance.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(1)
	if text := os.Getenv("CULVERT_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("CULVERT_SEED: %v", err)
		}
	}
	t.Logf("CULVERT_SEED=%d repeats this run", seed)
	return seed
}
