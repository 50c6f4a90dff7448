package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// test measures one system once, which gives one or more values.
type test struct {
	name string
	run  func(ctx context.Context, s *system) (map[metric]float64, error)
	warm bool // once before the first round
}

// tests of every round, on every system; those with datagrams only between nodes.
var tests = []test{
	{"tcp1", throughput(1, forward), true}, {"tcp1r", throughput(1, backward), false},
	{"tcp4", throughput(4, forward), false}, {"tcp4r", throughput(4, backward), false},
	{"tcp64", throughput(64, forward), false}, {"tcp64r", throughput(64, backward), false},
	{"rr1", requests(1), false}, {"rr32", requests(32), false},
	{"udp1200", flooding(1200), false}, {"udp64", flooding(64), false},
	{"kept1200", keeping(1200), false}, {"kept64", keeping(64), false},
	{"connect", connects, true}, {"share", sharing, false},
}

// results are the values of each metric, by system and round.
type results struct {
	where    string // circumstances
	systems  []*system
	rounds   int
	values   map[*system]map[metric][]float64
	underlay *underlay // nil: the usual one
	foreign  []float64 // CPUs that other programs took meanwhile, per test
	pairs    []pair
	memory   []memoryOf
	costs    []cost
	variants []*results // on other underlays
}

// memoryOf one kind of process, the larger where there are two.
type memoryOf struct {
	name string
	memory
}

func newResults(systems []*system, rounds int) *results {
	r := &results{systems: systems, rounds: rounds, values: map[*system]map[metric][]float64{}}
	for _, s := range systems {
		r.values[s] = map[metric][]float64{}
	}
	return r
}

// measure runs the tests that are asked for on every system, once unmeasured and then for so many rounds, systems in turns.
func (r *results) measure(ctx context.Context, wanted func(test) bool) error {
	for round := range r.rounds + 1 {
		if round > 0 {
			log.Printf("round %d of %d", round, r.rounds)
		}
		order := slices.Clone(r.systems)
		if round%2 == 0 {
			slices.Reverse(order)
		}
		for _, t := range tests {
			if !wanted(t) || round == 0 && !t.warm {
				continue
			}
			for _, s := range order {
				if !s.does(t) {
					continue
				}
				if err := r.one(ctx, t, s, round > 0); err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, t.name, err)
				}
			}
		}
	}
	return nil
}

func (r *results) one(ctx context.Context, t test, s *system, keep bool) error {
	before, err := readUsage()
	if err != nil {
		return err
	}
	start := time.Now()
	values, err := t.run(ctx, s)
	if err != nil {
		return err
	}
	after, err := readUsage()
	if err != nil || !keep {
		return err
	}
	r.foreign = append(r.foreign, (after.others-before.others)/time.Since(start).Seconds())
	for m, v := range values {
		r.values[s][m] = append(r.values[s][m], v)
	}
	return nil
}

// throughput is iperf3's, with the same congestion control on every machine.
func throughput(streams int, way string) func(ctx context.Context, s *system) (map[metric]float64, error) {
	return func(ctx context.Context, s *system) (map[metric]float64, error) {
		argv := []string{
			"iperf3", "-J", "-C", "cubic", "-c", s.dial.String(), "-p", strconv.Itoa(iperfPort),
			"-t", strconv.Itoa(int(turn.Seconds())), "-P", strconv.Itoa(streams),
		}
		if way == backward {
			argv = append(argv, "-R")
		}
		before, err := readUsage()
		if err != nil {
			return nil, err
		}
		out, err := output(ctx, s.client, argv...)
		if err != nil {
			return nil, err
		}
		after, err := readUsage()
		if err != nil {
			return nil, err
		}
		rate, bits, err := parseIperf(out)
		if err != nil {
			return nil, err
		}
		cpu := after.busy - before.busy - (after.others - before.others)
		return map[metric]float64{
			throughputOf(streams, way): rate / 1e9, cpuOf(streams, way): cpu / (bits / 8 / (1 << 30)),
		}, nil
	}
}

// parseIperf returns what arrived, in bits a second and in bits.
func parseIperf(out []byte) (rate, bits float64, err error) {
	var r struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				Bytes float64 `json:"bytes"`
				Rate  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return 0, 0, fmt.Errorf("iperf3: %w", err)
	}
	if r.Error != "" || r.End.Received.Bytes == 0 {
		return 0, 0, fmt.Errorf("iperf3: nothing arrived: %s", r.Error)
	}
	return r.End.Received.Rate, r.End.Received.Bytes * 8, nil
}

func requests(conns int) func(ctx context.Context, s *system) (map[metric]float64, error) {
	return func(ctx context.Context, s *system) (map[metric]float64, error) {
		var l latency
		if err := s.load(ctx, &l, "request", turn.String(), strconv.Itoa(conns)); err != nil {
			return nil, err
		}
		return map[metric]float64{
			requestsOf(conns, p50): l.P50, requestsOf(conns, p99): l.P99, requestsOf(conns, perSecond): l.Rate,
		}, nil
	}
}

func connects(ctx context.Context, s *system) (map[metric]float64, error) {
	n := 0.0
	err := s.load(ctx, &n, "connect")
	return map[metric]float64{connections: n}, err
}

func flooding(size int) func(ctx context.Context, s *system) (map[metric]float64, error) {
	return func(ctx context.Context, s *system) (map[metric]float64, error) {
		f, err := s.flood(ctx, size, 0)
		return map[metric]float64{floodOf(size): float64(f.Arrived) / f.Seconds / 1e3}, err
	}
}

const (
	mostLost  = 0.005
	mostRate  = 200e3 // datagrams a second; no system here carries as many
	leastStep = 0.04  // of the rate found
)

// keeping searches the largest rate of which at most mostLost is lost.
func keeping(size int) func(ctx context.Context, s *system) (map[metric]float64, error) {
	return func(ctx context.Context, s *system) (map[metric]float64, error) {
		low, high, best := 0.0, mostRate, 0.0
		for high-low > leastStep*high && high > 1e3 {
			rate := (low + high) / 2
			f, err := s.flood(ctx, size, rate)
			if err != nil {
				return nil, err
			}
			if lost := 1 - float64(f.Arrived)/float64(f.Sent); lost <= mostLost && float64(f.Sent) > 0.95*rate*f.Seconds {
				low, best = rate, float64(f.Arrived)/f.Seconds/1e3
			} else {
				high = rate
			}
		}
		return map[metric]float64{keptOf(size): best}, nil
	}
}

func (s *system) flood(ctx context.Context, size int, rate float64) (f flooded, err error) {
	within := turn
	if rate > 0 {
		within /= 2
	}
	err = s.load(ctx, &f, "flood", strconv.Itoa(size), within.String(), strconv.FormatFloat(rate, 'f', 0, 64))
	if err == nil && (f.Seconds <= 0 || f.Sent == 0) {
		err = fmt.Errorf("nothing was sent")
	}
	return f, err
}

// load runs this program in the client's namespace; what it reports goes to v.
func (s *system) load(ctx context.Context, v any, kind string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := append([]string{self, kind, netip.AddrPortFrom(s.dial, echoPort).String()}, args...)
	out, err := output(ctx, s.client, argv...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv[1:], " "), err, out)
	}
	return nil
}
