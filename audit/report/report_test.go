package report

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/query"
)

var begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// flow of some minute, accepted, as both ends of it tell.
func flow(minute int, src, dst string, packets uint64, rule string) []api.FlowRecord {
	at := begin.Add(time.Duration(minute) * time.Minute)
	r := api.FlowRecord{Node: "node-a", Boot: "b", Sequence: 1, Account: "111122223333", Interface: "eni-1", VPC: "vpc-1", Start: at, End: at,
		Action: api.ActionAccept, LogStatus: "OK", Reason: "FORWARDED", Protocol: 6, Direction: "egress", Rule: rule,
		Tuple:   api.FlowTuple{SrcAddr: src, SrcPort: 4000, DstAddr: dst, DstPort: 443},
		Packets: packets, Bytes: packets * 100, ReplyPackets: 1, ReplyBytes: 60}
	r.Translated = r.Tuple
	o := r
	o.Node, o.Interface, o.Direction, o.Rule = "node-b", "eni-2", "ingress", "sgr-in"
	return []api.FlowRecord{r, o}
}

func asking(t *testing.T, records ...[]api.FlowRecord) Ask {
	t.Helper()
	return func(q query.Query) (*query.Answer, error) {
		return query.Records(func(yield func(*api.FlowRecord) error) error {
			for _, list := range records {
				for i := range list {
					if err := yield(&list[i]); err != nil {
						return err
					}
				}
			}
			return nil
		}, q)
	}
}

func rows(t *testing.T, r Report, err error) []string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, len(r.Rows))
	for i, row := range r.Text() {
		if len(row) != len(r.Columns) {
			t.Fatalf("%d cells under %d columns", len(row), len(r.Columns))
		}
		out[i] = strings.Join(row, " ")
	}
	return out
}

func TestTopTalkersCountEachPacketOnce(t *testing.T) {
	ask := asking(t, flow(0, "10.0.0.1", "10.0.0.9", 5, ""), flow(1, "10.0.0.1", "10.0.0.9", 5, ""), flow(2, "10.0.0.2", "10.0.0.9", 50, ""))
	r, err := TopTalkers(ask, query.Query{}, 2)
	have := rows(t, r, err)
	if len(have) != 2 || !strings.Contains(have[0], "10.0.0.2 10.0.0.9 tcp  50 5000") || !strings.Contains(have[1], "10.0.0.1 10.0.0.9 tcp  10 1000") {
		t.Errorf("have %q", have)
	}
	body, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(body), `"source":"10.0.0.2"`) || !strings.Contains(string(body), `"packets":50`) {
		t.Errorf("%s %v", body, err)
	}
}

func TestRefusedTellsWhy(t *testing.T) {
	refused := flow(0, "10.0.0.1", "10.0.0.9", 3, "")[:1]
	refused[0].Action, refused[0].Reason, refused[0].ReplyPackets = api.ActionReject, "GROUP_INGRESS", 0
	r, err := Refused(asking(t, refused, flow(0, "10.0.0.1", "10.0.0.9", 3, "")), query.Query{}, 0)
	if have := rows(t, r, err); len(have) != 1 || !strings.HasPrefix(have[0], "GROUP_INGRESS 111122223333 eni-1 10.0.0.1 10.0.0.9 443 tcp") {
		t.Errorf("have %q", have)
	}
}

func TestNewPairsAreThoseNotSeenBefore(t *testing.T) {
	since := begin.Add(10 * time.Minute)
	ask := asking(t, flow(0, "10.0.0.1", "10.0.0.9", 1, ""), flow(20, "10.0.0.1", "10.0.0.9", 1, ""), flow(20, "10.0.0.7", "10.0.0.9", 1, "")[:1])
	r, err := NewPairs(ask, query.Query{}, since, 0)
	if have := rows(t, r, err); len(have) != 1 || !strings.Contains(have[0], "10.0.0.7") || !strings.Contains(r.Notes[0], "2026-03-01T00:00:00Z") {
		t.Errorf("have %q, notes %q", have, r.Notes)
	}
	r, err = NewPairs(asking(t, flow(20, "10.0.0.7", "10.0.0.9", 1, "")), query.Query{}, since, 0)
	if rows(t, r, err); !strings.Contains(r.Notes[0], "every pair looks new") {
		t.Errorf("records that begin later: %q", r.Notes)
	}
}

