package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// echoServer answers each line on TCP port 443 of the ledger's targets.
func (w *world) echoServer(t *testing.T) {
	t.Helper()
	for _, workload := range []string{"ledger-1", "ledger-2"} {
		w.start(t, workload, "socat", "TCP4-LISTEN:443,fork,reuseaddr", "EXEC:/bin/cat")
	}
	eventually(t, 10*time.Second, "echo service", func() error { return w.echo(t.Context()) })
}

// echo is one new connection with one request and answer.
func (w *world) echo(ctx context.Context) error {
	address := w.ledgerAddress() // which takes its time while the server is dead
	ctx, cancel := context.WithTimeout(ctx, slack*5*time.Second*slowness())
	defer cancel()
	out, err := w.in(ctx, "cart", "sh", "-c",
		"echo hello | socat -t "+patient(2)+" - TCP4:"+address+":443,connect-timeout="+patient(2)).CombinedOutput()
	if err == nil && !strings.Contains(string(out), "hello") {
		err = fmt.Errorf("answer %q", out)
	}
	return err
}

func (w *world) ledgerAddress() string {
	ep, err := w.as("shop").GetEndpoint(context.Background(), "ledger")
	if err != nil {
		return "ledger.pay.internal" // the server is down: the name works all the same
	}
	eni, err := w.as("shop").GetENI(context.Background(), ep.ENIs[0])
	if err != nil {
		return "ledger.pay.internal"
	}
	return eni.Address.String()
}

func TestWorksWithoutTheServer(t *testing.T) {
	w := mesh(t)
	w.echoServer(t)
	if err := w.lab.Kill("server", "server", false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), slack*60*time.Second*slowness())
		defer cancel()
		if err := w.lab.Start(ctx, "", ""); err != nil {
			t.Errorf("put back: %v", err)
		}
	})
	roles := []string{"agent", "tunnel"}
	if kernelTunnel() {
		roles = roles[:1] // there is no process
	}
	for _, role := range roles {
		for _, host := range []string{"host-a", "host-b"} {
			if err := w.lab.Kill(host, role, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, host := range []string{"host-a", "host-b"} {
		if err := w.lab.Start(t.Context(), host, ""); err != nil {
			t.Fatalf("without the server, %s does not start: %v", host, err)
		}
	}
	began := time.Now()
	eventually(t, 25*time.Second, "forwarding and names from disk", func() error {
		out, err := w.run(t, "cart", "sh", "-c", "echo hello | socat -t "+seconds(2)+" - TCP4:ledger.pay.internal:443,connect-timeout="+seconds(1))
		if err == nil && !strings.Contains(out, "hello") {
			err = fmt.Errorf("answer %q", out)
		}
		return err
	})
	t.Logf("n=1: names and forwarding %s after both nodes restarted without a server", time.Since(began).Round(time.Millisecond))
}
