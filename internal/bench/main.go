// Bench measures Culvert beside what it stands on and beside its peers, in one run: a bare veth pair, the kernel's own
// translation, a load balancer in user space, bare WireGuard, Tailscale, Nebula, an endpoint to a target on another node,
// and one to a target on the same node. All of it shares one machine's CPUs, so a number means nothing by itself; the
// ratios are the result. Systems take turns within each round, so that whatever else the machine does strikes all of them.
//
//	go run ./internal/bench [-rounds 7] [-only tcp1,rr1] [-systems WireGuard,endpoint] [-write docs/PERFORMANCE.md]
//
// It needs root, makes namespaces named cvbench-… that lead nowhere, and removes them.
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
	"slices"
	"strings"
	"syscall"
	"time"
)

// timeLimit of a whole run: one that takes longer hangs.
const timeLimit = 90 * time.Minute

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	if len(os.Args) > 1 && loads[os.Args[1]] != nil {
		if err := loads[os.Args[1]](os.Args[2:], os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	}
	var o options
	flag.IntVar(&o.rounds, "rounds", 7, "how often each system is measured")
	flag.StringVar(&o.only, "only", "", "only these `tests`, separated by commas: "+strings.Join(testNames(), ", "))
	flag.StringVar(&o.systems, "systems", "", "only systems whose names contain one of these `words`, separated by commas")
	flag.StringVar(&o.file, "write", "", "put the result between the markers of this `file`, not on standard output")
	flag.StringVar(&o.json, "json", "", "write the rows to this `file` too")
	flag.StringVar(&o.peers, "peers", "", "`directory` to keep the built peers in")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	err := run(ctx, o)
	cancel()
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

// options of a run.
type options struct {
	rounds                           int
	only, systems, file, json, peers string
}

// wants says whether a test is asked for.
func (o options) wants(t test) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), t.name)
}

// names says whether a system is asked for.
func (o options) names(system string) bool {
	return o.systems == "" || slices.ContainsFunc(strings.Split(o.systems, ","), func(word string) bool {
		return strings.Contains(system, word)
	})
}

// whole runs are those that leave nothing out: only they are held against the goals that take minutes.
func (o options) whole() bool { return o.only == "" && o.systems == "" }

func testNames() []string {
	var names []string
	for _, t := range tests {
		names = append(names, t.name)
	}
	return names
}

// check refuses before the minutes, not after.
func (o options) check() error {
	if o.rounds < 1 || o.rounds > 100 {
		return fmt.Errorf("-rounds %d: want 1 to 100", o.rounds)
	}
	for name := range strings.SplitSeq(o.only, ",") {
		if name != "" && !slices.Contains(testNames(), name) {
			return fmt.Errorf("-only %s: use some of %s", name, strings.Join(testNames(), ", "))
		}
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("namespaces, tunnels and BPF programs need root: run it as root (sudo)")
	}
	for _, program := range []string{"iperf3", "nft", "haproxy", "ethtool"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: install it with: scripts/setup bench", err)
		}
	}
	return nil
}

