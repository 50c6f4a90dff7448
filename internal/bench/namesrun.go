package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func cpus() int { return runtime.NumCPU() }

// Lines of the document between which the result of names stands.
const (
	namesBegin = "<!-- make bench-dns writes from here -->\n"
	namesEnd   = "<!-- make bench-dns writes to here -->\n"
)

// namesOptions of a run.
type namesOptions struct {
	rounds, seconds, names, rate int
	file, coredns                string
}

// What is measured of a server.
type namesMetric int

const (
	queriesPerSecond namesMetric = iota // as many as it answers
	cpuPerQuery                         // of the server's process at that, µs
	latencyMedian                       // µs, at a rate that leaves every server idle half of the time
	latencyP99
	lostQueries // in both, of a million
)

var namesMetrics = []struct {
	name     string
	decimals int
}{
	{"queries/s", 0}, {"server's CPU, µs a query", 2}, {"p50 µs at the fixed rate", 0}, {"p99 µs at the fixed rate", 0},
	{"without an answer, of a million", 0},
}

// namesGoal is what Culvert's figure shall be of another's.
type namesGoal struct {
	of     namesMetric
	system int // index of servers: what is measured
	to     int
	want   float64
	most   bool // at most, else at least
}

var namesGoals = []namesGoal{
	{of: queriesPerSecond, to: 1, want: 1.5}, {of: queriesPerSecond, to: 2, want: 0.8},
	{of: latencyP99, to: 1, want: 1, most: true}, {of: latencyP99, to: 2, want: 1, most: true},
	{of: cpuPerQuery, system: 3, to: 0, want: 1.05, most: true},
}

// benchNames is the command "names": it measures servers of names side by side.
func benchNames(args []string, out io.Writer) error {
	o := namesOptions{}
	f := flag.NewFlagSet("names", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 7, "how often each server is measured")
	f.IntVar(&o.seconds, "seconds", 3, "how long, each time")
	f.IntVar(&o.names, "names", 10_000, "in each VPC")
	f.IntVar(&o.rate, "rate", 10_000, "queries a second of each VPC at which latency is measured")
	f.StringVar(&o.file, "write", "", "put the result between the markers of this `file`, not on standard output")
	f.StringVar(&o.coredns, "peers", "", "`directory` to keep the built CoreDNS in")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return o.run(ctx, out)
}

func (o namesOptions) check() error {
	if o.rounds < 1 || o.seconds < 1 || o.names < 1 || o.names > 100_000 || o.rate < 1 {
		return errors.New("-rounds, -seconds, -names (at most 100000) and -rate must be positive")
	}
	if os.Geteuid() != 0 {
		return errors.New("namespaces need root: run it as root (sudo)")
	}
	for _, program := range []string{"dnsperf", "unbound", "dig"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: install it with: scripts/setup bench", err)
		}
	}
	return nil
}

func (o namesOptions) run(ctx context.Context, out io.Writer) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cvbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w := &world{name: "dns", dir: dir}
	if w.bin, err = buildCoreDNS(ctx, o.coredns, dir); err != nil {
		return err
	}
	where, err := namesCircumstances(filepath.Join(w.bin, "coredns"))
	if err != nil {
		return err
	}
	if err := comeFirst(); err != nil {
		return err
	}
	servers := nameServers(o.names)
	defer w.down()
	if err := namesUp(ctx, w, servers); err != nil {
		return err
	}
	r := &namesResult{o: o, servers: servers, where: where, values: map[namesMetric][][]float64{}}
	if err := r.measure(ctx, w); err != nil {
		return err
	}
	if o.file == "" {
		_, err := io.WriteString(out, r.markdown())
		return err
	}
	doc, err := os.ReadFile(o.file)
	if err != nil {
		return err
	}
	if doc, err = replaceBetween(doc, namesBegin, namesEnd, r.markdown()); err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	return os.WriteFile(o.file, doc, 0o644)
}

// buildCoreDNS compiles it from a module of its own, so that it is none of Culvert's dependencies.
func buildCoreDNS(ctx context.Context, keep, dir string) (string, error) {
	if keep == "" {
		keep = dir
	}
	keep, err := filepath.Abs(keep)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(keep, 0o755); err != nil {
		return "", err
	}
	log.Print("building CoreDNS: some minutes, the first time")
	cmd := exec.CommandContext(ctx, "go", "build", "-C", "internal/bench/coredns", "-o", keep+"/", "github.com/coredns/coredns")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build CoreDNS (run it at the top of the source): %w\n%s", err, out)
	}
	return keep, nil
}

