package delivery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/internal/randomly"
)

// List implements Notes.
func (b *bench) List(context.Context, string) ([]Note, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Note
	for _, key := range slices.Sorted(maps.Keys(b.notes)) {
		n := b.notes[key]
		n.Key = key
		out = append(out, n)
	}
	return out, nil
}

// Remove implements Notes.
func (b *bench) Remove(_ context.Context, _ string, n Note) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stuck {
		return errors.New("the store takes nothing")
	}
	delete(b.notes, n.Key)
	return nil
}

// note is where the store ends now, with the flow log as it is.
func (b *bench) note(before *api.FlowLog) (key string, n Note) {
	b.t.Helper()
	end, err := b.store.End()
	if err != nil {
		b.t.Fatal(err)
	}
	if before == nil {
		return fmt.Sprintf("%020d", 0), Note{At: end}
	}
	return fmt.Sprintf("%020d", before.Revision), Note{At: end, Before: before}
}

// edit changes the flow log, and what comes between its note and its commit is done then.
func (b *bench) edit(do func(*api.FlowLog), between func()) {
	b.t.Helper()
	before := b.r.FlowLogs["fl-1"]
	key, n := b.note(before)
	between()
	after := *before
	after.Revision++
	do(&after)
	b.change(func(r *api.Resources) { r.Put(&after) })
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes[key] = n
}

// TestBeginsWhereItWasMade: what comes before the server has looked at a new flow log is told, and nothing from before it.
func TestBeginsWhereItWasMade(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(f *api.FlowLog) { f.LogFormat = "${dstport} ${log-status}" })
	b.add(b.flow("eni-1", time.Second))
	key, n := b.note(nil)
	b.notes[key] = n
	b.add(b.flow("eni-1", 2*time.Second), b.flow("eni-2", -13*time.Hour)) // also one of a day of which there was nothing
	b.settled()
	b.at(300 * time.Second)
	b.until("files", func(s *api.FlowLogDelivery) bool { return s.Waiting == 0 && s.Objects == 2 })
	var got []string
	for _, lines := range b.files() {
		got = append(got, lines...)
	}
	if slices.Sort(got); !slices.Equal(got, []string{"- NODATA", "2 OK", "3 OK"}) {
		t.Errorf("%q", got)
	}
	if len(b.notes) != 0 {
		t.Errorf("notes stay: %v", b.notes)
	}
	b.d.endAll()
}

// TestShorterWindowsKnowTraffic: an edit to windows of five minutes makes no silence of what was read for one of ten.
func TestShorterWindowsKnowTraffic(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(f *api.FlowLog) { f.MaxAggregationIntervalSeconds = 600 })
	b.settled()
	b.add(b.flow("eni-1", time.Minute), b.flow("eni-2", 2*time.Minute))
	b.mu.Lock()
	b.now = noon.Add(3 * time.Minute)
	b.mu.Unlock()
	b.edit(func(f *api.FlowLog) { f.MaxAggregationIntervalSeconds = 60 }, func() {})
	b.until("what came before the edit", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 && s.Waiting == 0 })
	b.at(10 * time.Minute)
	b.until("both windows", func(s *api.FlowLogDelivery) bool {
		return s.CoveredUntil.Equal(noon.Add(10*time.Minute)) && s.Waiting == 0
	})
	got := b.claims()
	if len(got) != 2 || slices.ContainsFunc(got, func(l string) bool { return !strings.Contains(l, " 1772625900 1772626200 - NODATA") }) {
		t.Errorf("lines of interfaces without traffic: %q", got)
	}
	b.d.endAll()
}

// TestLossIsOfItsForm: what is given up counts as the flow log was when it came.
func TestLossIsOfItsForm(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.settled()
	b.d.ran = true
	reject := func(r *api.FlowRecord) { r.Action = api.ActionReject }
	a := b.d.all["fl-1"]
	b.add(b.flow("eni-1", time.Second), b.flow("eni-1", time.Second, reject))
	key, n := b.note(a.flow)
	b.notes[key] = n
	after := *a.flow
	after.TrafficType = api.TrafficReject
	after.Revision++
	a.flow = &after // as a server finds it that starts
	b.add(b.flow("eni-1", 2*time.Second), b.flow("eni-1", 2*time.Second, reject))
	if ready, err := b.d.LetGo(t.Context(), "2026-03-04"); !ready || err != nil {
		t.Fatal(ready, err)
	}
	if s := b.d.State("fl-1"); s.LostRecords != 3 {
		t.Errorf("%d are lost, want both from before and the one that was refused", s.LostRecords)
	}
	b.d.endAll()
}

