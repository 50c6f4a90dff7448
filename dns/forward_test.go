package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns/zone"
)

func TestForward(t *testing.T) {
	up := newUpstream(t, example)
	z := testZone(t, "tls://192.0.2.1#dns.example.org")
	r := startPay(t, z, Config{Dial: reach(up), RootCAs: up.roots})
	for _, c := range []struct {
		ask  *miekg.Msg
		want string
	}{
		{ask("Example.com.", miekg.TypeA), "NOERROR ra\nExample.com. 300 IN A 203.0.113.1"},
		{withOPT(ask("example.com.", miekg.TypeA), 1232, true),
			"NOERROR ra\nexample.com. 300 IN A 203.0.113.1\n; example.com. 300 IN NS ns.example.com.\nopt 1232 do=true"},
		{ask("none.com.", miekg.TypeA), "NXDOMAIN ra\n; com. 900 IN SOA a. b. 1 2 3 4 600"},
		{ask("pay.internal.", miekg.TypeA), "NOERROR ra\n; com. 900 IN SOA a. b. 1 2 3 4 600"}, // private names are below
		{ask("liar.example.com.", miekg.TypeA), "NOERROR ra\nliar.example.com. 300 IN A 203.0.113.2"},
		{ask("alias.example.com.", miekg.TypeA),
			"NOERROR ra\nalias.example.com. 300 IN CNAME ledger.pay.internal.\nledger.pay.internal. 60 IN A 10.0.5.5"},
		{ask("alias.example.com.", miekg.TypeAAAA),
			"NOERROR ra\nalias.example.com. 300 IN CNAME ledger.pay.internal.\n; ledger.pay.internal." + soaTail},
		{ask("lost.example.com.", miekg.TypeA),
			"NXDOMAIN ra\nlost.example.com. 300 IN CNAME x.ledger.pay.internal.\n; ledger.pay.internal." + soaTail},
		{ask("forever.example.com.", miekg.TypeA), "NOERROR ra\nforever.example.com. 0 IN A 203.0.113.3"},
		{ask("fail.example.com.", miekg.TypeA), "SERVFAIL ra"},
	} {
		if got := show(r.exchange(t, "udp", c.ask.Copy())); got != c.want {
			t.Errorf("%v:\n got %s\nwant %s", c.ask.Question, got, c.want)
		}
	}
	for _, q := range up.seen() {
		if !strings.HasPrefix(q, "tls ") || strings.Contains(q, "ledger.pay") {
			t.Errorf("forwarder was asked %s", q)
		}
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.accepts != 1 {
		t.Errorf("%d TLS connections for queries one after the other, want 1", up.accepts)
	}
}

// Private names, and all below them, never leave the node; not even when asked in strange ways.
func TestPrivateNamesAreNotForwarded(t *testing.T) {
	up := newUpstream(t, example)
	r := startPay(t, testZone(t, "tls://192.0.2.1"), Config{Dial: reach(up), RootCAs: up.roots})
	for _, name := range []string{
		"ledger.pay.internal.", "LEDGER.PAY.INTERNAL.", "x.ledger.pay.internal.", `a\.b.ledger.pay.internal.`,
		"wild.internal.", "a.b.wild.internal.", "9.1.0.10.in-addr.arpa.",
		"lb._dns-sd._udp.0.0.10.in-addr.arpa.", "localhost.", "x.onion.", "_dns.resolver.arpa.",
	} {
		for _, qtype := range []string{"A", "AAAA", "TXT", "ANY", "HTTPS", "DS"} {
			r.exchange(t, "udp", ask(name, miekg.StringToType[qtype]))
		}
	}
	if seen := up.seen(); len(seen) != 0 {
		t.Errorf("forwarder was asked %v", seen)
	}
	if got := show(r.exchange(t, "udp", ask("example.com.", miekg.TypeA))); !strings.Contains(got, "203.0.113.1") {
		t.Errorf("it does forward: %s", got)
	}
}

func TestCache(t *testing.T) {
	up := newUpstream(t, example)
	r := startPay(t, testZone(t, "tls://192.0.2.1"), Config{Dial: reach(up), RootCAs: up.roots})
	for range 3 {
		r.exchange(t, "udp", ask("example.com.", miekg.TypeA))
		r.exchange(t, "udp", ask("none.com.", miekg.TypeA))
		r.exchange(t, "udp", ask("zero.example.com.", miekg.TypeA))
	}
	counts := map[string]int{}
	for _, q := range up.seen() {
		counts[q]++
	}
	if counts["tls example.com. A"] != 1 || counts["tls none.com. A"] != 1 || counts["tls zero.example.com. A"] != 3 {
		t.Errorf("forwarder was asked %v", counts)
	}
	if s := r.Stats(); s.CacheHits != 4 || s.Forwarded != 5 {
		t.Errorf("stats %+v", s)
	}
	log := r.logged()
	if !log[0].Forwarded || log[0].CacheHit || !log[3].Forwarded || !log[3].CacheHit {
		t.Errorf("log %+v", log)
	}
	// Two minutes later the TTL is two minutes less; after five the forwarder is asked again; another question is
	// another entry.
	f := r.state.Load().forwarders[route{vpc: pay}]
	k := question{"example.com.", miekg.TypeA, false, false}
	back := func(d time.Duration) {
		e := f.cache.get(k)
		f.cache.put(k, &entry{wire: e.wire, ttl: e.ttl, stored: time.Now().Add(-d)})
	}
	back(2 * time.Minute)
	if got := r.exchange(t, "udp", ask("example.com.", miekg.TypeA)).Answer[0].Header().Ttl; got != 180 {
		t.Errorf("TTL %d after 120 s of 300", got)
	}
	back(5 * time.Minute)
	if got := r.exchange(t, "udp", ask("example.com.", miekg.TypeA)).Answer[0].Header().Ttl; got != 300 {
		t.Errorf("TTL %d after it expired", got)
	}
	if n := len(up.seen()); n != 6 {
		t.Errorf("%d queries, want 6", n)
	}
	// The same forwarders: the cache stays. Others: it goes.
	r.Set(testZone(t, "tls://192.0.2.1"))
	if r.state.Load().forwarders[route{vpc: pay}].cache.len() == 0 {
		t.Error("cache lost with the same forwarders")
	}
	r.Set(testZone(t, "tls://192.0.2.1#dns.example.org"))
	if n := r.state.Load().forwarders[route{vpc: pay}].cache.len(); n != 0 {
		t.Errorf("%d entries kept of other forwarders", n)
	}
}

// When no forwarder answers, an answer that expired within the hour is given, for 30 s.
func TestStale(t *testing.T) {
	var down atomic.Bool
	up := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		if down.Load() {
			reply(w, q, miekg.RcodeServerFailure)
			return
		}
		example(w, q)
	})
	r := startPay(t, testZone(t, "tls://192.0.2.1"), Config{Dial: reach(up), RootCAs: up.roots})
	r.exchange(t, "udp", ask("example.com.", miekg.TypeA))
	down.Store(true)
	f := r.state.Load().forwarders[route{vpc: pay}]
	k := question{"example.com.", miekg.TypeA, false, false}
	e := f.cache.get(k)
	for _, c := range []struct {
		age  time.Duration
		want string
	}{
		{6 * time.Minute, "NOERROR ra\nexample.com. 30 IN A 203.0.113.1"},
		{64 * time.Minute, "NOERROR ra\nexample.com. 30 IN A 203.0.113.1"},
		{66 * time.Minute, "SERVFAIL ra"},
	} {
		f.cache.put(k, &entry{wire: e.wire, ttl: e.ttl, stored: time.Now().Add(-c.age)})
		if got := show(r.exchange(t, "udp", ask("example.com.", miekg.TypeA))); got != c.want {
			t.Errorf("after %v: %s, want %s", c.age, got, c.want)
		}
	}
	if s := r.Stats(); s.Stale != 2 || !r.logged()[1].Stale {
		t.Errorf("stats %+v", s)
	}
}

