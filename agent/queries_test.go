package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns"
	"github.com/culvert-net/culvert/dns/zone"
)

// loggedView has two VPCs of one account and one of another.
func loggedView() *api.View {
	v := &api.View{}
	for i, account := range []string{"1", "1", "2"} {
		n := uint32(5 + i)
		v.VPCs = append(v.VPCs, api.ViewVPC{ID: fmt.Sprintf("vpc-%d", n), Number: n, Account: account, Local: true})
	}
	v.ENIs = []api.ViewENI{{ID: "eni-1", VPC: 5, Address: netip.MustParseAddr("10.0.1.5")}, {ID: "eni-2", VPC: 6, Address: netip.MustParseAddr("10.0.1.5")}}
	return v
}

type askedLog struct {
	records  []api.QueryRecord
	err      error
	end, got int64 // bytes in it, and those that the server has
	byVPC    map[string]int64
	lines    []api.QueryRecord // all that was ever written, with their sequence
	begins   []int64           // where each of them begins
	wrote    func()            // after records are written; nil: nothing
}

// AppendQueries implements queryStore, with records as long as the log makes them.
func (a *askedLog) AppendQueries(records []api.QueryRecord) (w flow.Written, err error) {
	if a.err != nil {
		return w, a.err
	}
	for _, r := range records {
		w.Last = 1<<60 + uint64(len(a.lines))
		r.Node, r.Boot, r.Sequence = "node-0123456789abcdef0", strings.Repeat("b", 45), w.Last
		line, err := json.Marshal(api.QueryLine{Query: r})
		if err != nil {
			return w, err
		}
		w.Sizes = append(w.Sizes, len(line)+1)
		a.lines, a.begins = append(a.lines, r), append(a.begins, a.end)
		a.end += int64(len(line) + 1)
		if r.Client != "" {
			a.byVPC[r.VPC] += int64(len(line) + 1)
		}
	}
	a.records = append(a.records, records...)
	w.End = flow.Position{Segment: 1, Offset: a.end}
	if a.wrote != nil {
		a.wrote()
	}
	return w, nil
}

// QueriesFrom implements queryStore.
func (a *askedLog) QueriesFrom(from flow.Position, each func(*api.QueryRecord)) error {
	if a.err != nil {
		return a.err
	}
	for i := range a.lines {
		if a.begins[i] >= from.Offset {
			each(&a.lines[i])
		}
	}
	return nil
}

// Shipped implements queryStore.
func (a *askedLog) Shipped() flow.Position { return flow.Position{Segment: 1, Offset: a.got} }

// MaxBytes implements queryStore.
func (a *askedLog) MaxBytes() int64 { return 256 << 20 }

func newAskedLog() (*queryLog, *askedLog) {
	a := &askedLog{byVPC: map[string]int64{}}
	l := newQueryLog(a, slog.New(slog.DiscardHandler))
	l.know(loggedView())
	return l, a
}

func questionIn(vpc uint32, name string) dns.Query {
	return dns.Query{Time: time.Now(), VPC: vpc, Client: netip.MustParseAddr("10.0.1.5"), Name: name, Type: 1, Class: 1}
}

// A record says all that the resolver knows of a question, in names instead of numbers.
func TestQueryRecords(t *testing.T) {
	l, a := newAskedLog()
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	l.take(dns.Query{Time: at, VPC: 6, Client: netip.MustParseAddr("10.0.1.5"), Name: "x.example.", Type: 28, Class: 1, RCODE: 3, Answers: 2,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, TTL: 30, Hosted: "hz-1", TCP: true, Forwarded: true,
		Rule: "rslvr-rr-1", Upstream: "tls://9.9.9.9:853", CacheHit: true, Stale: true, Firewall: zone.Alert, FirewallRule: "rslvr-frg-1/10",
		Endpoint: "vpce-1", Duration: 5 * time.Millisecond})
	l.write()
	want := api.QueryRecord{Account: "1", VPC: "vpc-6", Interface: "eni-2", Client: "10.0.1.5", Start: at, End: at.Add(5 * time.Millisecond),
		Name: "x.example.", Type: "AAAA", Class: "IN", RCODE: "NXDOMAIN", Transport: "tcp", Answers: 2, Addresses: []string{"192.0.2.1", "2001:db8::1"},
		TTLSeconds: 30, Endpoint: "vpce-1", HostedZone: "hz-1", ResolverRule: "rslvr-rr-1", Upstream: "tls://9.9.9.9:853", CacheHit: true, Stale: true,
		FirewallAction: api.FirewallAlert, FirewallRule: "rslvr-frg-1/10"}
	if len(a.records) != 1 || fmt.Sprint(a.records[0]) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", a.records, want)
	}
}

