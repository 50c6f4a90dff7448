package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
)

const (
	// maxKnownPairs bounds how many pairs are remembered, in memory and in the file, some 100 bytes each; those that are seen for the
	// first time while there are so many are counted, and new again the next day.
	maxKnownPairs = 100_000
	// maxLoose is how many ranges of sequence numbers are kept of a node's boot while gaps are looked for.
	maxLoose = 10_000
)

// knownPairs are the pairs that were ever seen, and on which day first.
type knownPairs map[pairKey]string

type pairKey struct{ account, eni, to string }

// MarshalText and UnmarshalText make it a key of JSON.
func (k pairKey) MarshalText() ([]byte, error) {
	return []byte(k.account + " " + k.eni + " " + k.to), nil
}

// UnmarshalText is the reverse of MarshalText.
func (k *pairKey) UnmarshalText(text []byte) error {
	if _, err := fmt.Sscanf(string(text), "%s %s %s", &k.account, &k.eni, &k.to); err != nil {
		return fmt.Errorf("pair %q: %w", text, err)
	}
	return nil
}

func loadPairs(path string) (knownPairs, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return knownPairs{}, nil
	}
	out := knownPairs{}
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("known pairs: %w; without the file all pairs are new once", err)
	}
	return out, nil
}

func (k knownPairs) save(path string) error {
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return writeFile(path, data, 0o600)
}

// daySums sums up the records of a day.
type daySums struct {
	r       *api.DailyReport
	known   knownPairs
	refused map[[2]string]api.RefusedFlows // by account and reason
	fresh   map[pairKey]time.Time
	seen    map[[2]string]*sequences // by node and boot
}

// dailyFlows sums up the flow records of a report's day. It returns the pairs that are known from then on.
func (s *Server) dailyFlows(ctx context.Context, r *api.DailyReport) (knownPairs, error) {
	known, err := loadPairs(s.pairsFile())
	if err != nil {
		return nil, err
	}
	d := &daySums{r: r, known: known, refused: map[[2]string]api.RefusedFlows{}, fresh: map[pairKey]time.Time{},
		seen: map[[2]string]*sequences{}}
	// Numbers follow the time only nearly: what seems to be missing at the day's ends stands a little beyond.
	if err := s.flows.Each(ctx, r.From.Add(-dailyDelay), r.To.Add(dailyDelay), d.add); err != nil {
		return nil, err
	}
	d.finish()
	return known, nil
}

func (d *daySums) add(e api.FlowEnvelope) error {
	if e.Kind == api.KindOfSeal { // which has the number of a record
		return nil
	}
	source := [2]string{e.Node, e.Boot}
	if d.seen[source] == nil {
		d.seen[source] = &sequences{}
	}
	d.seen[source].add(e.Seq, e.End)
	var r api.FlowRecord
	if e.End.Before(d.r.From) || !e.End.Before(d.r.To) || e.Kind != api.KindOfFlow || json.Unmarshal(e.Record, &r) != nil {
		return nil
	}
	d.r.Flows.Records++
	d.r.Flows.Lost += r.Lost
	if r.Action == api.ActionReject {
		of := d.refused[[2]string{r.Account, r.Reason}]
		of.Account, of.Reason, of.Records, of.Packets = r.Account, r.Reason, of.Records+1, of.Packets+r.Packets
		d.refused[[2]string{r.Account, r.Reason}] = of
		return nil
	}
	key, ok := pairOf(&r)
	if !ok {
		return nil
	}
	if first, was := d.known[key]; was && first < d.r.Date {
		return nil
	}
	if at, was := d.fresh[key]; !was && len(d.fresh) < maxKnownPairs || was && r.Start.Before(at) {
		d.fresh[key] = r.Start
	}
	return nil
}

// pairOf is what opened a flow and to what: told by the end that opened it.
func pairOf(r *api.FlowRecord) (pairKey, bool) {
	if r.Side == "provider" || r.Stage != "workload" || r.Interface == "" {
		return pairKey{}, false
	}
	return pairKey{r.Account, r.Interface, cmp.Or(r.ServiceName, r.Connection, r.Tuple.DstAddr, "-")}, true
}

func (d *daySums) finish() {
	f := &d.r.Flows
	for _, of := range d.refused {
		f.Refused = append(f.Refused, of)
	}
	slices.SortFunc(f.Refused, func(a, b api.RefusedFlows) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Account, b.Account), cmp.Compare(a.Reason, b.Reason))
	})
	f.Refused = f.Refused[:min(len(f.Refused), api.MaxDailyRows)]
	f.NewPairsCount = len(d.fresh)
	for key, first := range d.fresh {
		f.NewPairs = append(f.NewPairs, api.FlowPair{Account: key.account, Interface: key.eni, To: key.to, First: first})
		if len(d.known) < maxKnownPairs {
			d.known[key] = d.r.Date
		}
	}
	slices.SortFunc(f.NewPairs, func(a, b api.FlowPair) int {
		return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.To, b.To))
	})
	f.NewPairs = f.NewPairs[:min(len(f.NewPairs), api.MaxDailyRows)]
	nodes := map[string]bool{}
	for _, source := range slices.SortedFunc(maps.Keys(d.seen), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		nodes[source[0]] = true
		for _, gap := range d.seen[source].gaps(d.r.From, d.r.To) {
			if len(f.Gaps) < api.MaxDailyRows {
				f.Gaps = append(f.Gaps, api.SequenceGap{Node: source[0], Boot: source[1], First: gap[0], Last: gap[1]})
			}
		}
	}
	f.Nodes = len(nodes)
}

// sequences are the numbers of one boot that were seen, as ranges in order. They come nearly so.
type sequences struct{ ranges []sequenceRange }

type sequenceRange struct {
	first, last uint64
	at          time.Time // end of the first
}

func (s *sequences) add(n uint64, at time.Time) {
	i, in := slices.BinarySearchFunc(s.ranges, n, func(r sequenceRange, n uint64) int {
		switch {
		case r.last < n:
			return -1
		case r.first > n:
			return 1
		}
		return 0
	})
	if in {
		return
	}
	before, after := i > 0 && s.ranges[i-1].last+1 == n, i < len(s.ranges) && s.ranges[i].first == n+1
	switch {
	case before && after:
		s.ranges[i-1].last = s.ranges[i].last
		s.ranges = slices.Delete(s.ranges, i, i+1)
	case before:
		s.ranges[i-1].last = n
	case after:
		s.ranges[i].first, s.ranges[i].at = n, at
	case len(s.ranges) < maxLoose:
		s.ranges = slices.Insert(s.ranges, i, sequenceRange{n, n, at})
	}
}

// gaps are what is missing before a record of the time between from and to.
func (s *sequences) gaps(from, to time.Time) (out [][2]uint64) {
	for i := 1; i < len(s.ranges); i++ {
		if r := s.ranges[i]; !r.at.Before(from) && r.at.Before(to) {
			out = append(out, [2]uint64{s.ranges[i-1].last + 1, r.first - 1})
		}
	}
	return out
}