func TestPlainForwarder(t *testing.T) {
	long := func(w miekg.ResponseWriter, q *miekg.Msg) {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && strings.EqualFold(q.Question[0].Name, "long.example.com.") {
			m := new(miekg.Msg).SetReply(q)
			m.Truncated = true
			_ = w.WriteMsg(m)
			return
		}
		name := q.Question[0].Name
		reply(w, q, miekg.RcodeSuccess, name+" 300 IN A 203.0.113.9")
	}
	up := newUpstream(t, long)
	r := startPay(t, testZone(t, "192.0.2.1"), Config{Dial: reach(up)})
	for _, name := range []string{"short.example.com.", "long.example.com."} {
		want := "NOERROR ra\n" + name + " 300 IN A 203.0.113.9"
		if got := show(r.exchange(t, "udp", ask(name, miekg.TypeA))); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	want := []string{"udp short.example.com. A", "udp long.example.com. A", "tcp long.example.com. A"}
	if got := up.seen(); !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
}

func TestForwarderByTCP(t *testing.T) {
	up := newUpstream(t, example)
	r := startPay(t, testZone(t, "tcp://192.0.2.1"), Config{Dial: reach(up)})
	for range 2 {
		if got := show(r.exchange(t, "udp", ask("example.com.", miekg.TypeA))); got != "NOERROR ra\nexample.com. 300 IN A 203.0.113.1" {
			t.Errorf("%s", got)
		}
	}
	if got := up.seen(); !slices.Equal(got, []string{"tcp example.com. A"}) {
		t.Errorf("asked %v, want once, by TCP", got)
	}
}

// Forged and broken datagrams are passed over; the right one still counts.
func TestForgedAnswers(t *testing.T) {
	up := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); !udp {
			t.Error("asked over tcp")
		}
		name := q.Question[0].Name
		forge := func(change func(*miekg.Msg)) {
			m := new(miekg.Msg).SetReply(q)
			m.Answer = []miekg.RR{rr(name + " 300 IN A 203.0.113.66")}
			change(m)
			_ = w.WriteMsg(m)
		}
		for i := range uint16(50) { // more would not fit into the socket's buffer
			forge(func(m *miekg.Msg) { m.Id ^= i + 1 })
		}
		forge(func(m *miekg.Msg) { m.Response = false })
		forge(func(m *miekg.Msg) { m.Question[0].Name = "other.example.com." })
		forge(func(m *miekg.Msg) { m.Question[0].Qtype = miekg.TypeAAAA })
		forge(func(m *miekg.Msg) { m.Question = nil })
		_, _ = w.Write([]byte{1, 2, 3})
		reply(w, q, miekg.RcodeSuccess, name+" 300 IN A 203.0.113.1")
	})
	r := startPay(t, testZone(t, "192.0.2.1"), Config{Dial: reach(up)})
	want := "NOERROR ra\nexample.com. 300 IN A 203.0.113.1"
	if got := show(r.exchange(t, "udp", ask("example.com.", miekg.TypeA))); got != want {
		t.Errorf("%s", got)
	}
}

