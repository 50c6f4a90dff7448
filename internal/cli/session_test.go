package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane"
	"github.com/culvert-net/culvert/controlplane/store"
)

// session runs the command lines of a transcript, testdata/sessions/NAME.txt, against a server in this process and compares
// what they print. A transcript has:
//
//	# a comment
//	$ culvert vpc list          a command line; $NAME stands for a variable
//	$ ID=$(culvert vpc list -q) a variable takes what the command prints
//	$ export CULVERT_ACCOUNT=x  the environment of the commands that follow
//	output                      of the command before, with ids, times and secrets replaced
//	! output                    the same, on standard error
//	[status 1]                  its exit status, unless 0
//
// Further commands are in session.special.
type session struct {
	t       *testing.T
	dir     string
	vars    map[string]string
	admin   *client.Client
	nodes   map[string]*state.Identity
	shipped uint64
	seen    map[string]string // ids as they came, and what stands for them
	count   map[string]int
}

// startServer runs a control plane with an empty store until the test ends.
func startServer(t *testing.T, dir string) (address, caFile, adminKey string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan controlplane.Info, 1), make(chan error, 1)
	server := controlplane.New(controlplane.Config{
		DataDir: filepath.Join(dir, "server"), Listen: []string{"unix:" + filepath.Join(dir, "server.sock")},
		Region: "test-1", Version: "v0-test", Store: store.NewMem(),
		AdminKey: func(secret string) { adminKey = secret },
		Ready:    func(i controlplane.Info) { ready <- i },
	})
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("server: %v", err)
		}
	})
	select {
	case i := <-ready:
		return i.Addresses[0], filepath.Join(dir, "server", "ca.pem"), adminKey
	case err := <-done:
		done <- nil
		t.Fatalf("server: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the server does not become ready")
	}
	return "", "", ""
}

// clearEnvironment keeps what surrounds the test out of it.
func clearEnvironment(t *testing.T, home string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "CULVERT_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("HOME", home)
}

func newSession(t *testing.T) *session {
	t.Helper()
	dir := t.TempDir()
	clearEnvironment(t, dir)
	s := &session{t: t, dir: dir, nodes: map[string]*state.Identity{}, seen: map[string]string{}, count: map[string]int{}}
	address, caFile, key := startServer(t, dir)
	agentSocket := startAgent(t, dir)
	s.vars = map[string]string{"SERVER": address, "CA": caFile, "KEY": key, "AGENT": agentSocket, "DIR": dir}
	ca, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	if s.admin, err = client.New(client.Config{Address: address, CA: ca, APIKey: key}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.admin.Close)
	t.Setenv("CULVERT_SERVER", address)
	t.Setenv("CULVERT_CA", caFile)
	t.Setenv("CULVERT_API_KEY", key)
	return s
}

// call runs one command line of culvert.
func (s *session) call(args []string) (out, problems string, status int) {
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	status = Main(ctx, args, Streams{In: strings.NewReader(""), Out: &o, Err: &e})
	return o.String(), e.String(), status
}

var (
	assignment = regexp.MustCompile(`^(\w+)=\$\((.*)\)$`)
	ids        = regexp.MustCompile(`\b(fl|rslvr-rr|rslvr-frg|vpce-svc|vpce-con|vpce|vpc|subnet|eni|sgr|sg|tg|lb|` +
		`listener|node|token|key|domain|hz)-([0-9a-f]{17})\b`)
	suffixes   = regexp.MustCompile(`\b(vpce-[0-9]{17}-)[a-z2-7]{7}\b`) // follow from ids
	accounts   = regexp.MustCompile(`\b[1-9][0-9]{11}\b`)
	times      = regexp.MustCompile(`\b20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]+)?Z`)
	secrets    = regexp.MustCompile(`\.[A-Za-z0-9_-]{43}(\.[0-9a-f]{64})?`)
	requests   = regexp.MustCompile(`\breq-[0-9a-f-]+`)
	hexes      = regexp.MustCompile(`\b([0-9a-f]{64}|[0-9a-f]{28,32})\b`)
	choices    = regexp.MustCompile(`\[[a-z]+-[0-9]{17}( [a-z]+-[0-9]{17})+\]`)
	adjusts    = regexp.MustCompile(`\b(fd[0-9a-f]{2}(:[0-9a-f]{1,4}){6}:)[0-9a-f]{1,4}\b`) // the last word follows from the mesh
	meshes     = regexp.MustCompile(`\bfd[0-9a-f]{2}:[0-9a-f]{1,4}:`)
	publicKeys = regexp.MustCompile(`[A-Za-z0-9+/]{43}=`)
)

