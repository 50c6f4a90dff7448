package cli

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/audit/verify"
)

// evidence writes a log with three audit events, and the file with its key.
func evidence(t *testing.T) (dir, keys string) {
	t.Helper()
	var events []api.AuditEvent
	for seq := range uint64(3) {
		events = append(events, api.AuditEvent{Seq: seq + 1, Action: "create-vpc"})
	}
	return evidenceOf(t, events)
}

// evidenceOf writes a log with audit events, and the file with its key.
func evidenceOf(t *testing.T, events []api.AuditEvent) (dir, keys string) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	signer, err := treelog.NewSigner("mesh.example/log", key)
	if err != nil {
		t.Fatal(err)
	}
	log := treelog.NewMem("mesh.example/log", nil, signer)
	for _, e := range events {
		if _, err := log.Append(t.Context(), leaf.OfEvent(time.Now(), e)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := log.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for path, data := range files {
		path = filepath.Join(dir, "log", path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keys = filepath.Join(dir, "..", "keys")
	text := treelog.VerifierKey("mesh.example/log", key.Public().(ed25519.PublicKey)) + "\n"
	if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, keys
}

func TestFlowsVerify(t *testing.T) {
	dir, keys := evidence(t)
	run := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		status := Main(t.Context(), append([]string{"flows", "verify"}, args...), Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
		return status, out.String(), errs.String()
	}
	if status, out, errs := run(dir, "--keys", keys); status != 0 || errs != "" || !strings.Contains(out, "audit 3") ||
		!strings.Contains(out, "VERIFIED") {
		t.Errorf("%d, %q\n%s", status, errs, out)
	}
	kept := filepath.Join(dir, "log", "checkpoint")
	if status, out, errs := run(dir, "--keys", keys, "--as-of", "0s", "--checkpoint", kept); status != 0 || errs != "" ||
		!strings.Contains(out, "It goes on from the checkpoint of 3 leaves that was kept. It goes as far as ") {
		t.Errorf("%d, %q\n%s", status, errs, out)
	}
	late := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	if status, out, errs := run(dir, "--keys", keys, "--as-of", late); status != 1 || errs != "" || !strings.Contains(out, "was cut off") {
		t.Errorf("%d, %q\n%s", status, errs, out)
	}
	if status, _, errs := run(dir, "--keys", keys, "--checkpoint", dir); status == 0 || !strings.Contains(errs, "--checkpoint") {
		t.Errorf("%d, %q", status, errs)
	}
	bundle := filepath.Join(dir, "log", "tile", "entries", "000.p", "3")
	data, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-10] ^= 1
	if err := os.WriteFile(bundle, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := run(dir, "--keys", keys); status != 1 || errs != "" || !strings.Contains(out, "NOT VERIFIED: ") ||
		!strings.Contains(out, "log/tile/0/000.p/3: and the entries differ from leaf 2 on") {
		t.Errorf("%d, %q\n%s", status, errs, out)
	}
	var r verify.Report
	if status, out, _ := run(dir, "--keys", keys, "-o", "json"); status != 1 || json.Unmarshal([]byte(out), &r) != nil || r.OK || r.Size != 3 ||
		r.First() == nil {
		t.Errorf("%d, %s", status, out)
	}
}
