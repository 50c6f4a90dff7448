package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns/zone"
)

const soaTail = " 10 IN SOA ledger.pay.internal. nobody.invalid. 1 3600 600 86400 10"

func withOPT(m *miekg.Msg, size uint16, do bool) *miekg.Msg { return m.SetEdns0(size, do) }

func TestServe(t *testing.T) {
	r := start(t, Config{}, testZone(t, "tls://192.0.2.1"))
	version1 := withOPT(ask("ledger.pay.internal.", miekg.TypeA), 1232, false)
	version1.IsEdns0().SetVersion(1)
	noRecursion := ask("example.com.", miekg.TypeA)
	noRecursion.RecursionDesired = false
	inClass := func(m *miekg.Msg, class uint16) *miekg.Msg {
		m.Question[0].Qclass = class
		return m
	}
	for _, c := range []struct {
		vpc  uint32
		ask  *miekg.Msg
		want string
	}{
		{shop, ask("ledger.pay.internal.", miekg.TypeA), "NOERROR aa\nledger.pay.internal. 60 IN A 10.0.1.9"},
		{pay, ask("ledger.pay.internal.", miekg.TypeA), "NOERROR aa ra\nledger.pay.internal. 60 IN A 10.0.5.5"},
		{shop, ask("LeDgEr.pay.Internal.", miekg.TypeA), "NOERROR aa\nLeDgEr.pay.Internal. 60 IN A 10.0.1.9"},
		{shop, ask("ledger.pay.internal.", miekg.TypeAAAA), "NOERROR aa\n; ledger.pay.internal." + soaTail},
		{shop, ask("ledger.pay.internal.", miekg.TypeSOA), "NOERROR aa\nledger.pay.internal." + soaTail},
		{shop, ask("x.ledger.pay.internal.", miekg.TypeA), "NXDOMAIN aa\n; ledger.pay.internal." + soaTail},
		{shop, ask("example.com.", miekg.TypeA), "NXDOMAIN\n; . 10 IN SOA . nobody.invalid. 1 3600 600 86400 10"},
		{shop, ask("x.api.example.org.", miekg.TypeA), "NOERROR aa\nx.api.example.org. 60 IN A 10.0.1.20"},
		{shop, ask("9.1.0.10.in-addr.arpa.", miekg.TypePTR),
			"NOERROR aa\n9.1.0.10.in-addr.arpa. 60 IN PTR ledger.pay.internal."},
		{shop, ask("ledger.pay.internal.", miekg.TypeANY), "NOERROR aa\nledger.pay.internal. 60 IN HINFO \"RFC8482\" \"\""},
		{shop, ask("x.ledger.pay.internal.", miekg.TypeANY), "NXDOMAIN aa\n; ledger.pay.internal." + soaTail},
		{pay, ask("example.com.", miekg.TypeANY), "NOTIMP ra"},
		{pay, noRecursion, "REFUSED ra"},
		{shop, ask("ledger.pay.internal.", miekg.TypeAXFR), "REFUSED"},
		{shop, new(miekg.Msg).SetIxfr("ledger.pay.internal.", 1, "a.", "b."), "REFUSED"},
		{shop, ask("ledger.pay.internal.", miekg.TypeTKEY), "REFUSED"},
		{shop, inClass(ask("version.bind.", miekg.TypeTXT), miekg.ClassCHAOS), "REFUSED"},
		{shop, inClass(ask("ledger.pay.internal.", miekg.TypeA), miekg.ClassANY), "REFUSED"},
		{shop, withOPT(ask("ledger.pay.internal.", miekg.TypeA), 4096, true),
			"NOERROR aa\nledger.pay.internal. 60 IN A 10.0.1.9\nopt 1232 do=true"},
		{shop, version1, "BADVERS\nopt 1232 do=false"},
	} {
		r.is(c.vpc)
		networks := []string{"udp", "tcp"}
		if t := c.ask.Question[0].Qtype; t == miekg.TypeAXFR || t == miekg.TypeIXFR {
			networks = networks[1:] // the client library insists on TCP
		}
		for _, network := range networks {
			got := r.exchange(t, network, c.ask.Copy())
			if show(got) != c.want {
				t.Errorf("vpc %d, %s %v:\n got %s\nwant %s", c.vpc, network, c.ask.Question, show(got), c.want)
			}
			if got.Question[0] != c.ask.Question[0] {
				t.Errorf("question %v came back as %v", c.ask.Question[0], got.Question[0])
			}
		}
	}
}

