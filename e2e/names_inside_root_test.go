package e2e

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/netns"
)

// insideAddress is what the server inside the VPC says that any name has.
const insideAddress = "10.0.1.78"

// insideServer is a DNS server in a workload until the test ends; asked counts its questions by transport.
type insideServer struct {
	mu    sync.Mutex
	asked map[string]int
	stop  func()
}

func (w *world) insideServer(t *testing.T, workload, address string) *insideServer {
	t.Helper()
	s := &insideServer{asked: map[string]int{}}
	var pc net.PacketConn
	var l net.Listener
	if err := netns.Do(netns.Path(wl(workload)), func() (err error) {
		if pc, err = net.ListenPacket("udp", address); err == nil {
			l, err = net.Listen("tcp", address)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if out, ok := s.answer("udp", buf[:n]); ok {
				_, _ = pc.WriteTo(out, from)
			}
		}
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			var length [2]byte
			if _, err := io.ReadFull(c, length[:]); err == nil {
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(c, query); err == nil {
					if out, ok := s.answer("tcp", query); ok {
						_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
					}
				}
			}
			c.Close()
		}
	})
	s.stop = sync.OnceFunc(func() { pc.Close(); l.Close(); wg.Wait() })
	t.Cleanup(s.stop)
	return s
}

func (s *insideServer) answer(transport string, query []byte) ([]byte, bool) {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil, false
	}
	q := m.Questions[0]
	s.mu.Lock()
	if s.asked[transport]++; q.Type == dnsmessage.TypeA { // a node's check asks for another type
		s.asked[transport+" of a client"]++
	}
	s.mu.Unlock()
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	if q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body: &dnsmessage.AResource{A: [4]byte(net.ParseIP(insideAddress).To4())}}}
	}
	out, err := m.Pack()
	return out, err == nil
}

func (s *insideServer) seen(transport string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[transport]
}

