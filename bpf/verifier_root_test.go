package bpf

import (
	"maps"
	"slices"
	"testing"
)

// verifierMost is what a program may take of the million instructions that the kernel's verifier walks at most
// (BPF_COMPLEXITY_LIMIT_INSNS): kernels differ in how they count, a newer one must not refuse what is installed, and 100,000
// take it up to a second.
const verifierMost = 100_000

// TestVerifierHasRoom prints what each program of both objects costs on this kernel.
func TestVerifierHasRoom(t *testing.T) {
	programs := maps.Clone(newNode(t, 1).coll.Programs)
	maps.Copy(programs, loadQueries(t, 1, 1).Programs)
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		info, err := programs[name].Info()
		if err != nil {
			t.Fatal(err)
		}
		count, ok := info.VerifiedInstructions()
		if !ok || count == 0 {
			t.Errorf("%s: the kernel does not say what it took", name)
			continue
		}
		t.Logf("%s: %d instructions verified", name, count)
		if count >= verifierMost {
			t.Errorf("%s takes %d instructions of the verifier, more than %d", name, count, verifierMost)
		}
	}
}