// steady replaces what differs from run to run by something as long, numbered in the order of appearance.
func (s *session) steady(text string) string {
	number := func(kind, id string, form string) string {
		if s.seen[id] == "" {
			s.count[kind]++
			s.seen[id] = fmt.Sprintf(form, s.count[kind])
		}
		return s.seen[id]
	}
	text = strings.ReplaceAll(text, s.dir, "DIR")
	text = ids.ReplaceAllStringFunc(text, func(id string) string {
		kind := id[:len(id)-18]
		return number(kind, id, kind+"-%017d")
	})
	text = suffixes.ReplaceAllString(text, "${1}SUFFIX")
	text = accounts.ReplaceAllStringFunc(text, func(id string) string { return number("account", id, "%012d") })
	text = times.ReplaceAllStringFunc(text, func(at string) string {
		if len(at) == len("2026-01-02T03:04:05.000Z") {
			return "2026-01-02T03:04:05.000Z" // a table's
		}
		return "2026-01-02T03:04:05Z"
	})
	text = secrets.ReplaceAllString(text, ".SECRET")
	text = requests.ReplaceAllString(text, "req-N")
	text = choices.ReplaceAllStringFunc(text, func(list string) string { // sorted by what the ids were
		words := strings.Fields(strings.Trim(list, "[]"))
		slices.Sort(words)
		return fmt.Sprint(words)
	})
	text = hexes.ReplaceAllString(text, "HEX")
	text = adjusts.ReplaceAllString(text, "${1}adj")
	text = meshes.ReplaceAllString(text, "fd12:3456:")
	return publicKeys.ReplaceAllString(text, "KEY")
}

// step runs one line of the transcript and returns what it prints.
func (s *session) step(line string) string {
	if m := assignment.FindStringSubmatch(line); m != nil {
		out, problems, status := s.call(s.words(m[2])[1:])
		if status != 0 {
			s.t.Errorf("%s: status %d: %s", line, status, problems)
		}
		s.vars[m[1]] = strings.TrimSpace(out)
		return ""
	}
	words := s.words(line)
	if words[0] != "culvert" {
		return s.special(words)
	}
	out, problems, status := s.call(words[1:])
	var b strings.Builder
	b.WriteString(out)
	for l := range strings.Lines(problems) {
		b.WriteString("! " + l)
	}
	if status != 0 {
		// These say how far they came: an explanation that ends at a stop, a deletion of several, a change that is waited for.
		if out != "" && words[1] != "explain" && words[2] != "delete" && !strings.Contains(problems, "Timeout") {
			s.t.Errorf("%s: it fails and prints %q", line, out)
		}
		fmt.Fprintf(&b, "[status %d]\n", status)
	}
	return s.steady(b.String())
}

func (s *session) words(line string) (words []string) {
	line = os.Expand(line, func(name string) string {
		v, ok := s.vars[name]
		if !ok {
			s.t.Fatalf("%s: there is no variable %s", line, name)
		}
		return v
	})
	for sc := (&scanner{rest: line}); sc.rest != ""; {
		if sc.rest[0] == ' ' {
			sc.rest = sc.rest[1:]
			continue
		}
		words = append(words, sc.word())
	}
	return words
}

