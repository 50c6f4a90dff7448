package bpf_test

import (
	"bufio"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/plan/verdict"
)

// perWorld is how many packets the tested node of one world gets.
const perWorld = 2000

// The loaded programs do with every packet what decision 0003 says, as plan/verdict has it: action, reasons, bytes that
// leave, where to, counters, flow entries. CULVERT_FUZZ_PACKETS sets how many (100,000), CULVERT_SEED repeats a run.
func TestProgramsAgreeWithTheOracle(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	packets := 100_000
	if text := os.Getenv("CULVERT_FUZZ_PACKETS"); text != "" {
		var err error
		if packets, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	k := newKernel(t)
	for _, s := range corpus(t) {
		fuzz(t, k, s, perWorld, map[verdict.Reason]int{})
	}
	seed := rand.Uint64()
	if text := os.Getenv("CULVERT_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CULVERT_SEED=%d repeats this run", seed)
	reasons := map[verdict.Reason]int{}
	for done := 0; done < packets; done += perWorld {
		fuzz(t, k, seed+uint64(done/perWorld), min(perWorld, packets-done), reasons)
	}
	report(t, reasons, packets)
}

// corpus are the seeds that once disagreed.
func corpus(t *testing.T) []uint64 {
	t.Helper()
	b, err := os.ReadFile("testdata/differential-seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	var seeds []uint64
	for in := bufio.NewScanner(strings.NewReader(string(b))); in.Scan(); {
		text, _, _ := strings.Cut(in.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		s, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, s)
	}
	return seeds
}

// fuzz runs one world.
func fuzz(t *testing.T, k *kernel, seed uint64, packets int, reasons map[verdict.Reason]int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	x := newTraffic(t, rng, k)
	every := 250
	if text := os.Getenv("CULVERT_FUZZ_CHECK"); text != "" {
		every, _ = strconv.Atoi(text)
	}
	// A world may have nothing that reaches the tested node, hence the second bound.
	for i := 0; x.asked < packets && i < 20*packets; i++ {
		if rng.IntN(150) == 0 {
			x.change()
		}
		if rng.IntN(80) == 0 {
			x.expire()
		}
		err := x.step()
		if err == nil && i%every == 0 {
			err = k.compareAll(x.nodes[x.tested].state)
		}
		if err != nil {
			t.Fatalf("seed %d, step %d, packet %d: %v", seed, i, x.asked, err)
		}
	}
	if err := k.compareAll(x.nodes[x.tested].state); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	for r, n := range x.reasons {
		reasons[r] += n
	}
}

// report demands that the traffic was rich: every reason that a test run can show must have occurred.
func report(t *testing.T, reasons map[verdict.Reason]int, packets int) {
	t.Helper()
	rare := []verdict.Reason{ // cannot occur here, or hardly
		verdict.ReasonNone, verdict.ReasonNoState, verdict.ReasonInternal, verdict.ReasonFlowTableFull,
		verdict.ReasonSNATPortsExhausted, verdict.ReasonViewExpired,
	}
	for r, name := range verdict.ReasonNames {
		t.Logf("%8d %s", reasons[r], name)
		if packets >= 100_000 && reasons[r] == 0 && !slices.Contains(rare, r) {
			t.Errorf("no packet met %s in %d", name, packets)
		}
	}
}
