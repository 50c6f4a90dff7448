package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
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

func TestReport(t *testing.T) {
	r := newResults([]*system{{name: wireguardName}, {name: nebulaName}, {name: farName}, {name: nearName}, {name: vethName}}, 2)
	r.foreign = []float64{0, 0.5}
	r.memory = []memoryOf{{nebulaName, memory{10.2, 20}}, {agentMemory, memory{90, 127.5}}, {tunnelMemory, memory{60, 64.1}}}
	r.costs = []cost{{"established flow", 480}}
	for i, s := range r.systems {
		for _, m := range []metric{throughputOf(1, forward), requestsOf(1, p50)} {
			r.values[s][m] = []float64{float64(i + 1), float64(i+1) * 3}
		}
	}
	r.pairs = []pair{{metric: throughputOf(1, forward), of: nearName, to: vethName, ofs: []float64{1}, tos: []float64{1}, least: 0.9, mid: 0.95, most: 0.98}}
	var b bytes.Buffer
	if err := r.markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| | WireGuard | Nebula | endpoint, other node | endpoint, same node | veth |\n|---|---|---|---|---|---|\n",
		"| TCP, 1 stream, client to server, Gbit/s | 2.00 [1.00–3.00] | 4.00 [2.00–6.00] | 6.00 [3.00–9.00] |",
		"| TCP, 1 stream, client to server, Gbit/s | endpoint, other node ÷ WireGuard | 3.00 [3.00–3.00] | ≥ 1.60 | met |\n",
		"| requests of 64 B, 1 connection, p50 µs | endpoint, other node ÷ Nebula | 1.50 [1.50–1.50] | ≤ 1.00 | missed |\n",
		"24 pairs, 95 % interval of the ratio's median, Gbit/s | endpoint, same node ÷ veth | 0.95 [0.90–0.98] | ≥ 0.97 | met |\n",
		"| established flow | 480 |\n", "| Nebula | 11 | 20 |  |  |\n",
		"| culvert agent | 90 | 128 | ≤ 128 | met |\n", "| culvert tunnel | 60 | 65 | ≤ 64 | missed |\n",
	} {
		if want = strings.Replace(want, "24 pairs", "1 pairs", 1); !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "values") {
		t.Errorf("a placeholder is left:\n%s", b.String())
	}
	path := filepath.Join(t.TempDir(), "build", "bench.json")
	if err := r.writeJSON(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	var read struct{ Rows []row }
	if err != nil || json.Unmarshal(text, &read) != nil || len(read.Rows) != len(r.rows()) {
		t.Errorf("%d rows, %v:\n%s", len(read.Rows), err, text)
	}
}

// What the interval is for n values, by the binomial distribution's own figures.
func TestMedianInterval(t *testing.T) {
	for n, want := range map[int][2]float64{1: {1, 1}, 5: {1, 5}, 6: {1, 6}, 9: {2, 8}, 20: {6, 15}, 24: {7, 18}} {
		xs := make([]float64, n)
		for i := range xs {
			xs[i] = float64(n - i)
		}
		least, median, most := medianInterval(xs)
		if least != want[0] || most != want[1] || median != float64(n+1)/2 {
			t.Errorf("n = %d: %v, %v, %v; want %v", n, least, median, most, want)
		}
	}
}

func TestParseCosts(t *testing.T) {
	out := []byte("goos: linux\nBenchmarkCost/established_flow,_1-2 \t 100\t 900 ns/op\t 412.5 ns/run\nPASS\n")
	got, err := parseCosts(out)
	if err != nil || len(got) != 1 || got[0] != (cost{"established flow, 1", 412.5}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseCosts([]byte("PASS\n")); err == nil {
		t.Error("no error where there is no cost")
	}
}

func TestOptions(t *testing.T) {
	if err := (options{rounds: 0}).check(); err == nil || !strings.Contains(err.Error(), "-rounds") {
		t.Errorf("0 rounds: %v", err)
	}
	if err := (options{rounds: 1, only: "tcp1,tpc4"}).check(); err == nil || !strings.Contains(err.Error(), "tpc4") {
		t.Errorf("an unknown test: %v", err)
	}
	o := options{only: "tcp1", systems: "Wire,other"}
	if !o.wants(tests[0]) || o.wants(tests[1]) || !o.names(wireguardName) || !o.names(farName) || o.names(nearName) || o.whole() {
		t.Error("what is asked for is not what is taken")
	}
}

// A flood is counted to the last datagram, whatever its rate.
func TestFlood(t *testing.T) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go drain(c)
	for _, rate := range []string{"2000", "500"} {
		var out bytes.Buffer
		if err := flood([]string{c.LocalAddr().String(), "64", "200ms", rate}, &out); err != nil {
			t.Fatal(err)
		}
		var f flooded
		if err := json.Unmarshal(out.Bytes(), &f); err != nil || f.Sent == 0 || f.Sent != f.Arrived {
			t.Errorf("%s a second: %+v, %v", rate, f, err)
		}
	}
}

// What dnsperf prints is read; answers that are none are no speed.
func TestParseDNSPerf(t *testing.T) {
	const text = "> NOERROR n1.bench.internal. A 0.000125\n> NOERROR n2.bench.internal. A 0.000250\nStatistics:\n\n" +
		"  Queries sent:         3\n  Queries completed:    2 (66.67%)\n  Queries lost:         1 (33.33%)\n\n" +
		"  Response codes:       NOERROR 2 (100.00%)\n  Queries per second:   1234.5\n"
	got, err := parseDNSPerf([]byte(text))
	if err != nil || got.sent != 3 || got.lost != 1 || got.perSecond != 1234.5 || !slices.Equal(got.times, []float64{0.000125, 0.00025}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, wrong := range []string{
		"", strings.Replace(text, "sent:         3", "sent: x", 1), strings.Replace(text, "0.000125", "fast", 1),
		strings.Replace(text, "NOERROR 2 (100.00%)", "REFUSED 2 (100.00%)", 1),
		strings.Replace(text, "NOERROR 2 (100.00%)", "NOERROR 1 (50.00%), REFUSED 1 (50.00%)", 1),
	} {
		if got, err := parseDNSPerf([]byte(wrong)); err == nil {
			t.Errorf("%q is read as %+v", wrong, got)
		}
	}
}

// The result says of each goal whether it is met.
func TestNamesReport(t *testing.T) {
	r := &namesResult{o: namesOptions{rounds: 2, names: 10}, servers: nameServers(10), values: map[namesMetric][][]float64{}, others: []float64{0}}
	for m := range namesMetrics {
		r.values[namesMetric(m)] = [][]float64{{30, 30}, {20, 25}, {40, 35}, {31, 33}}
	}
	text := r.markdown()
	for _, line := range []string{
		"| | Culvert | CoreDNS | Unbound | Culvert, 100 names |\n",
		"| queries/s | 30 [30–30] | 22 [20–25] | 38 [35–40] | 32 [31–33] |\n",
		"| queries/s | Culvert ÷ CoreDNS | 1.35 [1.20–1.50] | ≥ 1.50 | missed |\n",
		"| queries/s | Culvert ÷ Unbound | 0.80 [0.75–0.86] | ≥ 0.80 | met |\n",
		"| p99 µs at the fixed rate | Culvert ÷ Unbound | 0.80 [0.75–0.86] | ≤ 1.00 | met |\n",
		"| server's CPU, µs a query | Culvert, 100 names ÷ Culvert | 1.07 [1.03–1.10] | ≤ 1.05 | missed |\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the report lacks %q:\n%s", line, text)
		}
	}
}