// Who floods the socket does not keep it, nor the node's time: after some datagrams the question goes over TCP.
func TestFloodOfDatagrams(t *testing.T) {
	up := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			for range maxStray {
				_, _ = w.Write(make([]byte, headerSize))
			}
			return
		}
		reply(w, q, miekg.RcodeSuccess, "example.com. 300 IN A 203.0.113.1")
	})
	r := startPay(t, testZone(t, "192.0.2.1"), Config{Dial: reach(up)})
	want := "NOERROR ra\nexample.com. 300 IN A 203.0.113.1"
	if got := show(r.exchange(t, "udp", ask("example.com.", miekg.TypeA))); got != want {
		t.Errorf("%s", got)
	}
	if got := up.seen(); len(got) != 2 || !strings.HasPrefix(got[1], "tcp ") {
		t.Errorf("asked %v", got)
	}
}

// An answer of many compressed names takes many times as long to read as to send: what has too many records, or bytes, is none.
func TestAnswersAreBounded(t *testing.T) {
	query, err := newQuery(question{name: strings.Repeat(strings.Repeat("a", 61)+".", 4), qtype: miekg.TypeA})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(records, size int) []byte {
		data, err := new(miekg.Msg).SetReply(query).Pack()
		if err != nil {
			t.Fatal(err)
		}
		binary.BigEndian.PutUint16(data[6:], uint16(records))
		for i := range records {
			data = append(data, 0xc0, headerSize, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 10, byte(i>>16), byte(i>>8), byte(i))
		}
		return append(data, make([]byte, max(0, size-len(data)))...)
	}
	for _, c := range []struct {
		records, size int
		want          error
	}{
		{maxAnswerRecords, 0, nil}, {maxAnswerRecords + 1, 0, errLarge}, {4000, 0, errLarge}, {1, maxAnswer, nil}, {1, maxAnswer + 1, errLarge},
	} {
		if _, err := verify(answer(c.records, c.size), query); !errors.Is(err, c.want) {
			t.Errorf("%d records, %d bytes: %v, want %v", c.records, c.size, err, c.want)
		}
	}
	data := answer(1, 0)
	for i := 6; i < headerSize; i += 2 { // each section counts
		binary.BigEndian.PutUint16(data[i:], maxAnswerRecords/2)
	}
	if _, err := verify(data, query); !errors.Is(err, errLarge) {
		t.Errorf("three sections: %v", err)
	}
	up := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		m := new(miekg.Msg).SetReply(q)
		m.Compress = true
		for i := range 4000 {
			m.Answer = append(m.Answer, rr(fmt.Sprintf("%s 300 IN A 10.0.%d.%d", q.Question[0].Name, i>>8, i&255)))
		}
		_ = w.WriteMsg(m)
	})
	for _, forwarder := range []string{"tcp://192.0.2.1", "tls://192.0.2.1"} {
		r := startPay(t, testZone(t, forwarder), Config{Dial: reach(up), RootCAs: up.roots})
		if got := show(r.exchange(t, "udp", ask("large.example.com.", miekg.TypeA))); !strings.HasPrefix(got, "SERVFAIL") {
			t.Errorf("%s: %s", forwarder, got)
		}
	}
}

