package oracle

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/audit/seal"
)

// Sealed is what an agent's flow log proves by itself.
type Sealed struct {
	Seals    int
	Full     int
	Open     int        // lines behind the last seal
	Declared []seal.Gap // by all seals

	tallies map[string]*seal.Tally  // by boot
	gone    map[seal.Row]seal.Count // what interfaces that are gone had counted, by rows of none
}

// ReadSealed checks the log of the agent whose data directory that is: every line stands in a segment whose seal fits it, is signed by the
// node's key and follows the seal before, and what lines tell is what each seal's counters say. Nothing may have been trimmed.
func ReadSealed(dir string) (*Sealed, error) {
	key, err := state.Dir(dir).LogKey()
	if err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, "flows", "*.jsonl"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	c := checker{key: key.Public().(ed25519.PublicKey), next: map[string]uint64{}, number: map[string]uint64{}}
	c.tallies, c.gone = map[string]*seal.Tally{}, map[seal.Row]seal.Count{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for raw := range bytes.Lines(data[:bytes.LastIndexByte(data, '\n')+1]) {
			if err := c.line(raw); err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
			}
		}
	}
	c.Open = len(c.segment)
	return &c.Sealed, nil
}

type checker struct {
	Sealed
	key          ed25519.PublicKey
	next, number map[string]uint64
	previous     string
	segment      [][]byte
}

func (c *checker) line(raw []byte) error {
	s, ok, err := seal.Parse(raw)
	if err != nil {
		return err
	}
	if !ok {
		c.segment = append(c.segment, raw)
		return nil
	}
	if c.tallies[s.Boot] == nil {
		c.tallies[s.Boot], c.next[s.Boot], c.number[s.Boot] = &seal.Tally{}, 1, 1
	}
	err = s.Check(c.key)
	switch {
	case err != nil:
	case s.Number != c.number[s.Boot] || s.First != c.next[s.Boot] || s.Previous != c.previous:
		err = fmt.Errorf("it is not the next: want number %d from %d on, after %q", c.number[s.Boot], c.next[s.Boot], c.previous)
	case s.Records != len(c.segment) || s.Hash != seal.HashLines(c.segment...):
		err = fmt.Errorf("it is of %d lines, here are %d", s.Records, len(c.segment))
	}
	for _, l := range c.segment {
		err = cmp.Or(err, c.tallies[s.Boot].Line(l))
	}
	errs := append([]error{err}, c.tallies[s.Boot].Seal(s)...)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("seal %d: %w", s.Number, err)
	}
	c.next[s.Boot], c.number[s.Boot], c.previous, c.segment = s.Last+1, s.Number+1, seal.HashLine(raw), nil
	c.Seals++
	if s.Full {
		c.Full++
	}
	c.Declared = append(c.Declared, s.Declared...)
	for _, p := range s.Counters {
		if row, ok := seal.RowOf("", p.Hook, p.Reason); ok && p.Folded {
			c.gone[row] = c.gone[row].Plus(p.To)
		}
	}
	return nil
}

// Lost adds up what is declared of a cause.
func (s *Sealed) Lost(cause string) (packets uint64) {
	for _, g := range s.Declared {
		if g.Cause == cause {
			packets += g.Packets
		}
	}
	return packets
}

// Balance compares all that sealed lines of a boot of the host tell with the counters of now, row by row: records, and what is declared, are exactly
// what the datapath counted. It holds where no packet is under way.
func (s *Sealed) Balance(boot string, counters []local.Counter) error {
	var t *seal.Tally
	for name, of := range s.tallies {
		if kernel, _, _ := strings.Cut(name, "."); kernel == boot && t != nil {
			return fmt.Errorf("boot %s has two names", boot)
		} else if kernel == boot {
			t = of
		}
	}
	if t == nil {
		return fmt.Errorf("nothing of boot %s is sealed", boot)
	}
	counted, here := map[seal.Row]seal.Count{}, map[string]bool{}
	for _, c := range counters {
		here[c.ENI] = true
		if row, ok := seal.RowOf(c.ENI, c.Hook, c.Reason); ok {
			counted[row] = counted[row].Plus(seal.Count{Packets: c.Packets, Bytes: c.Bytes})
		}
	}
	told := maps.Clone(s.gone)
	for row := range t.Sums() {
		under := row
		if !here[row.ENI] { // it is about to be counted for none
			under.ENI = ""
		}
		told[under] = told[under].Plus(t.Told(row))
	}
	var errs []error
	for _, row := range slices.Concat(slices.Collect(maps.Keys(counted)), slices.Collect(maps.Keys(told))) {
		if told[row] != counted[row] {
			errs = append(errs, fmt.Errorf("%v: lines tell %s, counted were %s", row, told[row], counted[row]))
		}
	}
	return errors.Join(errs...)
}
