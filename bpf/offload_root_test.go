package bpf

import (
	"encoding/binary"
	"testing"
)

// offloaded is the context of a packet that the device is to cut into segments of that size.
func offloaded(size uint32) []byte {
	const length, gsoSegs, gsoSize = 192, 164, 176 // struct __sk_buff, linux/bpf.h
	b := make([]byte, length)
	binary.NativeEndian.PutUint32(b[gsoSegs:], 2)
	binary.NativeEndian.PutUint32(b[gsoSize:], size)
	return b
}

// A packet in segments of a byte is none of TCP's: it would become more packets in the tunnel than the tunnel sends in a second.
func TestSegments(t *testing.T) {
	a, _ := pair(t)
	const most = int(ABIAbiLimitLIMIT_SEGMENTS)
	for payload, want := range map[int]Reason{most: ReasonForwarded, most + 1: ReasonMalformed} {
		out := a.workload(consumer, cart, sent(syn().Payload(payload), 11), offloaded(1))
		if got := Reason(out.outcome.Reason); got != want {
			t.Errorf("%d segments: %s, want %s", payload, got, want)
		}
	}
}
