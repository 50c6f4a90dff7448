package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
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
	before, rest, ok := bytes.Cut(doc, []byte(beginMark))
	_, after, ok2 := bytes.Cut(rest, []byte(endMark))
	if !ok || !ok2 {
		return nil, errors.New("it has no lines " + strings.TrimSpace(beginMark) + " and " + strings.TrimSpace(endMark))
	}
	return slices.Concat(before, []byte(beginMark), []byte(text), []byte(endMark), after), nil
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

// comparisons are pairs of systems: the first's place and the second's.
var comparisons = [][2]int{{2, 1}, {3, 0}}

// markdown writes the whole result.
func (r *results) markdown(w io.Writer) error {
	foreign := spreadOf(r.foreign)
	if _, err := fmt.Fprintf(w, "%s. n = %s, median [least–most]; the ratio is the median of the rounds' ratios. Other programs took "+
		"%.2f CPUs meanwhile (median; at most %.2f).\n\n", r.where, plural(r.rounds, "round"), foreign.median, foreign.most); err != nil {
		return err
	}
	return r.table(w)
}

func (r *results) table(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString("| |")
	for _, s := range r.systems {
		fmt.Fprintf(&b, " %s |", s.name)
	}
	for _, c := range comparisons {
		fmt.Fprintf(&b, " **%s ÷ %s** |", r.systems[c[0]].name, r.systems[c[1]].name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(r.systems)+len(comparisons)) + "\n")
	for _, m := range metrics {
		fmt.Fprintf(&b, "| %s |", m.name)
		for _, s := range r.systems {
			fmt.Fprintf(&b, " %s |", spreadOf(r.values[s][m]).format(m.decimals))
		}
		for _, c := range comparisons {
			pairs := ratios(r.values[r.systems[c[0]]][m], r.values[r.systems[c[1]]][m])
			fmt.Fprintf(&b, " %s |", spreadOf(pairs).format(2))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n| memory of a process, after all of it | MiB resident | at most |\n|---|---|---|\n")
	for _, m := range r.memory {
		fmt.Fprintf(&b, "| %s | %.0f | %.0f |\n", m.name, math.Ceil(m.now), math.Ceil(m.most))
	}
	_, err := w.Write(b.Bytes())
	return err
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