// Of all ids only the query's own is accepted.
func TestVerifyID(t *testing.T) {
	query, err := newQuery(question{name: "example.com.", qtype: miekg.TypeA})
	if err != nil {
		t.Fatal(err)
	}
	data, err := new(miekg.Msg).SetReply(query).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for id := range 1 << 16 {
		binary.BigEndian.PutUint16(data, uint16(id))
		if m, err := verify(data, query); (err == nil) != (uint16(id) == query.Id) {
			t.Fatalf("query %d, answer %d: %v, %v", query.Id, id, m, err)
		}
	}
}

// A forwarder that does not echo the case of letters could be anybody: it is asked again over TCP.
func TestCaseMustBeEchoed(t *testing.T) {
	up := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		q.Question[0].Name = strings.ToLower(q.Question[0].Name)
		reply(w, q, miekg.RcodeSuccess, "a-name-with-many-letters.example.com. 300 IN A 203.0.113.1")
	})
	r := startPay(t, testZone(t, "192.0.2.1"), Config{Dial: reach(up)})
	r.exchange(t, "udp", ask("a-name-with-many-letters.example.com.", miekg.TypeA))
	want := []string{"udp a-name-with-many-letters.example.com. A", "tcp a-name-with-many-letters.example.com. A"}
	if got := up.seen(); !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
}

func TestNextForwarder(t *testing.T) {
	mute := newUpstream(t, func(miekg.ResponseWriter, *miekg.Msg) {})
	refuses := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) { reply(w, q, miekg.RcodeRefused) })
	good := newUpstream(t, example)
	z := testZone(t, "192.0.2.1", "192.0.2.2", "192.0.2.3")
	r := startPay(t, z, Config{Dial: reach(mute, refuses, good)})
	began := time.Now()
	if got := show(r.exchange(t, "udp", ask("example.com.", miekg.TypeA))); !strings.Contains(got, "203.0.113.1") {
		t.Errorf("%s", got)
	}
	if d := time.Since(began); d < upstreamTimeout {
		t.Errorf("took %v, want one timeout", d)
	}
	r.exchange(t, "udp", ask("none.com.", miekg.TypeA)) // the bad ones come last now, and are not asked
	if len(mute.seen()) != 1 || len(refuses.seen()) != 1 || len(good.seen()) != 2 {
		t.Errorf("asked %v, %v, %v", mute.seen(), refuses.seen(), good.seen())
	}
	if got := r.Stats().UpstreamFailures; got != 2 {
		t.Errorf("%d failures, want 2", got)
	}
}

