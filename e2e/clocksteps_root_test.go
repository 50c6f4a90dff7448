package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/verify"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/oracle"
)

// clockPrefix names the mesh of which one node's clock is set while it carries traffic.
const clockPrefix = "cvclock"

// clockFormat has what tells lines apart, and what is compared.
const clockFormat = "${interface-id} ${dstport} ${packets} ${start} ${end} ${log-status} ${node} ${boot-id} ${sequence} ${reply}"

const (
	// clockRun is longer than the test takes, and shorter than what any two clocks of it are apart by.
	clockRun = 45 * time.Minute
	echoPort = 7777
)

// clockStep is one: the clock is ahead of the machine's by ahead from then on. It is never behind it: the tunnel's process has the machine's clock, and
// the agent takes a handshake that lies ahead for a use of its key.
type clockStep struct {
	ahead time.Duration
	dead  bool // no agent runs meanwhile
}

var clockSteps = []clockStep{{ahead: 5 * time.Hour}, {ahead: 2 * time.Hour}, {ahead: 3 * time.Hour}, {ahead: time.Hour, dead: true}, {ahead: 0}}

// clockMesh is a mesh whose node host-a has a clock that can be set.
type clockMesh struct {
	*crashMesh
	w      *world // the same mesh, for evidence
	began  time.Time
	node   string // id of host-a
	stream *oracle.Stream
}

// Connections go on while the clock of the agent that records them is set forward and back, also while it is dead: each packet is in one record
// and one delivered line, dated by the clock of then, and evidence holds and tells of the steps.
func TestRecordsOverClockSteps(t *testing.T) {
	beside(t)
	m := &clockMesh{crashMesh: newCrashMesh(t, clockPrefix, "--flow-log-stream", recordsStream)}
	m.w = &world{bin: filepath.Join(m.dir, "culvert"), dir: m.dir, lab: m.lab, clients: m.clients}
	node := must(m.as("").GetNode(t.Context(), "host-a"))(t)
	m.node = node.ID
	m.restart(t, 0)
	delivered := &received{batches: map[string][]byte{}}
	t.Cleanup(delivered.listen(t, clockPrefix+"-server", recordsStream))
	must(m.as("shop").CreateFlowLog(t.Context(), api.CreateFlowLogRequest{Name: "stream", ResourceType: api.FlowLogVPC, Resource: "shop",
		LogFormat: clockFormat, DestinationType: api.DestinationStream, Destination: "http://" + recordsStream + "/flows",
		FileFormat: api.FileJSON, MaxAggregationIntervalSeconds: 1}))(t)
	for _, target := range []string{"ledger-1", "ledger-2"} {
		if err := oracle.Echo(t.Context(), m.ns(target), "0.0.0.0:443"); err != nil {
			t.Fatal(err)
		}
	}
	m.began = time.Now()
	flows, err := oracle.StartFlows(t.Context(), m.ns("cart"), m.address("ledger", 443), 5)
	if err == nil {
		m.stream, err = oracle.StartStream(m.ns("cart"), m.address("echo", echoPort), m.ns("ledger-1"), "10.0.1.5:7777")
	}
	if err != nil {
		t.Fatal(err)
	}
	m.sealedAfter(t, len(m.seals(t))) // the agent knows how its clock stands
	for _, s := range clockSteps {
		m.step(t, s)
	}
	m.stream.Quiet()
	flows.Stop()
	defer m.stream.Stop()
	if err := errors.Join(flows.Err(), m.stream.Err()); err != nil {
		t.Errorf("over the steps: %v", err)
	}
	if after := must(m.as("").GetNode(t.Context(), "host-a"))(t); after.PublicKey == node.PublicKey {
		t.Errorf("the node has its key after steps back: %s", after.PublicKey)
	}
	m.recordedOnce(t)
	m.deliveredOnce(t, delivered)
	m.proven(t)
	t.Logf("n=1: %d steps of the clock in %s; %+v, %d answers of %d connections", len(clockSteps), time.Since(m.began).Round(time.Second),
		m.stream.Since(m.began, time.Now()), flows.Answers(), flows.Len())
}