func addresses(list ...string) (out []netip.Addr) {
	for _, text := range list {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestQueryLog(t *testing.T) {
	r := start(t, Config{}, testZone(t))
	r.exchange(t, "udp", ask("three.internal.", miekg.TypeA))
	r.exchange(t, "tcp", ask("x.Ledger.pay.internal.", miekg.TypeAAAA))
	r.exchange(t, "udp", ask("ledger.pay.internal.", miekg.TypeA))
	want := []Query{
		{VPC: shop, Client: clientAddr, Name: "three.internal.", Type: miekg.TypeA, Answers: 3,
			Addresses: addresses("10.0.3.1", "10.0.3.2", "10.0.3.0"), TTL: 60, Class: miekg.ClassINET},
		{VPC: shop, Client: clientAddr, Name: "x.Ledger.pay.internal.", Type: miekg.TypeAAAA,
			RCODE: miekg.RcodeNameError, TCP: true, Class: miekg.ClassINET},
		{VPC: shop, Client: clientAddr, Name: "ledger.pay.internal.", Type: miekg.TypeA, Answers: 1, Endpoint: "vpce-1",
			Addresses: addresses("10.0.1.9"), TTL: 60, Class: miekg.ClassINET},
	}
	got := r.logged()
	for i := range got {
		if time.Since(got[i].Time) > time.Minute || got[i].Duration <= 0 || got[i].Duration > time.Minute {
			t.Errorf("query %d: time %v, duration %v", i, got[i].Time, got[i].Duration)
		}
		got[i].Time, got[i].Duration = time.Time{}, 0
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("logged\n%+v\nwant\n%+v", got, want)
	}
	codes := RCODEString(miekg.RcodeNameError) + " " + RCODEString(4000)
	if TypeString(miekg.TypeAAAA) != "AAAA" || codes != "NXDOMAIN RCODE?" {
		t.Error("names of types and codes are wrong")
	}
}

// Go's own resolver, as workloads written in Go use it.
func TestGoResolver(t *testing.T) {
	r := start(t, Config{}, testZone(t))
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, r.addr)
	}
	resolver := net.Resolver{PreferGo: true, StrictErrors: true, Dial: dial}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, err := resolver.LookupHost(ctx, "ledger.pay.internal.")
	if err != nil || !slices.Equal(got, []string{"10.0.1.9"}) {
		t.Errorf("ledger: %v, %v", got, err)
	}
	got, err = resolver.LookupHost(ctx, "many.internal.") // too long for UDP
	if err != nil || len(got) != 100 {
		t.Errorf("many: %d addresses, %v", len(got), err)
	}
	_, err = resolver.LookupHost(ctx, "x.ledger.pay.internal.")
	if dnsErr := (*net.DNSError)(nil); !errors.As(err, &dnsErr) || !dnsErr.IsNotFound {
		t.Errorf("absent: %v", err)
	}
	names, err := resolver.LookupAddr(ctx, "10.0.1.9")
	if err != nil || !slices.Equal(names, []string{"ledger.pay.internal."}) {
		t.Errorf("reverse: %v, %v", names, err)
	}
}

func TestTruncation(t *testing.T) {
	r := start(t, Config{}, testZone(t))
	for _, c := range []struct {
		edns uint16
		max  int
	}{{0, 512}, {100, 512}, {900, 900}, {1232, 1232}, {65535, 1232}} {
		m := ask("many.internal.", miekg.TypeA)
		if c.edns != 0 {
			m.SetEdns0(c.edns, false)
		}
		got := r.exchange(t, "udp", m)
		got.Compress = true
		if size := got.Len(); !got.Truncated || size > c.max || size < c.max-32 {
			t.Errorf("edns %d: %d bytes, truncated %v, want nearly %d", c.edns, size, got.Truncated, c.max)
		}
		got = r.exchange(t, "tcp", m)
		if got.Truncated || len(got.Answer) != 100 {
			t.Errorf("edns %d over tcp: %d records, truncated %v", c.edns, len(got.Answer), got.Truncated)
		}
	}
}