// A forwarder whose certificate is not the one named is not believed; one inside the VPC is never looked for on the
// underlay.
func TestUntrustedForwarders(t *testing.T) {
	up := newUpstream(t, example)
	dial := reach(up)
	for _, forwarder := range []string{"tls://192.0.2.1#other.example.org", "10.0.3.53", "tls://10.0.3.53"} {
		watched := func(ctx context.Context, vpc uint32, network string, to netip.AddrPort) (net.Conn, error) {
			if to.Addr().As4()[0] == 10 {
				t.Errorf("%s: dialled over the underlay", forwarder)
			}
			return dial(ctx, vpc, network, to)
		}
		r := startPay(t, testZone(t, forwarder), Config{RootCAs: up.roots, Dial: watched})
		if got := show(r.exchange(t, "udp", ask("example.com.", miekg.TypeA))); got != "SERVFAIL ra" {
			t.Errorf("%s: %s", forwarder, got)
		}
	}
	if seen := up.seen(); len(seen) != 0 {
		t.Errorf("it was asked %v", seen)
	}
	inside := func(ctx context.Context, vpc uint32, network string, to netip.AddrPort) (net.Conn, error) {
		if to.String() != "10.0.3.53:53" {
			return nil, errors.New("unexpected address")
		}
		return dial(ctx, vpc, network, netip.MustParseAddrPort("192.0.2.1:53"))
	}
	r := startPay(t, testZone(t, "10.0.3.53"), Config{DialVPC: inside})
	if got := show(r.exchange(t, "udp", ask("example.com.", miekg.TypeA))); !strings.Contains(got, "203.0.113.1") {
		t.Errorf("inside, with a way to dial: %s", got)
	}
	_, err := underlayDial(5)(context.Background(), pay, "udp", netip.AddrPortFrom(api.NodeAddr(5, 1), 53))
	if err == nil || !strings.Contains(err.Error(), "overlay address") {
		t.Errorf("dialling the mesh: %v", err)
	}
}

// A connection into a VPC that is kept is not used once the node may not ask there.
func TestKeptConnectionIntoAVPC(t *testing.T) {
	up := newUpstream(t, example)
	var gone atomic.Bool
	r := startPay(t, testZone(t, "tls://10.0.3.1#dns.example.org"), Config{DialVPC: reach(up), RootCAs: up.roots, Reaches: func(vpc uint32) error {
		if vpc != pay || gone.Load() {
			return errors.New("no interface")
		}
		return nil
	}})
	for _, c := range []struct {
		name, want string
		gone       bool
		seen       int
	}{{"a.com.", "NXDOMAIN", false, 1}, {"b.com.", "SERVFAIL", true, 1}, {"c.com.", "NXDOMAIN", false, 2}} {
		gone.Store(c.gone)
		if got := show(r.exchange(t, "udp", ask(c.name, miekg.TypeA))); !strings.HasPrefix(got, c.want) || len(up.seen()) != c.seen {
			t.Errorf("%s: %s, want %s; the forwarder was asked %v", c.name, got, c.want, up.seen())
		}
	}
}

