// Bench measures Culvert beside what it stands on, in one run: a bare veth pair, a bare WireGuard tunnel, an endpoint to a
// target on another node, and one to a target on the same node. All of it shares one machine's CPUs, so a number means
// nothing by itself; the ratios are the result. Systems take turns within each round, so that whatever else the machine
// does strikes all of them.
//
//	go run ./internal/bench [-rounds 7] [-write docs/PERFORMANCE.md]
//
// It needs root and iperf3, makes namespaces named cvbench-… that lead nowhere, and removes them.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// timeLimit of a whole run: one that takes longer hangs.
const timeLimit = 10 * time.Minute

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	if len(os.Args) > 1 && loads[os.Args[1]] != nil {
		if err := loads[os.Args[1]](os.Args[2:], os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	}
	rounds := flag.Int("rounds", 7, "how often each system is measured")
	file := flag.String("write", "", "put the result between the markers of this `file`, not on standard output")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	err := run(ctx, *rounds, *file)
	cancel()
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, rounds int, file string) error {
	if rounds < 1 || rounds > 100 {
		return fmt.Errorf("rounds %d: want 1 to 100", rounds)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("namespaces, tunnels and BPF programs need root: run it as root (sudo)")
	}
	if _, err := exec.LookPath("iperf3"); err != nil {
		return fmt.Errorf("iperf3: %w: install it with: apt-get install iperf3", err)
	}
	dir, err := os.MkdirTemp("", "cvbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var doc []byte
	if file != "" { // refuse before the minutes, not after
		if doc, err = os.ReadFile(file); err != nil {
			return err
		}
		if _, err := replace(doc, ""); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	where, err := circumstances() // as the source is when it is built
	if err != nil {
		return err
	}
	start := time.Now()
	r, err := measureAll(ctx, dir, rounds)
	if err != nil {
		return err
	}
	r.where = where
	log.Printf("done in %v", time.Since(start).Round(time.Second))
	var out bytes.Buffer
	if err := r.markdown(&out); err != nil {
		return err
	}
	if file == "" {
		_, err := io.Copy(os.Stdout, &out)
		return err
	}
	if doc, err = replace(doc, out.String()); err != nil {
		return err
	}
	return os.WriteFile(file, doc, 0o644)
}

// measureAll builds the systems, measures them and takes them down.
func measureAll(ctx context.Context, dir string, rounds int) (r *results, err error) {
	programs := map[string]string{
		"culvert":      "github.com/culvert-net/culvert/cmd/culvert",
		"wireguard-go": "golang.zx2c4.com/wireguard",
	}
	for name, pkg := range programs {
		log.Printf("building %s", name)
		out, err := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, name), pkg).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	if err := comeFirst(); err != nil {
		return nil, err
	}
	plain := &plainPair{wireguard: filepath.Join(dir, "wireguard-go")}
	defer plain.down()
	m, err := newMesh(filepath.Join(dir, "culvert"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if errDown := m.lab.Down(); err == nil {
			err = errDown
		}
	}()
	systems, err := plain.up(ctx)
	if err != nil {
		return nil, err
	}
	log.Print("bringing up the mesh")
	more, err := m.up(ctx)
	if err != nil {
		return nil, err
	}
	systems = append(systems, more...)
	for _, s := range systems {
		if err := s.serve(ctx); err != nil {
			return nil, err
		}
		defer s.stop()
	}
	if r, err = measure(ctx, systems, rounds); err != nil {
		return nil, errors.Join(err, m.explain(ctx))
	}
	r.memory, err = memories(plain, m)
	return r, err
}

// memories are those of the processes that carry traffic, and of the agent.
func memories(plain *plainPair, m *mesh) ([]memoryOf, error) {
	kinds := []memoryOf{{name: "wireguard-go"}, {name: "culvert tunnel"}, {name: "culvert agent"}}
	ids := make([][]int, len(kinds))
	for _, cmd := range plain.daemons {
		ids[0] = append(ids[0], cmd.Process.Pid)
	}
	for i, role := range []string{"tunnel", "agent"} {
		found, err := m.processes(role)
		if err != nil {
			return nil, err
		}
		ids[i+1] = found
	}
	for i := range kinds {
		for _, id := range ids[i] {
			got, err := readMemory(id)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kinds[i].name, err)
			}
			kinds[i].now, kinds[i].most = max(kinds[i].now, got.now), max(kinds[i].most, got.most)
		}
	}
	return kinds, nil
}
