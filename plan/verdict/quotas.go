package verdict

import (
	"net/netip"

	"github.com/culvert-net/culvert/plan"
)

// Kinds of quotas that have no rows in a plan: source ports of a load balancer's address toward one target, and what one
// endpoint connection has of them.
const (
	QuotaPool  plan.QuotaKind = 5
	QuotaPorts plan.QuotaKind = 6
)

// QuotaKey is who is charged for flow entries or source ports.
type QuotaKey struct {
	Kind           plan.QuotaKind
	ID             uint32 // number of an account or connection
	VPC            uint32 // the rest is for QuotaPool and QuotaPorts: the provider's, and so on
	Source, Target netip.Addr
	Port           uint16
	Protocol       uint8
}

// PaidKey is a rate: new connections, or bits of one direction, of one half of an endpoint connection; an ENI's RSTs; or a node's
// messages.
type PaidKey struct {
	Quota QuotaKey
	Rate  Rate
	ENI   uint32 // RateResets only
	Node  uint32 // RateMessages only
}

// Rate is what is bounded per second.
type Rate uint8

// Rates.
const (
	RateConnections Rate = iota
	RateOpening
	RateAnswering
	RateResets
	RateIDs // of fragments, toward a target; Quota says of which pair of addresses and, by its ID, which connection: 0 all
	RateMessages
)

// Bounds, as bpf/lib/abi.h has them.
const (
	PoolOpen        = 38_502  // source ports in use from which on only connections that have few get one
	PoliceBytes     = 131_072 // may pass at once under a cap of bits/s
	ResetsPerSecond = 100     // of one ENI
	ResetBurst      = 200
	Messages        = 1_000 // a second from one node, and at once
	MaxSegments     = 1_400 // of one offloaded packet
	ResolverIdle    = 30    // seconds a query by UDP keeps its entries
)

const (
	portEnd      = 1 << 16
	secondNS     = 1_000_000_000
	tenthNS      = secondNS / 10
	entriesAFlow = 2
)

// quota finds a row of the plan.
func (d *decision) quota(kind plan.QuotaKind, id uint32) *plan.Quota {
	for i := range d.plan.Quotas {
		if q := &d.plan.Quotas[i]; q.Kind == kind && q.ID == id {
			return q
		}
	}
	return nil
}

// half is the half of an endpoint connection that an entry belongs to.
func half(key FlowKey, f Flow) plan.QuotaKind {
	if f.Flags&FlowDestTagged != 0 || key.View == ViewProvider {
		return plan.QuotaReceived
	}
	return plan.QuotaSent
}

// takesPort: an answering entry at a provider takes a port of the load balancer's address.
func takesPort(key FlowKey, f Flow) bool {
	return f.Flags&FlowDestTagged != 0 && key.View == ViewWorkload
}

// charged lists whom an entry is charged to.
func charged(key FlowKey, f Flow) []QuotaKey {
	keys := []QuotaKey{{Kind: plan.QuotaTable}, {Kind: plan.QuotaAccount, ID: f.Account}}
	if f.Connection != 0 {
		keys = append(keys, QuotaKey{Kind: half(key, f), ID: f.Connection})
	}
	if takesPort(key, f) {
		pool := QuotaKey{
			Kind: QuotaPool, VPC: key.VPC, Source: key.Dest, Target: key.Source, Port: key.SourcePort, Protocol: key.Protocol,
		}
		own := pool
		own.Kind, own.ID = QuotaPorts, f.Connection
		keys = append(keys, pool, own)
	}
	return keys
}

// put makes an entry and charges it.
func (d *decision) put(key FlowKey, f Flow) {
	d.state.Flows[key] = f
	for _, k := range charged(key, f) {
		if d.hasRow(k) {
			d.state.Used[k]++
		}
	}
	d.v.Created = append(d.v.Created, key)
}

// drop removes an entry and gives back what it was charged.
func (d *decision) drop(key FlowKey, f Flow) {
	delete(d.state.Flows, key)
	for _, k := range charged(key, f) {
		if d.hasRow(k) {
			d.state.Used[k]--
		}
	}
}

// hasRow: what an account or a connection has stays counted when the plan knows it no more; a row of ports is made when
// a port is asked for.
func (d *decision) hasRow(k QuotaKey) bool {
	_, made := d.state.Used[k]
	return made || k.Kind < QuotaPool && d.quota(k.Kind, k.ID) != nil
}

// admit says whether there is room for a flow. spare: its connection has fewer source ports than it is guaranteed.
func (d *decision) admit(key FlowKey, f *Flow, other *Flow) (spare bool, r Reason) {
	used := d.state.Used
	table, account := d.quota(plan.QuotaTable, 0), d.quota(plan.QuotaAccount, f.Account)
	inTable := used[QuotaKey{Kind: plan.QuotaTable}] + entriesAFlow
	inAccount := used[QuotaKey{Kind: plan.QuotaAccount, ID: f.Account}] + entriesAFlow
	over := func(n int64, q *plan.Quota, above int64, open uint32) bool {
		return q == nil || n > int64(q.Ceiling) || n > int64(q.Guaranteed) && above > int64(open)
	}
	switch {
	case table == nil || inTable > int64(table.Ceiling):
		return false, ReasonFlowTableFull
	case over(inAccount, account, inTable, table.Open):
		return false, ReasonAccountFlowsFull
	case f.Connection == 0 && inAccount > int64(account.Open):
		return false, ReasonAccountFlowsFull
	case f.Connection == 0:
		return d.admitPort(f, other)
	}
	id := QuotaKey{Kind: half(key, *f), ID: f.Connection}
	q, n := d.quota(id.Kind, id.ID), used[id]+entriesAFlow
	if over(n, q, inAccount, account.Open) {
		return false, ReasonEndpointFlowsFull
	}
	if q.Most != 0 && n > int64(q.Most) {
		return false, ReasonCapFlows
	}
	if spare, r = d.admitPort(f, other); r != ReasonNone {
		return spare, r
	}
	return spare, d.admitRate(id, q, f, other)
}

