package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/underlay"
)

// endpointAddress is the address of an endpoint of shop's.
func (w *world) endpointAddress(t *testing.T, endpoint string) string {
	t.Helper()
	ep, err := w.as("shop").GetEndpoint(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	eni, err := w.as("shop").GetENI(t.Context(), ep.ENIs[0])
	if err != nil {
		t.Fatal(err)
	}
	return eni.Address.String()
}

func TestProviderCannotReachTheConsumer(t *testing.T) {
	w := mesh(t)
	w.start(t, "cart", "socat", "TCP4-LISTEN:8080,fork,reuseaddr", "EXEC:/bin/cat")
	w.start(t, "cart", "socat", "UDP4-LISTEN:8080,fork,reuseaddr", "EXEC:/bin/cat")
	lb, err := w.as("pay").GetLoadBalancer(t.Context(), "ledger")
	if err != nil {
		t.Fatal(err)
	}
	eni, err := w.as("pay").GetENI(t.Context(), lb.ENIs[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, dst := range []string{w.endpointAddress(t, "ledger"), eni.Address.String(), "10.0.1.77"} {
		for _, kind := range []string{"TCP4", "UDP4"} {
			out, err := w.run(t, "ledger-2", "sh", "-c", "echo hello | socat -t 1 -T 1 - "+kind+":"+dst+":8080,connect-timeout=1")
			if strings.Contains(out, "hello") {
				t.Errorf("%s from the provider to %s was answered (%v)", kind, dst, err)
			}
		}
	}
}

func TestStrangerReachesNothing(t *testing.T) {
	w := mesh(t)
	vip := w.endpointAddress(t, "ledger")
	for _, dst := range []string{vip, "10.0.1.6", "10.0.1.7", "10.99.0.1", "10.99.0.10", "169.254.169.254"} {
		if out, err := w.run(t, "visitor", "curl", "-sk", "--max-time", "1", "https://"+dst+"/"); err == nil {
			t.Errorf("the stranger reached %s: %s", dst, out)
		}
	}
	_, err := w.as("stranger").CreateEndpoint(t.Context(), api.CreateEndpointRequest{VPC: "stranger", Service: "pay/ledger"})
	var e *api.Error
	if !errors.As(err, &e) || e.Remedy == "" {
		t.Errorf("endpoint of an account that is not allowed: %v", err)
	}
	out, err := w.run(t, "visitor", "getent", "hosts", "ledger.pay.internal")
	if err == nil {
		t.Errorf("another account's private name resolves for the stranger: %s", out)
	}
}

func TestNamesAreTheVPCsOwn(t *testing.T) {
	w := mesh(t)
	vip := w.endpointAddress(t, "ledger")
	if out := w.must(t, "cart", "getent", "ahostsv4", "ledger.pay.internal"); !strings.HasPrefix(out, vip+" ") {
		t.Errorf("ledger.pay.internal is %s, want %s", out, vip)
	}
	ep, err := w.as("shop").GetEndpoint(t.Context(), "ledger")
	if err != nil {
		t.Fatal(err)
	}
	if out := w.must(t, "cart", "getent", "ahostsv4", ep.DNSNames[0]); !strings.HasPrefix(out, vip+" ") {
		t.Errorf("%s is %s, want %s", ep.DNSNames[0], out, vip)
	}
	if out, err := w.run(t, "cart", "getent", "ahostsv4", "nothing.pay.internal"); err == nil {
		t.Errorf("a name that does not exist resolves: %s", out)
	}
}

func TestRejectCutsAnEstablishedTransfer(t *testing.T) {
	w := mesh(t)
	w.start(t, "ledger-1", "socat", "TCP4-LISTEN:443,fork,reuseaddr", "SYSTEM:yes")
	w.start(t, "ledger-2", "socat", "TCP4-LISTEN:443,fork,reuseaddr", "SYSTEM:yes")
	ctx, cancel := context.WithTimeout(t.Context(), slack*60*time.Second*slowness())
	defer cancel()
	eventually(t, 10*time.Second, "the service", func() error {
		_, err := w.run(t, "cart", "sh", "-c", "socat -u TCP4:ledger.pay.internal:443,connect-timeout="+seconds(1)+
			" - | head -c 1000000 | wc -c | grep -q 1000000")
		return err
	})
	transfer := w.in(ctx, "cart", "sh", "-c", "socat -u TCP4:ledger.pay.internal:443 /dev/null")
	if err := transfer.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = transfer.Wait() }()
	select {
	case <-ended:
		t.Fatal("the transfer ended before anything was done")
	case <-time.After(time.Second):
	}
	ep, err := w.as("shop").GetEndpoint(ctx, "ledger")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := w.as("pay").RejectConnections(ctx, "ledger", []string{ep.ID}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.reconnect(t) })
	select {
	case <-ended:
		t.Logf("cut %s after the provider rejected", time.Since(began).Round(time.Millisecond))
	case <-time.After(slack * 10 * time.Second * slowness()):
		t.Error("the transfer still runs long after the connection was rejected")
	}
	if out, err := w.run(t, "cart", "socat", "-u", "TCP4:"+w.endpointAddress(t, "ledger")+":443,connect-timeout=2", "/dev/null"); err == nil {
		t.Errorf("a rejected endpoint still lets in: %s", out)
	}
}

// reconnect puts the endpoint "ledger" back.
func (w *world) reconnect(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), slack*30*time.Second*slowness())
	defer cancel()
	shop, pay := w.as("shop"), w.as("pay")
	if _, err := shop.DeleteEndpoint(ctx, "ledger"); err != nil {
		t.Errorf("put back: %v", err)
	}
	ep, err := shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Name: "ledger", Service: "pay/ledger",
		PrivateDNSEnabled: true})
	if err != nil {
		t.Errorf("put back: %v", err)
		return
	}
	if _, err := pay.AcceptConnections(ctx, "ledger", []string{ep.ID}); err != nil {
		t.Errorf("put back: %v", err)
	}
	if err := w.converge(ctx); err != nil {
		t.Errorf("put back: %v", err)
	}
}

