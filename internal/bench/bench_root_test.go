package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/netns"
)

// TestMain lets the test's own program be a load, as this one is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && loads[os.Args[1]] != nil {
		if err := loads[os.Args[1]](os.Args[2:], os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestPlainPair(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
	program := filepath.Join(t.TempDir(), "wireguard-go")
	if out, err := exec.Command("go", "build", "-o", program, "golang.zx2c4.com/wireguard").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	p := &plainPair{wireguard: program}
	systems, err := p.up(t.Context())
	t.Cleanup(func() {
		p.down()
		for _, e := range plainEnds {
			if netns.Exists(netns.Path(e.namespace)) {
				t.Errorf("namespace %s is left", e.namespace)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := systems[1].serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer systems[1].stop()
	start := time.Now()
	before, err := readUsage()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []test{throughput(1, backward), requests, connects} {
		values, err := one(t.Context(), systems[1])
		if err != nil {
			t.Fatal(err)
		}
		for m, v := range values {
			if v <= 0 {
				t.Errorf("%s: %v", m.name, v)
			}
		}
	}
	after, err := readUsage()
	if err != nil {
		t.Fatal(err)
	}
	if cpus := (after.busy - before.busy - after.others + before.others) / time.Since(start).Seconds(); cpus < 0.1 {
		t.Errorf("the systems took %.2f CPUs", cpus)
	}
	if m, err := readMemory(p.daemons[0].Process.Pid); err != nil || m.most < m.now || m.now < 1 {
		t.Errorf("memory %+v, %v", m, err)
	}
}
