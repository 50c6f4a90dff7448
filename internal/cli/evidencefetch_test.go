package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/query"
)

// TestEvidenceOfTheServer: one command makes a bundle that verifies, of all nodes, by the server's key or by one that is
// given; nothing is left where it fails.
func TestEvidenceOfTheServer(t *testing.T) {
	s := newSession(t)
	run := func(args ...string) (status int, out, errOut string) {
		t.Helper()
		return once(t, args...)
	}
	for _, args := range []string{"account create pay", "vpc create main --account pay --cidr 10.0.0.0/16",
		"subnet create main --vpc main --account pay --cidr 10.0.1.0/24 --zone a", "load-balancer create ledger --subnet main --account pay",
		"service create ledger --load-balancer ledger --account pay", "account list -o json", "log-key"} {
		if status, out, errOut := run(strings.Fields(args)...); status != 0 {
			t.Fatalf("%s: %s", args, errOut)
		} else if args == "log-key" {
			s.vars["KEYS"] = writeTemp(t, out)
		} else if args == "account list -o json" {
			s.vars["PAY"] = accounts.FindString(out)
		}
	}
	dir := t.TempDir()
	bundle := func(name, service string, more ...string) (int, string, string) {
		return run(append([]string{"evidence", "--service", service, "--from", "1h", "--to", "0s", "--out", filepath.Join(dir, name)}, more...)...)
	}
	status, _, errOut := bundle("told", "pay/ledger")
	if status != 0 || !strings.Contains(errOut, "the key that the server itself told") {
		t.Fatalf("status %d: %s", status, errOut)
	}
	if status, _, errOut := bundle("given.tar.gz", "pay/ledger", "--keys", s.vars["KEYS"]); status != 0 || strings.Contains(errOut, "server itself") {
		t.Errorf("status %d: %s", status, errOut)
	}
	if status, out, errOut := run("flows", "verify", filepath.Join(dir, "told"), "--keys", s.vars["KEYS"]); status != 0 {
		t.Errorf("the bundle does not verify: %s%s", out, errOut)
	}
	for _, name := range []string{"told/summary.html", "told/manifest.json", "told/log/checkpoint", "given.tar.gz"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	var m api.EvidenceManifest
	if err := json.Unmarshal([]byte(readFile(t, filepath.Join(dir, "told", "manifest.json"))), &m); err != nil || m.Nodes != nil || m.Accounts != nil {
		t.Errorf("not of all nodes, so nobody misses what is gone from the disk: %+v %v", m, err)
	}
	if m.Until.Before(m.At) || m.Until.Sub(m.At) > time.Hour {
		t.Errorf("made at %s, of what was sealed until %s", m.At, m.Until)
	}
	if status, _, errOut := bundle("long-ago", "pay/ledger", "--from", "50h", "--to", "48h"); status != 0 {
		t.Errorf("status %d: %s", status, errOut)
	} else if err := json.Unmarshal([]byte(readFile(t, filepath.Join(dir, "long-ago", "manifest.json"))), &m); err != nil ||
		m.At.Sub(m.Until) > 24*time.Hour || m.At.Sub(m.Until) < 22*time.Hour {
		t.Errorf("what was sealed late is looked for until %s, made at %s: %v", m.Until, m.At, err)
	}
	if status, out, errOut := bundle("by-id", s.vars["PAY"]+"/ledger", "-o", "json"); status != 0 || !strings.Contains(out, `"pay/ledger"`) {
		t.Errorf("by the account's id: status %d: %s%s", status, out, errOut)
	}
	for service, want := range map[string]string{"ledgr": "ledgr", "nobody/ledger": "nobody", "pay/ledgr": "culvert service list",
		"vpce-svc-0123456789abcdef0": "neither the audit log nor a record knows"} {
		if status, _, errOut := bundle("refused", service); status == 0 || !strings.Contains(errOut, want) {
			t.Errorf("%s: status %d, %s", service, status, errOut)
		}
		if _, err := os.Stat(filepath.Join(dir, "refused")); err == nil {
			t.Errorf("%s leaves something", service)
		}
	}
	if status, _, errOut := bundle("refused", "pay/ledger", "--copy", filepath.Join(dir, "told")); status == 0 || !strings.Contains(errOut, "--keys") {
		t.Errorf("a copy without keys: status %d, %s", status, errOut)
	}
}

// TestNamesHaveNoCase: what a client asked for is found however it is written.
func TestNamesHaveNoCase(t *testing.T) {
	f := answerFlags{where: []string{"queried-name=Ledger.PAY.internal,db.shop.internal."}}
	q, err := f.query("")
	if want := query.Is(query.NameField, "ledger.pay.internal.", "db.shop.internal."); err != nil || len(q.Where) != 1 || !reflect.DeepEqual(q.Where[0], want) {
		t.Errorf("%+v, %v; want %+v", q.Where, err, want)
	}
}