func TestHostileHostIsRefusedByTheReceiver(t *testing.T) {
	w := mesh(t)
	ctx, cancel := context.WithTimeout(t.Context(), slack*60*time.Second*slowness())
	defer cancel()
	ep, err := w.as("shop").GetEndpoint(ctx, "ledger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), slack*60*time.Second*slowness())
		defer cancel()
		if err := w.lab.Start(ctx, "", ""); err != nil {
			t.Errorf("put back: %v", err)
		}
	})
	r, err := w.lab.Attack(ctx, "host-a", ep.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range r.Attempts {
		t.Logf("%-60s sent %d, refused %d as %s", a.What, a.Sent, a.Refused, a.Reason)
		if !a.OK() || a.Sent == 0 {
			t.Errorf("%s: %d of %d refused as %s", a.What, a.Refused, a.Sent, a.Reason)
		}
	}
	if r.Forwarded != 0 || r.Arrived != r.Expected {
		t.Errorf("arrived %d, want %d; forwarded %d, want none", r.Arrived, r.Expected, r.Forwarded)
	}
}

func TestUnderlayCarriesNothingInClear(t *testing.T) {
	w := mesh(t)
	cert := w.nginx(t, "ledger-1")
	w.nginx(t, "ledger-2")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := make(chan struct{})
	type result struct {
		r   underlay.Report
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := w.lab.Capture(ctx, []string{"DEMO-SECRET-MARKER", "ledger.pay.internal"}, func() { close(ready) })
		done <- result{r, err}
	}()
	select {
	case <-ready:
	case res := <-done:
		t.Fatal(res.err)
	}
	for range 10 {
		w.must(t, "cart", "curl", "-sS", "--max-time", patient(5), "--cacert", cert, "https://ledger.pay.internal/")
	}
	if err := w.lab.Kill("host-a", "agent", false); err != nil {
		t.Fatal(err)
	}
	w.must(t, "cart", "curl", "-sS", "--max-time", patient(5), "--cacert", cert, "--resolve",
		"ledger.pay.internal:443:"+w.endpointAddress(t, "ledger"), "https://ledger.pay.internal/")
	if err := w.lab.Start(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	cancel()
	res := <-done
	if res.err != nil || !res.r.OK() || res.r.Packets[underlay.WireGuard] == 0 {
		t.Errorf("%v, %v", res.r.Lines(), res.err)
	}
	t.Log(strings.Join(res.r.Lines(), "\n"))
}
