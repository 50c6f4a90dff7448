package bpf

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// SetQuotas runs set_quotas, in as many runs as it takes, and fills in what was Done, which is valid beside an error too.
func SetQuotas(set *ebpf.Program, orders []QuotaOrder) error {
	for batch := range slices.Chunk(orders, int(ABIQuotaOrderKindQUOTA_ORDERS)) {
		if err := runOrders(set, batch); err != nil {
			return fmt.Errorf("set quotas: %w", err)
		}
	}
	return nil
}

// AppendQuotas appends whom an entry is charged to: one entry each, and for a port that it takes one port each.
func (f *ABIFlow) AppendQuotas(keys []QuotaKey) []QuotaKey {
	keys = append(keys, QuotaKey{Kind: uint32(QuotaTable)}, QuotaKey{Kind: uint32(QuotaAccount), Id: f.Account})
	if f.Connection != 0 {
		half := QuotaSent
		if FlowFlag(f.Flags)&FlowDestTagged != 0 || f.Key.SideOf() == ViewProvider {
			half = QuotaReceived
		}
		keys = append(keys, QuotaKey{Kind: uint32(half), Id: f.Connection})
	}
	if FlowFlag(f.Flags)&FlowDestTagged != 0 && f.Key.SideOf() == ViewWorkload {
		pool := QuotaKey{
			Kind: uint32(QuotaPool), Vpc: f.Key.Vpc, Source: f.Key.Daddr, Target: f.Key.Saddr, Port: f.Key.Sport,
			Protocol: f.Key.Protocol,
		}
		own := pool
		own.Kind, own.Id = uint32(QuotaPorts), f.Connection
		keys = append(keys, pool, own)
	}
	return keys
}
