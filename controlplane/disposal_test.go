package controlplane

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/controlplane/evidence"
)

// A node dates its seals: nothing it says makes them go sooner than what came at that time, or stay for ever.
func TestHeldUntil(t *testing.T) {
	came := time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
	for name, c := range map[string]struct{ hour, want time.Time }{
		"in time":   {came.Truncate(time.Hour), came.Truncate(time.Hour).Add(time.Hour)},
		"late":      {came.Add(-50 * time.Hour).Truncate(time.Hour), came},
		"from 1970": {time.Unix(0, 0).UTC(), came},
		"from 9999": {time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), came},
	} {
		if got := heldUntil(&evidence.File{Hour: c.hour, Taken: came}); !got.Equal(c.want) {
			t.Errorf("%s: held until %v, want %v", name, got, c.want)
		}
	}
}

// TestDisposalOfDeliveries: files of flow logs at the server go when their time is over, and the log says which; those of an account that
// is under a hold stay, and so do others' and what is new.
func TestDisposalOfDeliveries(t *testing.T) {
	l := startLab(t, nil)
	l.as("shop")
	l.as("pay")
	shop, pay := l.account("shop"), l.account("pay")
	old, late := time.Now().Add(-(defaultSegmentDays+40)*day), time.Now().Add(-(defaultSegmentDays+1)*day)
	write := func(account, name string, at time.Time) string {
		path := filepath.Join(l.s.allowed.Local, account, "flow-logs", filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(name), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var gone []string
	for i := range maxDisposed + 1 {
		gone = append(gone, write(shop, fmt.Sprintf("2025/01/%d.log.gz", i), old))
	}
	odd := strings.Repeat("\x01", 200) // JSON has six bytes for each: 60 such names fit into no leaf
	for i := range 60 {
		gone = append(gone, write(shop, fmt.Sprintf("%s/%d.log.gz", odd, i), old))
	}
	fresh, held := write(shop, "2026/02/b.log.gz", time.Now()), write(pay, "2025/01/c.log.gz", old)
	// Of the time of the hold, and delivered five weeks later; and of the time of the delivery.
	name := "2025/01/x_vpcflowlogs_r_fl-1_%s_0123abcd.log.gz"
	heldLate := write(pay, fmt.Sprintf(name, old.Format("20060102T1504Z")), late)
	gone = append(gone, write(pay, fmt.Sprintf(name, late.Format("20060102T1504Z")), late))
	must(l.client(l.adminKey, pay).CreateLegalHold(l.ctx(), api.CreateLegalHoldRequest{Reason: "case 1", From: old.Add(-time.Hour), To: old.Add(time.Hour)}))(t)
	for range 2 {
		if err := l.s.disposeDeliveries(l.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range gone {
		if _, err := os.Stat(path); err == nil {
			t.Fatalf("%s stays", path)
		}
	}
	if _, err := os.Stat(filepath.Dir(gone[0])); err == nil {
		t.Error("its directory stays")
	}
	for _, path := range []string{fresh, held, heldLate} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	var told []string
	leaves := l.leaves(leaf.TypeDisposal)
	for _, x := range leaves {
		for _, f := range x.Disposal.Files {
			_, content, _ := strings.Cut(f.Path, "/flow-logs/")
			sum := sha256.Sum256([]byte(content))
			if x.Disposal.Class != string(api.RetainDeliveries) || f.SHA256 != hex.EncodeToString(sum[:]) {
				t.Errorf("%+v", f)
			}
			told = append(told, f.Path)
		}
	}
	if len(leaves) != 3 || len(told) != len(gone) {
		t.Errorf("%d leaves name %d files, want 3 and %d", len(leaves), len(told), len(gone))
	}
	if n := len(must(l.admin().ListAudit(l.ctx(), client.WithAuditFilter(api.AuditFilter{Action: "dispose-deliveries"})))(t)); n != 3 {
		t.Errorf("%d audit events", n)
	}
}

// TestAFileThatCannotBeReadStaysAlone: those beside it go all the same.
func TestAFileThatCannotBeReadStaysAlone(t *testing.T) {
	l := startLab(t, nil)
	dir := l.s.allowed.Local
	good := filepath.Join(dir, "a", "b", "good.log.gz")
	if err := errors.Join(os.MkdirAll(filepath.Dir(good), 0o700), os.WriteFile(good, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	root := must(os.OpenRoot(dir))(t)
	defer root.Close()
	n, err := l.s.disposeFiles(l.ctx(), root, []deliveredFile{{name: "a/b"}, {name: "a/b/good.log.gz"}}) // a directory cannot be read
	if n != 2 || err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("looked at %d, %v", n, err)
	}
	if _, err := os.Stat(good); err == nil {
		t.Error("the other one stays")
	}
	if leaves := l.leaves(leaf.TypeDisposal); len(leaves) != 1 || len(leaves[0].Disposal.Files) != 1 {
		t.Errorf("%+v", leaves)
	}
}
