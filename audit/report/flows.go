package report

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/query"
)

// carried selects lines that tell of packets: not those that say that there were none, or that some are lost.
var carried = query.Is("log-status", "OK")

// TopTalkers are the pairs of addresses that sent most bytes, most first, at most top of them (0: all). Each packet counts where it was
// sent, not where it arrived too; answers count for who answers.
func TopTalkers(ask Ask, q query.Query, top int) (Report, error) {
	q.Where = append(slices.Clone(q.Where), carried, query.Is("action", api.ActionAccept), query.Is("flow-direction", "egress"))
	q.Group = []string{"account-id", "vpc-id", "srcaddr", "dstaddr", "protocol", "service-name"}
	r := Report{Kind: "top-talkers", Since: q.Since, Until: q.Until,
		Columns: []string{"account", "vpc", "source", "destination", "protocol", "service", "packets", "bytes", "first", "last"}}
	groups, err := grouped(ask, q)
	if err != nil {
		return r, err
	}
	r.begin(groups, q.Since)
	slices.SortStableFunc(groups, func(a, b query.Group) int { return cmp.Compare(b.Bytes, a.Bytes) })
	for _, g := range cut(groups, top) {
		k := g.Key
		r.Rows = append(r.Rows, []any{k[0], k[1], k[2], k[3], protocol(k[4]), k[5], g.Packets, g.Bytes, unix(g.First), unix(g.Last)})
	}
	return r, nil
}

// Refused is what was refused and why, most packets first.
func Refused(ask Ask, q query.Query, top int) (Report, error) {
	q.Where = append(slices.Clone(q.Where), carried, query.Is("action", api.ActionReject))
	q.Group = []string{"reason", "account-id", "interface-id", "srcaddr", "dstaddr", "dstport", "protocol", "service-name", "rule-id"}
	r := Report{Kind: "refused", Since: q.Since, Until: q.Until,
		Columns: []string{"reason", "account", "interface", "source", "destination", "port", "protocol", "service", "rule", "packets",
			"bytes", "first", "last"}}
	groups, err := grouped(ask, q)
	if err != nil {
		return r, err
	}
	r.begin(groups, q.Since)
	slices.SortStableFunc(groups, func(a, b query.Group) int { return cmp.Compare(b.Packets, a.Packets) })
	for _, g := range cut(groups, top) {
		k := g.Key
		r.Rows = append(r.Rows, []any{k[0], k[1], k[2], k[3], k[4], k[5], protocol(k[6]), k[7], k[8], g.Packets, g.Bytes, unix(g.First),
			unix(g.Last)})
	}
	return r, nil
}

// NewPairs are the pairs of who opened flows and whereto that were let in since a time, and not before it as far as records go back: those
// of the query's own time, which begins earlier.
func NewPairs(ask Ask, q query.Query, since time.Time, top int) (Report, error) {
	q.Where = append(slices.Clone(q.Where), carried, query.Is("action", api.ActionAccept), query.Is("reply", "0"))
	q.Group = []string{"account-id", "vpc-id", "srcaddr", "dstaddr", "dstport", "protocol", "service-name", "side"}
	r := Report{Kind: "new-pairs", Since: since, Until: q.Until,
		Columns: []string{"first", "account", "vpc", "source", "destination", "port", "protocol", "service", "side", "packets", "bytes", "last"}}
	groups, err := grouped(ask, q)
	if err != nil {
		return r, err
	}
	oldest := oldest(groups)
	switch {
	case oldest == 0:
		r.Notes = append(r.Notes, "There are no records of flows that were let in.")
	case oldest >= since.Unix():
		r.Notes = append(r.Notes, "Records begin at "+unix(oldest).Format(time.RFC3339)+", not before --since: every pair looks new.")
	default:
		r.Notes = append(r.Notes, "New is what no record tells of since "+unix(oldest).Format(time.RFC3339)+", when records begin.")
	}
	groups = slices.DeleteFunc(groups, func(g query.Group) bool { return g.First < since.Unix() })
	slices.SortStableFunc(groups, func(a, b query.Group) int { return cmp.Compare(a.First, b.First) })
	for _, g := range cut(groups, top) {
		k := g.Key
		r.Rows = append(r.Rows, []any{unix(g.First), k[0], k[1], k[2], k[3], k[4], protocol(k[5]), k[6], k[7], g.Packets, g.Bytes,
			unix(g.Last)})
	}
	return r, nil
}

func grouped(ask Ask, q query.Query) ([]query.Group, error) {
	q.Limit = 0
	a, err := ask(q)
	if err != nil {
		return nil, err
	}
	return a.Groups, nil
}

// oldest is when the first record of groups began, in Unix seconds, 0 without any.
func oldest(groups []query.Group) int64 {
	out := int64(0)
	for _, g := range groups {
		if out == 0 || g.First < out {
			out = g.First
		}
	}
	return out
}

// begin notes when the records begin that the report is of, which may be later than it was asked for: records are kept for a time.
func (r *Report) begin(groups []query.Group, since time.Time) {
	first := oldest(groups)
	switch {
	case first == 0:
		r.Notes = append(r.Notes, "There are no records of this.")
	case !since.IsZero() && first > since.Unix():
		r.Notes = append(r.Notes, "Records of this begin at "+unix(first).Format(time.RFC3339)+", not at --since.")
	default:
		r.Notes = append(r.Notes, "Records of this begin at "+unix(first).Format(time.RFC3339)+".")
	}
}

func cut[T any](list []T, top int) []T {
	if top > 0 && len(list) > top {
		return list[:top]
	}
	return list
}

// protocol is IANA's number as a word, where there is a common one.
func protocol(number string) string {
	n, err := strconv.Atoi(number)
	if err != nil {
		return number
	}
	switch n {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 58:
		return "icmpv6"
	}
	return number
}