func TestRotation(t *testing.T) {
	r := start(t, Config{}, testZone(t))
	first := map[string]int{}
	for range 9 {
		got := r.exchange(t, "udp", ask("three.internal.", miekg.TypeA))
		if len(got.Answer) != 3 {
			t.Fatalf("%d records", len(got.Answer))
		}
		first[got.Answer[0].(*miekg.A).A.String()]++
	}
	if first["10.0.3.0"] != 3 || first["10.0.3.1"] != 3 || first["10.0.3.2"] != 3 {
		t.Errorf("first addresses are not even: %v", first)
	}
}

// silent sends a query that must get no answer, then one of a client that does get its.
func (r *running) silent(t *testing.T, vpc uint32) {
	t.Helper()
	conn, err := net.Dial("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	dropped := r.Stats().NotClient
	r.is(vpc)
	m := ask("ledger.pay.internal.", miekg.TypeA)
	m.Id = 1
	data, _ := m.Pack()
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the drop is counted", func() bool { return r.Stats().NotClient == dropped+1 })
	r.is(shop)
	binary.BigEndian.PutUint16(data, 2)
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(buf); err != nil || binary.BigEndian.Uint16(buf[:n]) != 2 {
		t.Errorf("vpc %d: answer %x, %v, want only the one to query 2", vpc, buf[:n], err)
	}
}

func TestNoAnswerToStrangers(t *testing.T) {
	r := start(t, Config{}, testZone(t))
	r.silent(t, 0)
	r.silent(t, absent)
	r.is(absent)
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("tcp of a stranger: read %d, %v, want it closed", n, err)
	}
}

func TestOverlayIdentity(t *testing.T) {
	const mesh = 0xabcdef
	identify := Config{Mesh: mesh}.withDefaults().Identify
	good := api.Overlay{Mesh: mesh, VPC: shop, Host: api.AddrHost(clientAddr), Tag: api.TagFamilyIPv4}
	bad := good.Addr().As16()
	bad[15] ^= 1
	for _, c := range []struct {
		name string
		addr netip.Addr
		ok   bool
	}{
		{"a workload", good.Addr(), true},
		{"other mesh", api.Overlay{Mesh: mesh + 1, VPC: shop, Host: good.Host, Tag: good.Tag}.Addr(), false},
		{"with a tag number", api.Overlay{Mesh: mesh, VPC: shop, Host: good.Host, Tag: good.Tag | 5}.Addr(), false},
		{"a workload by IPv6", api.IPv6Address(mesh, shop, clientAddr), true},
		{"by IPv6 with a tag number", api.Overlay{Mesh: mesh, VPC: shop, Host: good.Host, Tag: 5}.Addr(), false},
		{"a node", api.NodeAddr(mesh, 4), false},
		{"not canonical", netip.AddrFrom16(bad), false},
		{"IPv4", clientAddr, false},
		{"loopback", netip.IPv6Loopback(), false},
	} {
		vpc, addr, ok := identify(c.addr)
		if ok != c.ok || ok && (vpc != shop || addr != clientAddr) {
			t.Errorf("%s: %d, %v, %v", c.name, vpc, addr, ok)
		}
	}
}

func TestSet(t *testing.T) {
	r := start(t, Config{}, testZone(t))
	r.Set(nil)
	if got := show(r.exchange(t, "udp", ask("ledger.pay.internal.", miekg.TypeA))); !strings.Contains(got, "10.0.1.9") {
		t.Errorf("after a nil zone: %s", got)
	}
	_, vpcs := testRows()
	z, err := zone.New([]zone.Name{{VPC: shop, Name: "new.internal", Address: clientAddr}}, vpcs, zone.Reach{})
	if err != nil {
		t.Fatal(err)
	}
	r.Set(z)
	want := "NOERROR aa\nnew.internal. 60 IN A 10.0.1.5"
	if got := show(r.exchange(t, "udp", ask("new.internal.", miekg.TypeA))); got != want {
		t.Errorf("new name: %s", got)
	}
	if got := show(r.exchange(t, "udp", ask("ledger.pay.internal.", miekg.TypeA))); !strings.HasPrefix(got, "NXDOMAIN\n") {
		t.Errorf("old name: %s", got)
	}
	if r.Zone() != z {
		t.Error("Zone is not what was set")
	}
	r.Set(&zone.Zone{}) // a node that hosts nothing: not nil, so it counts
	r.mu.Lock()
	who := r.who
	r.mu.Unlock()
	if r.Zone().Serves(who.vpc, who.addr) {
		t.Error("the empty zone was not taken")
	}
}

