package controlplane

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/api"
)

// What a node records while the server's disk is full stays with the node, which sends it until it is taken: each record is there
// once, and before there is room the server says why it takes none.
func TestFlowsWaitForTheServersDisk(t *testing.T) {
	var flows string
	l := startLab(t, func(c *Config) {
		flows = filepath.Join(c.DataDir, "flows")
		if err := os.Mkdir(flows, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("culvert-test", flows, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(flows, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	})
	h := l.host("host-a")
	kept, _, err := flow.OpenLog(flow.LogConfig{Store: flow.NewMemStore(), Boot: "boot", Shipping: true})
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan sending, 10_000)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	shipped := make(chan struct{})
	sink := flow.EnvelopeSink(func(ctx context.Context, es []api.FlowEnvelope) error {
		_, err := h.SendFlows(ctx, es)
		answers <- sending{len(es), err}
		return err
	})
	go func() {
		defer close(shipped)
		flow.NewShipper(flow.ShipperConfig{Log: kept, Sink: sink, Batch: 16, RetryMin: time.Millisecond,
			RetryMax: 20 * time.Millisecond}).Run(ctx)
	}()
	defer func() { cancel(); <-shipped }()

	const total = 400 // more than the disk holds
	for range total {
		if err := kept.Append([]api.FlowRecord{{Node: h.id, End: time.Now().UTC(), Reason: strings.Repeat("R", 100)}}); err != nil {
			t.Fatal(err)
		}
	}
	accepted := 0
	for refused := 0; refused < 3; {
		a := next(t, answers)
		if a.err == nil {
			accepted += a.records
		} else {
			refused++
			if e := wantCode(t, a.err, api.CodeUnavailable); !strings.Contains(e.Message, "disk is full") || !strings.Contains(e.Remedy, "make room") {
				t.Errorf("said %v", e)
			}
		}
	}
	have := len(collect(t, l.admin(), api.FlowQuery{FlowFilter: api.FlowFilter{Limit: 2 * total}}))
	if n := kept.Stats().Pending; n == 0 || have != accepted || have+n != total {
		t.Errorf("%d there, %d acknowledged, %d wait, of %d", have, accepted, n, total)
	}
	if err := unix.Mount("", flows, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	for accepted < total {
		if a := next(t, answers); a.err == nil {
			accepted += a.records
		}
	}
	cancel()
	<-shipped
	if n := kept.Stats().Pending; n > 0 {
		t.Errorf("%d still wait", n)
	}
	seen := map[uint64]int{}
	for _, seq := range collect(t, l.admin(), api.FlowQuery{FlowFilter: api.FlowFilter{Limit: 2 * total}}) {
		seen[seq]++
	}
	for seq := range uint64(total) {
		if seen[seq+1] != 1 {
			t.Errorf("record %d is there %d times", seq+1, seen[seq+1])
		}
	}
}

// sending is a batch and what came of it.
type sending struct {
	records int
	err     error
}

func next(t *testing.T, answers <-chan sending) sending {
	t.Helper()
	select {
	case a := <-answers:
		return a
	case <-time.After(20 * time.Second):
		t.Fatal("no answer")
		return sending{}
	}
}