// form is how lines and files are.
type form struct {
	format  string
	traffic api.TrafficType
	seconds uint32
	hours   bool
}

// forms are what the flow log is edited to at random; their headers tell them apart.
var forms = []form{
	{"${sequence} ${log-status} ${action}", api.TrafficAll, 60, false},
	{"${sequence} ${action} ${packets}", api.TrafficReject, 600, false},
	{"${sequence} ${bytes} ${dstport}", api.TrafficAll, 1, true},
	{"${sequence} ${interface-id} ${az-id}", api.TrafficAccept, 10, false},
}

// placed is a record, and the forms that it may be told in.
type placed struct {
	action string
	forms  []int
}

func (p *placed) takes(form int) bool {
	traffic := string(forms[form].traffic)
	return traffic == string(api.TrafficAll) || traffic == p.action
}

// TestEditsHaveAPlace: whatever happens meanwhile, each record is in one form and no more than once, what came before an edit in that of
// before, and what came after it was acknowledged in the new one.
func TestEditsHaveAPlace(t *testing.T) {
	t.Parallel()
	first := randomly.Seed(t)
	for seed := first; seed < first+12; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			editsAtRandom(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func editsAtRandom(t *testing.T, random *rand.Rand) {
	set := func(f *api.FlowLog, form int) {
		f.LogFormat, f.TrafficType = forms[form].format, forms[form].traffic
		f.MaxAggregationIntervalSeconds, f.PerHourPartition = forms[form].seconds, forms[form].hours
	}
	current, now := 0, time.Second
	b := newBench(t, func(f *api.FlowLog) { set(f, current) })
	b.settled()
	came := map[uint64]*placed{}
	add := func(in ...int) {
		p := &placed{api.ActionAccept, in}
		if random.IntN(2) == 0 {
			p.action = api.ActionReject
		}
		at := now
		if random.IntN(8) == 0 {
			at -= time.Duration(random.IntN(30)) * time.Hour
		}
		b.add(b.flow("eni-1", at, func(r *api.FlowRecord) { r.Action = p.action }))
		came[b.seq] = p
	}
	for range 50 {
		switch random.IntN(8) {
		case 0, 1, 2:
			add(current)
		case 3:
			b.d.round(t.Context())
		case 4:
			now += time.Duration(random.IntN(400)) * time.Second
			b.at(now)
		case 5:
			b.d.endAll()
			b.open()
			b.d.chunk = int64(500 + random.IntN(3000))
		case 6:
			b.mu.Lock()
			b.stuck = random.IntN(3) == 0
			b.mu.Unlock()
		case 7:
			next := random.IntN(len(forms))
			b.edit(func(f *api.FlowLog) { set(f, next) }, func() {
				for range random.IntN(3) {
					add(current, next)
					if random.IntN(2) == 0 {
						b.d.round(t.Context())
					}
				}
			})
			current = next
		}
	}
	b.mu.Lock()
	b.stuck = false
	b.mu.Unlock()
	b.at(now + time.Hour)
	last := (noon.Add(now + time.Hour)).Truncate(5 * time.Minute)
	b.until("all is delivered", func(s *api.FlowLogDelivery) bool {
		return !s.CoveredUntil.Before(last.Add(-10*time.Minute)) && s.Waiting == 0
	})
	b.d.endAll()
	b.compare(came)
}

// compare looks that files tell each record as it must be.
func (b *bench) compare(came map[uint64]*placed) {
	b.t.Helper()
	told := map[uint64]int{}
	for path, lines := range b.texts() {
		have := slices.IndexFunc(forms, func(f form) bool {
			fields, err := format.Parse(f.format)
			return err == nil && format.Header(fields) == lines[0]
		})
		if have < 0 {
			b.t.Fatalf("%s: %q", path, lines[0])
		}
		for _, line := range lines[1:] {
			word, _, _ := strings.Cut(line, " ")
			n, err := strconv.ParseUint(word, 10, 64)
			if err != nil {
				continue // no record
			}
			told[n]++
			if p := came[n]; p == nil || !slices.Contains(p.forms, have) || !p.takes(have) {
				b.t.Errorf("%s: record %d, %+v, is told in form %d", path, n, p, have)
			}
		}
	}
	for n, p := range came {
		demanded := !slices.ContainsFunc(p.forms, func(form int) bool { return !p.takes(form) })
		if told[n] > 1 || told[n] == 0 && demanded {
			b.t.Errorf("record %d, %+v, is told %d times", n, p, told[n])
		}
	}
}
