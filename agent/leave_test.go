package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
)

// leaving is a node on a host in memory that is about to leave.
type leaving struct {
	leaver
	mem     *host.Mem
	did     []string
	tunnel  bool  // runs
	refuses error // of unpinning
}

func newLeaving(t *testing.T) *leaving {
	t.Helper()
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	l := &leaving{mem: b.host}
	l.leaver = leaver{
		dir: b.dir, host: b.host, log: b.dir.Path(flowDir),
		unpin: func() error {
			l.did = append(l.did, "unpin")
			return l.refuses
		},
		unlink: func() error {
			l.did = append(l.did, "unlink")
			return nil
		},
		inTunnel: func(context.Context) bool { return l.tunnel },
	}
	return l
}

// record puts flow records into the node's log, of which some are shipped.
func (l *leaving) record(t *testing.T, n, shipped int) {
	t.Helper()
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	log, _, err := flow.OpenLog(flow.LogConfig{Store: flow.Dir(l.log), Boot: boot, Shipping: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := log.Append([]api.FlowRecord{{Node: "node-1"}}); err != nil {
			t.Fatal(err)
		}
		if i+1 == shipped {
			if err := log.SetShipped(log.End(), shipped); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

func (l *leaving) workloads(t *testing.T) int {
	t.Helper()
	ws, err := l.mem.Workloads()
	if err != nil {
		t.Fatal(err)
	}
	return len(ws)
}

func TestLeaveTakesEverything(t *testing.T) {
	l := newLeaving(t)
	l.record(t, 3, 3)
	left, err := l.leave(t.Context(), false)
	if err != nil || left != (Left{}) {
		t.Fatalf("left %+v, %v", left, err)
	}
	if l.workloads(t) != 0 || !slices.Equal(l.did, []string{"unpin", "unlink"}) {
		t.Errorf("%d workloads, did %v", l.workloads(t), l.did)
	}
	if hl, err := l.mem.HostLink(); err != nil || hl.Host.Ifindex != 0 {
		t.Errorf("host link %+v, %v", hl, err)
	}
	if _, err := os.Stat(string(l.dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("data directory: %v", err)
	}
	if left, err := l.leave(t.Context(), false); err != nil || left != (Left{}) {
		t.Errorf("once more: %+v, %v", left, err)
	}
}

func TestLeaveKeepsWhatWasNeverSent(t *testing.T) {
	l := newLeaving(t)
	l.record(t, 5, 2)
	left, err := l.leave(t.Context(), false)
	if err != nil || left.Kept != 3 || left.KeptIn != l.log {
		t.Fatalf("left %+v, %v", left, err)
	}
	entries, err := os.ReadDir(string(l.dir))
	if err != nil || len(entries) != 1 || entries[0].Name() != flowDir {
		t.Errorf("data directory %v, %v", entries, err)
	}
	if records, err := flow.Query(t.Context(), flow.Dir(l.log), api.FlowFilter{}); err != nil || len(records) != 5 {
		t.Errorf("%d records, %v", len(records), err)
	}
	if _, err := l.leave(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(string(l.dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("by force: %v", err)
	}
}

func TestLeaveRefusesWhileSomethingRuns(t *testing.T) {
	l := newLeaving(t)
	unlock, err := l.dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.leave(t.Context(), true); !errors.Is(err, state.ErrLocked) || !strings.Contains(err.Error(), "stop culvert agent") {
		t.Errorf("beside an agent: %v", err)
	}
	unlock()
	l.tunnel = true
	if _, err := l.leave(t.Context(), true); err == nil || !strings.Contains(err.Error(), "stop culvert tunnel") {
		t.Errorf("beside a tunnel: %v", err)
	}
	if l.workloads(t) != 1 || len(l.did) != 0 {
		t.Errorf("refused, but %d workloads, did %v", l.workloads(t), l.did)
	}
	if ok, err := l.dir.HasIdentity(); err != nil || !ok {
		t.Errorf("identity: %v, %v", ok, err)
	}
}

// What fails in the kernel leaves the identity, so that one can leave again.
func TestLeaveThatFailsCanBeRepeated(t *testing.T) {
	l := newLeaving(t)
	l.refuses = errors.New("busy")
	if _, err := l.leave(t.Context(), false); !errors.Is(err, l.refuses) {
		t.Fatalf("error %v", err)
	}
	if ok, err := l.dir.HasIdentity(); err != nil || !ok {
		t.Fatalf("identity: %v, %v", ok, err)
	}
	l.refuses = nil
	if _, err := l.leave(t.Context(), false); err != nil {
		t.Error(err)
	}
}

func TestJoinRefusesBesideAnAgent(t *testing.T) {
	dir := state.Dir(filepath.Join(t.TempDir(), "node"))
	if err := dir.Make(); err != nil {
		t.Fatal(err)
	}
	unlock, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := Join(t.Context(), JoinConfig{DataDir: string(dir)}); !errors.Is(err, state.ErrLocked) {
		t.Errorf("error %v", err)
	}
}