func TestUnusedAreThoseWithoutAHit(t *testing.T) {
	any4 := netip.MustParsePrefix("0.0.0.0/0")
	have := Permissions{
		Groups: []api.SecurityGroup{{Meta: api.Meta{ID: "sg-1", Name: "web"},
			Ingress: []api.Rule{{ID: "sgr-in", Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: any4},
				{ID: "sgr-old", Protocol: api.TCP, FromPort: 8000, ToPort: 8080, CIDR: any4}},
			Egress: []api.Rule{{ID: "sgr-out", Protocol: api.All, Group: "sg-1"}}}},
		Services: []api.Service{{Meta: api.Meta{ID: "vpce-svc-1"}, AllowedPrincipals: []string{"111122223333", "444455556666"}}},
		Connections: []api.Connection{
			{Meta: api.Meta{ID: "vpce-con-1"}, Service: "vpce-svc-1", EndpointAccount: "111122223333", State: api.Available},
			{Meta: api.Meta{ID: "vpce-con-2"}, Service: "vpce-svc-1", EndpointAccount: "111122223333", State: api.Available},
			{Meta: api.Meta{ID: "vpce-con-3"}, Service: "vpce-svc-1", EndpointAccount: "111122223333", State: api.Rejected}},
	}
	list := flow(0, "10.0.0.1", "10.0.0.9", 1, "sgr-out")
	list[0].Connection = "vpce-con-1"
	r, err := Unused(asking(t, list), query.Query{}, have, false)
	want := []string{"connection vpce-con-2 vpce-svc-1", "grant vpce-svc-1 vpce-svc-1 allows 444455556666",
		"rule sgr-old web ingress tcp 8000-8080 0.0.0.0/0"}
	got := rows(t, r, err)
	if len(got) != len(want) {
		t.Fatalf("have %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("have %q, want %q…", got[i], want[i])
		}
	}
}