// special commands: export NAME=VALUE · credentials MODE TEXT · join NODE · report NODE · record ACTION REASON ENI SOURCE
// DESTINATION
func (s *session) special(words []string) string {
	switch words[0] {
	case "export":
		name, value, _ := strings.Cut(words[1], "=")
		s.t.Setenv(name, value)
	case "credentials":
		mode := os.FileMode(0o600)
		if words[1] == "0644" {
			mode = 0o644
		}
		path := filepath.Join(s.dir, ".config", "culvert", "credentials")
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(words[2]), 0o600), os.Chmod(path, mode))
		if err != nil {
			s.t.Fatal(err)
		}
	case "join":
		s.join(words[1])
	case "report":
		node := s.node(s.nodes[words[1]])
		defer node.Close()
		if err := node.ReportStatus(context.Background(), api.NodeStatus{Node: s.nodes[words[1]].Node, Revision: 1}); err != nil {
			s.t.Fatal(err)
		}
	case "record":
		s.record(words[1], words[2], words[3], netip.MustParseAddrPort(words[4]), netip.MustParseAddrPort(words[5]))
	default:
		s.t.Fatalf("%v: no such command", words)
	}
	return ""
}

// join makes a node that never applies anything.
func (s *session) join(name string) {
	ctx := context.Background()
	token, err := s.admin.CreateToken(ctx, api.CreateTokenRequest{NodeName: name})
	if err != nil {
		s.t.Fatal(err)
	}
	s.nodes[name], err = agent.Join(ctx, agent.JoinConfig{DataDir: filepath.Join(s.dir, "node", name), Servers: []string{s.vars["SERVER"]},
		Token: token.Secret, Name: name, Underlay: []string{"192.0.2.1"}})
	if err != nil {
		s.t.Fatal(err)
	}
}

// node is the client of a node.
func (s *session) node(id *state.Identity) *client.Client {
	c, err := client.New(client.Config{Address: s.vars["SERVER"], CA: []byte(id.CAPEM),
		Certificate: func() (*tls.Certificate, error) { c, err := id.Certificate(); return &c, err }})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// record has the node of an interface send a flow record, of one packet each way.
func (s *session) record(action, reason, eni string, from, to netip.AddrPort) {
	ctx := context.Background()
	e, err := s.admin.GetENI(ctx, eni)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, id := range s.nodes {
		if id.Node != e.Node {
			continue
		}
		node := s.node(id)
		defer node.Close()
		s.shipped++
		tuple := api.FlowTuple{SrcAddr: from.Addr().String(), SrcPort: from.Port(), DstAddr: to.Addr().String(), DstPort: to.Port()}
		now := time.Now().UTC()
		r := api.FlowRecord{Node: id.Node, Boot: "boot", Sequence: s.shipped, Account: e.Account, Interface: e.ID, VPC: e.VPC,
			Start: now.Add(-time.Second), End: now, Action: action, LogStatus: "OK", Reason: reason, Stage: "workload", Protocol: 6,
			Tuple: tuple, Translated: tuple, Direction: "egress", Packets: 1, Bytes: 60, ReplyPackets: 1, ReplyBytes: 44}
		if action == api.ActionAccept {
			r.State = api.FlowOpen
		}
		text, err := json.Marshal(r)
		if err != nil {
			s.t.Fatal(err)
		}
		receipt, err := node.SendFlows(ctx, []api.FlowEnvelope{{Boot: r.Boot, Seq: r.Sequence, Accounts: []string{e.Account},
			End: r.End, Record: text}})
		if err != nil || receipt.Stored != 1 {
			s.t.Fatalf("flow record: %+v, %v", receipt, err)
		}
		return
	}
	s.t.Fatalf("%s is on no node of this session", eni)
}

// TestSessions replays every transcript.
func TestSessions(t *testing.T) {
	files, err := filepath.Glob("testdata/sessions/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d transcripts: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			s := newSession(t)
			want := text(t, file)
			var have strings.Builder
			for line := range strings.Lines(want) {
				command, is := strings.CutPrefix(line, "$ ")
				switch {
				case is:
					have.WriteString(line)
					have.WriteString(s.step(strings.TrimSpace(command)))
				case strings.HasPrefix(line, "# "):
					have.WriteString("\n" + line)
				}
			}
			got := strings.TrimPrefix(have.String(), "\n")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			compare(t, file, want, got)
		})
	}
}

func compare(t *testing.T, file, want, got string) {
	t.Helper()
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			t.Errorf("%s:%d:\n want %s\n have %s\nIf that is meant: go test ./internal/cli -run TestSessions -update", file, i+1, a, b)
			return
		}
	}
}