// Where there is no query log, what the firewall did is recorded once a minute for each workload, name and rule.
func TestDecisionsAreRecordedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a := newAskedLog()
		ask := func(name, rule string, client byte) {
			q := questionIn(5, name)
			q.Client, q.FirewallRule, q.Firewall, q.Decided = netip.AddrFrom4([4]byte{10, 0, 1, client}), rule, zone.Alert, true
			l.take(q)
		}
		round := func() int {
			a.records = nil
			for range 3 {
				ask("A.test.", "g/1", 5)
				ask("a.test.", "g/1", 5)
				ask("a.test.", "g/2", 5)
				ask("a.test.", "g/1", 6)
				ask("b.test.", "g/1", 5)
			}
			l.write()
			return len(a.records)
		}
		if n := round(); n != 4 || a.records[0].FirewallAction != api.FirewallAlert || a.records[0].FirewallRule != "g/1" {
			t.Errorf("%d records: %+v", n, a.records)
		}
		<-time.After(decidedAgain - time.Second)
		if n := round(); n != 0 {
			t.Errorf("within the minute %d records", n)
		}
		<-time.After(time.Second)
		if n := round(); n != 4 {
			t.Errorf("a minute later %d records", n)
		}
		for i := range 2 * maxDecided { // what is remembered is bounded
			ask(fmt.Sprint(i, ".test."), "g/1", 5)
		}
		if n := len(l.decided["1"].last); n != maxDecided/2 || l.Lost() == 0 {
			t.Errorf("%d decisions are remembered, %d lost", n, l.Lost())
		}
		a.records = nil
		for range 10 { // of another account they are remembered all the same
			q := questionIn(7, "a.test.")
			q.FirewallRule, q.Firewall, q.Decided = "g/9", zone.Block, true
			l.take(q)
		}
		l.write()
		others := slices.DeleteFunc(a.records, func(r api.QueryRecord) bool { return r.VPC != "vpc-7" })
		if len(others) != 1 {
			t.Errorf("of another account's ten there are %d records", len(others))
		}
		l.know(&api.View{})
		<-time.After(namesKept)
		if l.know(&api.View{}); len(l.decided) != 0 {
			t.Errorf("of accounts that have left %d are known", len(l.decided))
		}
	})
}

// What an account asks above its rate is counted and declared once, by its next record or one of its own; others lose nothing.
func TestFloodOfQueriesIsDeclared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a := newAskedLog()
		const flood = queryBurst + 300
		for range flood {
			l.take(questionIn(5, "flood."))
		}
		l.take(questionIn(7, "other."))
		l.write()
		count := func(vpc string) (records int, lost uint64) {
			for _, r := range a.records {
				if r.VPC == vpc {
					lost += r.Lost
					if r.Client != "" {
						records++
					}
				}
			}
			return records, lost
		}
		if n, lost := count("vpc-5"); n != queryBurst || lost != 300 || l.Lost() != 300 {
			t.Errorf("%d records and %d declared lost, %d counted; want %d and 300", n, lost, l.Lost(), queryBurst)
		}
		if n, lost := count("vpc-7"); n != 1 || lost != 0 {
			t.Errorf("of the other account %d records, %d lost", n, lost)
		}
		l.take(questionIn(6, "same account."))
		l.write()
		if n, lost := count("vpc-6"); n != 0 || lost != 1 {
			t.Errorf("nobody asks after the flood: %d records, %d lost; want one that stands for it", n, lost)
		}
		<-time.After(time.Second)
		for range queryRate {
			l.take(questionIn(5, "later."))
		}
		l.write()
		if n, lost := count("vpc-5"); n != queryBurst+queryRate || lost != 300 {
			t.Errorf("a second later %d records, %d lost", n, lost)
		}
	})
}

// What the disk does not take waits, in order; what does not fit any more is declared when it takes again.
func TestQueriesWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a := newAskedLog()
		a.err = errors.New("no space")
		sent := 0
		for l.Lost() == 0 {
			l.take(questionIn(5, fmt.Sprint(sent)))
			sent++
			if sent%queryRate == 0 {
				<-time.After(time.Second)
			}
			if sent > maxQueued {
				t.Fatal("there is no bound")
			}
		}
		l.take(questionIn(7, "other."))
		l.write()
		if len(a.records) != 0 || sent != maxQueued/2+1 {
			t.Fatalf("%d records, bound at %d", len(a.records), sent)
		}
		a.err = nil
		l.write()
		var names []string
		lost := uint64(0)
		for _, r := range a.records {
			lost += r.Lost
			names = append(names, r.Name)
		}
		if len(names) != maxQueued/2+1 || names[0] != "0" || names[len(names)-1] != "other." || lost != 1 || len(l.held) != 0 || len(l.queued) != 0 {
			t.Errorf("%d records, %d lost, %v held", len(names), lost, l.held)
		}
		l.write()
		if len(a.records) != len(names) {
			t.Error("written twice")
		}
	})
}

