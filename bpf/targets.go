package bpf

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
)

// TableSlots is how many slots a target table has.
const TableSlots = int(ABIAbiLimitTABLE_SLOTS)

// ServiceSticky is set in Service.Flags when the target goes by the client's address alone.
const ServiceSticky = uint8(ABIServiceFlagSERVICE_STICKY)

// TargetTable is a target table as its inner map holds it: how many targets there are, for each slot the index of one,
// width bits each, and the targets; lib/balance.h reads it. Width is 0 and slots is empty when no target takes new flows.
func TargetTable(width uint8, slots []uint16, targets []Target) []uint64 {
	words := []uint64{uint64(len(targets))}
	if width > 0 {
		perWord := 64 / int(width)
		words = append(words, make([]uint64, (len(slots)+perWord-1)/perWord)...)
		for i, s := range slots {
			words[1+i/perWord] |= uint64(s) << (i % perWord * int(width))
		}
	}
	for _, t := range targets {
		b := binary.NativeEndian.AppendUint32(nil, t.Addr)
		b = binary.NativeEndian.AppendUint16(b, t.Port)
		words = append(words, binary.NativeEndian.Uint64(binary.NativeEndian.AppendUint16(b, t.Spare)))
	}
	return words
}

// PutTargetTable fills an inner map of target_tables.
func PutTargetTable(m *ebpf.Map, words []uint64) error {
	keys := make([]uint32, len(words))
	for i := range keys {
		keys[i] = uint32(i)
	}
	_, err := m.BatchUpdate(keys, words, nil)
	return err
}
