package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/oracle"
)

type times = oracle.Times

// recordsBound is promised of alarms, and of refusing where nothing is recorded; a test fails at failAt times as much.
const recordsBound = 10 * time.Second

func (w *world) culvertCommand(access *dev.Access, words ...string) *exec.Cmd {
	cmd := exec.Command(w.bin, words...)
	cmd.Env = append(os.Environ(), "CULVERT_SERVER="+access.Server, "CULVERT_CA="+access.CA, "CULVERT_API_KEY="+access.APIKey)
	return cmd
}

// destinationDies: status names the flow log soon after its destination died, and all that was recorded meanwhile comes once it lives.
func (m *recordsMesh) destinationDies(t *testing.T) {
	dies := &received{batches: map[string][]byte{}}
	end := dies.listen(t, recordsPrefix+"-server", deadStream)
	defer func() { end() }()
	m.echoes(t, "vault", false)
	shop := m.as("shop")
	m.flowLog(t, api.CreateFlowLogRequest{Name: "dies", ResourceType: api.FlowLogENI, Resource: "calm", LogFormat: firstFormat,
		DestinationType: api.DestinationStream, Destination: "http://" + deadStream + "/flows", FileFormat: api.FileJSON})
	p, port := m.socket(t, "calm")
	key := sumOf{eni: m.enis["calm"], port: strconv.Itoa(int(port))}
	sent := map[sumOf]packets{}
	send := func() {
		if _, err := p.WriteTo([]byte("on and on"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.0.1.7:9000"))); err != nil {
			t.Fatal(err)
		}
		sent[key] = packets{sent[key].packets + 1, sent[key].bytes + 28 + 9}
	}
	has := func() (map[sumOf]packets, error) {
		lines, err := dies.lines()
		if err != nil {
			return nil, err
		}
		return sums(lines, sent)
	}
	eventually(t, time.Minute, "a first batch", func() error {
		send()
		if got, err := has(); err != nil || len(got) == 0 {
			return fmt.Errorf("%v, %w", got, errors.Join(err, errors.New("nothing has come")))
		}
		return nil
	})
	end()
	died := time.Now()
	failing := func() bool {
		s, err := shop.Status(t.Context())
		return err == nil && slices.ContainsFunc(s.FlowLogsFailing, func(x string) bool { return strings.Contains(x, "dies") })
	}
	// What is to be sent next is sent when its window of 10 s is over.
	eventually(t, recordsBound, "status names the flow log", func() error {
		send()
		if !failing() {
			return errors.New("it does not")
		}
		return nil
	})
	t.Logf("n=1: status names a flow log %s after its destination died; batches go every 10 s", time.Since(died).Round(time.Millisecond))
	end = dies.listen(t, recordsPrefix+"-server", deadStream)
	eventually(t, 2*time.Minute, "all that was sent, once", func() error {
		if got, err := has(); err != nil || got[key] != sent[key] {
			return fmt.Errorf("%v, want %v, %w", got, sent, err)
		}
		if failing() {
			return errors.New("status still names the flow log")
		}
		return nil
	})
}

// strictLog: while a node cannot record, an interface that must be recorded opens no flow, what is open goes on, and so does who need
// not be recorded; the node says so. All comes back with room.
func (m *recordsMesh) strictLog(t *testing.T) {
	const vault = "10.0.1.7:9000"
	m.echoes(t, "vault", true)
	m.flowLog(t, api.CreateFlowLogRequest{Name: "strict", ResourceType: api.FlowLogENI, Resource: "strict", OnLoss: api.LossRefuse})
	if err := m.converge(t.Context()); err != nil {
		t.Fatal(err)
	}
	node := func() []string {
		s, err := local.NewClient(m.lab.AgentSocket("host-a")).Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Errors
	}
	alarmed := func() bool {
		return slices.ContainsFunc(node(), func(e string) bool { return strings.Contains(e, "flow records are not written") })
	}
	fresh := func(workload string) bool { p, _ := m.socket(t, workload); return answered(p, vault) }
	open, _ := m.socket(t, "strict")
	eventually(t, 10*time.Second, "a flow of the strict interface", func() error {
		if !answered(open, vault) || !fresh("strict") || !fresh("calm") {
			return errors.New("no answer")
		}
		return nil
	})
	began := time.Now()
	free := fill(t, m.nodeDir())
	freed := false
	defer func() {
		if !freed {
			free()
		}
	}()
	var refused, said time.Duration
	eventually(t, recordsBound, "the strict interface opens no flow, and status says why", func() error {
		if !answered(open, vault) {
			t.Error("what is open has ended")
		}
		if refused == 0 && !fresh("strict") {
			refused = time.Since(began)
		}
		if said == 0 && alarmed() {
			said = time.Since(began)
		}
		if refused == 0 || said == 0 {
			return fmt.Errorf("refused after %v, said after %v", refused, said)
		}
		return nil
	})
	for range 5 {
		if fresh("strict") || !answered(open, vault) || !fresh("calm") {
			t.Error("the strict interface opens a flow, or an open one or one of its neighbour is not answered")
		}
	}
	free()
	freed = true
	began = time.Now()
	eventually(t, recordsBound, "all is as before", func() error {
		if !fresh("strict") || !answered(open, vault) || alarmed() {
			return fmt.Errorf("no new flow, or status says %q", node())
		}
		return nil
	})
	t.Logf("n=1: with a full disk new flows are refused after %v, status says so after %v; with room all is well after %v (bounds %v)",
		refused.Round(time.Millisecond), said.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), recordsBound)
	eventually(t, 30*time.Second, "a record of the refusals", func() error {
		n := 0
		err := m.as("shop").Flows(t.Context(), api.FlowQuery{FlowFilter: api.FlowFilter{Reason: "LOG_UNAVAILABLE", Interface: m.enis["strict"]}},
			func(api.FlowEnvelope) error { n++; return nil })
		if err == nil && n == 0 {
			err = errors.New("none")
		}
		return err
	})
}

// provenRecords: seals of both nodes made after all that hold with what is kept of them.
func (m *recordsMesh) provenRecords(t *testing.T) {
	done := time.Now()
	p, _ := m.socket(t, "cart")
	var e evidence
	eventually(t, 90*time.Second, "seals of both nodes", func() error {
		if _, err := p.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(10, 0, 1, 6), Port: 9000}); err != nil {
			return err
		}
		if e = m.evidence(t); len(e.sealed(t, done)) != 2 {
			return fmt.Errorf("only of %v", e.sealed(t, done))
		}
		return nil
	})
	r, status := m.verify(t, e)
	if status != 0 || !r.OK || r.Balanced == 0 {
		t.Errorf("verify ends with %d: %d balanced seals, %d findings, the first %v", status, r.Balanced, len(r.Findings)+r.More, r.Findings)
	}
}
