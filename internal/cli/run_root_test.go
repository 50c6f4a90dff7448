package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/netns"
)

// notingAgent attaches nothing and remembers what it was asked for.
type notingAgent struct {
	cannedAgent
	mu       sync.Mutex
	attached []local.AttachRequest
	inside   os.FileInfo // the namespace of the last one
	detached []string
	refuse   error
}

func (c *notingAgent) Attach(_ context.Context, r local.AttachRequest) (local.AttachResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if c.inside, err = os.Stat(r.Netns); err != nil || !netns.Exists(r.Netns) {
		return local.AttachResponse{}, fmt.Errorf("no such namespace: %s: %w", r.Netns, err)
	}
	if c.refuse != nil {
		return local.AttachResponse{}, c.refuse
	}
	c.attached = append(c.attached, r)
	return local.AttachResponse{ENI: r.ENI, Interface: r.Interface, Resolver: netip.MustParseAddr("10.0.0.2")}, nil
}

func (c *notingAgent) Detach(_ context.Context, r local.DetachRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detached = append(c.detached, r.ENI)
	return nil
}

func serveNoting(t *testing.T, c *notingAgent) (socket string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	clearEnvironment(t, t.TempDir())
	socket = filepath.Join(t.TempDir(), "a.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- local.Serve(ctx, socket, c, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	netlab.Eventually(t, patience, func() bool {
		_, err := os.Stat(socket)
		return err == nil
	}, "the agent's socket")
	return socket
}

const jobENI = "eni-00000000000000009"

func TestRunInsideANetworkOfItsOwn(t *testing.T) {
	agent := &notingAgent{}
	socket := serveNoting(t, agent)
	status, out, errOut := once(t, "run", "--socket", socket, "--eni", jobENI, "--interface", "eth7", "--",
		"sh", "-c", "cat /etc/resolv.conf; ls /sys/class/net; cat /sys/class/net/lo/flags; exit 7")
	if status != 7 || errOut != "" {
		t.Fatalf("status %d, %q", status, errOut)
	}
	if want := "# written by culvert run\nnameserver 10.0.0.2\noptions timeout:2 attempts:3\nlo\n0x9\n"; out != want {
		t.Errorf("inside:\n%s", out)
	}
	if a := agent.attached; len(a) != 1 || a[0].ENI != jobENI || a[0].Interface != "eth7" || !a[0].DefaultRoute {
		t.Errorf("attached %+v", agent.attached)
	}
	if !slices.Equal(agent.detached, []string{jobENI}) {
		t.Errorf("detached %v", agent.detached)
	}
	netlab.Eventually(t, patience, func() bool { // its thread is gone, or another has its number
		now, err := os.Stat(agent.attached[0].Netns)
		return err != nil || !os.SameFile(now, agent.inside)
	}, "the namespace goes")
}

func TestRunEndsAsItsCommandDoes(t *testing.T) {
	agent := &notingAgent{}
	socket := serveNoting(t, agent)
	for script, want := range map[string]int{"true": 0, "kill -KILL $$": 137} {
		status, _, errOut := once(t, "run", "--socket", socket, "--eni", jobENI, "--", "sh", "-c", script)
		if status != want || errOut != "" {
			t.Errorf("%s: status %d, %q", script, status, errOut)
		}
	}
	r := start(t, "run", "--socket", socket, "--eni", jobENI, "--", "sh", "-c", "echo up; exec sleep 600")
	netlab.Eventually(t, patience, func() bool { return r.out.String() == "up\n" }, "the command runs")
	if status := r.stop(); status != 143 {
		t.Errorf("interrupted: status %d, %q", status, r.err.String())
	}
	if len(agent.detached) != 3 {
		t.Errorf("detached %v", agent.detached)
	}
}

func TestRunThatCannot(t *testing.T) {
	refusal := &api.Error{Code: api.CodeENINotFound, Field: "eniId", Message: "is not of this node", Remedy: "bind it"}
	agent := &notingAgent{refuse: refusal}
	socket := serveNoting(t, agent)
	for args, want := range map[string]string{
		"run --eni " + jobENI + " -- no-such-program": "COMMAND: ",
		"run --eni " + jobENI + " -- true":            "--eni: ",
		"run -- true":                                 "--eni",
		"run --eni " + jobENI:                         "COMMAND",
	} {
		t.Setenv("CULVERT_AGENT_SOCKET", socket)
		status, _, errOut := once(t, strings.Fields(args)...)
		if status != 1 || !strings.Contains(errOut, want) {
			t.Errorf("%s: status %d, %q", args, status, errOut)
		}
	}
	if len(agent.detached) != 0 {
		t.Errorf("detached what was never attached: %v", agent.detached)
	}
}
