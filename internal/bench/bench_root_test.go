package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// Every world that needs no peer built comes up, is measured by every test that is one of its, and leaves nothing.
func TestWorlds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "wireguard-go")
	if out, err := exec.Command("go", "build", "-o", program, "golang.zx2c4.com/wireguard").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	o := options{systems: "veth,nftables,HAProxy,WireGuard"}
	b := &bench{dir: dir, peers: dir, worlds: map[string]*world{}}
	t.Cleanup(func() {
		if err := b.down(); err != nil {
			t.Error(err)
		}
		for _, w := range b.worlds {
			for _, ns := range w.spaces {
				if netns.Exists(netns.Path(ns)) {
					t.Errorf("namespace %s is left", ns)
				}
			}
		}
	})
	if err := b.up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, s := range b.systems {
		if err := s.serve(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	before, err := readUsage()
	if err != nil {
		t.Fatal(err)
	}
	r := newResults(b.systems, 1)
	if err := r.measure(t.Context(), func(x test) bool {
		return slices.Contains([]string{"tcp1r", "rr32", "udp64", "connect"}, x.name)
	}); err != nil {
		t.Fatal(err)
	}
	after, err := readUsage()
	if err != nil {
		t.Fatal(err)
	}
	want := []metric{throughputOf(1, backward), requestsOf(32, perSecond), connections}
	for _, s := range b.systems {
		for _, m := range want {
			if v := r.values[s][m]; len(v) != 1 || v[0] <= 0 {
				t.Errorf("%s, %s: %v", s.name, m, v)
			}
		}
	}
	if v := r.values[b.system(wireguardName)][floodOf(64)]; len(v) != 1 || v[0] <= 0 {
		t.Errorf("flood: %v", v)
	}
	if cpus := (after.busy - before.busy - after.others + before.others) / time.Since(start).Seconds(); cpus < 0.02 {
		t.Errorf("the systems took %.2f CPUs", cpus)
	}
	if m, err := b.memories(); err != nil || len(m) != 2 || m[0].most < m[0].now || m[0].now < 1 {
		t.Errorf("memory %+v, %v", m, err)
	}
}

// Servers of names that need nothing built come up, tell VPCs apart and are measured.
func TestNames(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
	w := &world{name: "dnt", dir: t.TempDir()}
	t.Cleanup(w.down)
	servers := []*nameServer{
		{name: culvertNames, port: 5301, names: 2000, start: startCulvertNames},
		{name: unboundNames, port: 5303, names: 2000, start: startUnbound},
	}
	if err := namesUp(t.Context(), w, servers); err != nil {
		t.Fatal(err)
	}
	r := &namesResult{o: namesOptions{rounds: 1, seconds: 1, names: 2000, rate: 1000}, servers: servers}
	for _, vpc := range namesVPCs {
		if err := writeQueries(w, 2000, vpc); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range servers {
		got, err := r.one(t.Context(), w, s)
		if err != nil {
			t.Fatal(err)
		}
		if got[queriesPerSecond] <= 0 || got[cpuPerQuery] <= 0 || got[lostQueries] > 500_000 ||
			got[latencyMedian] <= 0 || got[latencyP99] < got[latencyMedian] {
			t.Errorf("%s: %v", s.name, got)
		}
	}
}
