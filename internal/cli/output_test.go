package cli

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/dev"
)

func TestAttackReport(t *testing.T) {
	r := &dev.AttackReport{Host: "host-a", Provider: "host-b", Arrived: 20, Expected: 20, Attempts: []dev.Attempt{
		{What: "by a connection that does not exist", Sent: 20, Reason: "NO_GRANT", Refused: 20},
		{What: "from a VPC that it does not host", Sent: 20},
	}}
	written(t, func(w io.Writer) error { return writeAttack(w, r) }, `
ATTEMPT                              SENT  REFUSED  REASON
by a connection that does not exist  20    20       NO_GRANT
from a VPC that it does not host     20    -        dropped by WireGuard

Nothing got through: of what host-a sent, 20 packets reached host-b (expected 20), which forwarded 0.
`)
	r.Forwarded = 1
	written(t, func(w io.Writer) error { return writeAttack(w, r) }, `
ATTEMPT                              SENT  REFUSED  REASON
by a connection that does not exist  20    20       NO_GRANT
from a VPC that it does not host     20    -        dropped by WireGuard

NOT as it must be: of what host-a sent, 20 packets reached host-b (expected 20), which forwarded 1.
`)
}

func TestMeshStatus(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &dev.Status{Processes: []dev.ProcessStatus{
		{Host: "server", Process: "server", State: "running", PID: 17, Since: since, Netns: "culvert-server", Address: "10.99.0.1"},
		{Host: "host-a", Process: "agent", State: "dead", Netns: "culvert-host-a", Address: "10.99.0.10"},
	}}
	now := since.Add(90 * time.Second)
	written(t, func(w io.Writer) error { return writeLab(w, s, now) }, `
HOST    PROCESS  STATE    PID  FOR    NETNS           ADDRESS
server  server   running  17   1m30s  culvert-server  10.99.0.1
host-a  agent    dead     -    -      culvert-host-a  10.99.0.10

No workload yet. Make one: culvert dev workload add NAME --host host-a --eni ENI
`)
	s.Workloads = []dev.WorkloadStatus{{Workload: dev.Workload{Name: "cart", Host: "host-a", ENI: "eni-1", Interface: "eni0",
		Address: netip.MustParseAddr("10.0.1.5")}, State: "present"}}
	written(t, func(w io.Writer) error { return writeLab(w, s, now) }, `
HOST    PROCESS  STATE    PID  FOR    NETNS           ADDRESS
server  server   running  17   1m30s  culvert-server  10.99.0.1
host-a  agent    dead     -    -      culvert-host-a  10.99.0.10

WORKLOAD  HOST    ENI    INTERFACE  ADDRESS   NAMESPACE
cart      host-a  eni-1  eni0       10.0.1.5  present
`)
}

// TestEnvironment: what dev env prints survives the shell, whatever is in it.
func TestEnvironment(t *testing.T) {
	x := &dev.Access{Server: "unix:/run/it's/server.sock", CA: "/x/ca.pem", APIKey: "key-1.secret"}
	written(t, func(w io.Writer) error { return writeEnv(w, x) }, `
export CULVERT_SERVER='unix:/run/it'\''s/server.sock'
export CULVERT_CA='/x/ca.pem'
export CULVERT_API_KEY='key-1.secret'
`)
}

// TestDescribed: what two fields would call the same has two names, and a target's port is the one in force.
func TestDescribed(t *testing.T) {
	n := &api.NodeReport{Node: api.Node{Meta: api.Meta{Name: "host-a", Revision: 3}}, Status: &api.NodeStatus{Revision: 9}}
	var b bytes.Buffer
	if err := details(&b, nodeKind.shown(n)); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]int{`(?m)^revision +3$`: 1, `(?m)^applied revision +9$`: 1, `(?m)^[a-z ]*revision `: 2} {
		if have := len(regexp.MustCompile(line).FindAllString(b.String(), -1)); have != want {
			t.Errorf("%d lines are like %s, not %d:\n%s", have, line, want, &b)
		}
	}
	b.Reset()
	g := &api.TargetGroup{Port: 8443, Targets: []api.Target{{ENI: "eni-1", Weight: 100}, {ENI: "eni-2", Port: 9443}}}
	if err := details(&b, targetGroupKind.shown(g)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"eni-1  8443  100\n", "eni-2  9443  0\n", "\nprotocol   ", "\nhealthCheck.protocol   "} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("there is no %q in\n%s", want, &b)
		}
	}
	if g.Targets[0].Port != 0 {
		t.Error("the resource itself was changed")
	}
}

// TestFlowRow: what a node translates to the resolver is called so.
func TestFlowRow(t *testing.T) {
	r := &api.FlowRecord{Tuple: api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 4000, DstAddr: "10.0.0.2", DstPort: 53},
		Translated: api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 4000, DstAddr: "0.0.0.1", DstPort: 53}}
	if got := flowRow(r)[slices.Index(flowHead, "TRANSLATED TO")]; got != "10.0.1.5:4000>resolver" {
		t.Errorf("translated to %s", got)
	}
}