func namesCircumstances(coredns string) (string, error) {
	commit, err := commit()
	if err != nil {
		return "", err
	}
	kernel, err := kernel()
	if err != nil {
		return "", err
	}
	version := func(name string, args ...string) string {
		out, _ := exec.Command(name, args...).CombinedOutput() // dnsperf has no such option and says it with its usage
		line, _, _ := strings.Cut(string(bytes.TrimSpace(out)), "\n")
		return strings.TrimPrefix(line, "Version ")
	}
	return fmt.Sprintf("Commit %s, %s, Linux %s, %s, %s, Unbound %s", commit, machine(), kernel, runtime.Version(),
		version(coredns, "-version"), strings.TrimPrefix(version("unbound", "-V"), "Version ")), nil
}

// namesResult of a run; values are by metric, server and round.
type namesResult struct {
	o       namesOptions
	servers []*nameServer
	where   string
	values  map[namesMetric][][]float64
	others  []float64 // CPUs that other programs took meanwhile
}

// measure lets the servers take turns within each round, every second round in reverse order.
func (r *namesResult) measure(ctx context.Context, w *world) error {
	for m := range namesMetrics {
		r.values[namesMetric(m)] = make([][]float64, len(r.servers))
	}
	for _, s := range r.servers {
		for _, vpc := range namesVPCs {
			if err := writeQueries(w, s.names, vpc); err != nil {
				return err
			}
		}
	}
	for round := -1; round < r.o.rounds; round++ { // the first one only warms up
		order := make([]int, len(r.servers))
		for i := range order {
			order[i] = i
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			got, err := r.one(ctx, w, r.servers[i])
			if err != nil {
				return fmt.Errorf("%s: %w", r.servers[i].name, err)
			}
			if round < 0 {
				continue
			}
			for m, v := range got {
				r.values[namesMetric(m)][i] = append(r.values[namesMetric(m)][i], v)
			}
		}
		log.Printf("round %d of %d", round+1, r.o.rounds)
	}
	return nil
}

// queriesFile of a VPC's clients.
func queriesFile(w *world, names int, vpc uint32) string {
	return filepath.Join(w.dir, fmt.Sprintf("queries-%d-%d", names, vpc))
}

// writeQueries writes which names a VPC's clients ask: each once, in random order.
func writeQueries(w *world, names int, vpc uint32) error {
	order := rand.New(rand.NewPCG(1, uint64(vpc))).Perm(names)
	_, err := w.writeLines(filepath.Base(queriesFile(w, names, vpc)), func(write func(string, ...any)) {
		for _, i := range order {
			write("%s A", benchName(i))
		}
	})
	return err
}

// one measures a server: first what it can, then how long single queries take.
func (r *namesResult) one(ctx context.Context, w *world, s *nameServer) (got [5]float64, err error) {
	if !s.alive() {
		return got, errors.New("it has ended")
	}
	load, err := readUsage()
	if err != nil {
		return got, err
	}
	before, err := usedBy(s.cmd)
	if err != nil {
		return got, err
	}
	begin := time.Now()
	full, err := r.load(ctx, w, s, 0)
	if err != nil {
		return got, err
	}
	after, err := usedBy(s.cmd)
	if err != nil {
		return got, err
	}
	slow, err := r.load(ctx, w, s, r.o.rate)
	if err != nil {
		return got, err
	}
	end, err := readUsage()
	if err != nil {
		return got, err
	}
	r.others = append(r.others, (end.others-load.others)/time.Since(begin).Seconds())
	lost := float64(full.lost+slow.lost) / float64(full.sent+slow.sent) * 1e6
	slices.Sort(slow.times)
	if len(slow.times) == 0 {
		return got, errors.New("no query was answered")
	}
	at := func(part float64) float64 { return slow.times[int(part*float64(len(slow.times)-1))] * 1e6 }
	return [5]float64{full.perSecond, (after - before) / float64(full.sent-full.lost) * 1e6, at(0.5), at(0.99), lost}, nil
}

// asked is what the clients of all VPCs saw.
type asked struct {
	perSecond  float64
	sent, lost int
	times      []float64 // seconds, of each answered query; only at a fixed rate
}

// Of each VPC's client: sockets, and queries that wait for an answer at once.
const (
	namesSockets = 8
	namesWaiting = 50
)

