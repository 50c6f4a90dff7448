package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// ForProcessor spares the programs, before they are loaded, what a processor does not need: where reads are never reordered
// among themselves (x86-64: Intel's manual, volume 3, 8.2.2) they need no barrier. arch is a GOARCH. Objects of older schemas
// have no such choice.
func ForProcessor(spec *ebpf.CollectionSpec, arch string) error {
	v := spec.Variables[ABIVarReadsInOrder]
	if v == nil || arch != "amd64" {
		return nil
	}
	if err := v.Set(uint32(1)); err != nil {
		return fmt.Errorf("set how the processor reads: %w", err)
	}
	return nil
}
