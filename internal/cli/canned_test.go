package cli

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
)

// cannedAgent answers as an agent would, always the same.
type cannedAgent struct{}

func (cannedAgent) Attach(_ context.Context, r local.AttachRequest) (local.AttachResponse, error) {
	unnamed := ""
	if r.Netns == "/proc/1/ns/net" {
		unnamed = "it has the mounts of the host"
	}
	return local.AttachResponse{ENI: r.ENI, Interface: r.Interface, Address: netip.MustParseAddr("10.0.1.5"), MTU: 1340,
		Resolver: netip.MustParseAddr("10.0.0.2"), Unnamed: unnamed}, nil
}

func (cannedAgent) Detach(context.Context, local.DetachRequest) error { return nil }

func (cannedAgent) Status(context.Context) (local.Status, error) {
	return local.Status{Node: "node-0a1b2c3d4e5f60718", Name: "node-a", Version: "v0-test", Revision: 7, Generation: 3,
		ViewAge: 4 * time.Second, Connected: true, Errors: []string{"table routes: no such device"}, Flows: 2,
		Peers: []local.PeerStatus{{Node: "node-0a1b2c3d4e5f60719", Underlay: "192.0.2.2:51820", RxBytes: 148, TxBytes: 92}},
		Workloads: []local.Workload{
			{ENI: "eni-0a1b2c3d4e5f60718", Address: netip.MustParseAddr("10.0.1.5"), Netns: "/run/netns/cart", Interface: "eni0",
				State: "up"},
			{ENI: "eni-0a1b2c3d4e5f60719", Netns: "/proc/4711/ns/net", Interface: "eni0", State: "detached: /proc/4711/ns/net is gone"},
		},
		Counters: []local.Counter{{ENI: "eni-0a1b2c3d4e5f60718", Hook: "workload", Reason: "FORWARDED", Packets: 9, Bytes: 900}},
	}, nil
}

func (cannedAgent) PlanText(context.Context) (string, error) { return "", nil }

// Explain lets flows to port 443 through.
func (cannedAgent) Explain(_ context.Context, r local.ExplainRequest) (api.Explanation, error) {
	x := api.Explanation{Allowed: r.Port == 443, Stages: []api.Stage{
		{Name: "source", OK: true, Detail: r.From + " is 10.0.1.5, attached on this node"},
		{Name: "listener", OK: true, Detail: "443/tcp"},
	}}
	if !x.Allowed {
		x.Stages[1] = api.Stage{Name: "listener", Reason: "NO_LISTENER", Detail: "nothing listens there on this port: it has 443/tcp",
			Remedy: "use one of these ports"}
	}
	return x, nil
}

// Whois knows one address.
func (cannedAgent) Whois(_ context.Context, address string) (local.Whois, error) {
	a := netip.MustParseAddr("fd70:6c01:0:2:a00:105:8007:1683")
	if address != a.String() {
		return local.Whois{}, api.Errorf(api.CodeAddressNotFound, "address", "ask on another node", "nothing has the address %s", address)
	}
	return local.Whois{Whois: api.Whois{Address: a, Account: "210987654321", VPC: "vpc-0a1b2c3d4e5f60718",
		VPCAddress: netip.MustParseAddr("10.0.1.5")}, AskedNode: "node-0a1b2c3d4e5f60718", Revision: 7,
		AsOf: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, nil
}

func (cannedAgent) Flows(_ context.Context, f api.FlowFilter, _ bool, fn func(*api.FlowRecord) error) error {
	r := &api.FlowRecord{Interface: "eni-0a1b2c3d4e5f60718", Action: api.ActionReject,
		End: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Reason: "GROUP_EGRESS", Protocol: 17,
		Tuple: api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 1024, DstAddr: "10.0.1.9", DstPort: 53}, Packets: 3, Bytes: 180}
	if !f.Match(r) {
		return nil
	}
	return fn(r)
}

// startAgent serves a cannedAgent until the test ends.
func startAgent(t *testing.T, dir string) (socket string) {
	t.Helper()
	socket = filepath.Join(dir, "agent.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- local.Serve(ctx, socket, cannedAgent{}, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := local.NewClient(socket).Status(ctx); err == nil {
			return socket
		} else if time.Now().After(deadline) {
			t.Fatalf("the agent does not answer: %v", err)
		}
	}
}
