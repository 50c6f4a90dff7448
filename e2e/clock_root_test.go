package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
)

// A node that finds its clock an hour behind the last use of its key gets another one by itself, from its disk to its peers, and
// what it carries goes on.
func TestClockThatWentBack(t *testing.T) {
	w := mesh(t)
	w.echoServer(t)
	before, err := w.as("").GetNode(t.Context(), "host-a")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.lab.Kill("host-a", "agent", false); err != nil {
		t.Fatal(err)
	}
	dir := state.Dir(w.lab.StateDir("nodes", "host-a"))
	use, err := dir.LoadKeyUse()
	if err != nil || use.PublicKey != before.PublicKey || time.Since(use.Latest) > time.Hour {
		t.Fatalf("use of the key %s is noted as %+v, %v", before.PublicKey, use, err)
	}
	// To the agent it is the same whether this lies ahead or its clock behind.
	use.Latest = time.Now().Add(time.Hour)
	if err := dir.SaveKeyUse(use); err != nil {
		t.Fatal(err)
	}
	if err := w.lab.Start(t.Context(), "host-a", "agent"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var after *api.NodeReport
	eventually(t, 30*time.Second, "another key", func() error {
		if after, err = w.as("").GetNode(t.Context(), "host-a"); err == nil && after.PublicKey == before.PublicKey {
			err = errors.New("the key is the same")
		}
		return err
	})
	if err := w.converge(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "traffic under the new key", func() error { return w.echo(t.Context()) })
	t.Logf("n=1: another key and traffic under it %s after the start", time.Since(began).Round(time.Millisecond))
	eventually(t, 10*time.Second, "a status without trouble", func() error {
		n, err := w.as("").GetNode(t.Context(), "host-a")
		if err == nil && n.Status != nil && strings.Contains(strings.Join(n.Status.Errors, "; "), "clock") {
			err = errors.New(strings.Join(n.Status.Errors, "; "))
		}
		return err
	})
	if use, err := dir.LoadKeyUse(); err != nil || use.PublicKey != after.PublicKey || use.Latest.After(time.Now()) {
		t.Errorf("use of the new key is noted as %+v, %v", use, err)
	}
	if left, err := dir.HasNextWireKey(); left || err != nil {
		t.Errorf("a next key is left: %v, %v", left, err)
	}
	// The agent's next start keeps it.
	if err := w.lab.Kill("host-a", "agent", false); err != nil {
		t.Fatal(err)
	}
	if err := w.lab.Start(context.WithoutCancel(t.Context()), "host-a", "agent"); err != nil {
		t.Fatal(err)
	}
	if err := w.converge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := w.as("").GetNode(t.Context(), "host-a"); err != nil || n.PublicKey != after.PublicKey {
		t.Errorf("after another start the key is %s, was %s, %v", n.PublicKey, after.PublicKey, err)
	}
}
