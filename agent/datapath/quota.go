package datapath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/plan"
)

// Quotas are rows whose limits a plan says and whose counts the programs keep. So they are written in place, by set_quotas,
// and a row that no plan names any more is closed, and stays until nothing is charged to it.

func encodeQuotas(p *plan.Plan) map[bpf.QuotaKey]bpf.QuotaLimits {
	rows := make(map[bpf.QuotaKey]bpf.QuotaLimits, len(p.Quotas))
	for _, q := range p.Quotas {
		rows[bpf.QuotaKey{Kind: uint32(q.Kind), Id: q.ID}] = bpf.QuotaLimits{
			BitsPerS: q.BitsPerSecond, ConnectionsPerS: q.ConnectionsPerSecond, Most: q.Most, Guaranteed: q.Guaranteed,
			Ceiling: q.Ceiling, Open: q.Open,
		}
	}
	return rows
}

// quotaChange is the step of the table of quotas.
type quotaChange struct {
	d      *Datapath
	closed []bpf.QuotaOrder
	set    []bpf.QuotaOrder
}

func (d *Datapath) diffQuotas(ctx context.Context, want map[bpf.QuotaKey]bpf.QuotaLimits) (quotaChange, error) {
	c := quotaChange{d: d}
	have, err := table[bpf.QuotaKey, bpf.Quota]{name: mapQuotas, m: d.coll.Maps[mapQuotas]}.observe(ctx)
	if err != nil {
		return c, err
	}
	for key, q := range have {
		if _, ok := want[key]; !ok && bpf.QuotaLimits(q.Limits) != (bpf.QuotaLimits{}) {
			c.closed = append(c.closed, bpf.QuotaOrder{Key: key, Order: bpf.QuotaSet})
		}
	}
	for key, limits := range want {
		if q, ok := have[key]; !ok || bpf.QuotaLimits(q.Limits) != limits {
			c.set = append(c.set, bpf.QuotaOrder{Key: key, Order: bpf.QuotaSet, Limits: limits})
		}
	}
	return c, nil
}

func (c quotaChange) size() int { return len(c.closed) + len(c.set) }

func (c quotaChange) removes() bool { return false } // a sweep does (dropQuotas)

func (c quotaChange) adds() bool { return len(c.set) > 0 }

func (c quotaChange) removeAll() error { return c.order(c.closed) }

func (c quotaChange) putAll() error { return c.order(c.set) }

func (c quotaChange) order(orders []bpf.QuotaOrder) error {
	c.d.quotaMu.Lock()
	defer c.d.quotaMu.Unlock()
	if err := c.d.setQuotas(orders); err != nil {
		return err
	}
	for i := range orders {
		if orders[i].Done != 1 {
			return fmt.Errorf("write %s (%d rows): no room", mapQuotas, len(orders))
		}
		failpoint.Here("apply.quota-put")
	}
	return nil
}

func (d *Datapath) setQuotas(orders []bpf.QuotaOrder) error {
	if len(orders) == 0 {
		return nil
	}
	return bpf.SetQuotas(d.coll.Programs[bpf.ABIProgSetQuotas], orders)
}

// Charged is what is in use of something that is bounded.
type Charged struct {
	Key   bpf.QuotaKey
	Used  int64  // flow entries, two a flow, or source ports
	Bound uint32 // that it meets first
}

// above says whether a share of the bound is used.
func (c Charged) above(percent int64) bool {
	return c.Bound > 0 && c.Used*100 >= int64(c.Bound)*percent
}

const (
	// pressedShare: flows of who has more of its bound are removed early once they are closed or were never answered.
	pressedShare = 75
	// alarmShare of a bound is said where people look.
	alarmShare = 80
	// recountEvery is the time between two counts of the flow table that are compared with what is charged.
	recountEvery = time.Minute
)

// ledger is one reading of what is charged.
type ledger struct {
	quotas map[bpf.QuotaKey]bpf.Quota
	ports  map[bpf.QuotaKey]bpf.Usage
}

func (d *Datapath) readLedger(ctx context.Context) (l ledger, err error) {
	var err2 error
	l.quotas, err = table[bpf.QuotaKey, bpf.Quota]{name: mapQuotas, m: d.coll.Maps[mapQuotas]}.observe(ctx)
	l.ports, err2 = table[bpf.QuotaKey, bpf.Usage]{name: mapPorts, m: d.coll.Maps[mapPorts]}.observe(ctx)
	return l, errors.Join(err, err2)
}

func (l ledger) usage(key bpf.QuotaKey) (bpf.Usage, bool) {
	if bpf.QuotaKind(key.Kind) >= bpf.QuotaPool {
		u, ok := l.ports[key]
		return u, ok
	}
	q, ok := l.quotas[key]
	return q.Usage, ok
}

// charged lists what is bounded, with the bound that it meets first when the others below the same bound have little.
func (l ledger) charged() []Charged {
	out := make([]Charged, 0, len(l.quotas)+len(l.ports))
	for key, q := range l.quotas {
		bound := q.Limits.Ceiling
		if k := bpf.QuotaKind(key.Kind); k == bpf.QuotaTable || k == bpf.QuotaAccount { // what is beyond is promised to those below
			bound = q.Limits.Open
		}
		if q.Limits.Most != 0 {
			bound = min(bound, q.Limits.Most)
		}
		out = append(out, Charged{key, int64(q.Usage.Used), bound})
	}
	for key, u := range l.ports {
		if bpf.QuotaKind(key.Kind) == bpf.QuotaPool {
			out = append(out, Charged{key, int64(u.Used), uint32(bpf.PoolOpen)})
		}
	}
	return out
}