func TestRateLimit(t *testing.T) {
	r := start(t, Config{RateLimit: 5}, testZone(t))
	conn, err := net.Dial("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	data, _ := ask("ledger.pay.internal.", miekg.TypeA).Pack()
	const sent = 50
	for range sent {
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all queries are counted", func() bool { s := r.Stats(); return s.Queries+s.RateLimited == sent })
	if s := r.Stats(); s.Queries > 10 { // those that the machine's slowness lets in
		t.Errorf("%d answered, want 5 a second", s.Queries)
	}
}

// Of a client that asks far too much, as much is answered as of one that asks just so much; and a crowd of neighbours on the same
// node changes nothing for one that keeps to its rate.
func TestRateIsEachClientsOwn(t *testing.T) {
	const perSecond = 100
	l := newRateLimit(perSecond)
	at := func(i int) client { return client{shop, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})} }
	const crowd = 2000 // far more than there are shards
	answered := map[int]int{}
	for ms := range 3000 {
		now := l.start.Add(time.Duration(ms) * time.Millisecond)
		for i := range crowd / 100 { // each of the crowd asks five times its rate, in bursts
			for range perSecond / 2 {
				if c := i*100 + ms%100; l.allow(at(c), now) {
					answered[c]++
				}
			}
		}
		if ms%10 == 0 && !l.allow(at(crowd), now) {
			t.Fatalf("after %d ms: one that asks %d times a second is refused", ms, perSecond)
		}
	}
	for c := range crowd {
		// A full bucket at the begin, and the rate for the nearly three seconds until it asked last.
		if n := answered[c]; n < perSecond*385/100 || n > 4*perSecond {
			t.Errorf("client %d: %d answers in 3 s", c, n)
		}
	}
}

// The memory is bounded: who was not heard for a second leaves, who asks all the time stays, and what has no place is refused.
func TestRateLimitIsBounded(t *testing.T) {
	l := newRateLimit(10)
	ask := func(n int, now time.Time) (allowed int) {
		for i := range n {
			if l.allow(client{uint32(i), clientAddr}, now) {
				allowed++
			}
		}
		return allowed
	}
	const most = rateShards * maxRateShard
	if n := ask(2*most, l.start); n > most || n < most*9/10 {
		t.Errorf("%d clients at once, want nearly %d", n, most)
	}
	if n := ask(most/2, l.start.Add(2*time.Second)); n != most/2 {
		t.Errorf("after two seconds %d of %d", n, most/2)
	}
	for i := range l.shards {
		if n := len(l.shards[i].full); n > maxRateShard {
			t.Errorf("a shard has %d clients", n)
		}
	}
}

// send writes messages over one TCP connection without waiting, and returns the ids of the answers.
func send(t *testing.T, conn net.Conn, messages []*miekg.Msg) []uint16 {
	t.Helper()
	var data []byte
	for i, m := range messages {
		m.Id = uint16(i)
		wire, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		data = append(binary.BigEndian.AppendUint16(data, uint16(len(wire))), wire...)
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = conn.Write(data) }()
	var ids []uint16
	for range messages {
		var n uint16
		if err := binary.Read(conn, binary.BigEndian, &n); err != nil {
			t.Fatalf("after %d answers: %v", len(ids), err)
		}
		wire := make([]byte, n)
		if _, err := io.ReadFull(conn, wire); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, binary.BigEndian.Uint16(wire))
	}
	return ids
}

