package datapath

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/logkey"
)

// The kernel verifies and compiles programs for a second, each time that they are loaded. So a load of them is pinned whole, with the
// maps that are its own, and the next agent takes it as it is where it would load the very same: decision 0032. A load's directory is
// named by what went into it, and by the id of one of its programs, as two loads of the same may be there at one time.

// loadPins is the directory of loads; each has one with its programs and one with its maps.
const loadPins = "loads"

// own says whether a map belongs to one load of the programs. The library names those of global variables after sections.
func own(name string) bool { return private[name] || strings.HasPrefix(name, ".") }

// pinName is a map's as a bpffs takes it, which has no names with dots.
func pinName(name string) string { return strings.ReplaceAll(name, ".", "_") }

// keeps says whether loads are pinned: older schemas' are for agents that know nothing of it.
func (d *Datapath) keeps() bool { return d.dir != "" && d.version == bpf.Version }

// loadSum stands for all that makes a load what it is, but for the maps that loads share: the object, the constants that were put into
// it, the programs that are not of the object.
func (d *Datapath) loadSum() (string, error) {
	h := sha256.New()
	object := bpf.ObjectSum()
	h.Write(object[:])
	for _, name := range slices.Sorted(maps.Keys(d.spec.Variables)) {
		value := d.spec.Variables[name].Value
		fmt.Fprintf(h, "%s %d\n", name, len(value))
		h.Write(value)
	}
	fences := fencePrograms()
	for _, name := range slices.Sorted(maps.Keys(fences)) {
		fmt.Fprintf(h, "%s %d\n", name, len(fences[name].Instructions))
		if err := fences[name].Instructions.Marshal(h, d.spec.ByteOrder); err != nil {
			return "", fmt.Errorf("program %s: %w", name, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// loadPrograms takes the load that is there, or makes one.
func (d *Datapath) loadPrograms(opts ebpf.CollectionOptions) (err error) {
	if !d.keeps() {
		d.coll, err = ebpf.NewCollectionWithOptions(d.spec, opts)
		return err
	}
	sum, err := d.loadSum()
	if err != nil {
		return err
	}
	if d.coll, err = d.keptLoad(sum); err != nil || d.coll != nil {
		return err
	}
	if d.coll, err = ebpf.NewCollectionWithOptions(d.spec, opts); err != nil {
		return err
	}
	id, err := programID(d.coll.Programs[bpf.ABIProgReceiveLocal])
	if err != nil {
		return err
	}
	d.loadDir = filepath.Join(d.dir, loadPins, sum+"-"+strconv.FormatUint(uint64(id), 10))
	return d.keepLoad()
}

// keptLoad is a load that was pinned with this sum, with the pinned maps of all; nil when there is none that is whole. A takeover begins
// with programs that nobody has used.
func (d *Datapath) keptLoad(sum string) (*ebpf.Collection, error) {
	if d.before != nil {
		return nil, nil
	}
	dirs, err := filepath.Glob(filepath.Join(d.dir, loadPins, sum+"-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		coll, err := d.openLoad(dir)
		if err == nil {
			d.loadDir = dir
			return coll, nil
		}
		d.log.Info("pinned programs are not taken; they are loaded anew", logkey.Path, dir, logkey.Error, err)
	}
	return nil, nil
}

// openLoad opens the pins of a load, and fails unless they are all there and work on the maps that they should work on.
func (d *Datapath) openLoad(dir string) (_ *ebpf.Collection, err error) {
	coll := &ebpf.Collection{Programs: map[string]*ebpf.Program{}, Maps: map[string]*ebpf.Map{}}
	defer func() {
		if err != nil {
			coll.Close()
		}
	}()
	ids := map[string]ebpf.MapID{}
	for name, spec := range d.spec.Maps {
		m, err := d.openMap(dir, name)
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		coll.Maps[name] = m
		if ids[name], err = mapID(m); err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		if own(name) {
			continue
		}
		if err := spec.Compatible(m); err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
	}
	for name, spec := range d.spec.Programs {
		p, err := openProgram(filepath.Join(dir, "programs", name))
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		coll.Programs[name] = p
		if err := d.same(p, spec, ids); err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
	}
	return coll, nil
}

// openMap opens a map of a load, its own or one of all.
func (d *Datapath) openMap(dir, name string) (*ebpf.Map, error) {
	if !own(name) {
		return ebpf.LoadPinnedMap(filepath.Join(d.dir, "maps", name), nil)
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "maps", pinName(name)), nil)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.Clone() // which knows of no pin: the library would move it
}

func openProgram(path string) (*ebpf.Program, error) {
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return p.Clone()
}

// same fails unless a program has the instructions of this specification, and exactly those maps that they name.
func (d *Datapath) same(p *ebpf.Program, spec *ebpf.ProgramSpec, ids map[string]ebpf.MapID) error {
	info, err := p.Info()
	if err != nil {
		return err
	}
	ins := slices.Clone(spec.Instructions)
	if err := ins.Marshal(io.Discard, d.spec.ByteOrder); err != nil { // which resolves calls
		return err
	}
	if ok, err := ins.HasTag(info.Tag, d.spec.ByteOrder); err != nil || !ok {
		return errors.Join(errors.New("it has other instructions"), err)
	}
	list, ok := info.MapIDs()
	if !ok {
		return errors.New("the kernel does not tell the maps of programs")
	}
	have, want := map[ebpf.MapID]bool{}, map[ebpf.MapID]bool{}
	for _, id := range list {
		have[id] = true
	}
	for _, ins := range ins {
		if !ins.IsLoadFromMap() {
			continue
		}
		id, ok := ids[ins.Reference()]
		if !ok {
			return fmt.Errorf("it names map %q, which is none of ours", ins.Reference())
		}
		want[id] = true
	}
	if !maps.Equal(have, want) {
		return errors.New("it works on other maps")
	}
	return nil
}

func mapID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("the kernel gives maps no ids")
	}
	return id, nil
}

// loadParts are the pins of the load in use, by path, with how to make them.
func (d *Datapath) loadParts() map[string]func() error {
	parts := map[string]func() error{}
	if d.loadDir == "" {
		return parts
	}
	for name, m := range d.coll.Maps {
		if own(name) {
			path := filepath.Join(d.loadDir, "maps", pinName(name))
			parts[path] = func() error { return pinCopy(m, path) }
		}
	}
	for name, p := range d.coll.Programs {
		path := filepath.Join(d.loadDir, "programs", name)
		parts[path] = func() error { return pinCopy(p, path) }
	}
	return parts
}

// pinCopy pins what may be pinned elsewhere too: the library would move the pin.
func pinCopy[T interface {
	Clone() (T, error)
	Pin(string) error
	Close() error
}](of T, path string) error {
	c, err := of.Clone()
	if err != nil {
		return err
	}
	return errors.Join(c.Pin(path), c.Close())
}

// keepLoad pins the load that was just made.
func (d *Datapath) keepLoad() error {
	if err := os.RemoveAll(d.loadDir); err != nil { // ids come round again
		return err
	}
	if err := d.makeLoadDirs(); err != nil {
		return err
	}
	for path, pin := range d.loadParts() {
		if err := pin(); err != nil {
			return fmt.Errorf("pin %s: %w", path, err)
		}
	}
	return nil
}

func (d *Datapath) makeLoadDirs() error {
	if d.loadDir == "" {
		return nil
	}
	return errors.Join(os.MkdirAll(filepath.Join(d.loadDir, "maps"), 0o700), os.MkdirAll(filepath.Join(d.loadDir, "programs"), 0o700))
}

// dropLoads unpins the other loads, after no link runs their programs any more.
func (d *Datapath) dropLoads() error {
	if d.loadDir == "" {
		return nil
	}
	dirs, err := filepath.Glob(filepath.Join(d.dir, loadPins, "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if dir == d.loadDir {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}
