package datapath

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// Who is on the node, all in one VPC. Nobody's rules let anything in but those of openENI and guestENI.
var (
	openENI   = addr("10.0.1.5")
	closedENI = addr("10.0.1.6")
	tenantENI = addr("10.0.1.7") // there by turns with guestENI
	guestENI  = addr("10.0.1.8")
)

const (
	rowStall    = 10_000 // rounds between finding a row and reading it: tens of microseconds
	rowRewrites = 300
	rowMoves    = 200
	rowsWithin  = 10 * time.Minute // most often seconds; on a busy machine once more than one minute
)

// recycling is a node whose rows are written anew all the time while packets are being judged by them.
type recycling struct {
	t          *testing.T
	dp         *Datapath
	generation uint32
	stop       atomic.Bool
	passed     atomic.Uint64 // packets to openENI that went on
	refused    atomic.Uint64 // and that did not
	let        atomic.Uint64 // packets to others that went on
}

func newRecycling(t *testing.T, how careless) *recycling {
	t.Helper()
	needRoot(t)
	cfg := testConfig(t)
	cfg.PinPath, cfg.tunnelL2, cfg.stands, cfg.rowStall, cfg.careless = "", 14, true, rowStall, how
	cfg.Sizes.Links = 4 // so that rows share buckets
	dp, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %+v", err)
	}
	t.Cleanup(func() { dp.Close() })
	return &recycling{t: t, dp: dp}
}

// apply puts the next plan in force: each row of an ENI differs from that of the plan before. In what moves somebody has gone, and
// somebody else has come.
func (r *recycling) apply(guest bool) {
	r.t.Helper()
	r.generation++
	p := &plan.Plan{
		Generation: r.generation,
		Config:     plan.Config{Mesh: plantest.Mesh, Node: 1, TunnelIfindex: 41, HostIfindex: 42, TunnelMTU: plantest.TunnelMTU},
		RuleSets:   []plan.RuleSet{{ID: 1000, Text: "sgr-all 17 0-65535 0.0.0.0/0\n"}},
	}
	add := func(a netip.Addr, number, rules uint32) {
		p.ENIs = append(p.ENIs, plan.ENI{
			VPC: plantest.Shop, Address: a, Number: number, Ifindex: 100 + number, MAC: plantest.MAC(number), GatewayMAC: plantest.GatewayMAC,
			Families: plan.FamilyIPv4, IngressRules: rules, Groups: plan.Groups{r.generation%2 + 1},
		})
	}
	add(closedENI, 12, 0)
	add(openENI, 11, 1000)
	if guest {
		add(guestENI, 14, 1000)
	} else {
		add(tenantENI, 13, 0)
	}
	plantest.Unbounded(p)
	if _, err := r.dp.Apply(r.t.Context(), p); err != nil {
		r.t.Fatalf("apply: %v", err)
	}
}

// work sends packets to those that are there, or may be, but for the guest.
func (r *recycling) work(rng *rand.Rand) error {
	out := make([]byte, 512)
	for !r.stop.Load() {
		to := []netip.Addr{openENI, closedENI, tenantENI}[rng.IntN(3)]
		p := plantest.IP{Protocol: 17, Source: addr("10.0.1.9"), Dest: to, SourcePort: uint16(1024 + rng.IntN(200)), DestPort: 53, TTL: 64}
		packet := p.Overlay(plantest.At(plantest.Shop, p.Source, 0), plantest.At(plantest.Shop, to, 0))
		opts := &ebpf.RunOptions{Data: plantest.Frame([6]byte{}, [6]byte{}, 0x86dd, packet), DataOut: out}
		action, err := r.dp.coll.Programs[bpf.ABIProgFromTunnel].Run(opts)
		if err != nil {
			return err
		}
		switch went := action == uint32(verdict.Redirect); {
		case to == openENI && went:
			r.passed.Add(1)
		case to == openENI:
			r.refused.Add(1)
		case went:
			r.let.Add(1)
		}
	}
	return nil
}

// foreign counts flows to those who let nobody in: the programs read another's row.
func (r *recycling) foreign() (n int) {
	r.t.Helper()
	flows, err := r.dp.Flows(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range flows {
		if bpf.Addr(f.entry().Key.Daddr) != openENI && f.Opening.Id != 0 {
			n++
		}
	}
	return n
}

// run applies plans, while packets come on all CPUs, until there is what is waited for.
func (r *recycling) run(next func(n int) (guest, done bool)) {
	r.t.Helper()
	r.apply(false)
	var threads sync.WaitGroup
	for i := range 2 * runtime.NumCPU() {
		threads.Go(func() {
			if err := r.work(rand.New(rand.NewPCG(uint64(i), 0))); err != nil {
				r.t.Error(err)
			}
		})
	}
	defer threads.Wait()
	defer r.stop.Store(true)
	for n, end := 0, time.Now().Add(rowsWithin); time.Now().Before(end); n++ {
		guest, done := next(n)
		if done {
			break
		}
		r.apply(guest)
	}
	r.stop.Store(true)
	threads.Wait()
	r.t.Logf("%d plans: %d packets passed, %d were refused, %d let in, %d flows to who lets nobody in",
		r.generation, r.passed.Load(), r.refused.Load(), r.let.Load(), r.foreign())
}

// Rows that are written anew while programs read them, and rows that go while others come, are never taken for each other: who lets
// everybody in refuses nobody, and who lets nobody in is not reached. Without the first half of decision 0019 they are.
func TestRowsAreNotRecycled(t *testing.T) {
	t.Run("as it is", func(t *testing.T) {
		r := newRecycling(t, careless{})
		r.run(func(n int) (bool, bool) { return n >= rowRewrites && n%2 == 0, n == rowRewrites+rowMoves })
		if r.generation < rowRewrites+rowMoves || r.passed.Load() == 0 {
			t.Error("the machine did not get through with it: this shows nothing")
		}
		if n := r.refused.Load(); n != 0 {
			t.Errorf("%d packets were refused that old and new rules allow", n)
		}
		if n := r.foreign(); n != 0 || r.let.Load() != 0 {
			t.Errorf("%d flows and %d packets reached who lets nobody in", n, r.let.Load())
		}
	})
	t.Run("rows replaced", func(t *testing.T) {
		r := newRecycling(t, careless{replaces: true})
		r.run(func(int) (bool, bool) { return false, r.foreign() > 0 && r.refused.Load() > 0 })
		if r.foreign() == 0 || r.refused.Load() == 0 {
			t.Error("no row was taken for another: the test cannot fail")
		}
	})
}