// load runs one dnsperf for each VPC at the same time; rate 0: as fast as answers come.
func (r *namesResult) load(ctx context.Context, w *world, s *nameServer, rate int) (sum asked, err error) {
	type result struct {
		asked
		err error
	}
	results := make(chan result, len(namesVPCs))
	for _, vpc := range namesVPCs {
		argv := []string{"dnsperf", "-f", "inet6", "-s", namesNode.String(), "-p", strconv.Itoa(s.port), "-a", namesFrom(vpc).String(),
			"-d", queriesFile(w, s.names, vpc), "-c", strconv.Itoa(namesSockets), "-q", strconv.Itoa(namesWaiting), "-T", "1",
			"-t", "1", "-l", strconv.Itoa(r.o.seconds)}
		if rate > 0 {
			argv = append(argv, "-Q", strconv.Itoa(rate), "-v")
		}
		go func() {
			text, err := output(ctx, w.ns("c"), argv...)
			var got result
			if err == nil {
				got.asked, err = parseDNSPerf(text)
			}
			got.err = err
			results <- got
		}()
	}
	for range namesVPCs {
		got := <-results
		err = errors.Join(err, got.err)
		sum.perSecond += got.perSecond
		sum.sent, sum.lost, sum.times = sum.sent+got.sent, sum.lost+got.lost, append(sum.times, got.times...)
	}
	return sum, err
}

// parseDNSPerf reads what dnsperf prints. An answer other than the name's address is an error: a server that refuses is
// fast.
func parseDNSPerf(text []byte) (a asked, err error) {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 5 && f[0] == ">": // > NOERROR NAME TYPE SECONDS
			t, err := strconv.ParseFloat(f[4], 64)
			if err != nil {
				return a, fmt.Errorf("dnsperf: %q", lines.Text())
			}
			a.times = append(a.times, t)
		case len(f) >= 3 && f[0] == "Queries" && f[1] == "sent:":
			a.sent, err = strconv.Atoi(f[2])
		case len(f) >= 3 && f[0] == "Queries" && f[1] == "lost:":
			a.lost, err = strconv.Atoi(f[2])
		case len(f) >= 4 && f[0] == "Queries" && f[1] == "per":
			a.perSecond, err = strconv.ParseFloat(f[3], 64)
		case len(f) >= 3 && f[0] == "Response" && f[1] == "codes:" && (len(f) != 5 || f[2] != "NOERROR"):
			return a, fmt.Errorf("dnsperf: %s", lines.Text())
		}
		if err != nil {
			return a, fmt.Errorf("dnsperf: %q: %w", lines.Text(), err)
		}
	}
	if a.sent == 0 || a.perSecond == 0 {
		return a, fmt.Errorf("dnsperf says %q", text)
	}
	return a, nil
}

// markdown is the result as it stands in the document.
func (r *namesResult) markdown() string {
	var b strings.Builder
	others := spreadOf(r.others)
	fmt.Fprintf(&b, "%s. %d names in each of two VPCs, %d s each time, n = %d rounds, median [least–most]; a ratio is the median of the "+
		"rounds' ratios. The fixed rate is %d queries/s of both VPCs together. Other programs took %.2f CPUs meanwhile "+
		"(median; at most %.2f).\n\n|",
		r.where, r.o.names, r.o.seconds, r.o.rounds, r.o.rate*len(namesVPCs), others.median, others.most)
	for _, s := range r.servers {
		fmt.Fprintf(&b, " | %s", s.name)
	}
	b.WriteString(" |\n|---" + strings.Repeat("|---", len(r.servers)) + "|\n")
	for m, of := range namesMetrics {
		fmt.Fprintf(&b, "| %s", of.name)
		for i := range r.servers {
			fmt.Fprintf(&b, " | %s", spreadOf(r.values[namesMetric(m)][i]).format(of.decimals))
		}
		b.WriteString(" |\n")
	}
	b.WriteString("\n| | ratio | have | want | |\n|---|---|---|---|---|\n")
	for _, g := range namesGoals {
		have := spreadOf(ratios(r.values[g.of][g.system], r.values[g.of][g.to]))
		sign, ok := "≥", have.median >= g.want
		if g.most {
			sign, ok = "≤", have.median <= g.want
		}
		mark := "missed"
		if ok {
			mark = "met"
		}
		fmt.Fprintf(&b, "| %s | %s ÷ %s | %s | %s %.2f | %s |\n", namesMetrics[g.of].name, r.servers[g.system].name, r.servers[g.to].name,
			have.format(2), sign, g.want, mark)
	}
	b.WriteString("\n")
	return b.String()
}
