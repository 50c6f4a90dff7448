package host

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// TestRestoreResolver: an agent's file goes without the agent too, what was there before comes back, and the files of other
// interfaces stay.
func TestRestoreResolver(t *testing.T) {
	dir := t.TempDir()
	r := resolvers{run: filepath.Join(dir, "run"), etc: filepath.Join(dir, "etc")}
	const before = "nameserver 192.0.2.53\n"
	if err := errors.Join(os.MkdirAll(filepath.Dir(r.file("cart")), 0o755),
		os.WriteFile(r.file("cart"), []byte(before), 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, eni := range map[string]string{"cart": "eni-0cart", "till": "eni-0till"} {
		err := r.set(WorkloadSpec{ENI: eni, Netns: filepath.Join(r.run, name), Resolver: netip.MustParseAddr("10.0.0.2")})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := RestoreResolver(r.etc, "eni-0cart"); err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(r.file("cart")); string(have) != before {
		t.Errorf("what was there before is now %q (%v)", have, err)
	}
	if _, err := os.Stat(r.file("till")); err != nil {
		t.Errorf("the file of another interface: %v", err)
	}
	for range 2 { // again: nothing
		if err := RestoreResolver(r.etc, "eni-0till"); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(r.etc, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v are left (%v)", left, err)
	}
	if _, err := os.Stat(filepath.Dir(r.file("till"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory that was made for the file is left (%v)", err)
	}
	if err := RestoreResolver(r.etc, ""); !errors.Is(err, ErrSpec) {
		t.Errorf("no interface: %v", err)
	}
}
