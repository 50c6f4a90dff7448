package datapath

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
)

// programIDs are the kernel's ids of what a datapath has loaded.
func programIDs(t *testing.T, d *Datapath) map[string]ebpf.ProgramID {
	t.Helper()
	ids := map[string]ebpf.ProgramID{}
	for name, p := range d.coll.Programs {
		id, err := programID(p)
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	return ids
}

// attachedIDs are the ids of the programs that run at a host's interfaces.
func attachedIDs(t *testing.T, h *meshHost) map[linkKey]ebpf.ProgramID {
	t.Helper()
	ids := map[linkKey]ebpf.ProgramID{}
	for k, a := range h.dp.links {
		switch a := a.(type) {
		case *clsact:
			ids[k] = a.program
		case *tcx:
			info, err := a.link.Info()
			if err != nil {
				t.Fatal(err)
			}
			ids[k] = info.Program
		}
	}
	return ids
}

// loadDirs are the loads that a host has pinned.
func loadDirs(t *testing.T, h *meshHost) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(h.dp.dir, loadPins, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// An agent that begins anew takes the programs that its predecessor loaded, when they are the very same, and no others.
func TestProgramsAreKept(t *testing.T) {
	second := false // host has filters of clsact
	m := newMesh(t, func(c *Config) { c.noTCX, second = second, true })
	near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	inside, farInside := connect(t, m.cart, m.vault, "10.0.1.201:443", ":8443") // by the tail call
	flows := func(when string) {
		t.Helper()
		word := []byte("still here")
		if err := errors.Join(send(near, word), receive(far, word), send(far, word), receive(near, word), send(inside, word),
			receive(farInside, word)); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	again := func(h *meshHost, when string, keeps bool) {
		t.Helper()
		before := programIDs(t, h.dp)
		m.reopenHost(h)
		now := programIDs(t, h.dp)
		if kept := maps.Equal(before, now); kept != keeps {
			t.Errorf("%s: the same programs: %t (%v, then %v)", when, kept, before, now)
		}
		if !keeps {
			for name, id := range now {
				if id == before[name] {
					t.Errorf("%s: %s is the one of before", when, name)
				}
			}
		}
		for k, id := range attachedIDs(t, h) {
			if p, ok := k.hook(); !ok || now[p.program] != id {
				t.Errorf("%s: program %d runs at %+v, not one of %v", when, id, k, now)
			}
		}
		if dirs := loadDirs(t, h); len(dirs) != 1 || dirs[0] != h.dp.loadDir {
			t.Errorf("%s: pinned loads %v, want only %s", when, dirs, h.dp.loadDir)
		}
		m.applyPlan(h, m.plan(h))
		flows(when)
	}
	for _, h := range []*meshHost{m.a, m.b} {
		again(h, "nothing changed", true)
		again(h, "nothing changed, once more", true)
	}
	again(m.a, "its own", true)
	for when, spoil := range spoiled(t, m.a, m.b) {
		spoil()
		again(m.a, when, false)
	}
	m.a.cfg.rowStall = 1
	again(m.a, "another constant", false)
	again(m.a, "the same constant", true)
	m.a.cfg.rowStall = 0
	again(m.a, "the constant of before", false)
}

// spoiled are ways in which a host's pinned load is not what it should be; another host has one of the same programs.
func spoiled(t *testing.T, h, other *meshHost) map[string]func() {
	remove := func(path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	swap := func(name string, p *ebpf.Program) {
		t.Helper()
		path := filepath.Join(h.dp.loadDir, "programs", name)
		remove(path)
		if err := pinCopy(p, path); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]func(){
		"a program is missing": func() { remove(filepath.Join(h.dp.loadDir, "programs", bpf.ABIProgMarkFlows)) },
		"a map is missing":     func() { remove(filepath.Join(h.dp.loadDir, "maps", mapOutcome)) },
		"a map of all loads is another": func() {
			remove(filepath.Join(h.dp.dir, "maps", mapRefusals))
		},
		"a program is another": func() { swap(bpf.ABIProgFromHost, h.dp.coll.Programs[bpf.ABIProgFromTunnel]) },
		"a program works on other maps": func() {
			swap(bpf.ABIProgFromHost, other.dp.coll.Programs[bpf.ABIProgFromHost])
		},
		"the name is another's": func() {
			id := h.dp.loadDir[strings.LastIndexByte(h.dp.loadDir, '-'):]
			elsewhere := filepath.Join(filepath.Dir(h.dp.loadDir), strings.Repeat("0", 64)+id)
			if err := os.Rename(h.dp.loadDir, elsewhere); err != nil {
				t.Fatal(err)
			}
		},
	}
}