// What the node may not be made to talk to is looked up before each connection: an address that it got since the names
// were set, and one that a later rule refuses, is not asked; a kept connection does not help.
func TestForwarderMustStayInReach(t *testing.T) {
	up := newUpstream(t, example)
	var own atomic.Pointer[netip.Addr]
	broken := errors.New("no addresses")
	cfg := Config{Dial: reach(up), RootCAs: up.roots, OwnAddrs: func() ([]netip.Addr, error) {
		if a := own.Load(); a != nil {
			return []netip.Addr{*a}, nil
		}
		return nil, broken
	}}
	has := func(text string) {
		a := netip.MustParseAddr(text)
		own.Store(&a)
	}
	for _, forwarder := range []string{"192.0.2.1", "tls://192.0.2.1"} {
		r := startPay(t, testZone(t, forwarder), cfg)
		answer := func(name, want string) {
			t.Helper()
			if got := show(r.exchange(t, "udp", ask(name, miekg.TypeA))); !strings.HasPrefix(got, want) {
				t.Errorf("%s, %s: %s, want %s", forwarder, name, got, want)
			}
		}
		before := len(up.seen())
		own.Store(nil)
		answer("a.com.", "SERVFAIL")
		has("192.0.2.1")
		answer("b.com.", "SERVFAIL")
		has("192.0.2.9")
		answer("c.com.", "NXDOMAIN")
		if n := len(up.seen()) - before; n != 1 {
			t.Errorf("%d of three queries left the node, want the last", n)
		}
		has("192.0.2.1")
		answer("e.com.", "SERVFAIL")
		has("192.0.2.9")
		if n := len(up.seen()) - before; n != 1 {
			t.Errorf("%s: asked where it may not be any more", forwarder)
		}
		names, vpcs := testRows(forwarder)
		z, err := zone.New(names, vpcs, zone.Reach{Allow: documentation.Allow, Refuse: documentation.Allow})
		if err == nil || !strings.Contains(err.Error(), "of the mesh") {
			t.Errorf("zone: %v", err)
		}
		before = len(up.seen())
		r.Set(z)
		answer("d.com.", "NXDOMAIN") // no forwarder is left
		if r.Zone().Forwarders(pay) != nil || len(up.seen()) != before {
			t.Errorf("%v, asked %v", r.Zone().Forwarders(pay), up.seen())
		}
		r.Set(testZone(t, forwarder))
	}
	list, err := interfaceAddrs()
	if err != nil || !slices.Contains(list, netip.MustParseAddr("127.0.0.1")) || !slices.Contains(list, netip.IPv6Loopback()) {
		t.Errorf("this machine's addresses: %v, %v", list, err)
	}
}

// Equal questions at the same time are one query to the forwarder; private names are answered meanwhile; answers
// overtake each other.
func TestSlowForwarder(t *testing.T) {
	let := make(chan struct{})
	up := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		<-let
		example(w, q)
	})
	r := startPay(t, testZone(t, "tls://192.0.2.1"), Config{Dial: reach(up), RootCAs: up.roots})
	var wg sync.WaitGroup
	const clients = 20
	for range clients {
		wg.Go(func() {
			if got := show(r.exchange(t, "udp", ask("example.com.", miekg.TypeA))); !strings.Contains(got, "203.0.113.1") {
				t.Errorf("%s", got)
			}
		})
	}
	eventually(t, "all wait", func() bool { return r.Stats().Forwarded == clients })
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	order := make(chan []uint16, 1)
	wg.Go(func() {
		order <- send(t, conn, []*miekg.Msg{ask("example.com.", miekg.TypeA), ask("ledger.pay.internal.", miekg.TypeA)})
	})
	if got := show(r.exchange(t, "udp", ask("ledger.pay.internal.", miekg.TypeA))); !strings.Contains(got, "10.0.5.5") {
		t.Errorf("private name while forwarders are slow: %s", got)
	}
	eventually(t, "the pipelined private query is answered", func() bool { return len(r.logged()) == 2 })
	close(let)
	wg.Wait()
	if ids := <-order; !slices.Equal(ids, []uint16{1, 0}) {
		t.Errorf("order of answers %v, want the private one first", ids)
	}
	if seen := up.seen(); len(seen) != 1 {
		t.Errorf("asked %v, want once", seen)
	}
}

