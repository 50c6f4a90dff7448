package main

import (
	"context"
	"fmt"
	"log"
	"slices"
	"time"
)

// pair is what two systems gave in turns, many times: enough for an interval of the ratio's median.
type pair struct {
	metric     metric
	of, to     string
	ofs, tos   []float64
	least, mid float64 // of the 95 % interval, and the median
	most       float64
}

// pairCount is how many pairs there are: of 20 the 95 % interval of the median reaches from the 6th to the 15th.
const pairCount = 24

// interleave measures a test on two systems in turns, each second pair the other way round.
func (r *results) interleave(ctx context.Context, t test, m metric, of, to *system) error {
	log.Printf("%d pairs of %s: %s and %s", pairCount, t.name, of.name, to.name)
	p := pair{metric: m, of: of.name, to: to.name}
	for i := range pairCount {
		order := []*system{of, to}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		got := map[*system]float64{}
		for _, s := range order {
			values, err := t.run(ctx, s)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", s.name, t.name, err)
			}
			got[s] = values[m]
		}
		p.ofs, p.tos = append(p.ofs, got[of]), append(p.tos, got[to])
	}
	p.least, p.mid, p.most = medianInterval(ratios(p.ofs, p.tos))
	r.pairs = append(r.pairs, p)
	return nil
}

// medianInterval is the median and the 95 % interval around it: order statistics of the binomial distribution, which
// suppose nothing about the values' own. With fewer than six values it is all of them.
func medianInterval(xs []float64) (least, median, most float64) {
	s := slices.Sorted(slices.Values(xs))
	n := len(s)
	// The k-th smallest and largest enclose the median with probability 1 − 2·P(Bin(n, 1/2) < k).
	k, below, term := 0, 0.0, 1.0
	for range n {
		term /= 2
	}
	for ; k < n/2; k++ {
		below += term
		if below > 0.025 {
			break
		}
		term = term * float64(n-k) / float64(k+1)
	}
	k = max(k, 1)
	return s[k-1], (s[(n-1)/2] + s[n/2]) / 2, s[n-k]
}

// long is how long new connections are held up.
const long = 2 * time.Minute

// hold opens connections for long on one system, the others before and after it for a moment.
func (r *results) hold(ctx context.Context, of, to *system) error {
	log.Printf("new connections for %v: %s beside %s", long, of.name, to.name)
	for _, step := range []struct {
		s      *system
		within time.Duration
		keep   bool
	}{{to, holdSlice, true}, {of, long - holdSlice, false}, {of, holdSlice, true}, {to, holdSlice, true}} {
		rate := 0.0
		if err := step.s.load(ctx, &rate, "connect", step.within.String()); err != nil {
			return fmt.Errorf("%s: %w", step.s.name, err)
		}
		if step.keep {
			r.values[step.s][sustained] = append(r.values[step.s][sustained], rate)
		}
	}
	return nil
}

// holdSlice is what is measured of it, at its end.
const holdSlice = 10 * time.Second
