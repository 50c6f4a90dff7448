package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Markers in the document, between which the result stands.
const (
	beginMark = "<!-- make bench writes from here -->\n"
	endMark   = "<!-- to here -->\n"
)

// replace puts text between the markers.
func replace(doc []byte, text string) ([]byte, error) {
	return replaceBetween(doc, beginMark, endMark, text)
}

func replaceBetween(doc []byte, begin, end, text string) ([]byte, error) {
	before, rest, ok := bytes.Cut(doc, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return nil, errors.New("it has no lines " + strings.TrimSpace(begin) + " and " + strings.TrimSpace(end))
	}
	return slices.Concat(before, []byte(begin), []byte(text), []byte(end), after), nil
}

// spread is a median with the least and the largest.
type spread struct{ least, median, most float64 }

func spreadOf(xs []float64) spread {
	sorted := slices.Sorted(slices.Values(xs))
	n := len(sorted)
	return spread{sorted[0], (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[n-1]}
}

func (s spread) format(decimals int) string {
	f := func(x float64) string { return strconv.FormatFloat(x, 'f', decimals, 64) }
	return fmt.Sprintf("%s [%s–%s]", f(s.median), f(s.least), f(s.most))
}

// ratios of what was measured in the same round.
func ratios(above, below []float64) []float64 {
	out := make([]float64, len(above))
	for i := range above {
		out[i] = above[i] / below[i]
	}
	return out
}

// row is one line of build/bench.json: what a system gave, and for Culvert's how that relates to another.
type row struct {
	Work   string  `json:"work"`
	System string  `json:"system"`
	Value  float64 `json:"value"` // median
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
	N      int     `json:"n"`
	Unit   string  `json:"unit"`
	Ratio  float64 `json:"ratio,omitempty"` // median of the rounds' ratios; of medians where one was measured more often
	RatioL float64 `json:"ratioLeast,omitempty"`
	RatioM float64 `json:"ratioMost,omitempty"`
	To     string  `json:"to,omitempty"`
	Goal   float64 `json:"goal,omitempty"` // of the ratio: at least, or at most where Less
	Less   bool    `json:"lessIsBetter,omitempty"`
	Met    *bool   `json:"met,omitempty"`
}

// metrics of the results, in the order in which they were measured.
func (r *results) metrics() []metric {
	var all []metric
	add := func(m metric) {
		for _, s := range r.systems {
			if len(r.values[s][m]) > 0 && !slices.Contains(all, m) {
				all = append(all, m)
			}
		}
	}
	for _, streams := range []int{1, 4, 64} {
		for _, way := range []string{forward, backward} {
			add(throughputOf(streams, way))
			add(cpuOf(streams, way))
		}
	}
	for _, conns := range []int{1, 32} {
		for _, unit := range []string{p50, p99, perSecond} {
			add(requestsOf(conns, unit))
		}
	}
	for _, size := range []int{1200, 64} {
		add(floodOf(size))
		add(keptOf(size))
	}
	add(connections)
	add(sustained)
	for _, m := range shares() {
		add(m)
	}
	return all
}

// relation of a system to another in one metric.
func (r *results) relation(m metric, of, to *system) (s spread, ok bool) {
	above, below := r.values[of][m], r.values[to][m]
	switch {
	case len(above) == 0 || len(below) == 0:
		return s, false
	case len(above) == len(below):
		return spreadOf(ratios(above, below)), true
	}
	ratio := spreadOf(above).median / spreadOf(below).median
	return spread{ratio, ratio, ratio}, true
}

// against are the systems that one of Culvert's is held against, and the goal of a metric, if there is one.
func (r *results) against(name string, m metric) (to []string, wanted map[string]goal) {
	wanted = map[string]goal{}
	for _, g := range goals[name] {
		if g.metric == m && !g.ci {
			wanted[g.to] = g
		}
	}
	if name != farName && name != nearName {
		return nil, nil
	}
	to = map[string][]string{farName: {wireguardName}, nearName: {vethName, nftName}}[name]
	if r.underlay != nil {
		ratio := 1.0
		if r.underlay.bare && !m.less {
			ratio = 3
		}
		return []string{wireguardName}, map[string]goal{wireguardName: {metric: m, to: wireguardName, ratio: ratio}}
	}
	for _, rival := range rivals[name] {
		to, wanted[rival] = append(to, rival), goal{metric: m, to: rival, ratio: 1}
	}
	return to, wanted
}

func met(m metric, have, want float64) bool {
	if m.less {
		return have <= want
	}
	return have >= want
}

// rows are all results.
func (r *results) rows() (rows []row) {
	for _, m := range r.metrics() {
		for _, s := range r.systems {
			values := r.values[s][m]
			if len(values) == 0 {
				continue
			}
			sp := spreadOf(values)
			if slices.Contains(shares(), m) {
				rows = append(rows, row{
					Work: m.work, System: s.name, Value: sp.median, Least: sp.least, Most: sp.most, N: len(values), Unit: m.unit,
					Ratio: sp.median, RatioL: sp.least, RatioM: sp.most, To: fairShare,
				}.judged(m, sp.median, leastShare))
				continue
			}
			plain := row{Work: m.work, System: s.name, Value: sp.median, Least: sp.least, Most: sp.most, N: len(values), Unit: m.unit, Less: m.less}
			to, wanted := r.against(s.name, m)
			if len(to) == 0 {
				rows = append(rows, plain)
				continue
			}
			for _, other := range to {
				rows = append(rows, r.held(plain, m, s, other, wanted)...)
			}
		}
	}
	for _, p := range r.pairs {
		sp := spreadOf(p.ofs)
		rows = append(rows, row{
			Work: p.metric.work + ", " + strconv.Itoa(len(p.ofs)) + " pairs, 95 % interval of the ratio's median", System: p.of, Value: sp.median,
			Least: sp.least, Most: sp.most, N: len(p.ofs), Unit: p.metric.unit, Ratio: p.mid, RatioL: p.least, RatioM: p.most, To: p.to,
		}.judged(p.metric, p.most, r.intervalGoal(p)))
	}
	for _, c := range r.costs {
		rows = append(rows, row{Work: "cost of a packet: " + c.what, System: "culvert", Value: c.ns, Least: c.ns, Most: c.ns, N: 1, Unit: "ns", Less: true})
	}
	for _, v := range r.variants {
		for _, x := range v.rows() {
			x.Work += ", underlay " + v.underlay.name
			rows = append(rows, x)
		}
	}
	for _, m := range r.memory {
		x := row{Work: "memory", System: m.name, Value: m.now, Least: m.now, Most: m.most, N: 1, Unit: "MiB", Less: true}
		rows = append(rows, x.judged(metric{less: true}, m.most, memoryGoals[m.name]))
	}
	return rows
}

func (r *results) intervalGoal(p pair) float64 {
	for _, g := range goals[p.of] {
		if g.ci && g.metric == p.metric && g.to == p.to {
			return g.ratio
		}
	}
	return 0
}

func (x row) judged(m metric, have, want float64) row {
	if want != 0 {
		ok := met(m, have, want)
		x.Goal, x.Met = want, &ok
	}
	return x
}

func (r *results) held(plain row, m metric, s *system, other string, wanted map[string]goal) []row {
	for _, to := range r.systems {
		if to.name != other {
			continue
		}
		ratio, ok := r.relation(m, s, to)
		if !ok {
			return nil
		}
		plain.Ratio, plain.RatioL, plain.RatioM, plain.To = ratio.median, ratio.least, ratio.most, other
		return []row{plain.judged(m, ratio.median, wanted[other].ratio)}
	}
	return nil
}

func (r *results) writeJSON(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := json.MarshalIndent(map[string]any{"where": r.where, "rows": r.rows()}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(out, '\n'), 0o644)
}

// markdown writes the whole result.
func (r *results) markdown(w io.Writer) error {
	foreign := spreadOf(r.foreign)
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s. n = %s, median [least–most]; a ratio is the median of the rounds' ratios. Other programs took "+
		"%.2f CPUs meanwhile (median; at most %.2f).\n\n", r.where, plural(r.rounds, "round"), foreign.median, foreign.most)
	r.valuesTable(&b)
	r.ratiosTable(&b)
	for _, p := range r.pairs {
		fmt.Fprintf(&b, "%s, %s ÷ %s, %d pairs in turns: the ratio's median is %.2f, its 95 %% interval %.2f–%.2f.\n\n",
			p.metric.work, p.of, p.to, len(p.ofs), p.mid, p.least, p.most)
	}
	if len(r.costs) > 0 {
		b.WriteString("| cost of a packet, by the kernel's statistics, less an empty program's | ns |\n|---|---|\n")
		for _, c := range r.costs {
			fmt.Fprintf(&b, "| %s | %.0f |\n", c.what, c.ns)
		}
		b.WriteString("\n")
	}
	b.WriteString("| memory of a process, after all of it | MiB resident | at most | want | |\n|---|---|---|---|---|\n")
	for _, m := range r.memory {
		want, mark := "", ""
		if goal := memoryGoals[m.name]; goal != 0 {
			want, mark = fmt.Sprintf("≤ %.0f", goal), verdict(met(metric{less: true}, m.most, goal))
		}
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %s | %s |\n", m.name, math.Ceil(m.now), math.Ceil(m.most), want, mark)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// valuesTable is the table of what each system gave.
func (r *results) valuesTable(b *bytes.Buffer) {
	b.WriteString("| |")
	for _, s := range r.systems {
		fmt.Fprintf(b, " %s |", s.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(r.systems)) + "\n")
	for _, m := range r.metrics() {
		fmt.Fprintf(b, "| %s |", m)
		for _, s := range r.systems {
			if len(r.values[s][m]) == 0 {
				b.WriteString(" – |")
				continue
			}
			fmt.Fprintf(b, " %s |", spreadOf(r.values[s][m]).format(m.decimals))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// ratiosTable is the table of goals: each ratio, and whether it is what is wanted.
func (r *results) ratiosTable(b *bytes.Buffer) {
	b.WriteString("| work | ratio | have | want | |\n|---|---|---|---|---|\n")
	for _, x := range r.rows() {
		if x.To == "" || x.Goal == 0 {
			continue
		}
		sign := "≥"
		if x.Less {
			sign = "≤"
		}
		fmt.Fprintf(b, "| %s, %s | %s ÷ %s | %s | %s %.2f | %s |\n", x.Work, x.Unit, x.System, x.To,
			spread{x.RatioL, x.Ratio, x.RatioM}.format(2), sign, x.Goal, verdict(*x.Met))
	}
	b.WriteString("\n")
}

// verdict on a goal.
func verdict(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

// circumstances under which numbers come about, as text.
func circumstances() (string, error) {
	commit, err := commit()
	if err != nil {
		return "", err
	}
	wireguard, err := command("go", "list", "-m", "-f", "{{.Version}}", "golang.zx2c4.com/wireguard")
	if err != nil {
		return "", err
	}
	iperf, err := command("iperf3", "--version")
	if err != nil {
		return "", err
	}
	iperf, _, _ = strings.Cut(strings.TrimPrefix(iperf, "iperf "), " ")
	kernel, err := kernel()
	return fmt.Sprintf("Commit %s, %s, Linux %s, %s, wireguard-go %s, iperf3 %s", commit, machine(), kernel, runtime.Version(),
		wireguard, iperf), err
}

// commit is what was measured; changes that are not committed show as "and changes".
func commit() (string, error) {
	id, err := command("git", "-c", "safe.directory=*", "rev-parse", "--short=12", "HEAD")
	if err != nil {
		return "", err
	}
	changes, err := command("git", "-c", "safe.directory=*", "status", "--porcelain", "--", "*.go", "*.c", "*.h", "go.mod")
	if err != nil {
		return "", err
	}
	if changes != "" {
		id += " and changes"
	}
	return id, nil
}

func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

func kernel() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// machine names the CPU, as far as the kernel tells.
func machine() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return fmt.Sprintf("%s, %d CPUs", strings.TrimSpace(value), runtime.NumCPU())
		}
	}
	return fmt.Sprintf("%s, %d CPUs", runtime.GOARCH, runtime.NumCPU())
}