// Too many that wait: SERVFAIL at once. An account's VPCs share what it gets, and another account finds room.
func TestForwardsAreBounded(t *testing.T) {
	s := New(Config{RateLimit: -1})
	const vpcs, stranger = 8, 100
	var rows []zone.VPC
	row := zone.VPC{CIDR: netip.MustParsePrefix("10.0.0.0/16"), Forwarders: []string{"tls://192.0.2.1"}, Account: "evil"}
	for row.Number = 1; row.Number <= vpcs; row.Number++ {
		rows = append(rows, row)
	}
	row.Number, row.Account = stranger, "shop"
	z, err := zone.New(nil, append(rows, row), documentation)
	if err != nil {
		t.Fatal(err)
	}
	s.Set(z)
	data, err := ask("example.com.", miekg.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	fill := func(vpc uint32) (waits []waiting) {
		for range maxForwards {
			out, wait := s.handleAs(vpc, data, false)
			if wait != nil {
				waits = append(waits, wait)
			} else if m := new(miekg.Msg); m.Unpack(out) != nil || m.Rcode != miekg.RcodeServerFailure {
				t.Errorf("answer %x", out)
			}
		}
		return waits
	}
	var held []waiting
	for vpc := range uint32(vpcs) {
		held = append(held, fill(vpc+1)...)
	}
	refused := s.Stats().ForwardsRefused
	if len(held) != maxForwards/2 || refused != vpcs*maxForwards-uint64(len(held)) {
		t.Errorf("%d of an account's queries wait, want half of %d; %d refused", len(held), maxForwards, refused)
	}
	if n := len(fill(stranger)); n != maxForwards/4 {
		t.Errorf("%d of another account's queries wait, want half of what is left", n)
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for _, wait := range held {
		wait(over)
	}
	if n := len(fill(1)); n != maxForwards*3/8 {
		t.Errorf("%d wait after the first ones ended, want half of what is left", n)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(3)
	now := time.Now()
	key := func(i int) question { return question{name: string(rune('a' + i))} }
	for i := range 5 {
		c.put(key(i), &entry{ttl: time.Minute, stored: now})
		c.get(key(0)) // used all the time, so it stays
	}
	c.put(key(6), &entry{ttl: 0, stored: now})
	c.put(key(7), &entry{ttl: time.Minute, stored: now, wire: make([]byte, maxCacheEntry+1)})
	for i, want := range []bool{0: true, 1: false, 2: false, 3: true, 4: true, 6: false, 7: false} {
		if got := c.get(key(i)) != nil; got != want {
			t.Errorf("entry %d kept: %v, want %v", i, got, want)
		}
	}
	if c.len() != 3 {
		t.Errorf("%d entries", c.len())
	}
	c.resize(1)
	if c.len() != 1 || len(c.entries) != 1 || c.get(key(4)) == nil {
		t.Errorf("after resize %d entries: %v", c.len(), c.entries)
	}
}

func TestPadding(t *testing.T) {
	for n := 1; n < 60; n++ {
		m, err := newQuery(question{name: strings.Repeat("a", n) + ".example.com.", qtype: miekg.TypeA})
		if err != nil {
			t.Fatal(err)
		}
		pad(m)
		data, err := m.Pack()
		if err != nil || len(data)%paddingBlock != 0 || len(data) > 2*paddingBlock {
			t.Errorf("name of %d: %d bytes, %v", n, len(data), err)
		}
	}
}

// However many VPCs an account has, it gets as much of the cache as any other.
func TestShareOfCache(t *testing.T) {
	s := New(Config{})
	var vpcs []zone.VPC
	cidr, forwarders := netip.MustParsePrefix("10.0.0.0/16"), []string{"tls://192.0.2.1"}
	for i, account := range []string{"many", "many", "many", "many", "one"} {
		vpcs = append(vpcs, zone.VPC{Number: uint32(i) + 1, Account: account, CIDR: cidr, Forwarders: forwarders})
	}
	vpcs = append(vpcs, zone.VPC{Number: 9, Account: "forwards nothing", CIDR: cidr})
	set := func() map[route]*forwarder {
		z, err := zone.New(nil, vpcs, documentation)
		if err != nil {
			t.Fatal(err)
		}
		s.Set(z)
		return s.state.Load().forwarders
	}
	before := set()
	vpc := func(number uint32) route { return route{vpc: number} }
	for to, f := range before {
		want := maxCache / 8
		if to.vpc == 5 {
			want = maxCache / 2
		}
		if f.cache.max != want {
			t.Errorf("vpc %d: %d entries, want %d", to.vpc, f.cache.max, want)
		}
	}
	vpcs[0].Account = "one" // a number that came back as another's
	after := set()
	if after[vpc(1)] == before[vpc(1)] || after[vpc(2)] != before[vpc(2)] || after[vpc(1)].cache.max != maxCache/4 {
		t.Errorf("another account's VPC has the cache of the one before: %d entries", after[vpc(1)].cache.max)
	}
}
