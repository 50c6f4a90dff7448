package bpf

import (
	"maps"
	"slices"
	"testing"
)

// verifierShare is what a program may take of the million instructions that the kernel's verifier walks at most
// (BPF_COMPLEXITY_LIMIT_INSNS): kernels differ in how they count, and a newer one must not refuse what is installed.
const verifierShare = 1_000_000 / 2

// TestVerifierHasRoom prints what each program costs on this kernel.
func TestVerifierHasRoom(t *testing.T) {
	n := newNode(t, 1)
	for _, name := range slices.Sorted(maps.Keys(n.coll.Programs)) {
		info, err := n.coll.Programs[name].Info()
		if err != nil {
			t.Fatal(err)
		}
		count, ok := info.VerifiedInstructions()
		if !ok || count == 0 {
			t.Errorf("%s: the kernel does not say what it took", name)
			continue
		}
		t.Logf("%s: %d instructions verified", name, count)
		if count >= verifierShare {
			t.Errorf("%s takes %d instructions of the verifier, more than half of what there is", name, count)
		}
	}
}