// tight are those who have nearly all that they may.
func (l ledger) tight() map[bpf.QuotaKey]bool {
	var tight map[bpf.QuotaKey]bool
	for _, c := range l.charged() {
		if c.above(pressedShare) {
			if tight == nil {
				tight = map[bpf.QuotaKey]bool{}
			}
			tight[c.Key] = true
		}
	}
	return tight
}

// Pressure lists, as of the last sweep, what is used to 80 % or more of its bound, sorted.
func (d *Datapath) Pressure() []Charged {
	if p := d.pressure.Load(); p != nil {
		return *p
	}
	return nil
}

func (d *Datapath) notePressure(l ledger) {
	var out []Charged
	for _, c := range l.charged() {
		if c.above(alarmShare) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Charged) int {
		return cmp.Or(cmp.Compare(a.Key.Kind, b.Key.Kind), cmp.Compare(a.Key.Id, b.Key.Id), cmp.Compare(a.Key.Vpc, b.Key.Vpc),
			cmp.Compare(a.Key.Source, b.Key.Source), cmp.Compare(a.Key.Target, b.Key.Target), cmp.Compare(a.Key.Port, b.Key.Port))
	})
	d.pressure.Store(&out)
}

// balance is what a sweep does about the ledger: it compares what is charged with what a walk over the table counted, and
// drops rows that nothing is charged to.
//
// Programs charge before they make an entry and give back after they took its id, so nothing drifts; but entries that were
// taken over from another schema were never charged. A difference counts only where nothing was charged or given back from
// before the walk until the correction, which made and used tell together: then what the walk saw is exact.
func (d *Datapath) balance(ctx context.Context, before, after ledger, counted map[bpf.QuotaKey]int64) error {
	var orders []bpf.QuotaOrder
	for key, n := range counted {
		was, ok1 := before.usage(key)
		is, ok2 := after.usage(key)
		if ok1 && ok2 && was == is && int64(is.Used) != n {
			orders = append(orders, bpf.QuotaOrder{
				Key: key, Order: bpf.QuotaAdjust, Used: is.Used, Made: is.Made, Amount: uint64(n) - is.Used,
			})
		}
	}
	idle := map[bpf.QuotaKey]uint64{}
	for key, u := range after.ports {
		if u.Used != 0 {
			continue
		}
		if made, was := d.idlePorts[key]; was && made == u.Made { // unused since the last sweep
			orders = append(orders, bpf.QuotaOrder{Key: key, Order: bpf.QuotaDrop})
		} else {
			idle[key] = u.Made
		}
	}
	d.idlePorts = idle
	if err := d.setQuotas(orders); err != nil {
		return err
	}
	return d.dropQuotas(ctx, after) // after corrections: what is charged to a row keeps it
}

// dropQuotas drops rows that no plan names and nothing is charged to. No other row gets such an element before all programs are over
// that may have found it.
func (d *Datapath) dropQuotas(ctx context.Context, l ledger) error {
	var orders []bpf.QuotaOrder
	for key, q := range l.quotas {
		if q.Usage.Used == 0 && bpf.QuotaLimits(q.Limits) == (bpf.QuotaLimits{}) {
			orders = append(orders, bpf.QuotaOrder{Key: key, Order: bpf.QuotaDrop})
		}
	}
	if len(orders) == 0 {
		return nil
	}
	d.quotaMu.Lock()
	defer d.quotaMu.Unlock()
	return errors.Join(d.setQuotas(orders), d.settle(ctx))
}

// count adds an entry to what a walk counts.
func (l *look) count(e *bpf.Flow) {
	if l.counted == nil {
		return
	}
	l.keys = e.AppendQuotas(l.keys[:0])
	for _, k := range l.keys {
		l.counted[k]++
	}
}

// pressedBy: the table is nearly full, or what somebody may have whom these entries are charged to.
func (l *look) pressedBy(entries ...*bpf.Flow) bool {
	if l.pressed || len(l.tight) == 0 {
		return l.pressed
	}
	for _, e := range entries {
		l.keys = e.AppendQuotas(l.keys[:0])
		if e.Id != 0 && slices.ContainsFunc(l.keys, func(k bpf.QuotaKey) bool { return l.tight[k] }) {
			return true
		}
	}
	return false
}

// counting starts a count of the table where it is time for one. Every row is compared, those too that no entry names.
func (d *Datapath) counting(now time.Duration, l ledger) map[bpf.QuotaKey]int64 {
	if d.recounted != 0 && now-d.recounted < recountEvery {
		return nil
	}
	d.recounted = now
	counted := make(map[bpf.QuotaKey]int64, len(l.quotas)+len(l.ports))
	for key := range l.quotas {
		counted[key] = 0
	}
	for key := range l.ports {
		counted[key] = 0
	}
	return counted
}

// FlowEntries is how many entries the flow table has room for.
func (d *Datapath) FlowEntries() int { return int(d.coll.Maps[mapFlows].MaxEntries()) }