// setClock sets the clock of host-a's agent, from its next look on.
func (m *clockMesh) setClock(t *testing.T, ahead time.Duration) {
	t.Helper()
	path := filepath.Join(m.pointDir(t, "host-a", "agent"), failpoint.ClockFile)
	if err := errors.Join(os.WriteFile(path+".new", []byte(ahead.String()), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// restart kills the agent and starts it with a clock.
func (m *clockMesh) restart(t *testing.T, ahead time.Duration) {
	t.Helper()
	if err := m.points.Kill("host-a", "agent", false); err != nil {
		t.Fatal(err)
	}
	m.setClock(t, ahead)
	if err := errors.Join(m.points.Start(t.Context(), "host-a", "agent"), m.converge(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// seals are those of host-a's log, in order.
func (m *clockMesh) seals(t *testing.T) (all []*seal.Seal) {
	t.Helper()
	names, err := filepath.Glob(m.lab.StateDir("nodes", "host-a", "flows", "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(content[:bytes.LastIndexByte(content, '\n')+1]) {
			s, ok, err := seal.Parse(line)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if ok {
				all = append(all, s)
			}
		}
	}
	return all
}

// sealedAfter waits until a full seal is there behind so many, and returns all.
func (m *clockMesh) sealedAfter(t *testing.T, n int) (all []*seal.Seal) {
	t.Helper()
	eventually(t, time.Minute, "a full seal", func() error {
		if all = m.seals(t); !slices.ContainsFunc(all[n:], func(s *seal.Seal) bool { return s.Full }) {
			return fmt.Errorf("none among %d behind %d", len(all)-n, n)
		}
		return nil
	})
	return all
}

// step sets the clock while packets pass, and demands that the seals that follow say it once.
func (m *clockMesh) step(t *testing.T, s clockStep) {
	t.Helper()
	before := m.seals(t)
	was := before[len(before)-1]
	if s.dead {
		m.restart(t, s.ahead)
	} else {
		m.setClock(t, s.ahead)
	}
	behind := -1
	eventually(t, time.Minute, "a seal that tells of the step", func() error {
		if behind = slices.IndexFunc(m.seals(t), func(x *seal.Seal) bool { return x.Clock.SteppedMicros != 0 && x.Number > was.Number }); behind < 0 {
			return errors.New("none")
		}
		return nil
	})
	after := m.sealedAfter(t, behind+1) // counters and records agree behind it, too
	var told time.Duration
	for _, x := range after[len(before):] {
		told += time.Duration(x.Clock.SteppedMicros) * time.Microsecond
	}
	want := s.ahead - was.End.Sub(time.Now()).Round(time.Hour)
	if d := (told - want).Abs(); d > 10*time.Minute {
		t.Errorf("a step of %s (dead: %t): seals tell of %s", want, s.dead, told)
	}
	stepped := time.Now()
	eventually(t, 30*time.Second, fmt.Sprintf("datagrams after a step of %s", want), func() error {
		if !m.stream.Arrived(stepped) {
			return errors.New("none arrives")
		}
		return nil
	})
}

// eraOf is by which clock a time was taken.
func (m *clockMesh) eraOf(at time.Time) (ahead time.Duration, ok bool) {
	for _, s := range clockSteps {
		if d := at.Sub(m.began.Add(s.ahead)); d > -time.Second && d < clockRun {
			return s.ahead, true
		}
	}
	return 0, false
}

// recordedOnce waits until both ends' records at the server have all datagrams, and demands that each line of the stepped node is there
// once and dated by the clock of one moment.
func (m *clockMesh) recordedOnce(t *testing.T) {
	seen := m.stream.Since(m.began.Add(-time.Second), time.Now())
	want := map[string]uint64{flow.SideConsumer: uint64(seen.Sent), flow.SideProvider: uint64(seen.Sent - seen.Lost)}
	var lines []api.FlowRecord
	eventually(t, time.Minute, "all that was sent, in records", func() error {
		got, numbers := map[string]uint64{}, map[string]bool{}
		lines = nil
		err := m.as("").Flows(t.Context(), api.FlowQuery{FlowFilter: api.FlowFilter{Limit: 100_000}}, func(e api.FlowEnvelope) error {
			var r api.FlowRecord
			if err := json.Unmarshal(e.Record, &r); err != nil {
				return err
			}
			if id := fmt.Sprint(r.Node, r.Boot, r.Sequence); numbers[id] {
				t.Errorf("record %s is there twice", id)
			} else {
				numbers[id] = true
			}
			if r.Tuple.DstPort == echoPort {
				got[r.Side] += r.Packets
			}
			if r.Node == m.node {
				lines = append(lines, r)
			}
			return nil
		})
		local, errLocal := oracle.Records(m.lab.StateDir("nodes", "host-a", "flows"))
		if err := errors.Join(err, errLocal); err != nil {
			return err
		}
		if got[flow.SideConsumer] != want[flow.SideConsumer] || got[flow.SideProvider] != want[flow.SideProvider] || len(local) != len(lines) {
			return fmt.Errorf("records tell of %v, want %v; the node has %d, the server %d of them", got, want, len(local), len(lines))
		}
		return nil
	})
	eras := map[time.Duration]int{}
	for _, r := range lines {
		start, ok := m.eraOf(r.Start)
		end, known := m.eraOf(r.End)
		if r.Start.After(m.began.Add(-time.Minute)) && r.End.Before(m.began) {
			continue // of before
		}
		if !ok || !known || start != end || r.End.Before(r.Start) {
			t.Errorf("record %d is dated %s to %s; the test began at %s", r.Sequence, r.Start, r.End, m.began.UTC())
		}
		if r.Tuple.DstPort == echoPort {
			eras[end]++
		}
	}
	for _, s := range clockSteps {
		if eras[s.ahead] == 0 {
			t.Errorf("no record of the datagrams is dated by a clock that is %s ahead", s.ahead)
		}
	}
}

// deliveredOnce waits until lines of the stream have all datagrams; none is there twice.
func (m *clockMesh) deliveredOnce(t *testing.T, delivered *received) {
	sent := uint64(m.stream.Since(m.began.Add(-time.Second), time.Now()).Sent)
	eventually(t, 2*time.Minute, "all that was sent, in lines", func() error {
		lines, err := delivered.lines()
		if err != nil {
			return err
		}
		var got uint64
		ids := map[string]bool{}
		for _, l := range lines {
			if l["node"] != m.node || l["log-status"] != "OK" {
				continue
			}
			id := strings.Join([]string{l["boot-id"], l["sequence"], l["reply"]}, " ")
			if ids[id] {
				return fmt.Errorf("line %s is there twice", id)
			}
			ids[id] = true
			if l["dstport"] != strconv.Itoa(echoPort) {
				continue
			}
			n, err := strconv.ParseUint(l["packets"], 10, 64)
			if err != nil {
				return fmt.Errorf("%v: %w", l, err)
			}
			got += n
		}
		if got != sent {
			return fmt.Errorf("%d lines tell of %d datagrams, %d were sent", len(lines), got, sent)
		}
		return nil
	})
}

// proven: evidence of it all, also of what is dated ahead, has no finding, says how far the node's dates are off, and compares both ends of the connections.
func (m *clockMesh) proven(t *testing.T) {
	done := time.Now()
	var e evidence
	eventually(t, 90*time.Second, "seals of both nodes", func() error {
		if err := m.oneAnswer(t.Context()); err != nil {
			return err
		}
		if e = m.w.evidence(t, "--until", done.Add(6*time.Hour).UTC().Format(time.RFC3339)); len(e.sealed(t, done)) != 2 {
			return fmt.Errorf("only of %v", e.sealed(t, done))
		}
		return nil
	})
	r, status := m.w.verify(t, e)
	if status != 0 || !r.OK || r.Balanced == 0 {
		t.Fatalf("verify ends with %d: %d balanced seals, %d findings, the first %v", status, r.Balanced, len(r.Findings)+r.More, r.Findings)
	}
	i := slices.IndexFunc(r.Dates, func(d verify.Dates) bool { return d.Node == m.node })
	if i < 0 {
		t.Fatalf("nothing is told of the node's dates: %+v", r.Dates)
	}
	ahead := (time.Duration(r.Dates[i].AheadSeconds) * time.Second).Round(time.Hour)
	if d := r.Dates[i]; d.Ahead == 0 || ahead != 5*time.Hour || d.Back != 3 {
		t.Errorf("of the node's dates is told: %+v; want some ahead by 5 h, and three steps back", d)
	}
	text, _, _ := m.w.output(t, "", "flows", "verify", e.dir, "--keys", e.keys)
	if !strings.Contains(text, "3 are dated before the one before") {
		t.Errorf("verify does not tell of the steps back:\n%s", text)
	}
	for _, s := range r.Slack {
		if s.Wide > 0 {
			t.Errorf("slack of %+v", s)
		}
	}
	for _, c := range r.Connections {
		if c.Sent == 0 || c.Lost > c.Tunnel+c.Excused {
			t.Errorf("both ends of a connection: %+v", c)
		}
	}
}
