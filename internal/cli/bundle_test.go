package cli

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/bundle"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/treelog"
)

// smallEvidence is a log without segments, and the file with its key.
func smallEvidence(t *testing.T) (dir, keys string) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	signer, err := treelog.NewSigner("mesh.example/log", key)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	made := []api.AuditChange{{Kind: api.KindAccount, ID: "444455556666", After: []byte(`{"id":"444455556666","name":"pay"}`)},
		{Kind: api.KindService, ID: "vpce-svc-1", After: []byte(`{"id":"vpce-svc-1","name":"ledger","account":"444455556666"}`)}}
	log := treelog.NewMem("mesh.example/log", func() time.Time { return now }, signer)
	for _, l := range []leaf.Leaf{{Type: leaf.TypeStart, Server: &leaf.Server{ID: "run", Version: "1"}},
		leaf.OfEvent(now, api.AuditEvent{Seq: 1, At: now, Actor: "key-1", Action: "create-service", Outcome: api.OutcomeSuccess, Changes: made})} {
		if _, err := log.Append(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	files, err := log.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, b := range files {
		path := filepath.Join(dir, "log", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, writeTemp(t, treelog.VerifierKey("mesh.example/log", key.Public().(ed25519.PublicKey))+"\n")
}

// TestEvidence: a folder and a packed file are made, twice the same, and nothing is left where it fails.
func TestEvidence(t *testing.T) {
	clearEnvironment(t, t.TempDir())
	copied, keys := smallEvidence(t)
	out := t.TempDir()
	run := func(to string, more ...string) (int, string) {
		status, _, errOut := once(t, append([]string{"evidence", "--service", "pay/ledger", "--from", "2026-03-01T00:00:00Z", "--to",
			"2026-04-01T00:00:00Z", "--copy", copied, "--keys", keys, "--out", to}, more...)...)
		return status, errOut
	}
	folder := filepath.Join(out, "bundle")
	if status, text := run(folder); status != 0 {
		t.Fatalf("status %d: %s", status, text)
	}
	for _, name := range []string{bundle.SummaryName, bundle.TranscriptName, bundle.SumsName, "log/checkpoint"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Error(err)
		}
	}
	if status, text := run(folder); status == 0 || !strings.Contains(text, "--out") {
		t.Errorf("a folder that exists: status %d, %s", status, text)
	}
	var packed [2][]byte
	for i := range packed {
		path := filepath.Join(out, string(rune('a'+i)), "ledger.tar.gz")
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if status, text := run(path); status != 0 {
			t.Fatalf("status %d: %s", status, text)
		}
		packed[i] = []byte(readFile(t, path))
		if left := files(t, filepath.Dir(path)); len(left) != 2 { // the folder and the file
			t.Errorf("beside the file there is %v", left)
		}
	}
	if !bytes.Equal(packed[0], packed[1]) || len(packed[0]) == 0 {
		t.Error("the same copy gives different files")
	}
	for flag, value := range map[string]string{"--to": "2026-02-01T00:00:00Z", "--keys": "/nowhere", "--copy": "/nowhere"} {
		path := filepath.Join(out, "refused")
		if status, text := run(path, flag, value); status == 0 || !strings.Contains(text, flag) {
			t.Errorf("%s %s: status %d, %s", flag, value, status, text)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s %s leaves something", flag, value)
		}
	}
	live := t.TempDir()
	if err := os.CopyFS(filepath.Join(live, "evidence"), os.DirFS(copied)); err != nil {
		t.Fatal(err)
	}
	unlock, err := state.Dir(live).Lock()
	if err != nil {
		t.Fatal(err)
	}
	if status, text := run(filepath.Join(out, "live"), "--copy", filepath.Join(live, "evidence")); status == 0 || !strings.Contains(text, "flows export") {
		t.Errorf("a directory that a server writes to: status %d, %s", status, text)
	}
	if status, _, text := once(t, "flows", "verify", filepath.Join(live, "evidence"), "--keys", keys); status != 0 || !strings.Contains(text, "flows export") {
		t.Errorf("verifying it: status %d, %s", status, text)
	}
	unlock()
	if status, text := run(filepath.Join(out, "stopped"), "--copy", filepath.Join(live, "evidence")); status != 0 {
		t.Errorf("that of a server that is stopped: status %d, %s", status, text)
	}
	if err := os.WriteFile(filepath.Join(copied, "log", "checkpoint"), []byte("none"), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, text := run(filepath.Join(out, "damaged")); status == 0 || !strings.Contains(text, "does not verify") {
		t.Errorf("a damaged log: status %d, %s", status, text)
	}
}
