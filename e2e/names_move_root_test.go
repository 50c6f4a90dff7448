package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// playing is an asker in a workload.
type playing struct {
	held string // the address that it is connected to
	in   io.WriteCloser
	out  *bufio.Scanner
}

// asker starts one that asks for a name, and holds a connection to a port of what answers.
func (w *world) asker(t *testing.T, workload, name, port string) *playing {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := w.in(t.Context(), workload, self, name, port)
	cmd.Env, cmd.Stderr = append(os.Environ(), roleVariable+"="+roleAsker), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	p := &playing{in: in, out: bufio.NewScanner(out)}
	if !p.out.Scan() {
		t.Fatalf("who asks for %s in %s did not begin: %v", name, workload, p.out.Err())
	}
	p.held = p.out.Text()
	return p
}

// finish has it stop, and demands that each query had its answer and that the connection lives.
func (p *playing) finish(t *testing.T, who string, want ...string) {
	t.Helper()
	var a asked
	if err := p.in.Close(); err != nil {
		t.Fatal(err)
	}
	if !p.out.Scan() {
		t.Fatalf("%s: no word: %v", who, p.out.Err())
	}
	if err := json.Unmarshal(p.out.Bytes(), &a); err != nil {
		t.Fatalf("%s: %v: %s", who, err, p.out.Text())
	}
	t.Logf("%s: %d of %d queries failed, the slowest took %s, answers %v; %d echoes over one connection", who, a.Failed, a.Queries,
		a.Slowest.Round(time.Millisecond), a.Answers, a.Echoes)
	t.Logf("%s: its process stood still for %s at worst, its own loopback answered within %s", who, a.Still.Round(time.Millisecond),
		a.Loopback.Round(time.Millisecond))
	slices.Sort(want)
	if a.Failed > 0 || a.Queries == 0 || !slices.Equal(slices.Sorted(maps.Keys(a.Answers)), want) {
		t.Errorf("%s: want each of %v and nothing else; failures: %s", who, want, strings.Join(a.Failures, "; "))
	}
	if a.Broken != "" || a.Echoes == 0 {
		t.Errorf("%s: the connection to %s has ended: %s", who, p.held, a.Broken)
	}
}

// endpoint makes one that is there while the test runs, with a chosen address in the account's subnet if there is one.
func (w *world) endpoint(t *testing.T, account, address string, r api.CreateEndpointRequest) (*api.Endpoint, string) {
	t.Helper()
	c := w.as(account)
	if r.VPC = account; address != "" {
		r.Addresses = map[string]netip.Addr{account: netip.MustParseAddr(address)}
	}
	e, err := c.CreateEndpoint(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "endpoint "+r.Name, func(ctx context.Context) error {
		_, err := c.DeleteEndpoint(ctx, e.ID)
		if isCode(err, api.CodeEndpointNotFound) {
			return nil
		}
		return err
	})
	n, err := c.GetENI(t.Context(), e.ENIs[0])
	if err != nil {
		t.Fatal(err)
	}
	return e, n.Address.String()
}

func isCode(err error, code api.ErrorCode) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == code
}

// refused demands an error of that code, with a remedy, whose message has all the words.
func refused(t *testing.T, what string, err error, code api.ErrorCode, words ...string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || e.Remedy == "" {
		t.Fatalf("%s: %v, want %s", what, err, code)
	}
	for _, word := range words {
		if !strings.Contains(e.Message, word) {
			t.Errorf("%s: %q does not name %q", what, e.Message, word)
		}
	}
}

