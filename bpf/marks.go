package bpf

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// MarkFlows runs mark_flows, in as many runs as it takes, and returns how many flows were marked.
func MarkFlows(mark *ebpf.Program, marks []FlowMark) (marked int, err error) {
	for batch := range slices.Chunk(marks, int(ABIMarkLimitMARK_MAX)) {
		data, err := binary.Append(make([]byte, ABIMarkLimitMARK_HEADER), binary.NativeEndian, batch)
		if err != nil {
			return marked, fmt.Errorf("mark flows: %w", err)
		}
		n, err := mark.Run(&ebpf.RunOptions{Data: data})
		if err != nil {
			return marked, fmt.Errorf("mark flows: %w", err)
		}
		marked += int(n)
	}
	return marked, nil
}

// RemoveFlows runs remove_flows, in as many runs as it takes, and fills in the answers. What Removed says is valid beside
// an error too.
func RemoveFlows(remove *ebpf.Program, removals []FlowRemoval) error {
	for batch := range slices.Chunk(removals, int(ABIMarkLimitREMOVE_MAX)) {
		data, err := binary.Append(make([]byte, ABIMarkLimitMARK_HEADER), binary.NativeEndian, batch)
		if err != nil {
			return fmt.Errorf("remove flows: %w", err)
		}
		opts := &ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256)}
		if _, err := remove.Run(opts); err != nil {
			return fmt.Errorf("remove flows: %w", err)
		}
		if _, err := binary.Decode(opts.DataOut[ABIMarkLimitMARK_HEADER:], binary.NativeEndian, batch); err != nil {
			return fmt.Errorf("remove flows: %w", err)
		}
	}
	return nil
}
