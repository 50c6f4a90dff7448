package bpf_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// applyQuotas makes quotas those of a plan. What it does not name stays, closed: flows may be charged to it.
func (k *kernel) applyQuotas(p *plan.Plan) {
	k.t.Helper()
	var key bpf.QuotaKey
	var q bpf.Quota
	var orders []bpf.QuotaOrder
	for _, row := range p.Quotas {
		orders = append(orders, bpf.QuotaOrder{
			Key: bpf.QuotaKey{Kind: uint32(row.Kind), Id: row.ID}, Order: bpf.QuotaSet,
			Limits: bpf.QuotaLimits{
				BitsPerS: row.BitsPerSecond, ConnectionsPerS: row.ConnectionsPerSecond, Most: row.Most, Guaranteed: row.Guaranteed,
				Ceiling: row.Ceiling, Open: row.Open,
			},
		})
	}
	it := k.coll.Maps[bpf.ABIMapQuotas].Iterate()
	for it.Next(&key, &q) {
		if !slices.ContainsFunc(orders, func(o bpf.QuotaOrder) bool { return o.Key == key }) {
			orders = append(orders, bpf.QuotaOrder{Key: key, Order: bpf.QuotaSet})
		}
	}
	if err := it.Err(); err != nil {
		k.t.Fatal(err)
	}
	if err := bpf.SetQuotas(k.coll.Programs[bpf.ABIProgSetQuotas], orders); err != nil {
		k.t.Fatal(err)
	}
	for _, o := range orders {
		if o.Done != 1 {
			k.t.Fatalf("quota %+v was not set", o.Key)
		}
	}
}

// clock sets the time of rates.
func (k *kernel) clock(ns uint64) {
	k.t.Helper()
	if err := k.coll.Variables[bpf.ABIVarRateClockNs].Set(ns); err != nil {
		k.t.Fatal(err)
	}
}

// paid lets a connection's rates be paid until a time, here and in the oracle.
func (k *kernel) paid(s *verdict.State, row plan.Quota, until uint64) {
	k.t.Helper()
	key := bpf.QuotaKey{Kind: uint32(row.Kind), Id: row.ID}
	var q bpf.Quota
	if err := k.coll.Maps[bpf.ABIMapQuotas].Lookup(key, &q); err != nil {
		k.t.Fatal(err)
	}
	q.ConnectNs, q.OpeningNs, q.AnsweringNs = until, until, until
	k.put(bpf.ABIMapQuotas, key, &q)
	for _, rate := range []verdict.Rate{verdict.RateConnections, verdict.RateOpening, verdict.RateAnswering} {
		s.Paid[verdict.PaidKey{Quota: quotaKey(key), Rate: rate}] = until
	}
}

// idsPaid lets most ids of fragments that were ever asked for be paid until a time, here and in the oracle.
func (k *kernel) idsPaid(s *verdict.State, rng *rand.Rand, until uint64) {
	k.t.Helper()
	var asked []verdict.PaidKey
	for key := range s.Paid {
		if key.Rate == verdict.RateIDs {
			asked = append(asked, key)
		}
	}
	slices.SortFunc(asked, func(a, b verdict.PaidKey) int {
		return cmp.Or(cmp.Compare(a.Quota.VPC, b.Quota.VPC), a.Quota.Source.Compare(b.Quota.Source),
			a.Quota.Target.Compare(b.Quota.Target), cmp.Compare(a.Quota.ID, b.Quota.ID))
	})
	for _, key := range asked {
		if rng.IntN(4) == 0 {
			continue
		}
		s.Paid[key] = until
		pair := bpf.FragmentPair{Vpc: key.Quota.VPC, Saddr: bpf.NetAddr(key.Quota.Source), Daddr: bpf.NetAddr(key.Quota.Target)}
		if key.Quota.ID != 0 {
			k.put(bpf.ABIMapFragmentShares, bpf.FragmentShare{Pair: pair, Connection: key.Quota.ID}, until)
			continue
		}
		var ids bpf.FragmentIDs
		if err := k.coll.Maps[bpf.ABIMapFragmentPairs].Lookup(pair, &ids); err != nil {
			k.t.Fatal(err)
		}
		ids.OpenNs = until
		k.put(bpf.ABIMapFragmentPairs, pair, &ids)
	}
}

func quotaKey(k bpf.QuotaKey) verdict.QuotaKey {
	key := verdict.QuotaKey{Kind: plan.QuotaKind(k.Kind), ID: k.Id}
	if key.Kind >= verdict.QuotaPool {
		key.VPC, key.Source, key.Target = k.Vpc, bpf.Addr(k.Source), bpf.Addr(k.Target)
		key.Port, key.Protocol = bpf.Port(k.Port), k.Protocol
	}
	return key
}

// compareQuotas checks what accounts and connections are charged, and until when rates are paid.
func (k *kernel) compareQuotas(s *verdict.State) error {
	used := map[verdict.QuotaKey]int64{}
	var key bpf.QuotaKey
	var q bpf.Quota
	it := k.coll.Maps[bpf.ABIMapQuotas].Iterate()
	for it.Next(&key, &q) {
		id := quotaKey(key)
		used[id] = int64(q.Usage.Used)
		for rate, got := range map[verdict.Rate]uint64{
			verdict.RateConnections: q.ConnectNs, verdict.RateOpening: q.OpeningNs, verdict.RateAnswering: q.AnsweringNs,
		} {
			if want := s.Paid[verdict.PaidKey{Quota: id, Rate: rate}]; got != want {
				return fmt.Errorf("rate %d of %+v is paid until %d; the oracle: %d", rate, id, got, want)
			}
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	var u bpf.Usage
	it = k.coll.Maps[bpf.ABIMapPorts].Iterate()
	for it.Next(&key, &u) {
		used[quotaKey(key)] = int64(u.Used)
	}
	if err := it.Err(); err != nil {
		return err
	}
	for id, n := range s.Used {
		if got, ok := used[id]; !ok || got != n {
			return fmt.Errorf("%+v has %d (%t); the oracle: %d", id, got, ok, n)
		}
	}
	for id, n := range used {
		if n != s.Used[id] {
			return fmt.Errorf("%+v has %d; the oracle: %d", id, n, s.Used[id])
		}
	}
	return nil
}
