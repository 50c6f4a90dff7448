package bpf

import (
	"fmt"
	"unsafe"
)

// ParseEvent reads an event as the ring buffer has it. There are several to a connection, and package binary takes as long for one as
// the programs do for the whole flow; the layout is the compiler's, which a test compares.
func ParseEvent(raw []byte) (*Event, error) {
	var e Event
	if len(raw) != int(unsafe.Sizeof(e)) {
		return nil, fmt.Errorf("an event of %d bytes, want %d: programs and agent are of different builds", len(raw), unsafe.Sizeof(e))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e)), raw)
	return &e, nil
}