// What VPCs were stays known for a minute after they have left the view, and as long as something of theirs is to be declared. Of one
// that nobody knows nothing is written.
func TestQueriesOfAVPCThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a := newAskedLog()
		l.take(questionIn(7, "last."))
		l.know(&api.View{})
		l.take(questionIn(5, "later."))
		l.write()
		if len(a.records) != 2 || a.records[0].VPC != "vpc-7" || a.records[0].Account != "2" || a.records[1].Interface != "eni-1" {
			t.Errorf("%+v", a.records)
		}
		for range queryBurst + 1 {
			l.take(questionIn(5, "flood."))
		}
		<-time.After(namesKept)
		l.know(&api.View{})
		if len(l.names.vpcs) != 1 || l.names.vpcs[5].id != "vpc-5" || len(l.names.enis) != 0 {
			t.Errorf("kept: %v, %v", l.names.vpcs, l.names.enis)
		}
		l.write()
		l.know(&api.View{})
		if len(l.names.vpcs) != 0 || len(l.rates) != 0 {
			t.Errorf("kept: %v, %v", l.names.vpcs, l.rates)
		}
		a.records = nil
		l.take(questionIn(5, "too late."))
		if l.write(); len(a.records) != 0 || len(l.lost) != 0 {
			t.Errorf("of a VPC that nobody knows: %+v, lost %v", a.records, l.lost)
		}
	})
}

// While the server is away an account's questions take its share of the node's log and no more, however long names are, beyond their rate in
// bytes; others go on, what is lost is declared, and what the server has makes room.
func TestQueriesTakeTheirShareOfTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a := newAskedLog()
		share := a.MaxBytes() / queryPart / 2
		long := questionIn(5, strings.Repeat(`\003`, 249)+".")
		for i := range 16 {
			long.Addresses = append(long.Addresses, netip.AddrFrom16([16]byte{15: byte(i), 0: 0x20, 7: 0xff, 9: 0xff, 11: 0xff, 13: 0xff}))
		}
		sent := uint64(0)
		second := func() {
			for range queryRate {
				long.Time = time.Now()
				l.take(long)
				sent++
			}
			l.take(questionIn(7, "other."))
			l.write()
			<-time.After(time.Second)
		}
		second()
		second()
		if n := a.byVPC["vpc-5"]; n > queryByteBurst+2*queryBytesASecond {
			t.Errorf("%d bytes in two seconds", n)
		}
		for range 150 {
			second()
		}
		if n := a.byVPC["vpc-5"]; n > share || n < share*9/10 {
			t.Errorf("%d bytes of one account wait, its share is %d", n, share)
		}
		<-time.After(declareEvery)
		l.write()
		alone := 0
		for _, r := range a.records {
			if r.Client == "" {
				alone++
			}
		}
		if alone == 0 || alone > 17 {
			t.Errorf("in 162 seconds what is lost has %d records of its own", alone)
		}
		var lost, kept, others uint64
		count := func() {
			lost, kept, others = 0, 0, 0
			for _, r := range a.records {
				switch {
				case r.VPC == "vpc-7":
					others++
				case r.Client != "":
					kept++
				}
				lost += r.Lost
			}
		}
		if count(); lost+kept != sent || lost != l.Lost() || others != 152 {
			t.Errorf("of %d questions %d are recorded, %d declared lost; %d of the other account", sent, kept, lost, others)
		}
		before := kept
		a.got = a.end
		if l.write(); len(l.budget.written) != 0 || len(l.budget.kept) != 0 {
			t.Errorf("after the server has all: %v, %v", l.budget.written, l.budget.kept)
		}
		if second(); a.byVPC["vpc-5"] < share {
			t.Errorf("after the server has all: %d bytes", a.byVPC["vpc-5"])
		}
		if count(); kept == before {
			t.Error("nothing more is recorded")
		}
	})
}

// No record is longer than a question is taken for before it is written.
func TestQuestionsAreNotLongerThanTheyAreTakenFor(t *testing.T) {
	l, a := newAskedLog()
	now := time.Now()
	for i := range 200 {
		q := dns.Query{Time: now, VPC: 5, Client: netip.MustParseAddr("10.0.1.5"), Name: strings.Repeat("\x01<\u2028", i),
			Type: 65280, Class: 65280, RCODE: 4095,
			Answers: 1 << 20, TTL: 1 << 31, Hosted: "hz-0123456789abcdef0", Endpoint: "vpce-0123456789abcdef0", Rule: "rslvr-rr-0123456789abcdef0",
			Upstream:     "tls://" + strings.Repeat("a", i) + ".example@[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
			FirewallRule: "rslvr-frg-0123456789abcdef0/10000",
			Firewall:     zone.Alert, TCP: true, CacheHit: true, Stale: true, Duration: time.Second}
		for range min(i, 16) {
			q.Addresses = append(q.Addresses, netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"))
		}
		l.take(q)
		before := a.end
		l.lost[5] = 1 << 60
		l.write()
		if got, most := a.end-before, atMostBytes(&q); got > int64(most) || got == 0 {
			t.Errorf("a record of %d bytes is taken for %d", got, most)
		}
	}
}