// A resolver rule may name a server in a workload of the VPC on another node. It is asked through an interface that is attached for that,
// over UDP and TCP, by the rules of its groups; without one the name is not answered, and the node says why.
func TestForwarderInsideTheVPC(t *testing.T) {
	w := mesh(t)
	s := w.insideServer(t, "till", "10.0.1.77:53")
	shop, ctx := w.as("shop"), t.Context()
	rule, err := shop.CreateResolverRule(ctx, api.CreateResolverRuleRequest{Domain: "inside.test", VPCs: []string{"shop"},
		Forwarders: []string{"10.0.1.77"}, PlainForwarders: true})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "resolver rule", func(ctx context.Context) error { return gone(shop.DeleteResolverRule(ctx, rule.ID)) })
	agent := local.NewClient(w.lab.AgentSocket("host-a"))
	complains := func() bool {
		st, err := agent.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(st.Errors, func(e string) bool { return strings.Contains(e, "--outbound") })
	}
	if err := w.converge(ctx); err != nil {
		t.Fatal(err)
	}
	if out := w.must(t, "cart", "dig", "+tries=1", "+time="+patient(5), "one.inside.test"); !strings.Contains(out, "status: SERVFAIL") || !complains() {
		t.Errorf("without an interface for it; complains %t:\n%s", complains(), out)
	}
	eni, err := shop.CreateENI(ctx, api.CreateENIRequest{Subnet: "shop", Name: "outbound", Node: "host-a"})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "interface", func(ctx context.Context) error { return gone(shop.DeleteENI(ctx, eni.ID)) })
	if _, err := w.lab.AddWorkload(ctx, shop, dev.Workload{Name: wl("outbound"), Host: "host-a", ENI: eni.ID}); err != nil {
		t.Fatal(err)
	}
	undo(t, "workload", func(ctx context.Context) error { return w.lab.DeleteWorkload(ctx, wl("outbound")) })
	if err := agent.Detach(ctx, local.DetachRequest{ENI: eni.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Attach(ctx, local.AttachRequest{ENI: eni.ID, Netns: netns.Path(wl("outbound")), DefaultRoute: true, Outbound: true}); err != nil {
		t.Fatal(err)
	}
	resolves := func(name string) error {
		if got := w.addresses(t, "cart", name)[name]; !slices.Equal(got, []string{insideAddress}) {
			return fmt.Errorf("%s is %v, want %s", name, got, insideAddress)
		}
		return nil
	}
	eventually(t, 15*time.Second, "the server in the VPC answers", func() error { return resolves("two.inside.test") })
	if s.seen("udp") == 0 || s.seen("tcp") != 0 || complains() {
		t.Errorf("asked %v, complains %t", s.asked, complains())
	}
	tcp := []string{"tcp://10.0.1.77"}
	if _, err := shop.ModifyResolverRule(ctx, rule.ID, api.ModifyResolverRuleRequest{Forwarders: &tcp}); err != nil {
		t.Fatal(err)
	}
	if err := w.converge(ctx); err != nil {
		t.Fatal(err)
	}
	if err := resolves("three.inside.test"); err != nil || s.seen("tcp") == 0 {
		t.Errorf("over TCP: %v; asked %v", err, s.asked)
	}
	w.kept(t, resolves)
	w.secondForwarder(t, rule.ID, s)
	w.groupOfOutbound(t, eni)
}

// kept: of a name that is asked for twice the query log says that the cache had it the second time, and who answered the first.
func (w *world) kept(t *testing.T, resolves func(name string) error) {
	t.Helper()
	shop, ctx, began := w.as("shop"), t.Context(), time.Now()
	q, err := shop.CreateQueryLog(ctx, api.CreateQueryLogRequest{Name: "kept", VPCs: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "query log", func(ctx context.Context) error { return gone(shop.DeleteQueryLog(ctx, q.ID)) })
	if err := w.converge(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := resolves("kept.inside.test"); err != nil {
			t.Error(err)
		}
	}
	eventually(t, 60*time.Second, "both questions are recorded", func() error {
		var got []string
		err := shop.Queries(ctx, api.QueriesQuery{QueryFilter: api.QueryFilter{VPC: "shop", Since: began, Name: "kept.inside.test"}},
			func(r *api.QueryRecord) error {
				got = append(got, fmt.Sprint(r.CacheHit, " ", r.Upstream))
				return nil
			})
		if want := []string{"false tcp://10.0.1.77:53", "true tcp://10.0.1.77:53"}; err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("cache and forwarder: %q, want %q", got, want)
		}
		return err
	})
}

// secondForwarder: one of a rule's two forwarders dies under questions, and each question has its answer by the other one; it comes back,
// and is asked again.
func (w *world) secondForwarder(t *testing.T, rule string, first *insideServer) {
	t.Helper()
	second := w.insideServer(t, "till", "10.0.1.77:5353")
	both := []string{"10.0.1.77", "10.0.1.77:5353"}
	if _, err := w.as("shop").ModifyResolverRule(t.Context(), rule, api.ModifyResolverRuleRequest{Forwarders: &both}); err != nil {
		t.Fatal(err)
	}
	if err := w.converge(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := 0
	ask := func(what string, times int) {
		t.Helper()
		for range times {
			n++
			// Once: the node itself asks the other one, after the two seconds that it waits for the first.
			out := w.must(t, "cart", "dig", "+short", "+tries=1", "+time="+patient(15), fmt.Sprintf("of-two-%d.inside.test", n))
			if strings.TrimSpace(out) != insideAddress {
				t.Errorf("%s: question %d is answered %q", what, n, out)
			}
		}
	}
	ask("both live", 3)
	first.stop()
	before := second.seen("udp")
	ask("the first is dead", 10)
	if got := second.seen("udp") - before; got < 10 {
		t.Errorf("the first is dead, and of 10 questions the second was asked %d", got)
	}
	again := w.insideServer(t, "till", "10.0.1.77:53")
	eventually(t, 60*time.Second, "the first is asked again", func() error {
		ask("the first is back", 1)
		again.mu.Lock()
		defer again.mu.Unlock()
		if again.asked["udp of a client"] == 0 {
			return fmt.Errorf("it was asked %v", again.asked)
		}
		return nil
	})
}

// groupOfOutbound demands that what the resolver asks is refused where the interface's groups say so, and recorded.
func (w *world) groupOfOutbound(t *testing.T, eni *api.ENI) {
	t.Helper()
	shop, ctx := w.as("shop"), t.Context()
	g, err := shop.CreateSecurityGroup(ctx, api.CreateSecurityGroupRequest{VPC: "shop", Name: "silent"})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "group", func(ctx context.Context) error { return gone(shop.DeleteSecurityGroup(ctx, g.ID)) })
	before := eni.SecurityGroups
	undo(t, "interface's groups", func(ctx context.Context) error {
		return gone(shop.ModifyENI(ctx, eni.ID, api.ModifyENIRequest{SecurityGroups: &before}))
	})
	for _, r := range g.Egress {
		if _, err := shop.RevokeRule(ctx, g.ID, r.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := shop.ModifyENI(ctx, eni.ID, api.ModifyENIRequest{SecurityGroups: &[]string{g.ID}}); err != nil {
		t.Fatal(err)
	}
	if err := w.converge(ctx); err != nil {
		t.Fatal(err)
	}
	if out := w.must(t, "cart", "dig", "+tries=1", "+time="+patient(6), "four.inside.test"); !strings.Contains(out, "status: SERVFAIL") {
		t.Errorf("what no group lets out:\n%s", out)
	}
	eventually(t, 15*time.Second, "a record of what was refused", func() error {
		found := false
		err := shop.Flows(ctx, api.FlowQuery{FlowFilter: api.FlowFilter{Interface: eni.ID, Action: api.ActionReject, Port: 53}},
			func(e api.FlowEnvelope) error {
				var r api.FlowRecord
				err := json.Unmarshal(e.Record, &r)
				found = found || r.Reason == "GROUP_EGRESS" && r.Tuple.DstAddr == "10.0.1.77"
				return err
			})
		if err == nil && !found {
			err = fmt.Errorf("none")
		}
		return err
	})
}
