package flow

import (
	"github.com/culvert-net/culvert/api"
)

// Compact bounds records that wait for a log which does not take them. Records of one flow become one, refusals of one kind
// become one; if more than limit are left, refusals and then flows are merged by interface, stage and reason, without
// addresses, and Lost of what they become counts them. The sums of all counts stay. merged tells that flows lost their detail.
// Records must not have a sequence yet.
func Compact(records []api.FlowRecord, limit int) (out []api.FlowRecord, merged bool) {
	out = fold(records, sameFlow)
	if len(out) > limit {
		out = fold(out, func(r *api.FlowRecord) (api.FlowRecord, bool) {
			return class(r), r.Action == api.ActionReject
		})
	}
	if len(out) > limit {
		merged = true
		out = fold(out, func(r *api.FlowRecord) (api.FlowRecord, bool) { return class(r), true })
	}
	return out, merged
}

// sameFlow is equal for records of one flow, and for refusals of one kind.
func sameFlow(r *api.FlowRecord) (api.FlowRecord, bool) {
	if r.FlowID != "" {
		return api.FlowRecord{FlowID: r.FlowID, Boot: r.Boot}, true
	}
	k := *r
	k.Start, k.End, k.Lost, k.Generation, k.Sequence, k.TCPFlags, k.ReplyTCPFlags = class(r).Start, class(r).End, 0, 0, 0, 0, 0
	k.Tuple.SrcPort, k.Translated.SrcPort = 0, 0
	Counts{}.put(&k)
	return k, true
}

// class is what is left of a record without its detail.
func class(r *api.FlowRecord) api.FlowRecord {
	return api.FlowRecord{
		Node: r.Node, Boot: r.Boot, Account: r.Account, Interface: r.Interface, VPC: r.VPC, Subnet: r.Subnet,
		Action: r.Action, LogStatus: r.LogStatus, Reason: r.Reason, Stage: r.Stage, ReplyStage: r.ReplyStage, Direction: r.Direction, Protocol: r.Protocol,
	}
}

// fold merges the records of equal keys into the first of them. A record that key does not take stays as it is.
func fold(records []api.FlowRecord, key func(*api.FlowRecord) (api.FlowRecord, bool)) []api.FlowRecord {
	at := make(map[api.FlowRecord]int, len(records))
	out := make([]api.FlowRecord, 0, len(records))
	for i := range records {
		r := records[i]
		k, take := key(&r)
		if !take {
			out = append(out, r)
			continue
		}
		j, have := at[k]
		if !have {
			at[k] = len(out)
			out = append(out, r)
			continue
		}
		out[j] = join(&out[j], &r)
	}
	return out
}

// join adds b to a. Where they are not of one flow or kind, the detail of both goes.
func join(a, b *api.FlowRecord) api.FlowRecord {
	ka, _ := sameFlow(a)
	kb, _ := sameFlow(b)
	r, lost := *b, a.Lost+b.Lost
	if ka != kb {
		r = class(b)
		if *a != stripped(a) {
			lost++
		}
		if *b != stripped(b) {
			lost++
		}
	}
	countsOf(a).add(countsOf(b)).put(&r)
	r.State, r.Lost, r.Generation = joinState(a.State, b.State), lost, max(a.Generation, b.Generation)
	if ka != kb {
		r.State = ""
	} else {
		r.TCPFlags, r.ReplyTCPFlags = a.TCPFlags|b.TCPFlags, a.ReplyTCPFlags|b.ReplyTCPFlags
	}
	r.Start, r.End = a.Start, a.End
	if b.Start.Before(r.Start) {
		r.Start = b.Start
	}
	if b.End.After(r.End) {
		r.End = b.End
	}
	return r
}

// stripped is what a record would be had its detail gone before.
func stripped(r *api.FlowRecord) api.FlowRecord {
	s := class(r)
	s.Start, s.End, s.Lost, s.Generation = r.Start, r.End, r.Lost, r.Generation
	countsOf(r).put(&s)
	return s
}

// joinState is the state of a flow over two spans of time: a close stays a close, else an opening stays one.
func joinState(a, b string) string {
	for _, s := range []string{api.FlowClosed, api.FlowOpen, api.FlowActive} {
		if a == s || b == s {
			return s
		}
	}
	return b
}