// TestUnusedKnowsWhatWasRemoved: rules, grants and connections that were there for a part of the time are told, with what they let in.
func TestUnusedKnowsWhatWasRemoved(t *testing.T) {
	any4 := netip.MustParsePrefix("0.0.0.0/0")
	rule := func(id string) api.Rule {
		return api.Rule{ID: id, Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: any4}
	}
	web := func(rules ...api.Rule) *api.SecurityGroup {
		return &api.SecurityGroup{Meta: api.Meta{ID: "sg-1", Name: "web", CreatedAt: begin}, Ingress: rules}
	}
	service := func(allowed ...string) *api.Service {
		return &api.Service{Meta: api.Meta{ID: "vpce-svc-1", Name: "ledger", CreatedAt: begin}, AllowedPrincipals: allowed}
	}
	connection := func(state api.ConnectionState) *api.Connection {
		return &api.Connection{Meta: api.Meta{ID: "vpce-con-1", CreatedAt: begin}, Service: "vpce-svc-1", EndpointAccount: "1", State: state}
	}
	text := func(r api.Resource) json.RawMessage {
		if r == nil {
			return nil
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var have Permissions
	change := func(minute int, before, after api.Resource) {
		kind := before
		if kind == nil {
			kind = after
		}
		have.Events = append(have.Events, api.AuditEvent{At: begin.Add(time.Duration(minute) * time.Minute), Changes: []api.AuditChange{
			{Kind: kind.Kind(), ID: kind.GetMeta().ID, Before: text(before), After: text(after)}}})
	}
	change(1, web(rule("sgr-kept"), rule("sgr-early")), web(rule("sgr-kept")))
	change(11, web(rule("sgr-kept")), web(rule("sgr-kept"), rule("sgr-short"), rule("sgr-shy")))
	change(12, service("1", "2"), service("1"))
	change(13, connection(api.Available), connection(api.Rejected))
	change(14, web(rule("sgr-kept"), rule("sgr-short"), rule("sgr-shy")), web(rule("sgr-kept")))
	change(15, web(rule("sgr-kept")), web(rule("sgr-kept"), rule("sgr-late")))
	old := &api.SecurityGroup{Meta: api.Meta{ID: "sg-2", CreatedAt: begin}, Egress: []api.Rule{rule("sgr-gone")}}
	change(16, old, nil)
	change(17, nil, &api.SecurityGroup{Meta: api.Meta{ID: "sg-3"}, Egress: []api.Rule{rule("sgr-behind")}})
	have.Events = append(have.Events, api.AuditEvent{At: begin, Changes: []api.AuditChange{{Kind: api.KindSecurityGroup, ID: "sg-9", BeforeHash: "00"}}})
	have.Groups = []api.SecurityGroup{*web(rule("sgr-kept"), rule("sgr-late"))}
	have.Services = []api.Service{*service("1")}
	have.Connections = []api.Connection{*connection(api.Rejected)}
	list := flow(12, "10.0.0.1", "10.0.0.9", 5, "sgr-short")[:1]
	list[0].Connection = "vpce-con-1"
	ask, q := asking(t, list), query.Query{Since: begin.Add(10 * time.Minute), Until: begin.Add(17 * time.Minute)}
	for _, test := range []struct {
		all  bool
		want []string
	}{
		{false, []string{
			"grant vpce-svc-1 ledger allows 2 2026-03-01T00:00:00Z 2026-03-01T00:12:00Z",
			"rule sgr-gone sg-2 egress tcp 443 0.0.0.0/0 2026-03-01T00:00:00Z 2026-03-01T00:16:00Z",
			"rule sgr-kept web ingress tcp 443 0.0.0.0/0 2026-03-01T00:00:00Z ",
			"rule sgr-late web ingress tcp 443 0.0.0.0/0 2026-03-01T00:15:00Z ",
			"rule sgr-shy web ingress tcp 443 0.0.0.0/0 2026-03-01T00:11:00Z 2026-03-01T00:14:00Z"}},
		{true, []string{
			"connection vpce-con-1 vpce-svc-1 endpoint  of account 1 2026-03-01T00:00:00Z 2026-03-01T00:13:00Z 6 560 2026-03-01T00:12:00Z",
			"grant vpce-svc-1 ledger allows 1 2026-03-01T00:00:00Z  6 560 2026-03-01T00:12:00Z",
			"grant vpce-svc-1 ledger allows 2 2026-03-01T00:00:00Z 2026-03-01T00:12:00Z 0 0 ",
			"rule sgr-gone sg-2 egress tcp 443 0.0.0.0/0 2026-03-01T00:00:00Z 2026-03-01T00:16:00Z 0 0 ",
			"rule sgr-kept web ingress tcp 443 0.0.0.0/0 2026-03-01T00:00:00Z  0 0 ",
			"rule sgr-late web ingress tcp 443 0.0.0.0/0 2026-03-01T00:15:00Z  0 0 ",
			"rule sgr-short web ingress tcp 443 0.0.0.0/0 2026-03-01T00:11:00Z 2026-03-01T00:14:00Z 6 560 2026-03-01T00:12:00Z",
			"rule sgr-shy web ingress tcp 443 0.0.0.0/0 2026-03-01T00:11:00Z 2026-03-01T00:14:00Z 0 0 "}},
	} {
		r, err := Unused(ask, q, have, test.all)
		if got := rows(t, r, err); !slices.Equal(got, test.want) {
			t.Errorf("all %t: have\n%s\nwant\n%s", test.all, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
		if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.HasPrefix(n, "1 changes of groups") }) {
			t.Errorf("a change without its resources is not told: %q", r.Notes)
		}
	}
}

// TestUnusedTellsWhereRecordsBegin: nothing is called unused since a time of which there are no records.
func TestUnusedTellsWhereRecordsBegin(t *testing.T) {
	for _, test := range []struct {
		list  []api.FlowRecord
		since time.Time
		want  string
	}{
		{flow(0, "10.0.0.1", "10.0.0.9", 1, "sgr-1"), begin.AddDate(0, -5, 0), "begin at 2026-03-01T00:00:00Z, not at --since"},
		{flow(0, "10.0.0.1", "10.0.0.9", 1, "sgr-1"), begin, "begin at 2026-03-01T00:00:00Z."},
		{nil, begin, "everything looks unused"},
	} {
		r, err := Unused(asking(t, test.list), query.Query{Since: test.since}, Permissions{}, false)
		if rows(t, r, err); !strings.Contains(r.Notes[0], test.want) {
			t.Errorf("notes %q lack %q", r.Notes, test.want)
		}
	}
	refused := flow(0, "10.0.0.1", "10.0.0.9", 3, "")[:1]
	refused[0].Action = api.ActionReject
	r, err := Refused(asking(t, refused), query.Query{Since: begin.AddDate(0, -5, 0)}, 0)
	if rows(t, r, err); len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "not at --since") {
		t.Errorf("refused: notes %q", r.Notes)
	}
}

// TestToldByTheLog: decisions are those of events, also where the connection changed later or went, and of connections the ones that no event tells.
func TestToldByTheLog(t *testing.T) {
	connection := func(id string, state api.ConnectionState, approver string, at time.Time) *api.Connection {
		return &api.Connection{Meta: api.Meta{ID: id}, Service: "vpce-svc-1", State: state, Approver: approver, DecidedAt: at}
	}
	change := func(before, after *api.Connection) api.AuditEvent {
		c := api.AuditChange{Kind: api.KindConnection, ID: "vpce-con-1"}
		for _, v := range []struct {
			of *api.Connection
			to *json.RawMessage
		}{{before, &c.Before}, {after, &c.After}} {
			if v.of == nil {
				continue
			}
			var err error
			if *v.to, err = json.Marshal(v.of); err != nil {
				t.Fatal(err)
			}
		}
		return api.AuditEvent{Actor: "key-1", ActorName: "provider", Changes: []api.AuditChange{c}}
	}
	waits := connection("vpce-con-1", api.PendingAcceptance, "", time.Time{})
	let := connection("vpce-con-1", api.Available, "key-1", begin)
	renamed := *let
	renamed.Name = "other"
	refused := connection("vpce-con-1", api.Rejected, "key-2", begin.Add(time.Hour))
	events := []api.AuditEvent{change(nil, waits), change(waits, let), change(let, &renamed), change(&renamed, refused), change(refused, nil)}
	for i := range events {
		events[i].Seq = uint64(i + 1)
	}
	old := connection("vpce-con-2", api.Available, "key-3", begin.Add(-time.Hour))
	have := rows(t, Approvals(Told(events, []api.Connection{*old, *let}), time.Time{}, time.Time{}), nil)
	if len(have) != 3 || !strings.Contains(have[0], "key-3  Available vpce-con-2") || !strings.Contains(have[1], "key-1 provider Available vpce-con-1") ||
		!strings.HasSuffix(have[1], " 2") || !strings.Contains(have[2], "key-2  Rejected vpce-con-1") || !strings.HasSuffix(have[2], " 4") {
		t.Errorf("have %q", have)
	}
}

func TestApprovals(t *testing.T) {
	list := Current([]api.Connection{
		{Meta: api.Meta{ID: "vpce-con-1"}, Endpoint: "vpce-1", EndpointAccount: "444455556666", Service: "vpce-svc-1", State: api.Available,
			Approver: "key-1", DecidedAt: begin.Add(time.Hour)},
		{Meta: api.Meta{ID: "vpce-con-2"}, State: api.PendingAcceptance},
		{Meta: api.Meta{ID: "vpce-con-3"}, State: api.Rejected, Approver: "key-2", DecidedAt: begin},
	})
	if have := rows(t, Approvals(list, time.Time{}, time.Time{}), nil); len(have) != 2 || !strings.Contains(have[0], "key-2") ||
		!strings.Contains(have[1], "key-1  Available vpce-con-1 vpce-1 444455556666") {
		t.Errorf("have %q", have)
	}
	if have := rows(t, Approvals(list, begin.Add(time.Minute), time.Time{}), nil); len(have) != 1 {
		t.Errorf("since later: %q", have)
	}
}