// applied waits until the nodes have what was changed, and demands what a name is there.
func (w *world) applied(t *testing.T, workload, name string, want ...string) {
	t.Helper()
	if err := w.converge(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.resolves(t, workload, name, want...)
}

// resolves demands the addresses of a name; none: that there is no such name.
func (w *world) resolves(t *testing.T, workload, name string, want ...string) {
	t.Helper()
	if got := w.addresses(t, workload, name)[name]; !slices.Equal(got, want) {
		t.Errorf("%s is %v in %s, want %v", name, got, workload, want)
	}
}

// addresses are those that dig finds at one try for each name.
func (w *world) addresses(t *testing.T, workload string, names ...string) map[string][]string {
	t.Helper()
	argv := append([]string{"dig", "+noall", "+answer", "+tries=1", "+time=" + seconds(2)}, names...)
	found := map[string][]string{}
	for line := range strings.Lines(w.must(t, workload, argv...)) {
		if f := strings.Fields(line); len(f) == 5 && f[3] == "A" {
			name := strings.TrimSuffix(f[0], ".")
			found[name] = append(found[name], f[4])
		}
	}
	for _, list := range found {
		slices.Sort(list)
	}
	return found
}

// well waits until all targets of a group of pay's are healthy.
func (w *world) well(t *testing.T, group string) {
	t.Helper()
	eventually(t, 60*time.Second, "healthy targets of "+group, func() error {
		h, err := w.as("pay").TargetHealth(t.Context(), group)
		if err != nil {
			return err
		}
		for _, d := range h.Targets {
			if d.State != api.TargetHealthy {
				err = errors.Join(err, fmt.Errorf("%s is %s: %s", d.ENIName, d.State, d.Description))
			}
		}
		return err
	})
}

// A name goes from one endpoint to another by priority, by a new endpoint and by one that is deleted, while a workload asks for it
// and holds a connection: no query fails, the connection lives. So it does beside, in a VPC where the same name is somewhere else.
func TestNameMoves(t *testing.T) {
	w := meshAlone(t)
	w.echoServer(t)
	w.well(t, "ledger-tcp") // while no target is, all are used; and connections to those that stay ill end when one is
	const name = "ledger.pay.internal"
	pay, shop, ctx := w.as("pay"), w.as("shop"), t.Context()
	lb, err := pay.GetLoadBalancer(ctx, "ledger")
	if err != nil {
		t.Fatal(err)
	}
	s, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: "ledger-next", LoadBalancers: []string{lb.ID},
		AllowedPrincipals: []string{"shop", "stranger"}, PrivateDNSName: name})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "service", func(ctx context.Context) error { return gone(pay.DeleteService(ctx, s.ID)) })
	request := api.CreateEndpointRequest{Name: "ledger-next", Service: "pay/ledger-next", PrivateDNSEnabled: true}
	_, apart := w.endpoint(t, "stranger", "10.0.1.240", request)
	old, next := w.endpointAddress(t, "ledger"), "10.0.1.230"
	w.applied(t, "visitor", name, apart)
	cart, visitor := w.asker(t, "cart", name, "443"), w.asker(t, "visitor", name, "443")

	request.PrivateDNSPriority = 200
	e, _ := w.endpoint(t, "shop", next, request)
	w.applied(t, "cart", name, old)
	priority := func(n uint16) error {
		_, err := shop.ModifyEndpoint(ctx, e.ID, api.ModifyEndpointRequest{PrivateDNSPriority: &n})
		return err
	}
	refused(t, "a second endpoint of the same priority", priority(100), api.CodeConflictingDomain, "pay/ledger", name)
	for range 2 {
		for _, c := range []struct {
			priority uint16
			want     string
		}{{1000, old}, {50, next}, {101, old}, {99, next}} {
			if err := priority(c.priority); err != nil {
				t.Fatal(err)
			}
			w.applied(t, "cart", name, c.want)
		}
	}
	if _, err := shop.DeleteEndpoint(ctx, e.ID); err != nil {
		t.Fatal(err)
	}
	w.applied(t, "cart", name, old)
	request.PrivateDNSPriority = 50
	w.endpoint(t, "shop", next, request) // which has the name from the beginning
	w.applied(t, "cart", name, next)

	if cart.held != old || visitor.held != apart {
		t.Errorf("cart is connected to %s, want %s; the stranger's workload to %s, want %s", cart.held, old, visitor.held, apart)
	}
	cart.finish(t, "cart", old, next)
	visitor.finish(t, "visitor", apart)
}
