package verify

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io/fs"
	"math"
	"slices"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

// margin is how long, in seconds, a packet may be between two nodes, and how much the clocks of nodes may differ beyond what their seals'
// way to the server shows: so long before the end of a span, and behind its begin, only one end may have told of a packet.
const margin = 5

// ever is the begin of the span of a node whose evidence is here from its first seal on.
const ever = math.MinInt64

// span is a time in which a node has recorded, in segments that are here, all that it counted. In seconds since 1970.
type span struct {
	begin, end int64
	tells      bool // it tells what passed through its tunnel
	base       bool // every seal before it is here: what was counted before it is known
}

// survey is what a seal's line says that its leaf does not.
type survey struct {
	here    bool // the line is here
	full    bool
	set     bool // its node's clock was set, or is that of another boot than the records'
	anew    bool // the agent began anew since the seal before: nobody looked whether the clock was set
	carried bool // packets were forwarded
	tells   bool // what passed through the tunnel is told
	broken  bool // lines of it, or what was counted before it, are gone, and nobody knows how much that was
}

// dated tells whether its records and the seal before have their times by the same clock as the seal.
func (s *survey) dated() bool { return !s.set && !s.anew }

// surveyed is the part of a seal's line that a survey needs.
type surveyed struct {
	Seal *struct {
		Boot     string     `json:"boot"`
		Number   uint64     `json:"number"`
		Full     bool       `json:"full"`
		Clock    seal.Clock `json:"clock"`
		Counters []struct {
			Reason string `json:"reason"`
		} `json:"counters"`
		Declared []struct {
			Cause string `json:"cause"`
			Hook  string `json:"hook"`
		} `json:"declared"`
		Tunnel []struct{} `json:"tunnel"`
	} `json:"seal"`
	hash string
}

// survey reads all seals that are here, before records are: where spans begin and end has to be known by then. here has nodes, boots, hours.
func (v *verifier) survey(here map[string]map[string][]string) {
	spans := map[string][]span{}
	for id, n := range v.nodes {
		for b, hours := range here[id] {
			for _, h := range hours {
				base := segmentsDir + id + "/" + b + "/" + h
				if n.seals[b] == nil {
					continue
				}
				v.surveyHour(base+plainSuffix, n.seals[b])
				v.surveyHour(base+packedSuffix, n.seals[b])
			}
		}
		spans[id] = v.spans(n)
	}
	v.books = newBooks(spans)
}

// surveyHour reads the seals of a file.
func (v *verifier) surveyHour(path string, b *boot) {
	for _, s := range v.seals(path) {
		known := b.seals[s.Seal.Number]
		if known == nil || known.Line != s.hash {
			continue
		}
		y := survey{here: true, full: s.Seal.Full, set: s.Seal.Clock.SteppedMicros != 0, tells: len(s.Seal.Tunnel) > 0}
		for _, c := range s.Seal.Counters {
			y.carried = y.carried || c.Reason == forwarded
		}
		for _, g := range s.Seal.Declared {
			y.broken = y.broken || g.Hook == "" && (g.Cause == seal.CauseDamaged || g.Cause == seal.CauseUnsealed)
			y.anew = y.anew || g.Cause == seal.CauseRestart
			y.set = y.set || g.Cause == seal.CauseBoot
		}
		known.survey = y
	}
}

// seals are those of a file that can be read.
func (v *verifier) seals(path string) []surveyed {
	read := func() (out []surveyed) {
		r, err := v.open(path)
		if err != nil {
			return nil
		}
		defer r.Close()
		for b := bufio.NewReaderSize(r, 1<<16); ; {
			line, err := readLine(b)
			if err != nil {
				return out // the last line is judged elsewhere
			}
			var s surveyed
			if bytes.HasPrefix(line, sealPrefix) && json.Unmarshal(line, &s) == nil && s.Seal != nil {
				s.hash = seal.HashLine(line)
				out = append(out, s)
			}
		}
	}
	if v.o.memo == nil {
		return read()
	}
	data, err := fs.ReadFile(v.fsys, path)
	if err != nil {
		return nil
	}
	return remember(v.o.memo, read, []byte("seals"), []byte(path), data)
}

var sealPrefix = []byte(`{"seal":`)

