package datapath

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
)

func (d *Datapath) bound(t *testing.T, kind bpf.QuotaKind, id uint32, limits bpf.QuotaLimits) bpf.QuotaKey {
	t.Helper()
	key := bpf.QuotaKey{Kind: uint32(kind), Id: id}
	if err := d.setQuotas([]bpf.QuotaOrder{{Key: key, Order: bpf.QuotaSet, Limits: limits}}); err != nil {
		t.Fatal(err)
	}
	return key
}

func (d *Datapath) usedBy(t *testing.T, key bpf.QuotaKey) int64 {
	t.Helper()
	var q bpf.Quota
	if err := d.coll.Maps[mapQuotas].Lookup(key, &q); err != nil {
		t.Fatal(err)
	}
	return int64(q.Usage.Used)
}

// Entries that were never charged, as those of another schema, are charged by the next count; a row that moved meanwhile is
// left alone.
func TestRecount(t *testing.T) {
	d := openTable(t, 1024)
	now := bootTime(t, 0)
	limits := bpf.QuotaLimits{Ceiling: 1024, Open: 1024}
	all, account := d.bound(t, bpf.QuotaTable, 0, limits), d.bound(t, bpf.QuotaAccount, 9, limits)
	fill(t, d, 100, now, func(i int, open, reply *bpf.Flow) {
		if i < 30 {
			open.Account, reply.Account = 9, 9
		}
	})
	if _, err := d.Sweep(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if a, b := d.usedBy(t, all), d.usedBy(t, account); a != 200 || b != 60 {
		t.Errorf("%d and %d entries are charged after a count, want 200 and 60", a, b)
	}
	before, err := d.readLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var q bpf.Quota
	if err := d.coll.Maps[mapQuotas].Lookup(all, &q); err != nil {
		t.Fatal(err)
	}
	q.Usage.Used, q.Usage.Made = 210, 10 // five flows were made while the table was read
	if err := d.coll.Maps[mapQuotas].Put(all, &q); err != nil {
		t.Fatal(err)
	}
	after, err := d.readLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.balance(t.Context(), before, after, map[bpf.QuotaKey]int64{all: 203, account: 50}); err != nil {
		t.Fatal(err)
	}
	if a, b := d.usedBy(t, all), d.usedBy(t, account); a != 210 || b != 50 {
		t.Errorf("%d and %d entries are charged, want 210 as it moved, and 50", a, b)
	}
}

// A row that no plan names any more goes when nothing is charged to it.
func TestQuotaRowsGo(t *testing.T) {
	d := openTable(t, 64)
	now := bootTime(t, 0)
	d.bound(t, bpf.QuotaTable, 0, bpf.QuotaLimits{Ceiling: 64, Open: 64})
	key := d.bound(t, bpf.QuotaAccount, 9, bpf.QuotaLimits{})
	fill(t, d, 1, now, func(_ int, open, reply *bpf.Flow) { open.Account, reply.Account = 9, 9 })
	if _, err := d.Sweep(t.Context(), now); err != nil || d.usedBy(t, key) != 2 {
		t.Fatalf("%d entries are charged, %v", d.usedBy(t, key), err)
	}
	if swept, err := d.Sweep(t.Context(), now+time.Hour); err != nil || len(swept.Removed) != 1 || d.usedBy(t, key) != 0 {
		t.Fatalf("swept %+v, %v", swept, err)
	}
	if _, err := d.Sweep(t.Context(), now+time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := d.coll.Maps[mapQuotas].Lookup(key, new(bpf.Quota)); err == nil {
		t.Error("the row is still there")
	}
}

// Half-open connections go after 20 s, also where there is room; complete ones stay. Who has three quarters of what it may
// have loses those of its own that were never answered after 5 s, others do not.
func TestHalfOpen(t *testing.T) {
	d := openTable(t, 4096)
	now := bootTime(t, 0)
	d.bound(t, bpf.QuotaTable, 0, bpf.QuotaLimits{Ceiling: 4096, Open: 4096})
	d.bound(t, bpf.QuotaAccount, 1, bpf.QuotaLimits{Ceiling: 80, Open: 80})
	d.bound(t, bpf.QuotaAccount, 2, bpf.QuotaLimits{Ceiling: 4096, Open: 4096})
	const each = 40
	fill(t, d, 2*each, now, func(i int, open, reply *bpf.Flow) {
		state := []bpf.TCPState{bpf.TCPSynSent, bpf.TCPSynReceived, bpf.TCPEstablished, bpf.TCPFinWait}[i%4]
		for _, e := range []*bpf.Flow{open, reply} {
			e.Key.Protocol, e.Account, e.TcpState, e.IdleS = unix.IPPROTO_TCP, uint32(1+i/each), uint8(state), 350
		}
	})
	gone := func(after time.Duration) map[uint32]int {
		t.Helper()
		swept, err := d.Sweep(t.Context(), now+after)
		if err != nil {
			t.Fatal(err)
		}
		by := map[uint32]int{}
		for _, f := range swept.Removed {
			if f.TCPState() >= bpf.TCPEstablished {
				t.Errorf("a connection that is %s went after %s", f.TCPState(), after)
			}
			by[f.Opening.Account]++
		}
		return by
	}
	if by := gone(4 * time.Second); len(by) != 0 {
		t.Errorf("went after 4 s: %v", by)
	}
	if by := gone(6 * time.Second); by[1] != each/2 || by[2] != 0 {
		t.Errorf("went after 6 s: %v, want %d of the account that has its share", by, each/2)
	}
	if by := gone(19 * time.Second); len(by) != 0 {
		t.Errorf("went after 19 s: %v", by)
	}
	if by := gone(21 * time.Second); by[2] != each/2 {
		t.Errorf("went after 21 s: %v, want %d of the other", by, each/2)
	}
	if p := d.Pressure(); len(p) != 0 {
		t.Errorf("pressure %+v after they went", p)
	}
}
