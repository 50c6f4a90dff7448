package dns

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/culvert-net/culvert/dns/zone"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	shop   uint32 = 7 // no forwarders
	pay    uint32 = 8 // the same addresses, forwards
	absent uint32 = 99
)

var clientAddr = netip.MustParseAddr("10.0.1.5")

// testRows are the names and VPCs of most tests.
func testRows(forwarders ...string) ([]zone.Name, []zone.VPC) {
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	row := func(vpc uint32, endpoint, name, address string) zone.Name {
		return zone.Name{VPC: vpc, Name: name, Address: netip.MustParseAddr(address), Endpoint: endpoint}
	}
	names := []zone.Name{
		row(shop, "vpce-1", "ledger.pay.internal", "10.0.1.9"),
		row(shop, "vpce-2", "*.api.example.org", "10.0.1.20"),
		row(pay, "vpce-3", "ledger.pay.internal", "10.0.5.5"),
		row(pay, "vpce-4", "*.wild.internal", "10.0.5.6"),
	}
	for i := range 3 {
		names = append(names, row(shop, "", "three.internal", fmt.Sprint("10.0.3.", i)))
	}
	for i := range 100 {
		names = append(names, row(shop, "", "many.internal", fmt.Sprint("10.0.9.", i)))
	}
	return names, []zone.VPC{
		{Number: shop, CIDR: cidr, QueryLog: true},
		{Number: pay, CIDR: cidr, Forwarders: forwarders, Plain: true, QueryLog: true},
	}
}

// documentation is where the forwarders of tests are.
var documentation = zone.Reach{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}

func testZone(t testing.TB, forwarders ...string) *zone.Zone {
	t.Helper()
	names, vpcs := testRows(forwarders...)
	z, err := zone.New(names, vpcs, documentation)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// running is a server under test. Loopback clients are who it says.
type running struct {
	*Server
	addr string

	mu      sync.Mutex
	who     client
	stopped bool
	queries []Query
}

func (r *running) is(vpc uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.who = client{vpc, clientAddr}
}

func (r *running) identify(netip.Addr) (uint32, netip.Addr, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.who.vpc, r.who.addr, r.who.vpc != 0
}

func (r *running) record(q Query) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queries = append(r.queries, q)
}

// logged returns the queries so far.
func (r *running) logged() []Query {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.queries)
}

// start runs a server on a loopback port until the test ends.
func start(t testing.TB, cfg Config, z *zone.Zone) *running {
	t.Helper()
	r := &running{}
	r.is(shop)
	cfg.Listen = []string{"[::1]:0"}
	cfg.Identify = r.identify
	cfg.QueryLog = r.record
	if cfg.OwnAddrs == nil { // this machine may have one of documentation
		cfg.OwnAddrs = func() ([]netip.Addr, error) { return nil, nil }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	r.Server = New(cfg)
	r.Set(z)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("run does not end")
		}
		if n := r.Stats().Panics; n != 0 {
			t.Errorf("%d panics", n)
		}
	})
	select {
	case <-r.Ready():
	case err := <-done:
		t.Fatalf("run: %v", err)
	}
	r.addr = r.Addrs()[0].String()
	return r
}

// eventually polls a condition until it holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		tick := time.NewTimer(2 * time.Millisecond)
		<-tick.C
	}
}

func ask(name string, qtype uint16) *miekg.Msg { return new(miekg.Msg).SetQuestion(name, qtype) }

// exchange asks the server over "udp" or "tcp".
func (r *running) exchange(t testing.TB, network string, m *miekg.Msg) *miekg.Msg {
	t.Helper()
	c := miekg.Client{Net: network, Timeout: 30 * time.Second, UDPSize: 4096}
	reply, _, err := c.Exchange(m, r.addr)
	if err != nil {
		t.Fatalf("%s %v: %v", network, m.Question, err)
	}
	return reply
}

// flags and records of a reply, one a line.
func show(m *miekg.Msg) string {
	line := RCODEString(m.Rcode)
	for _, f := range []struct {
		on   bool
		name string
	}{{m.Authoritative, "aa"}, {m.RecursionAvailable, "ra"}, {m.Truncated, "tc"}, {m.AuthenticatedData, "ad"}} {
		if f.on {
			line += " " + f.name
		}
	}
	lines := []string{line}
	for i, section := range [][]miekg.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if opt, ok := rr.(*miekg.OPT); ok {
				lines = append(lines, fmt.Sprintf("opt %d do=%v", opt.UDPSize(), opt.Do()))
				continue
			}
			lines = append(lines, []string{"", "; ", "+ "}[i]+strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	return strings.Join(lines, "\n")
}
