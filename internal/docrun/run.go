package docrun

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// commandTime bounds one command: what a reader would not wait for is wrong in a document. It is a minute, five on a machine that has
// other things to do.
const commandTime = 5 * time.Minute

// again is how often a block is run whose promise is not kept yet.
const again = 500 * time.Millisecond

// Run runs a document's blocks in order, on machines with the programs of a directory in their PATH. The error names
// the line of the first command that fails, or of the block that does not print what is promised. Needs root.
func Run(t testing.TB, blocks []Block, programs string) error {
	t.Helper()
	r := &runner{machines: machines{t: t, programs: programs, up: map[string]*machine{}}, within: commandTime}
	err := r.run(blocks)
	if err != nil {
		for name, m := range r.up {
			if text := m.background(); text != "" {
				t.Logf("in the background of %s:\n%s", name, text)
			}
		}
	}
	return err
}

type runner struct {
	machines
	within  time.Duration
	earlier []said
}

func (r *runner) run(blocks []Block) error {
	for i := range blocks {
		b := &blocks[i]
		if b.NoRun != "" {
			continue
		}
		if err := r.keep(b); err != nil {
			return err
		}
	}
	return nil
}

// keep runs a block until it prints what is promised: what takes a moment to show, a reader asks for again.
func (r *runner) keep(b *Block) error {
	deadline := time.Now().Add(r.within)
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		output, err := r.block(b)
		if err != nil {
			return err
		}
		line := missing(b.Promise, output)
		if line == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: the block printed no line %q where it should:\n%s", b.Place(b.Line), line, output)
		}
		<-tick.C
	}
}

// block runs a block's commands and returns what they printed.
func (r *runner) block(b *Block) (string, error) {
	cs, err := b.commands()
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, c := range cs {
		set, err := assignments(c.text, r.earlier)
		if err != nil {
			return "", fmt.Errorf("%s: %w", b.Place(c.line), err)
		}
		output, err := r.get(b.Machine).run(set+c.text, r.within)
		r.t.Logf("%s %s$ %s\n%s", b.Place(c.line), b.Machine, c.text, output)
		if err != nil {
			return "", fmt.Errorf("%s: on %s: %s: %w\n%s", b.Place(c.line), b.Machine, c.text, err, output)
		}
		r.earlier = append(r.earlier, said{c.text, output})
		all.WriteString(output)
	}
	return all.String(), nil
}
