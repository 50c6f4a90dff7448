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

// turn is how long one system is measured at a time; iperf3 takes whole seconds.
const turn = time.Second

// metric is one thing measured.
type metric struct {
	name     string
	decimals int
}

var (
	latencyHalf  = metric{"request, 64 B: p50, µs", 0}
	latencyMost  = metric{"request, 64 B: p99, µs", 0}
	connections  = metric{fmt.Sprintf("new connections a second, %d at a time", callers), 0}
	cpuForward   = metric{"CPU ms per Gbit, 1 stream, client to server", 0}
	cpuBackward  = metric{"CPU ms per Gbit, 1 stream, server to client", 0}
	throughputOf = func(streams int, way string) metric {
		return metric{fmt.Sprintf("TCP Gbit/s, %s, %s", plural(streams, "stream"), way), 2}
	}
)

// metrics in the order of the report; of all but the connections and the throughput, less is better.
var metrics = []metric{
	throughputOf(1, forward), throughputOf(1, backward), throughputOf(4, forward), throughputOf(4, backward),
	cpuForward, cpuBackward, latencyHalf, latencyMost, connections,
}

const (
	forward  = "client to server"
	backward = "server to client"
)

func plural(n int, noun string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// test measures one system once, which gives one or more values.
type test func(ctx context.Context, s *system) (map[metric]float64, error)

var tests = []test{
	throughput(1, forward), throughput(1, backward), throughput(4, forward), throughput(4, backward), requests, connects,
}

// results are the values of each metric, by system and round.
type results struct {
	where   string // circumstances
	systems []*system
	rounds  int
	values  map[*system]map[metric][]float64
	foreign []float64 // CPUs that other programs took meanwhile, per test
	memory  []memoryOf
}

// memoryOf one kind of process, the larger where there are two.
type memoryOf struct {
	name string
	memory
}

// measure runs every test on every system once unmeasured and then for so many rounds, systems in turns.
func measure(ctx context.Context, systems []*system, rounds int) (*results, error) {
	r := &results{systems: systems, rounds: rounds, values: map[*system]map[metric][]float64{}}
	for _, s := range systems {
		r.values[s] = map[metric][]float64{}
	}
	for round := range rounds + 1 {
		if round > 0 {
			log.Printf("round %d of %d", round, rounds)
		}
		order := slices.Clone(systems)
		if round%2 == 0 {
			slices.Reverse(order)
		}
		for i, t := range tests {
			if round == 0 && i != 0 && i != len(tests)-1 {
				continue // warming up needs no more than a stream and a burst of connections
			}
			for _, s := range order {
				if err := r.one(ctx, t, s, round > 0); err != nil {
					return nil, fmt.Errorf("%s: %w", s.name, err)
				}
			}
		}
	}
	return r, nil
}

func (r *results) one(ctx context.Context, t test, s *system, keep bool) error {
	before, err := readUsage()
	if err != nil {
		return err
	}
	start := time.Now()
	values, err := t(ctx, s)
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
func throughput(streams int, way string) test {
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
		values := map[metric]float64{throughputOf(streams, way): rate / 1e9}
		cpu := (after.busy - before.busy - (after.others - before.others)) * 1e3 / (bits / 1e9)
		switch {
		case streams == 1 && way == forward:
			values[cpuForward] = cpu
		case streams == 1:
			values[cpuBackward] = cpu
		}
		return values, nil
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

func requests(ctx context.Context, s *system) (map[metric]float64, error) {
	out, err := s.load(ctx, "request", turn.String())
	if err != nil {
		return nil, err
	}
	var l latency
	if err := json.Unmarshal(out, &l); err != nil {
		return nil, fmt.Errorf("requests: %w", err)
	}
	return map[metric]float64{latencyHalf: l.P50, latencyMost: l.P99}, nil
}

func connects(ctx context.Context, s *system) (map[metric]float64, error) {
	out, err := s.load(ctx, "connect")
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		return nil, fmt.Errorf("connections: %w", err)
	}
	return map[metric]float64{connections: n}, nil
}

// load runs this program in the client's namespace.
func (s *system) load(ctx context.Context, kind string, args ...string) ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	argv := append([]string{self, kind, netip.AddrPortFrom(s.dial, echoPort).String()}, args...)
	return output(ctx, s.client, argv...)
}
