package flow

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// words makes words that are never the same.
func words() func() string {
	n := 0
	return func() string { n++; return fmt.Sprint("w", n) }
}

// A directory that was emptied while the host runs on begins a boot of its own: sequences begin anew, and a reader that knows the lines
// of before by boot and sequence takes each of the new ones.
func TestEmptiedDirectoryIsABootOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		word := words()
		named := func(c *Config) { sealed(c); c.Log.Word = word }
		known := map[string]string{}
		for range 2 {
			r := start(t, NewMem(), NewMemStore(), named)
			r.carry(1, 10, 5)
			pass(12 * time.Second)
			r.stop()
			lines := linesOf(t, r.store)
			proven(t, lines)
			for _, l := range lines {
				if !strings.HasPrefix(l.Boot, "boot-1.w") {
					t.Fatalf("line of boot %q", l.Boot)
				}
				key := fmt.Sprint(l.Kind, l.Boot, l.Sequence)
				if s, is, _ := seal.Parse(l.Raw); is {
					key = fmt.Sprint(l.Kind, l.Boot, "/", s.Number)
				}
				if before := known[key]; before != "" {
					t.Errorf("%s is known already, as %s", key, before)
				}
				known[key] = string(l.Raw)
			}
		}
		if len(known) < 4 {
			t.Errorf("only %d lines", len(known))
		}
	})
}

// What is in a directory of this boot keeps its name, however the agent ended, and also where it is from before names had a word.
func TestBootKeepsItsName(t *testing.T) {
	word := words()
	cfg := LogConfig{Boot: "boot-1", Node: node, Key: sealKey, Shipping: true, Word: word}
	write := func(l *Log) {
		t.Helper()
		if err := l.Write(Batch{Records: []api.FlowRecord{counted(3)}, Seal: &seal.Seal{End: epoch}}); err != nil {
			t.Fatal(err)
		}
	}
	old := NewMemStore()
	before := cfg
	before.Store, before.Word = old, nil
	l, _ := openLog(t, before)
	write(l)

	fresh := NewMemStore()
	cfg.Store = fresh
	l, _ = openLog(t, cfg)
	name := l.Boot()
	write(l)
	noState := fresh.Crash(0)
	if err := noState.Remove(stateName); err != nil {
		t.Fatal(err)
	}
	torn := fresh.Crash(0)
	if err := torn.Put(stateName, []byte(`{"boot":`)); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		store *MemStore
		want  string
	}{
		"killed": {fresh.Crash(0), name}, "without state": {noState, name}, "with damaged state": {torn, name}, "from before": {old, "boot-1"},
	} {
		cfg.Store = c.store
		l, r := openLog(t, cfg)
		if l.Boot() != c.want || r.Sequence != 1 {
			t.Errorf("%s: boot %q at %d, want %q at 1", what, l.Boot(), r.Sequence, c.want)
		}
		write(l)
		proven(t, linesOf(t, c.store))
		cfg.Boot = "boot-2"
		next, r := openLog(t, cfg)
		if !strings.HasPrefix(next.Boot(), "boot-2.w") || r.Sequence != 0 {
			t.Errorf("%s: after a boot: %q at %d", what, next.Boot(), r.Sequence)
		}
		write(next)
		proven(t, linesOf(t, c.store))
		cfg.Boot = "boot-1"
	}
}
