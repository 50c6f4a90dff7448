package datapath

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/culvert-net/culvert/bpf"
)

// placeSums tells the guard where in the kernel's struct sk_buff stands what bpf/lib/place.h reads. Only the kernel's BTF knows:
// the layout follows from its version and configuration.
func placeSums(spec *ebpf.CollectionSpec) error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("the kernel's WireGuard needs a kernel that describes its types (CONFIG_DEBUG_INFO_BTF): %w; "+
			"use such a one, or --wireguard user", err)
	}
	var skb *btf.Struct
	if err := kernel.TypeByName("sk_buff", &skb); err != nil {
		return fmt.Errorf("types of the kernel: %w", err)
	}
	for _, f := range []struct{ field, variable string }{
		{"csum_start", bpf.ABIVarSkCsumStart}, {"network_header", bpf.ABIVarSkNetworkHeader}, {"ip_summed", bpf.ABIVarSkSummed},
	} {
		bit, size, ok := fieldAt(skb.Members, f.field)
		if !ok {
			return fmt.Errorf("types of the kernel: sk_buff has no %s", f.field)
		}
		if err := spec.Variables[f.variable].Set(bit / 8); err != nil {
			return fmt.Errorf("set %s: %w", f.variable, err)
		}
		if size == 0 {
			continue
		}
		shift := bit % 8
		if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big-endian machines count bits from the highest
			shift = 8 - shift - size
		}
		if err := spec.Variables[bpf.ABIVarSkSummedShift].Set(shift); err != nil {
			return fmt.Errorf("set %s: %w", bpf.ABIVarSkSummedShift, err)
		}
	}
	return nil
}

// fieldAt finds a field of a structure, or of one without a name in it: its first bit, and how many it has if they are not whole
// bytes.
func fieldAt(members []btf.Member, name string) (bit, size uint32, ok bool) {
	for _, m := range members {
		if m.Name == name {
			return uint32(m.Offset), uint32(m.BitfieldSize), true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if at, size, ok := fieldAt(inner, name); ok {
			return uint32(m.Offset) + at, size, true
		}
	}
	return 0, 0, false
}