func TestPipelining(t *testing.T) {
	r := start(t, Config{RateLimit: -1}, testZone(t))
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var messages []*miekg.Msg
	for range 10_000 {
		messages = append(messages, ask("ledger.pay.internal.", miekg.TypeA))
	}
	ids := send(t, conn, messages)
	if !slices.IsSorted(ids) || len(ids) != len(messages) {
		t.Errorf("%d answers, sorted %v", len(ids), slices.IsSorted(ids))
	}
}

func TestTCPMessageSizes(t *testing.T) {
	r := start(t, Config{}, testZone(t))
	for _, data := range [][]byte{{0, 0}, {0, 11}, {0xff, 0xff}, append([]byte{0, 12}, make([]byte, 12)[:11]...), {0}} {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, context.DeadlineExceeded) || err == nil {
			t.Errorf("%x: read %d, %v, want it closed", data, n, err)
		}
		_ = conn.Close()
	}
}

func TestConnLimit(t *testing.T) {
	r := start(t, Config{}, testZone(t))
	for range maxConnsPerClient {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if ids := send(t, conn, []*miekg.Msg{ask("ledger.pay.internal.", miekg.TypeA)}); len(ids) != 1 {
			t.Fatal("no answer")
		}
	}
	over, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	if n, err := over.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("one too many: read %d, %v", n, err)
	}
	if n := r.Stats().ConnsRefused; n != 1 {
		t.Errorf("%d refused, want 1", n)
	}
}

func TestConnLimitCounts(t *testing.T) {
	l := newConnLimit()
	type conn struct {
		account string
		client
	}
	var held []conn
	fill := func(account string, first, vpcs uint32) (n int) {
		for vpc := first; vpc < first+vpcs; vpc++ {
			for host := range 10 {
				c := conn{account, client{vpc, netip.AddrFrom4([4]byte{10, 0, 0, byte(host)})}}
				for range maxConnsPerClient + 1 {
					if l.acquire(c.account, c.client) {
						held = append(held, c)
						n++
					}
				}
				if l.clients[c.client] > maxConnsPerClient {
					t.Errorf("%d connections of one client", l.clients[c.client])
				}
			}
		}
		return n
	}
	if n := fill("evil", 1, 10); n != maxConns/2 {
		t.Errorf("an account with ten VPCs has %d connections, want half of %d", n, maxConns)
	}
	if n := fill("shop", 20, 1); n != maxConns/4 {
		t.Errorf("the next account has %d connections, want half of what is left", n)
	}
	for _, c := range held {
		l.release(c.account, c.client)
	}
	if l.shares.free != maxConns || len(l.shares.accounts) != 0 || len(l.clients) != 0 {
		t.Errorf("after release: %d, %v, %v", l.shares.free, l.shares.accounts, l.clients)
	}
}

// Of n accounts that take all they can get each has about 1/(n+1), and another one that comes gets something.
func TestSharesLeaveSomething(t *testing.T) {
	const places = 1000
	for n := 1; n <= 20; n++ {
		s := newShares(places)
		for range places {
			for i := range n {
				s.acquire(strconv.Itoa(i))
			}
		}
		for account, have := range s.accounts {
			if want := places / (n + 1); have < want || have > want+1 {
				t.Errorf("%d accounts: %s has %d, want %d", n, account, have, want)
			}
		}
		if s.free < places/(n+1)-n || !s.acquire("late") {
			t.Errorf("%d accounts leave %d", n, s.free)
		}
	}
}

func TestRunErrors(t *testing.T) {
	for want, cfg := range map[string]Config{
		"no address":         {},
		"missing port":       {Listen: []string{"[::1]"}},
		"bind to device nix": {Listen: []string{"[::1]:0"}, Device: "nix"},
	} {
		if err := New(cfg).Run(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg.Listen, err, want)
		}
	}
}

// An open connection does not hold up the end.
func TestRunEndsWithOpenConnections(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	who := func(netip.Addr) (uint32, netip.Addr, bool) { return shop, clientAddr, true }
	s := New(Config{Listen: []string{"[::1]:0"}, Identify: who})
	s.Set(testZone(t))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	conn, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if ids := send(t, conn, []*miekg.Msg{ask("ledger.pay.internal.", miekg.TypeA)}); len(ids) != 1 {
		t.Fatal("no answer")
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(3 * time.Second):
		t.Error("run waits for an idle connection")
	}
}
