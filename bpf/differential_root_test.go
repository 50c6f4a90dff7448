package bpf_test

import (
	"bufio"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/randomly"
	"github.com/culvert-net/culvert/plan/verdict"
)

// perWorld is how many packets the tested node of one world gets; with more worlds what is rare in them is less so. A
// world that once showed a disagreement gets more.
const perWorld, perSeed = 1000, 2000

// The loaded programs do with every packet what decision 0003 says, as plan/verdict has it: action, reasons, bytes that
// leave, where to, counters, flow entries. CULVERT_FUZZ_PACKETS sets how many (100,000). Without CULVERT_SEED they are the
// same each time: what must occur in them then never fails to by chance.
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
		fuzz(t, k, s, perSeed, newSeen())
	}
	seed := randomly.Seed(t)
	all, began := newSeen(), time.Now()
	var headers, shifted int
	for done := 0; done < packets; done += perWorld {
		x := fuzz(t, k, seed+uint64(done/perWorld), min(perWorld, packets-done), all)
		headers, shifted = headers+x.headers, shifted+x.shifted
	}
	if t.Logf("%d PROXY protocol headers, %d packets shifted", headers, shifted); packets >= 100_000 && headers*shifted == 0 {
		t.Error("no target was told of a client")
	}
	t.Logf("%d packets, %.0f a second", packets, float64(packets)/time.Since(began).Seconds())
	report(t, all, packets)
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

// seen is what the traffic was like.
type seen struct {
	reasons map[verdict.Reason]int
	passed  map[string]int
}

func newSeen() seen { return seen{map[verdict.Reason]int{}, map[string]int{}} }

// fuzz runs one world.
func fuzz(t *testing.T, k *kernel, seed uint64, packets int, all seen) *traffic {
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
	x.countMeasured()
	for r, n := range x.reasons {
		all.reasons[r] += n
	}
	for kind, n := range x.passed {
		all.passed[kind] += n
	}
	return x
}

// report demands that the traffic was rich: every reason that a test run can show must have occurred, and every kind of
// packet must have passed.
func report(t *testing.T, all seen, packets int) {
	t.Helper()
	rare := []verdict.Reason{ // cannot occur here, or hardly
		verdict.ReasonNone, verdict.ReasonNoState, verdict.ReasonInternal, verdict.ReasonFlowTableFull,
		verdict.ReasonSNATPortsExhausted, verdict.ReasonViewExpired,
	}
	for r, name := range verdict.ReasonNames {
		t.Logf("%8d %s", all.reasons[r], name)
		if packets >= 100_000 && all.reasons[r] == 0 && !slices.Contains(rare, r) {
			t.Errorf("no packet met %s in %d", name, packets)
		}
	}
	for _, kind := range append(slices.Clone(kinds), crossings...) {
		t.Logf("%8d %s passed", all.passed[kind], kind)
		if packets >= 100_000 && all.passed[kind] == 0 {
			t.Errorf("no packet in %d that is %s passed", packets, kind)
		}
	}
}
