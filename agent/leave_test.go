package agent

import (
	"context"
	"errors"
	"fmt"
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
	server  error // says to the node's leaving
	answer  api.LeaveResponse
}

func newLeaving(t *testing.T) *leaving {
	t.Helper()
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	l := &leaving{mem: b.host, answer: api.LeaveResponse{Forgotten: true}}
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
		tell: func(_ context.Context, id *state.Identity, force bool) (*api.LeaveResponse, error) {
			l.did = append(l.did, fmt.Sprintf("tell %s %v", id.Name, force))
			return &l.answer, l.server
		},
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
	left, err := l.leave(t.Context(), LeaveOptions{})
	if err != nil || left != (Left{Node: left.Node, Name: left.Name, Mesh: MeshForgotten}) || left.Node == "" {
		t.Fatalf("left %+v, %v", left, err)
	}
	if l.workloads(t) != 0 || !slices.Equal(l.did, []string{"tell " + left.Name + " false", "unpin", "unlink"}) {
		t.Errorf("%d workloads, did %v", l.workloads(t), l.did)
	}
	if hl, err := l.mem.HostLink(); err != nil || hl.Host.Ifindex != 0 {
		t.Errorf("host link %+v, %v", hl, err)
	}
	if _, err := os.Stat(string(l.dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("data directory: %v", err)
	}
	if left, err := l.leave(t.Context(), LeaveOptions{}); err != nil || left != (Left{Mesh: MeshNotTold}) {
		t.Errorf("once more: %+v, %v", left, err)
	}
}

func TestLeaveKeepsWhatWasNeverSent(t *testing.T) {
	l := newLeaving(t)
	l.record(t, 5, 2)
	left, err := l.leave(t.Context(), LeaveOptions{})
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
	if _, err := l.leave(t.Context(), LeaveOptions{Force: true}); err != nil {
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
	if _, err := l.leave(t.Context(), LeaveOptions{Force: true}); !errors.Is(err, state.ErrLocked) || !strings.Contains(err.Error(), "stop culvert agent") {
		t.Errorf("beside an agent: %v", err)
	}
	unlock()
	l.tunnel = true
	if _, err := l.leave(t.Context(), LeaveOptions{Force: true}); err == nil || !strings.Contains(err.Error(), "stop culvert tunnel") {
		t.Errorf("beside a tunnel: %v", err)
	}
	if l.workloads(t) != 1 || len(l.did) != 0 {
		t.Errorf("refused, but %d workloads, did %v", l.workloads(t), l.did)
	}
	if ok, err := l.dir.HasIdentity(); err != nil || !ok {
		t.Errorf("identity: %v, %v", ok, err)
	}
}

// A server that cannot be told, or refuses, leaves all as it was; --local goes on without it.
func TestLeaveAsksTheServerFirst(t *testing.T) {
	l := newLeaving(t)
	for _, c := range []struct {
		name    string
		says    error
		code    api.ErrorCode
		remedy  string
		message string
	}{
		{"out of reach", errors.New("connection refused"), api.CodeUnavailable, "--local", "connection refused"},
		{"no store", api.Errorf(api.CodeUnavailable, "", "wait", "no store"), api.CodeUnavailable, "culvert node revoke", "no store"},
		{"bad certificate", api.Errorf(api.CodeCertificateInvalid, "", "renew it", "expired"), api.CodeUnavailable, "--local", "expired"},
		{"interfaces", api.Errorf(api.CodeDependencyViolation, "id", "use --force", "eni-1"), api.CodeDependencyViolation, "--force", "eni-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.server, l.did = c.says, nil
			_, err := l.leave(t.Context(), LeaveOptions{})
			var e *api.Error
			if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Remedy, c.remedy) || !strings.Contains(e.Message, c.message) {
				t.Errorf("error %v", err)
			}
			if l.workloads(t) != 1 || len(l.did) != 1 {
				t.Errorf("%d workloads, did %v", l.workloads(t), l.did)
			}
		})
	}
	left, err := l.leave(t.Context(), LeaveOptions{Local: true})
	if err != nil || left.Mesh != MeshNotTold || left.Node == "" || l.workloads(t) != 0 {
		t.Errorf("without the server: %+v, %v, %d workloads", left, err, l.workloads(t))
	}
}

// Whoever was interrupted after the server had heard is not stopped by its being told twice.
func TestLeaveOfANodeThatIsRevoked(t *testing.T) {
	l := newLeaving(t)
	l.server = api.Errorf(api.CodeNodeRevoked, "", "", "revoked")
	if left, err := l.leave(t.Context(), LeaveOptions{}); err != nil || left.Mesh != MeshRevoked {
		t.Errorf("left %+v, %v", left, err)
	}
	l = newLeaving(t)
	l.server = api.Errorf(api.CodeNodeForgotten, "", "", "no such node")
	if left, err := l.leave(t.Context(), LeaveOptions{}); err != nil || left.Mesh != MeshForgotten {
		t.Errorf("left %+v, %v", left, err)
	}
	l = newLeaving(t)
	l.answer.Forgotten = false
	if left, err := l.leave(t.Context(), LeaveOptions{Force: true}); err != nil || left.Mesh != MeshRevoked || l.did[0] != "tell "+left.Name+" true" {
		t.Errorf("by force: %+v, %v, did %v", left, err, l.did)
	}
}

// An identity that cannot be read does not keep anybody here.
func TestLeaveWithoutAReadableIdentity(t *testing.T) {
	l := newLeaving(t)
	if err := os.WriteFile(l.dir.Path("identity.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		_, err := l.leave(t.Context(), LeaveOptions{Force: force})
		if err == nil || !strings.Contains(err.Error(), "culvert agent leave --local") || strings.Contains(err.Error(), "leave --force") || len(l.did) != 0 {
			t.Errorf("error %v, did %v", err, l.did)
		}
	}
	if _, err := l.leave(t.Context(), LeaveOptions{Local: true}); err != nil || l.workloads(t) != 0 {
		t.Errorf("locally: %v", err)
	}
}

// What fails in the kernel leaves the identity, so that one can leave again.
func TestLeaveThatFailsCanBeRepeated(t *testing.T) {
	l := newLeaving(t)
	l.refuses = errors.New("busy")
	if _, err := l.leave(t.Context(), LeaveOptions{}); !errors.Is(err, l.refuses) {
		t.Fatalf("error %v", err)
	}
	if ok, err := l.dir.HasIdentity(); err != nil || !ok {
		t.Fatalf("identity: %v, %v", ok, err)
	}
	l.refuses = nil
	if _, err := l.leave(t.Context(), LeaveOptions{}); err != nil {
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