// ahead tells of each seal how far its node's clock was surely ahead of the server's, in seconds: no seal comes before it is made. It is
// looked at between two times at which the clock was set.
func ahead(order []*sealed) {
	begin := 0
	flush := func(until int) {
		least := int64(0)
		for _, s := range order[begin:until] {
			least = min(least, floor(s.at.Sub(s.End)))
		}
		for _, s := range order[begin:until] {
			s.ahead = -least
		}
		begin = until
	}
	for i, s := range order {
		if i > 0 && (s.set || !s.here || !order[i-1].here || s.Boot != order[i-1].Boot) {
			flush(i)
		}
	}
	flush(len(order))
}

// made is the earliest time at which the seal can have been made, by the server's clock.
func (s *sealed) made() int64 { return s.End.Unix() - s.ahead }

// begun is the latest time at which the seal before can have been made.
func (s *sealed) begun() int64 {
	if !s.dated() || s.Start.After(s.End) {
		return s.came()
	}
	return ceil(s.Start) + ceilOf(s.at.Sub(s.End))
}

// came is the latest time at which the seal can have been made.
func (s *sealed) came() int64 { return ceil(s.at) }

func floor(d time.Duration) int64 { return int64(math.Floor(d.Seconds())) }

func ceilOf(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

func ceil(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }

// reckoning follows full seals, one behind the other. Counters are read some time before the full seal that has them is made, and not before
// the full one before it was. What records lack then is declared when the next one misses it too, unless the agent began anew between the two
// and has forgotten it: then the one behind that declares it, if the agent lives for so long.
type reckoning struct {
	full [2]*sealed // the last one but one, and the last
	anew bool       // the agent began anew behind the last
	told int64      // all that was counted before is in records or declared; ever: nothing is known
}

// take takes the next seal, and notes since when what it says was counted.
func (r *reckoning) take(s *sealed) {
	r.anew = r.anew || s.anew
	s.untold, s.moved = r.told, ever
	if !s.full {
		return
	}
	if before := r.full[0]; before != nil {
		s.moved = before.made()
		if !r.anew {
			r.told = max(r.told, before.made())
		}
	}
	r.full, r.anew = [2]*sealed{r.full[1], s}, false
}

// spans are the times of which a node has told all.
func (v *verifier) spans(n *node) (out []span) {
	var now *span
	var r reckoning
	whole, carried, told := true, false, false
	open := func(begin int64) { now, r = &span{begin: begin, tells: true, base: whole}, reckoning{told: ever} }
	shut := func() {
		if now != nil && r.told > now.begin {
			now.end = r.told
			out = append(out, *now)
		}
		now = nil
	}
	ahead(n.order)
	for i, s := range n.order {
		s.untold, s.moved = ever, ever
		if !s.here || !v.meant(s) {
			shut()
			whole = false
			continue
		}
		first := i == 0 && s.Number == 1 && s.Previous == "" && !s.broken
		whole = whole && (first || i > 0)
		switch {
		case first:
			open(ever)
		case s.broken:
			shut()
			open(s.came())
		case s.tells && !told && carried: // an agent of before told nothing of its tunnel
			shut()
			for j := range out {
				out[j].tells = false
			}
			open(s.came())
		case now == nil || s.Boot != n.order[i-1].Boot || s.Number != n.order[i-1].Number+1:
			shut()
			open(s.begun())
		}
		told, carried = told || s.tells, carried || s.carried
		r.take(s)
	}
	shut()
	for i := range out {
		out[i].tells = out[i].tells && told
	}
	return out
}

// meant tells whether a segment is to be here and judged.
func (v *verifier) meant(s *sealed) bool {
	b := v.nodes[s.Node].seals[s.Boot]
	return v.manifest.within(s) && v.asked(s.Node, s.End) && !b.gone(s.Number)
}

// common are the times that all of several lists of spans have.
func common(all ...[]span) []span {
	if len(all) == 0 {
		return nil
	}
	out := all[0]
	for _, more := range all[1:] {
		var both []span
		for _, a := range out {
			for _, b := range more {
				c := span{max(a.begin, b.begin), min(a.end, b.end), a.tells && b.tells, a.base && b.base}
				if c.begin < c.end {
					both = append(both, c)
				}
			}
		}
		out = both
	}
	return out
}

// cuts are the times at which spans of nodes, with their margins, begin and end, sorted.
func cuts(all map[string][]span) (out []int64) {
	for _, spans := range all {
		for _, s := range spans {
			out = append(out, s.end, s.end-margin)
			if s.begin != ever {
				out = append(out, s.begin, s.begin+margin)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
