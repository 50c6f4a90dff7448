package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestReplace(t *testing.T) {
	doc := []byte("head\n" + beginMark + "old\n" + endMark + "tail\n")
	for range 2 {
		var err error
		if doc, err = replace(doc, "new\n"); err != nil {
			t.Fatal(err)
		}
		if want := "head\n" + beginMark + "new\n" + endMark + "tail\n"; string(doc) != want {
			t.Errorf("have %q, want %q", doc, want)
		}
	}
	for _, bad := range []string{"", beginMark, endMark + beginMark} {
		if _, err := replace([]byte(bad), "new\n"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		xs   []float64
		want string
	}{
		{[]float64{3}, "3.0 [3.0–3.0]"},
		{[]float64{3, 1, 2}, "2.0 [1.0–3.0]"},
		{[]float64{4, 1, 2, 3}, "2.5 [1.0–4.0]"},
	} {
		if have := spreadOf(c.xs).format(1); have != c.want {
			t.Errorf("%v: %s, want %s", c.xs, have, c.want)
		}
	}
	if have := ratios([]float64{1, 6}, []float64{2, 3}); !slices.Equal(have, []float64{0.5, 2}) {
		t.Errorf("ratios %v", have)
	}
}

func TestQuantile(t *testing.T) {
	xs := make([]float64, 100)
	for i := range xs {
		xs[i] = float64(100 - i)
	}
	if p50, p99 := quantile(xs, 0.5), quantile(xs, 0.99); p50 != 51 || p99 != 100 {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
	if one := quantile([]float64{7}, 1); one != 7 {
		t.Errorf("of one value: %v", one)
	}
}

func TestParseIperf(t *testing.T) {
	rate, bits, err := parseIperf([]byte(`{"end": {"sum_sent": {"bytes": 9}, "sum_received": {"bytes": 1000, "bits_per_second": 4000.5}}}`))
	if err != nil || rate != 4000.5 || bits != 8000 {
		t.Errorf("%v bit/s, %v bits, %v", rate, bits, err)
	}
	for _, bad := range []string{``, `{"error": "the server is busy"}`, `{"end": {}}`} {
		if _, _, err := parseIperf([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestProcessorTime(t *testing.T) {
	got, err := busy([]byte("cpu  100 200 300 999 999 400 500 7 8 9\ncpu0 1\n"))
	if err != nil || got != 15 {
		t.Errorf("busy %v s, %v, want 15: without idle, waiting and stolen time", got, err)
	}
	if _, err := busy([]byte("intr 1\n")); err == nil {
		t.Error("no error for another file")
	}
	p, ok := parseProcess([]byte("77 (a) b) S 5 1 1 0 -1 4 1 2 3 4 100 200 300 400 20 0 1 0 9\n"))
	if !ok || p.parent != 5 || p.used != 10 {
		t.Errorf("process %+v, %v", p, ok)
	}
	if _, ok := parseProcess([]byte("77 (a")); ok {
		t.Error("took a line that ends early")
	}
}

func TestOthersAreNeitherOursNorTheKernels(t *testing.T) {
	all := map[int]process{
		1: {0, 1}, 2: {0, 2}, 20: {2, 4}, 10: {1, 8}, // init, kthreadd, a kernel thread, a shell
		50: {10, 16}, 51: {50, 32}, 52: {51, 64}, // this program, a child, its child
		60: {1, 128}, 61: {999, 256}, // another program, one whose parent has just ended
	}
	if have := others(all, 50); have != 1+8+128+256 {
		t.Errorf("others used %v s", have)
	}
}

func TestMarkdown(t *testing.T) {
	r := &results{rounds: 2, values: map[*system]map[metric][]float64{}, foreign: []float64{0, 0.5},
		memory: []memoryOf{{"agent", memory{10.2, 20}}}}
	for i, name := range []string{"a", "b", "c", "d"} {
		s := &system{name: name}
		r.systems = append(r.systems, s)
		r.values[s] = map[metric][]float64{}
		for _, m := range metrics {
			r.values[s][m] = []float64{float64(i + 1), float64(i+1) * 3}
		}
	}
	var b bytes.Buffer
	if err := r.table(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| | a | b | c | d | **c ÷ b** | **d ÷ a** |\n|---|---|---|---|---|---|---|\n",
		"| TCP Gbit/s, 1 stream, client to server | 2.00 [1.00–3.00] | 4.00 [2.00–6.00] | 6.00 [3.00–9.00] | 8.00 [4.00–12.00] | " +
			"1.50 [1.50–1.50] | 4.00 [4.00–4.00] |\n",
		"| agent | 11 | 20 |\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if have := strings.Count(b.String(), "\n"); have != 2+len(metrics)+1+2+1 {
		t.Errorf("%d lines", have)
	}
}
