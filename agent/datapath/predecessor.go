package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/logkey"
)

// predecessor is what an agent of another schema left pinned. While it is live its programs go on with its maps: takeover.go
// ends that. Afterwards what it counted is left of it, until that is handed over too.
type predecessor struct {
	passage
	dir   string
	live  bool                   // its flow entries are those in force
	maps  map[string]*ebpf.Map   // of kept, those that it has
	links map[linkKey]attachment // at interfaces that are there
	done  copied                 // what of its flow entries was copied
}

// kept are the maps that are read of a predecessor.
var kept = []string{mapConfig, mapFlows, mapCounters, mapLosses, mapRefusals, mapEvents}

// generationAt is where struct config has its generation, in every schema so far.
const generationAt = 8

// versionDir is where a schema's pins are.
func versionDir(pinPath string, version uint32) string {
	return filepath.Join(pinPath, "v"+strconv.FormatUint(uint64(version), 10))
}

// findPredecessor opens the pins of the newest schema from which there is a passage; nil when there are none. Others are left
// alone: programs attached from now on run before theirs.
func (d *Datapath) findPredecessor() (*predecessor, error) {
	dirs, err := filepath.Glob(filepath.Join(d.cfg.PinPath, "v*"))
	if err != nil {
		return nil, err
	}
	var found *predecessor
	for _, p := range passages {
		dir := versionDir(d.cfg.PinPath, p.from)
		if p.to == d.version && slices.Contains(dirs, dir) && (found == nil || found.from < p.from) {
			found = &predecessor{passage: p, dir: dir}
		}
	}
	for _, dir := range dirs {
		if dir != d.dir && (found == nil || dir != found.dir) {
			d.log.Warn("pins of another schema are left alone, and their flows are not taken over", logkey.Path, dir)
		}
	}
	if found == nil {
		return nil, nil
	}
	found.maps, found.links = map[string]*ebpf.Map{}, map[linkKey]attachment{}
	found.done = copied{seed: maphash.MakeSeed(), sums: map[uint64]uint64{}}
	if err := errors.Join(found.openMaps(), found.openLinks(linkPins, loadTCX), found.openLinks(filterPins, loadClsact)); err != nil {
		return nil, errors.Join(fmt.Errorf("pins of schema %d: %w", found.from, err), found.close())
	}
	found.live, err = d.inForce(found)
	if err != nil {
		return nil, errors.Join(err, found.close())
	}
	return found, nil
}

func (p *predecessor) openMaps() error {
	for _, name := range kept {
		m, err := ebpf.LoadPinnedMap(filepath.Join(p.dir, "maps", name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("pinned map %s: %w", name, err)
		}
		p.maps[name] = m
	}
	return nil
}

// openLinks is takeUp without a replacement.
func (p *predecessor) openLinks(kind string, load func(pin string, k linkKey, h hook) (attachment, error)) error {
	entries, err := os.ReadDir(filepath.Join(p.dir, kind))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		k, h, ok := parsePin(e.Name())
		if !ok {
			return fmt.Errorf("pinned %s %s: not one of ours; remove it", kind, e.Name())
		}
		a, err := load(filepath.Join(p.dir, kind, e.Name()), k, h)
		if err != nil {
			return fmt.Errorf("pinned %s %s: %w", kind, e.Name(), err)
		}
		if a.alive() {
			p.links[k] = a
		} else if err := a.release(); err != nil {
			return fmt.Errorf("pinned %s %s: %w", kind, e.Name(), err)
		}
	}
	return nil
}

// inForce tells whether a predecessor's flow entries are those in force, or were taken over already. A table of flows is pinned
// only once it has all of them, and the other's pin goes next; so when both are there they are equal, unless an older agent
// was put in place without asking this one: it does not know newer pins, and puts its programs before them.
func (d *Datapath) inForce(p *predecessor) (bool, error) {
	if p.maps[mapFlows] == nil {
		return false, nil
	}
	if _, err := os.Lstat(filepath.Join(d.dir, "maps", mapFlows)); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	if p.from < d.version {
		return len(p.links) > 0, nil
	}
	for _, kind := range [...]string{linkPins, filterPins} {
		if own, err := os.ReadDir(filepath.Join(d.dir, kind)); err != nil || len(own) > 0 {
			return false, err
		}
	}
	return true, nil
}

// begin makes sure that nothing passes the own programs before the takeover, and that it begins with no flow entries.
func (d *Datapath) begin() error {
	dir := filepath.Join(d.dir, "maps")
	config, err := ebpf.LoadPinnedMap(filepath.Join(dir, mapConfig), nil)
	if err == nil {
		err = errors.Join(config.Put(uint32(0), make([]byte, config.ValueSize())), config.Close())
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("close the programs of an earlier takeover: %w", err)
	}
	return removePin(filepath.Join(dir, mapFlows))
}

// meetPredecessor looks for one and prepares for its takeover.
func (d *Datapath) meetPredecessor() (err error) {
	if d.before, err = d.findPredecessor(); err != nil || !d.waiting() {
		return err
	}
	return d.begin()
}

// succeed gives a map that is made anew at least the room that the predecessor's has. The table of flows is pinned when it has
// them all.
func (d *Datapath) succeed(name string, spec *ebpf.MapSpec) {
	if d.before == nil {
		return
	}
	if m := d.before.maps[name]; m != nil {
		spec.MaxEntries = max(spec.MaxEntries, m.MaxEntries())
	}
	if name == mapFlows && d.before.live {
		spec.Pinning = ebpf.PinNone
	}
}

// takesOver says whether a takeover is still to come.
func (d *Datapath) takesOver() bool {
	d.moving.RLock()
	defer d.moving.RUnlock()
	return d.waiting()
}

// waiting says whether the takeover is still to come. The lock moving, or mu, is held.
func (d *Datapath) waiting() bool { return d.before != nil && d.before.live }

// generation is the predecessor's; 0: closed.
func (p *predecessor) generation() (uint32, error) {
	m := p.maps[mapConfig]
	if m == nil {
		return 0, nil
	}
	raw, err := m.LookupBytes(uint32(0))
	if err != nil {
		return 0, fmt.Errorf("read %s of schema %d: %w", mapConfig, p.from, err)
	}
	return binary.NativeEndian.Uint32(raw[generationAt:]), nil
}

// sources are a map of sums and, while there is one, the predecessor's: read together they only grow.
func (d *Datapath) sources(name string) []*ebpf.Map {
	all := []*ebpf.Map{d.coll.Maps[name]}
	if d.before != nil && d.before.maps[name] != nil {
		all = append(all, d.before.maps[name])
	}
	return all
}

// eachFlow visits every entry of the table in force.
func (d *Datapath) eachFlow(ctx context.Context, visit func(e *bpf.Flow)) error {
	d.moving.RLock()
	defer d.moving.RUnlock()
	if d.waiting() {
		return d.before.now(ctx, d.before.maps[mapFlows], visit)
	}
	return each(ctx, d.coll.Maps[mapFlows], func(k *bpf.FlowKey, e *bpf.Flow) error {
		if e.Key == *k && e.Id != 0 { // else it is being written, or removed, this very moment
			visit(e)
		}
		return nil
	})
}

func (p *predecessor) close() error {
	if p == nil {
		return nil
	}
	var errs []error
	for _, m := range p.maps {
		errs = append(errs, m.Close())
	}
	for _, a := range p.links {
		errs = append(errs, a.close())
	}
	return errors.Join(errs...)
}
