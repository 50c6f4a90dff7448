package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/verify"
)

// output runs a command line as an account sees it, "" being the administrator, with the agent of host-a, and returns what it prints and its exit status.
func (w *world) output(t *testing.T, account string, words ...string) (stdout, stderr string, status int) {
	t.Helper()
	access, err := w.lab.Env(t.Context(), account, "host-a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), slack*60*time.Second*slowness())
	defer cancel()
	cmd := exec.CommandContext(ctx, w.bin, words...)
	cmd.Env = append(os.Environ(), "CULVERT_SERVER="+access.Server, "CULVERT_CA="+access.CA, "CULVERT_API_KEY="+access.APIKey,
		"CULVERT_AGENT_SOCKET="+access.AgentSocket)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("culvert %s: %v", strings.Join(words, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// evidence is a copy of what nodes sealed, and the public key of the log.
type evidence struct{ dir, keys string }

// evidence copies all there is up to now, or what more flags say.
func (w *world) evidence(t *testing.T, flags ...string) evidence {
	t.Helper()
	e := evidence{filepath.Join(t.TempDir(), "copy"), filepath.Join(t.TempDir(), "keys")}
	if _, errs, status := w.output(t, "", slices.Concat([]string{"flows", "export", "--out", e.dir}, flags)...); status != 0 {
		t.Fatalf("export: %s", errs)
	}
	key, errs, status := w.output(t, "", "log-key")
	if status != 0 {
		t.Fatalf("log-key: %s", errs)
	}
	if err := os.WriteFile(e.keys, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	return e
}

// verify runs culvert flows verify on the copy.
func (w *world) verify(t *testing.T, e evidence) (r verify.Report, status int) {
	t.Helper()
	out, errs, status := w.output(t, "", "flows", "verify", e.dir, "--keys", e.keys, "-o", "json")
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("verify: %v: %s%s", err, out, errs)
	}
	return r, status
}

// segments are the files of segments, whose names below the copy begin with segments/.
func (e evidence) segments(t *testing.T) (names []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(e.dir), "segments", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, name)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // which is when nothing is sealed yet
		t.Fatal(err)
	}
	return names
}

// sealed tells of which nodes there is a seal that was made after a moment.
func (e evidence) sealed(t *testing.T, after time.Time) (nodes []string) {
	t.Helper()
	for _, name := range e.segments(t) {
		content, err := os.ReadFile(filepath.Join(e.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(content) {
			if s, ok, err := seal.Parse(line); err == nil && ok && s.End.After(after) && !slices.Contains(nodes, s.Node) {
				nodes = append(nodes, s.Node)
			}
		}
	}
	return nodes
}

// passages are the newest counts of each node's tunnel by peer and epoch, as its seals have them.
func (e evidence) passages(t *testing.T) map[string][]seal.Passage {
	t.Helper()
	newest := map[string]map[seal.Passage]seal.Passage{} // by what names a row
	for _, name := range e.segments(t) {
		content, err := os.ReadFile(filepath.Join(e.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(content) {
			s, ok, err := seal.Parse(line)
			if err != nil || !ok {
				continue
			}
			if newest[s.Node] == nil {
				newest[s.Node] = map[seal.Passage]seal.Passage{}
			}
			for _, row := range s.Tunnel {
				at := seal.Passage{Peer: row.Peer, Epoch: row.Epoch, Unknown: row.Unknown}
				if was := newest[s.Node][at]; row.Given < was.Given || row.Came < was.Came {
					t.Errorf("seal %d of %s: %+v comes after %+v", s.Number, s.Node, row, was)
				}
				newest[s.Node][at] = row
			}
		}
	}
	out := map[string][]seal.Passage{}
	for node, rows := range newest {
		out[node] = slices.SortedFunc(maps.Values(rows), seal.ComparePassages)
	}
	return out
}

// checkPassages demands that each of two nodes has sealed what passed through its tunnel to the other one and from it. A key that was
// replaced begins another count.
func (e evidence) checkPassages(t *testing.T) {
	t.Helper()
	all := e.passages(t)
	for node, rows := range all {
		given, came := uint64(0), uint64(0)
		for _, r := range rows {
			if r.Unknown || all[r.Peer] == nil || r.Peer == node {
				t.Errorf("%s has sealed of its tunnel: %+v", node, r)
			}
			given, came = given+r.Given, came+r.Came
		}
		if len(all) != 2 || given == 0 || came == 0 {
			t.Errorf("of %d nodes %s has sealed of its tunnel: %+v; want counts of the other", len(all), node, rows)
		}
	}
}

// What nodes recorded of traffic, allowed and refused, also across the death of an agent and of the server, is proven by files
// and a public key alone; what is changed in them is found and named.
func TestEvidenceIsProven(t *testing.T) {
	w := mesh(t)
	w.echoServer(t)
	for _, p := range [][2]string{{"host-a", "agent"}, {"server", "server"}} {
		if err := w.lab.Kill(p[0], p[1], false); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := w.echo(t.Context()); err != nil {
				t.Errorf("while the %s is dead: %v", p[1], err)
			}
		}
		if err := w.lab.Start(t.Context(), p[0], ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.run(t, "visitor", "curl", "-sS", "--max-time", "1", "http://"+w.ledgerAddress()); err == nil {
		t.Fatal("a stranger reaches the service")
	}
	done := time.Now().Add(2 * time.Second) // when all of that is recorded
	var e evidence
	eventually(t, 60*time.Second, "seals of both nodes", func() error {
		if err := w.echo(t.Context()); err != nil { // nodes seal soon what they record
			return err
		}
		if e = w.evidence(t); len(e.sealed(t, done)) != 2 {
			return fmt.Errorf("only of %v", e.sealed(t, done))
		}
		return nil
	})
	var r verify.Report
	eventually(t, 60*time.Second, "full seals of what both ends told", func() error { // some seals are not full
		if err := w.echo(t.Context()); err != nil {
			return err
		}
		e = w.evidence(t)
		var status int
		if r, status = w.verify(t, e); status != 0 || !r.OK {
			t.Fatalf("verify ends with %d: %d findings, the first %v", status, len(r.Findings)+r.More, r.Findings)
		}
		for _, c := range r.Connections {
			if !c.Compared || !c.Measured {
				return fmt.Errorf("%+v", c)
			}
		}
		return nil
	})
	if len(r.Nodes) != 2 || r.Balanced == 0 || r.Records == 0 || r.LastEvent == 0 {
		t.Errorf("the report has %d nodes, %d balanced seals, %d records, %d audit events", len(r.Nodes), r.Balanced, r.Records, r.LastEvent)
	}
	connections := must(w.as("pay").ListConnections(t.Context(), "ledger"))(t)
	if !slices.ContainsFunc(r.Connections, func(c verify.Connection) bool {
		return slices.ContainsFunc(connections, func(have api.Connection) bool { return have.ID == c.Connection })
	}) {
		t.Errorf("the connection of the traffic is not in the report: %+v", r.Connections)
	}
	for _, c := range r.Connections {
		if c.Sent == 0 || !c.Compared || !c.Measured || c.Lost > c.Tunnel+c.Excused {
			t.Errorf("both ends of a connection: %+v", c)
		}
	}
	e.checkPassages(t)
	w.tampered(t, e)
}

// tampered changes the copy, and puts it back.
func (w *world) tampered(t *testing.T, e evidence) {
	names := e.segments(t)
	file := filepath.Join(e.dir, names[len(names)-1])
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	packets := bytes.LastIndex(content, []byte(`"packets":`)) + len(`"packets":`)
	for what, changed := range map[string][]byte{
		"a packet more":      slices.Concat(content[:packets], []byte("1"), content[packets:]),
		"a record less":      content[bytes.IndexByte(content, '\n')+1:],
		"a truncated file":   content[:len(content)-1],
		"nothing of an hour": nil,
	} {
		if err := os.WriteFile(file, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, status := w.verify(t, e); status != 1 || r.OK || len(r.Findings) == 0 ||
			!slices.ContainsFunc(r.Findings, func(f verify.Finding) bool { return f.File == names[len(names)-1] || f.Segment > 0 }) {
			t.Errorf("%s: verify ends with %d, findings %v", what, status, r.Findings)
		}
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, status := w.verify(t, e); status != 0 {
		t.Errorf("put back: verify ends with %d", status)
	}
}
