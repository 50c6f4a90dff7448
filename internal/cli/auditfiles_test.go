package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// TestAuditFromFiles: what a copy of the log tells without a server, and that it tells nothing quietly once it was changed.
func TestAuditFromFiles(t *testing.T) {
	const con, svc = "vpce-con-00000000000000001", "vpce-svc-00000000000000001"
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	change := func(id string, before, after any) api.AuditChange {
		c := api.AuditChange{Kind: api.KindConnection, ID: id, Account: "2"}
		if id == svc {
			c.Kind = api.KindService
		}
		for to, v := range map[*json.RawMessage]any{&c.Before: before, &c.After: after} {
			if v != nil {
				*to, _ = json.Marshal(v)
			}
		}
		return c
	}
	offered := api.Service{Meta: api.Meta{ID: svc}, AllowedPrincipals: []string{"111111111111"}, AcceptanceRequired: true}
	withdrawn := offered
	withdrawn.AllowedPrincipals = nil
	asked := api.Connection{Meta: api.Meta{ID: con}, Service: svc, State: api.PendingAcceptance}
	accepted := asked
	accepted.State, accepted.Approver, accepted.DecidedAt = api.Available, "key-2", begin.Add(3*time.Hour)
	dir, keys := evidenceOf(t, []api.AuditEvent{
		{Seq: 1, At: begin, Actor: "key-2", Action: "create-service", Outcome: "success", Changes: []api.AuditChange{change(svc, nil, offered)}},
		{Seq: 2, At: begin.Add(time.Hour), Actor: "key-1", Action: "create-endpoint", Outcome: "success",
			Changes: []api.AuditChange{change(con, nil, asked)}},
		{Seq: 3, At: begin.Add(2 * time.Hour), Actor: "key-9", Action: "accept-connections", Outcome: "UnauthorizedOperation"},
		{Seq: 4, At: begin.Add(3 * time.Hour), Actor: "key-2", ActorName: "boss", Action: "accept-connections", Outcome: "success",
			Changes: []api.AuditChange{change(con, asked, accepted)}},
		{Seq: 5, At: begin.Add(4 * time.Hour), Actor: "key-2", Action: "disallow-principals", Outcome: "success",
			Changes: []api.AuditChange{change(svc, offered, withdrawn)}},
	})
	run := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		status := Main(t.Context(), append([]string{"audit"}, args...), Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
		return status, out.String(), errs.String()
	}
	if status, out, errs := run("verify", dir, "--keys", keys); status != 0 || errs != "" || !strings.Contains(out, "VERIFIED") {
		t.Errorf("%d, %q\n%s", status, errs, out)
	}
	for at, want := range map[string][]string{
		"2026-03-01T01:30:00Z": {"state: PendingAcceptance", "- \"111111111111\""},
		"2026-03-01T03:30:00Z": {"state: Available", "approver: key-2", "decided   by key-2 (boss), accept-connections", "event 4", "- \"111111111111\"",
			"acceptanceRequired: true"},
		"2026-03-02T00:00:00Z": {"decided   by key-2 (boss)", "allowedPrincipals: null"},
	} {
		status, out, errs := run("show", con, "--at", at, "--from", dir, "--keys", keys)
		for _, w := range want {
			if status != 0 || errs != "" || !strings.Contains(out, w) {
				t.Errorf("at %s: %d, %q, want %q in\n%s", at, status, errs, w, out)
			}
		}
	}
	before := []string{"show", con, "--at", "2026-02-01T00:00:00Z", "--from", dir, "--keys", keys}
	if status, _, errs := run(before...); status == 0 || !strings.Contains(errs, "does not exist") {
		t.Errorf("before it was: %d, %q", status, errs)
	}
	for _, c := range []struct {
		args string
		want []uint64
	}{
		{"", []uint64{1, 2, 3, 4, 5}}, {"--limit 2", []uint64{4, 5}}, {"--outcome denied", []uint64{3}}, {"--actor boss", []uint64{4}},
		{"--resource " + con, []uint64{2, 4}}, {"--since 2026-03-01T02:00:00Z --until 2026-03-01T03:00:00Z", []uint64{3}},
	} {
		var events []api.AuditEvent
		status, out, errs := run(append([]string{"list", "--from", dir, "--keys", keys, "-o", "json"}, strings.Fields(c.args)...)...)
		if err := json.Unmarshal([]byte(out), &events); err != nil || status != 0 || errs != "" {
			t.Fatalf("%s: %d, %q, %v", c.args, status, errs, err)
		}
		var got []uint64
		for _, e := range events {
			got = append(got, e.Seq)
		}
		if len(got) != len(c.want) || len(got) > 0 && (got[0] != c.want[0] || got[len(got)-1] != c.want[len(got)-1]) {
			t.Errorf("%s: %v, want %v", c.args, got, c.want)
		}
	}
	for _, args := range []string{"list --from " + dir, "list --keys " + keys, "list --watch --from " + dir + " --keys " + keys, "verify " + dir,
		"show vpc --from " + dir + " --keys " + keys, "list --from " + keys + " --keys " + keys, "list --from " + dir + " --keys " + dir} {
		if status, out, errs := run(strings.Fields(args)...); status == 0 || out != "" || errs == "" {
			t.Errorf("%s: %d, %q, %q", args, status, out, errs)
		}
	}
	bundle := filepath.Join(dir, "log", "tile", "entries", "000.p", "5")
	data, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bundle, bytes.Replace(data, []byte(`"boss"`), []byte(`"b0ss"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"show " + con, "list", "verify " + dir} {
		if !strings.HasPrefix(args, "verify") {
			args += " --from " + dir
		}
		if status, out, errs := run(strings.Fields(args + " --keys " + keys)...); status != 1 || !strings.Contains(out+errs, "NOT VERIFIED") {
			t.Errorf("%s, changed: %d, %q\n%s", args, status, errs, out)
		}
	}
}
