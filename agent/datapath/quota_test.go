package datapath

import (
	"testing"

	"github.com/culvert-net/culvert/bpf"
)

// Whoever is refused for its share is above the alarm's mark: an account that has connections is refused from its open mark on, not from
// its ceiling.
func TestBoundsThatAreMet(t *testing.T) {
	key := func(kind bpf.QuotaKind) bpf.QuotaKey { return bpf.QuotaKey{Kind: uint32(kind), Id: 1} }
	row := func(used uint64, limits bpf.QuotaLimits) bpf.Quota {
		var q bpf.Quota
		q.Usage.Used = used
		q.Limits = limits
		return q
	}
	for _, c := range []struct {
		kind  bpf.QuotaKind
		row   bpf.Quota
		bound uint32
		full  bool
	}{
		{bpf.QuotaTable, row(700, bpf.QuotaLimits{Ceiling: 1000, Open: 750}), 750, true},
		{bpf.QuotaAccount, row(380, bpf.QuotaLimits{Ceiling: 500, Open: 375}), 375, true},
		{bpf.QuotaAccount, row(290, bpf.QuotaLimits{Ceiling: 500, Open: 375}), 375, false},
		{bpf.QuotaSent, row(290, bpf.QuotaLimits{Ceiling: 375}), 375, false},
		{bpf.QuotaReceived, row(20, bpf.QuotaLimits{Ceiling: 375, Most: 20}), 20, true},
		{bpf.QuotaAccount, row(0, bpf.QuotaLimits{}), 0, false}, // closed
	} {
		l := ledger{quotas: map[bpf.QuotaKey]bpf.Quota{key(c.kind): c.row}}
		got := l.charged()
		if len(got) != 1 || got[0].Bound != c.bound || got[0].above(alarmShare) != c.full {
			t.Errorf("kind %d, %+v: %+v, alarm %t", c.kind, c.row, got, got[0].above(alarmShare))
		}
	}
}