// admitPort says whether there is a source port, where a load balancer's address is the source.
func (d *decision) admitPort(f, other *Flow) (spare bool, r Reason) {
	if !takesPort(f.Reverse, *other) {
		return false, ReasonNone
	}
	used, keys := d.state.Used, charged(f.Reverse, *other)
	pool, own := keys[len(keys)-2], keys[len(keys)-1]
	used[pool], used[own] = used[pool], used[own] // rows are there from now on
	inPool, n := used[pool]+1, used[own]+1
	spare = n <= int64(d.guaranteedPorts)
	if inPool > portEnd || n > portEnd || inPool > PoolOpen && !spare {
		return spare, ReasonSNATPortsExhausted
	}
	return spare, ReasonNone
}

func connectCost(rate uint64) uint64 { return (secondNS + rate - 1) / rate }

func (d *decision) bitsCost(rate uint64) uint64 { return (d.size*8*secondNS + rate - 1) / rate }

// admitRate asks the service's caps for the first packet of a flow. What one of them refuses has no part in the other.
func (d *decision) admitRate(id QuotaKey, q *plan.Quota, f, other *Flow) Reason {
	rate, connections := uint64(q.ConnectionsPerSecond), PaidKey{Quota: id, Rate: RateConnections}
	if rate != 0 && !d.pay(connections, connectCost(rate), secondNS) {
		return ReasonCapConnections
	}
	if q.BitsPerSecond == 0 {
		return ReasonNone
	}
	if !d.police(id, q, RateOpening) {
		if rate != 0 {
			d.state.Paid[connections] -= connectCost(rate)
		}
		return ReasonCapBits
	}
	f.Flags |= FlowPoliced
	if id.Kind == plan.QuotaReceived {
		other.Flags |= FlowPoliced
	}
	return ReasonNone
}

// refundRates takes back what a flow paid that is not made after all.
func (d *decision) refundRates(key FlowKey, f Flow) {
	if f.Connection == 0 {
		return
	}
	id := QuotaKey{Kind: half(key, f), ID: f.Connection}
	q := d.quota(id.Kind, id.ID)
	if rate := uint64(q.ConnectionsPerSecond); rate != 0 {
		d.state.Paid[PaidKey{Quota: id, Rate: RateConnections}] -= connectCost(rate)
	}
	if q.BitsPerSecond != 0 {
		d.state.Paid[PaidKey{Quota: id, Rate: RateOpening}] -= d.bitsCost(q.BitsPerSecond)
	}
}

// police says whether the packet may pass under a cap of bits/s.
func (d *decision) police(id QuotaKey, q *plan.Quota, rate Rate) bool {
	bits := q.BitsPerSecond
	if bits == 0 {
		return true
	}
	return d.pay(PaidKey{Quota: id, Rate: rate}, d.bitsCost(bits), max(PoliceBytes*8*secondNS/bits, tenthNS))
}

// policed is police for an entry that counts against a cap.
func (d *decision) policed(key FlowKey, f Flow) bool {
	id, rate := QuotaKey{Kind: half(key, f), ID: f.Connection}, RateAnswering
	if f.Flags&FlowOpening != 0 {
		rate = RateOpening
	}
	q := d.quota(id.Kind, id.ID)
	return q != nil && d.police(id, q, rate)
}

// pay is a token bucket as one time: what passed has paid until then, and may not run ahead of now by more than burst.
func (d *decision) pay(k PaidKey, cost, burst uint64) bool {
	until := max(d.state.Paid[k], d.state.RatesNS)
	if until+cost > d.state.RatesNS+burst {
		return false
	}
	d.state.Paid[k] = until + cost
	return true
}

// resetAllowed says whether an ENI gets another RST.
func (d *decision) resetAllowed(eni uint32) bool {
	return d.pay(PaidKey{Rate: RateResets, ENI: eni}, secondNS/ResetsPerSecond, ResetBurst*secondNS/ResetsPerSecond)
}

// judgePolice lets the flags of a flow that was judged again follow a cap that came or went.
func (d *decision) judgePolice(key FlowKey, f *Flow, other *Flow) {
	if f.Connection == 0 {
		return
	}
	opening, of := key, f
	if f.Flags&FlowOpening == 0 {
		opening, of = f.Reverse, other
	}
	q := d.quota(half(opening, *of), of.Connection)
	f.Flags &^= FlowPoliced
	other.Flags &^= FlowPoliced
	if q == nil || q.BitsPerSecond == 0 {
		return
	}
	of.Flags |= FlowPoliced
	if q.Kind == plan.QuotaReceived {
		f.Flags |= FlowPoliced
		other.Flags |= FlowPoliced
	}
}

// stateOf is how far a TCP connection is, from the flags that the opener and the other side have sent.
func stateOf(opener, other uint8) TCPState {
	switch {
	case (opener|other)&tcpRST != 0:
		return TCPClosed
	case opener&other&tcpFIN != 0:
		return TCPTimeWait
	case (opener|other)&tcpFIN != 0:
		return TCPFinWait
	case other&tcpSYN == 0:
		return TCPSynSent
	case opener&tcpACK != 0:
		return TCPEstablished
	}
	return TCPSynReceived
}