func written(t *testing.T, write func(io.Writer) error, want string) {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	if want = strings.TrimPrefix(want, "\n"); b.String() != want {
		t.Errorf("have\n%s\nwant\n%s", &b, want)
	}
}

// TestFlowsTail: records are shown as they come, in columns, and an interruption is no failure.
func TestFlowsTail(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{"join node-a", "culvert account create shop", "export CULVERT_ACCOUNT=shop",
		"culvert vpc create main --cidr 10.0.0.0/16", "culvert subnet create a --vpc main --cidr 10.0.1.0/24 --zone a",
		"CART=$(culvert eni create cart --subnet a --node node-a -q)"} {
		s.step(line)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	read, write := io.Pipe()
	var problems bytes.Buffer
	status := make(chan int, 1)
	go func() {
		status <- Main(ctx, []string{"flows", "tail"}, Streams{In: strings.NewReader(""), Out: write, Err: &problems})
		write.Close()
	}()
	lines := bufio.NewScanner(read)
	s.step("record ACCEPT FORWARDED $CART 10.0.1.5:40001 10.0.1.9:443")
	columns := map[string]int{}
	for _, word := range []string{"10.0.1.5:40001", "10.0.1.5:40002"} {
		for !strings.Contains(lines.Text(), word) {
			if !lines.Scan() {
				t.Fatalf("the stream ends without %s: %s", word, &problems)
			}
			if strings.HasPrefix(lines.Text(), "ENDED") {
				columns["head"] = strings.Index(lines.Text(), "SOURCE")
			}
		}
		columns[word] = strings.Index(lines.Text(), word)
		if word == "10.0.1.5:40001" {
			s.step("record REJECT GROUP_EGRESS $CART 10.0.1.5:40002 10.0.1.9:22")
		}
	}
	cancel()
	go io.Copy(io.Discard, read) // nothing is waited for at this end
	if code := <-status; code != 0 || problems.Len() > 0 {
		t.Errorf("interrupted: status %d, %s", code, &problems)
	}
	if c := columns; c["head"] <= 0 || c["head"] != c["10.0.1.5:40001"] || c["head"] != c["10.0.1.5:40002"] {
		t.Errorf("columns are not where their heads are: %v", c)
	}
}

func TestNodeThatIsNotConnected(t *testing.T) {
	for why, want := range map[string]string{
		"":                      ", NOT connected to the server\n",
		"the node n is revoked": ", NOT connected to the server: the node n is revoked\n",
	} {
		var out strings.Builder
		if err := writeNode(&out, &local.Status{Name: "a", ServerError: why}, false); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("got %q, %v; want %q", out.String(), err, want)
		}
	}
}

// A node's status fits a screen, however much there is to tell: the worst is on top, and the rest is counted.
func TestStatusFitsAScreen(t *testing.T) {
	n := &local.Status{Node: "node-0a1b2c3d4e5f60718", Name: "node-a", Version: "v1.2.3", Connected: true, Revision: 7, Received: 8,
		TunnelLost: map[string]uint64{"no_session": 3, "malformed": 0}}
	for i := range 50 {
		n.Errors = append(n.Errors, fmt.Sprintf("problem %d", i))
		n.Peers = append(n.Peers, local.PeerStatus{Name: fmt.Sprintf("node-%d", i), Underlay: "[2001:db8::ffff:1234]:51820",
			LastHandshake: time.Now(), HandshakeAge: time.Duration(i+1) * time.Second, RxBytes: 1 << 40, TxBytes: 1023})
		n.Workloads = append(n.Workloads, local.Workload{ENI: "eni-0a1b2c3d4e5f60718", Address: netip.MustParseAddr("10.255.255.255"),
			Netns: "/run/netns/a-long-name", Interface: "eni0", State: "up"})
	}
	n.Peers[3].LastHandshake, n.Workloads[40].State = time.Time{}, "pending"
	var out strings.Builder
	if err := writeNode(&out, n, false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) > 24 {
		t.Errorf("%d lines:\n%s", len(lines), &out)
	}
	for _, l := range lines {
		if len([]rune(l)) > 100 {
			t.Errorf("%d columns: %s", len([]rune(l)), l)
		}
	}
	for _, want := range []string{"revision 8 came and is NOT applied yet", "… and 47 more", "3 packets lost in it (no_session 3)", "1.0 TiB", "1023 B"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	for head, first := range map[string]string{"PEER": "node-3 ", "WORKLOAD": "eni-"} {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, head) })
		if i < 0 || !strings.HasPrefix(lines[i+1], first) || head == "WORKLOAD" && !strings.HasSuffix(lines[i+1], "pending") {
			t.Errorf("below %s: %q", head, lines[i+1])
		}
	}
}
