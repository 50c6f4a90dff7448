package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netns"
)

// verificationResolver is where the mesh's server looks for records that prove domains: in its own namespace, where nobody
// answers but a txtServer.
const verificationResolver = "127.0.0.1:53"

// txtServer is the DNS of the Internet, as far as it has TXT records.
type txtServer struct {
	mu      sync.Mutex
	records map[string]string
}

func (s *txtServer) set(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = map[string]string{name + ".": value}
}

// txtServer answers the mesh's server until the test ends.
func (w *world) txtServer(t *testing.T) *txtServer {
	t.Helper()
	s := &txtServer{}
	var pc net.PacketConn
	if err := netns.Do(netns.Path(prefix+"-server"), func() (err error) {
		pc, err = net.ListenPacket("udp", verificationResolver)
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
			if out, ok := s.answer(buf[:n]); ok {
				_, _ = pc.WriteTo(out, from)
			}
		}
	})
	t.Cleanup(func() { pc.Close(); wg.Wait() })
	return s
}

func (s *txtServer) answer(query []byte) ([]byte, bool) {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil, false
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	s.mu.Lock()
	value, ok := s.records[q.Name.String()]
	s.mu.Unlock()
	switch {
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeTXT:
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body: &dnsmessage.TXTResource{TXT: []string{value}}}}
	}
	out, err := m.Pack()
	return out, err == nil
}

// An account proves a domain by a TXT record, and has names in it from then on. When the record is gone those who have the name
// keep it, and nobody else gets it.
func TestDomainIsProved(t *testing.T) {
	w := mesh(t)
	internet := w.txtServer(t)
	pay, shop, ctx := w.as("pay"), w.as("shop"), t.Context()
	const name = "ledger.example.com"
	lb, err := pay.GetLoadBalancer(ctx, "ledger")
	if err != nil {
		t.Fatal(err)
	}
	d, err := pay.CreateDomain(ctx, api.CreateDomainRequest{Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "domain", func(ctx context.Context) error { return gone(pay.DeleteDomain(ctx, d.ID)) })
	if d.State != api.DomainPending || !strings.HasSuffix(d.VerificationName, ".example.com") {
		t.Fatalf("a new domain is %+v", d)
	}
	look := func(state api.DomainState, misses uint32) {
		t.Helper()
		if _, err := pay.VerifyDomain(ctx, d.ID); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, fmt.Sprintf("the domain is %s, missed %d times", state, misses), func() error {
			got, err := pay.GetDomain(ctx, "example.com")
			if err == nil && (got.State != state || got.Misses != misses) {
				err = fmt.Errorf("it is %s, missed %d times: %s", got.State, got.Misses, got.Message)
			}
			return err
		})
	}
	service := api.CreateServiceRequest{Name: "proved", LoadBalancers: []string{lb.ID}, AllowedPrincipals: []string{"shop"}, PrivateDNSName: name}
	internet.set(d.VerificationName, "vpce:of-somebody-else")
	look(api.DomainPending, 0)
	_, err = pay.CreateService(ctx, service)
	refused(t, "a name in a domain that is not proved", err, api.CodeDomainNotOwned, name)

	internet.set(d.VerificationName, d.VerificationValue)
	look(api.DomainVerified, 0)
	s, err := pay.CreateService(ctx, service)
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "service", func(ctx context.Context) error { return gone(pay.DeleteService(ctx, s.ID)) })
	_, first := w.endpoint(t, "shop", "", api.CreateEndpointRequest{Name: "proved", Service: "pay/proved", PrivateDNSEnabled: true})
	w.applied(t, "cart", name, first)

	internet.set("", "")
	look(api.DomainVerified, 1)
	look(api.DomainVerified, 2)
	look(api.DomainFailed, 3)
	w.applied(t, "cart", name, first)
	second := api.CreateEndpointRequest{VPC: "shop", Name: "late", Service: "pay/proved", PrivateDNSEnabled: true, PrivateDNSPriority: 10}
	_, err = shop.CreateEndpoint(ctx, second)
	refused(t, "an endpoint for a name that is not proved any more", err, api.CodeDomainNotVerified, name)
	w.applied(t, "cart", name, first)

	internet.set(d.VerificationName, d.VerificationValue)
	look(api.DomainVerified, 0)
	_, moved := w.endpoint(t, "shop", "", second)
	w.applied(t, "cart", name, moved)
}
