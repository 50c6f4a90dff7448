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

// Agents that share the directory, as in a dev mesh, leave alone what another is about to write.
func TestResolverFilesOfTwoAgents(t *testing.T) {
	dir := t.TempDir()
	one := resolvers{run: filepath.Join(dir, "run"), etc: filepath.Join(dir, "etc"), host: 1}
	two := one
	two.host = 2
	const before = "nameserver 192.0.2.53\n"
	if err := errors.Join(os.MkdirAll(filepath.Dir(one.file("cart")), 0o755),
		os.WriteFile(one.file("cart"), []byte(before), 0o644)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := two.restore(two.of("")); err != nil {
				done <- err
				return
			}
		}
	}()
	spec := WorkloadSpec{ENI: "eni-1", Netns: filepath.Join(one.run, "cart"), Resolver: netip.MustParseAddr("10.0.0.2")}
	for range 300 {
		if err := errors.Join(one.set(spec), one.restore(one.of(spec.ENI))); err != nil {
			t.Error(err)
			break
		}
		if have, err := os.ReadFile(one.file("cart")); string(have) != before {
			t.Errorf("what was there before is now %q (%v)", have, err)
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Whoever died while the file was put back is finished by the next, and a person's file is never lost.
func TestResolverFileAfterADeath(t *testing.T) {
	for _, before := range []string{"", "nameserver 192.0.2.1\n"} {
		for _, again := range []bool{false, true} {
			dir := t.TempDir()
			r := resolvers{run: filepath.Join(dir, "run"), etc: filepath.Join(dir, "etc")}
			spec := WorkloadSpec{ENI: "eni-1", Netns: filepath.Join(r.run, "cart"), Resolver: netip.MustParseAddr("10.0.0.2")}
			for _, d := range []string{r.run, filepath.Dir(r.file("cart"))} {
				if d != r.run && before == "" {
					d = r.etc
				}
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if before != "" {
				if err := os.WriteFile(r.file("cart"), []byte(before), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.set(spec); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(r.file("cart"), r.note("cart")); err != nil { // and then it died
				t.Fatal(err)
			}
			if again {
				if err := r.set(spec); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.restore(r.of(spec.ENI)); err != nil {
				t.Fatal(err)
			}
			have, _ := os.ReadFile(r.file("cart"))
			left, err := os.ReadDir(r.etc)
			if string(have) != before || err != nil || before == "" && len(left) > 0 || before != "" && len(left) != 1 {
				t.Errorf("before %q, attached again %t: now %q, left %v, %v", before, again, have, left, err)
			}
		}
	}
}