func run(ctx context.Context, o options) error {
	if err := o.check(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cvbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var doc []byte
	if o.file != "" {
		if doc, err = os.ReadFile(o.file); err != nil {
			return err
		}
		if _, err := replace(doc, ""); err != nil {
			return fmt.Errorf("%s: %w", o.file, err)
		}
	}
	where, err := circumstances() // as the source is when it is built
	if err != nil {
		return err
	}
	start := time.Now()
	r, err := measureAll(ctx, dir, o)
	if err != nil {
		return err
	}
	r.where = where
	log.Printf("done in %v", time.Since(start).Round(time.Second))
	if o.json != "" {
		if err := r.writeJSON(o.json); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	if err := r.markdown(&out); err != nil {
		return err
	}
	if o.file == "" {
		_, err := io.Copy(os.Stdout, &out)
		return err
	}
	if doc, err = replace(doc, out.String()); err != nil {
		return err
	}
	return os.WriteFile(o.file, doc, 0o644)
}

// build compiles what is measured: this tree, wireguard-go of the version that it uses, and the peers.
func build(ctx context.Context, dir string, o options) (peers string, err error) {
	for name, pkg := range map[string]string{
		"culvert":      "github.com/culvert-net/culvert/cmd/culvert",
		"wireguard-go": "golang.zx2c4.com/wireguard",
	} {
		log.Printf("building %s", name)
		out, err := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, name), pkg).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	if !o.names(tailscaleName) && !o.names(via6Name) && !o.names(nebulaName) {
		return dir, nil
	}
	peers = dir
	if o.peers != "" {
		if peers, err = filepath.Abs(o.peers); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(peers, 0o755); err != nil {
		return "", err
	}
	log.Print("building the peers: some minutes, the first time")
	cmd := exec.CommandContext(ctx, "go", "build", "-C", "internal/bench/peers", "-o", peers+"/", ".", "tailscale.com/cmd/tailscaled",
		"tailscale.com/cmd/tailscale", "github.com/slackhq/nebula/cmd/nebula", "github.com/slackhq/nebula/cmd/nebula-cert")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the peers (run it at the top of the source): %w\n%s", err, out)
	}
	return peers, nil
}

// worldOf is a system and how its world comes up.
type worldOf struct {
	short, system string
	up            func(context.Context, *world) (*system, error)
}

var worlds = []worldOf{
	{"ve", vethName, vethUp}, {"nf", nftName, nftUp}, {"ha", haproxyName, haproxyUp},
	{"wg", wireguardName, func(ctx context.Context, w *world) (*system, error) { return wireguardUp(ctx, w, usual) }},
	{"ts", tailscaleName, func(ctx context.Context, w *world) (*system, error) { return tailscaleUp(ctx, w, false) }},
	{"t6", via6Name, func(ctx context.Context, w *world) (*system, error) { return tailscaleUp(ctx, w, true) }},
	{"nb", nebulaName, nebulaUp},
}

// bench is all that a run has brought up.
type bench struct {
	dir, peers string
	worlds     map[string]*world // by system
	systems    []*system
	mesh       *mesh
}

func (b *bench) system(name string) *system {
	for _, s := range b.systems {
		if s.name == name {
			return s
		}
	}
	return nil
}

// up brings up every system that is asked for.
func (b *bench) up(ctx context.Context, o options) error {
	for _, of := range worlds {
		if !o.names(of.system) {
			continue
		}
		log.Printf("bringing up %s", of.system)
		w := &world{name: of.short, bin: b.dir, dir: filepath.Join(b.dir, of.short)}
		if strings.HasPrefix(of.system, tailscaleName) || of.system == nebulaName {
			w.bin = b.peers
		}
		b.worlds[of.system] = w
		if err := os.MkdirAll(w.dir, 0o755); err != nil {
			return err
		}
		s, err := of.up(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", of.system, err)
		}
		b.systems = append(b.systems, s)
	}
	if !o.names(farName) && !o.names(nearName) {
		return nil
	}
	log.Print("bringing up the mesh")
	var err error
	if b.mesh, err = newMesh(filepath.Join(b.dir, "culvert"), usual); err != nil {
		return err
	}
	more, err := b.mesh.up(ctx)
	for _, s := range more {
		if o.names(s.name) {
			b.systems = append(b.systems, s)
		}
	}
	return err
}

func (b *bench) down() (err error) {
	for _, s := range b.systems {
		s.stop()
	}
	if b.mesh != nil {
		err = b.mesh.lab.Down()
	}
	for _, w := range b.worlds {
		w.down()
	}
	return err
}

// measureAll builds the systems, measures them and takes them down.
func measureAll(ctx context.Context, dir string, o options) (r *results, err error) {
	b := &bench{dir: dir, worlds: map[string]*world{}}
	if b.peers, err = build(ctx, dir, o); err != nil {
		return nil, err
	}
	if err := comeFirst(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.down()) }()
	if err := b.up(ctx, o); err != nil {
		return nil, err
	}
	for _, s := range b.systems {
		if err := s.serve(ctx); err != nil {
			return nil, err
		}
	}
	r = newResults(b.systems, o.rounds)
	err = r.measure(ctx, o.wants)
	if err == nil && o.whole() {
		err = b.more(ctx, r)
	}
	if err != nil {
		if b.mesh != nil {
			err = errors.Join(err, b.mesh.explain(ctx))
		}
		return nil, err
	}
	if r.memory, err = b.memories(); err != nil || o.systems != "" {
		return r, err
	}
	for _, u := range underlays {
		v, err := variant(ctx, dir, o, u)
		if err != nil {
			return nil, fmt.Errorf("underlay %s: %w", u.name, err)
		}
		r.variants = append(r.variants, v)
	}
	return r, nil
}

// more are the measurements that are made once, at the end.
func (b *bench) more(ctx context.Context, r *results) error {
	near, far := b.system(nearName), b.system(farName)
	if err := r.interleave(ctx, tests[0], throughputOf(1, forward), near, b.system(vethName)); err != nil {
		return err
	}
	if err := r.hold(ctx, far, b.system(wireguardName)); err != nil {
		return err
	}
	if err := r.hold(ctx, near, b.system(nftName)); err != nil {
		return err
	}
	var err error
	r.costs, err = costs(ctx)
	return err
}

// variant measures an underlay other than the usual one, with streams only.
func variant(ctx context.Context, dir string, o options, u underlay) (r *results, err error) {
	log.Printf("underlay %s", u.name)
	w := &world{name: "w" + u.short, bin: dir, dir: dir}
	b := &bench{dir: dir, worlds: map[string]*world{wireguardName: w}}
	defer func() { err = errors.Join(err, b.down()) }()
	s, err := wireguardUp(ctx, w, u)
	if err != nil {
		return nil, err
	}
	if b.mesh, err = newMesh(filepath.Join(dir, "culvert"), u); err != nil {
		return nil, err
	}
	more, err := b.mesh.up(ctx)
	if err != nil {
		return nil, err
	}
	b.systems = []*system{s}
	for _, s := range more {
		if s.name == farName {
			b.systems = append(b.systems, s)
		}
	}
	for _, s := range b.systems {
		if err := s.serve(ctx); err != nil {
			return nil, err
		}
	}
	r = newResults(b.systems, o.rounds)
	r.underlay = &u
	return r, r.measure(ctx, func(t test) bool { return strings.HasPrefix(t.name, "tcp") && o.wants(t) })
}

// memories are those of the processes that carry traffic, and of the agent.
func (b *bench) memories() (all []memoryOf, err error) {
	add := func(name string, ids []int) {
		m := memoryOf{name: name}
		for _, id := range ids {
			got, errOf := readMemory(id)
			err = errors.Join(err, errOf)
			m.now, m.most = max(m.now, got.now), max(m.most, got.most)
		}
		all = append(all, m)
	}
	for _, of := range worlds {
		if w := b.worlds[of.system]; w != nil && len(w.daemons) > 0 {
			var ids []int
			for _, cmd := range w.daemons {
				ids = append(ids, cmd.Process.Pid)
			}
			add(of.system, ids)
		}
	}
	if b.mesh == nil {
		return all, err
	}
	for _, name := range []string{tunnelMemory, agentMemory} {
		ids, errOf := b.mesh.processes(strings.TrimPrefix(name, "culvert "))
		err = errors.Join(err, errOf)
		add(name, ids)
	}
	return all, err
}
