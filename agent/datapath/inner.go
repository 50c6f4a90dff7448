package datapath

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// outer is a map of maps: each value is built aside and put with one update.
type outer struct {
	name   string
	m      *ebpf.Map
	inner  *ebpf.MapSpec
	known  map[uint32]string // texts that are in the kernel for sure
	texts  map[uint32]string // wanted
	build  func(id uint32) (fill func(*ebpf.Map) error, entries int, err error)
	holds  func(id uint32, inner *ebpf.Map) (bool, error) // whether an inner map is what is wanted
	remove []uint32
	put    []uint32        // also those of over
	over   map[uint32]bool // which the kernel has, with another text
}

// diff finds what differs: which ids the kernel has is read, contents are compared by text. What an earlier process put is
// looked at once, and stays if it is right.
func (o *outer) diff(ctx context.Context) error {
	have, err := table[uint32, uint32]{name: o.name, m: o.m}.iterate(ctx)
	if err != nil {
		return err
	}
	for id := range have {
		if _, ok := o.texts[id]; !ok {
			o.remove = append(o.remove, id)
		}
	}
	o.over = map[uint32]bool{}
	for id, text := range o.texts {
		right, there := false, false
		if _, there = have[id]; there {
			if right, err = o.right(id, text); err != nil {
				return err
			}
		}
		if right {
			continue
		}
		o.put = append(o.put, id)
		if there {
			o.over[id] = true
		}
	}
	return nil
}

// right reports whether the kernel's inner map has a text, and remembers it.
func (o *outer) right(id uint32, text string) (bool, error) {
	if known, ok := o.known[id]; ok {
		return known == text, nil
	}
	var inner *ebpf.Map
	if err := o.m.Lookup(id, &inner); err != nil {
		return false, fmt.Errorf("read %s %d: %w", o.name, id, err)
	}
	defer inner.Close()
	right, err := o.holds(id, inner)
	if err != nil {
		return false, fmt.Errorf("read %s %d: %w", o.name, id, err)
	}
	if right {
		o.known[id] = text
	}
	return right, nil
}

func (o *outer) size() int { return len(o.remove) + len(o.put) }

// putAll builds all and puts them at once: after every update of a map of maps the kernel waits until no program can see
// the old one, tens of milliseconds on a busy machine. What takes the place of another goes by itself: before Linux 6.15 the next
// update of the batch would get its element. Ids go by what is in them, so that hardly happens.
func (o *outer) putAll() error {
	var fresh, over []uint32
	for _, id := range o.put {
		if o.over[id] {
			over = append(over, id)
		} else {
			fresh = append(fresh, id)
		}
	}
	if err := o.putIn(fresh, innerBatch); err != nil {
		return err
	}
	return o.putIn(over, 1)
}

func (o *outer) putIn(ids []uint32, size int) error {
	fds := make([]uint32, 0, min(size, len(ids)))
	for batch := range slices.Chunk(ids, size) {
		fds = fds[:0]
		var inner []*ebpf.Map
		err := func() error {
			for _, id := range batch {
				m, err := o.make(id)
				if err != nil {
					return fmt.Errorf("make %s %d: %w", o.name, id, err)
				}
				inner = append(inner, m)
				fds = append(fds, uint32(m.FD()))
			}
			return o.putBatch(batch, fds)
		}()
		for _, m := range inner {
			m.Close()
		}
		if err != nil {
			return err
		}
		for _, id := range batch {
			o.known[id] = o.texts[id]
		}
	}
	return nil
}

// innerBatch bounds the descriptors that are open at a time.
const innerBatch = 256

func (o *outer) putBatch(ids, fds []uint32) error {
	_, err := o.m.BatchUpdate(ids, fds, nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		for i, id := range ids {
			if err = o.m.Put(id, fds[i]); err != nil {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("write %s (%d of them, room for %d): %w", o.name, len(ids), o.m.MaxEntries(), err)
	}
	return nil
}

// make builds one inner map.
func (o *outer) make(id uint32) (*ebpf.Map, error) {
	fill, entries, err := o.build(id)
	if err != nil {
		return nil, err
	}
	spec := o.inner.Copy()
	spec.MaxEntries = uint32(max(1, entries))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, err
	}
	if err := fill(m); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (o *outer) removeAll() error {
	if len(o.remove) == 0 {
		return nil
	}
	_, err := o.m.BatchDelete(o.remove, nil)
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
		for _, id := range o.remove {
			if err = o.m.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				break
			}
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("delete from %s: %w", o.name, err)
	}
	for _, id := range o.remove {
		delete(o.known, id)
	}
	return nil
}

func (d *Datapath) ruleSets(want map[uint32]plan.RuleSet) *outer {
	o := &outer{
		name: mapRuleSets, m: d.coll.Maps[mapRuleSets], inner: d.spec.Maps[mapRuleSets].InnerMap, known: d.sets,
		texts: map[uint32]string{},
	}
	for id, s := range want {
		o.texts[id] = s.Text
	}
	o.build = func(id uint32) (func(*ebpf.Map) error, int, error) {
		set, err := encodeRules(want[id])
		return func(m *ebpf.Map) error { return m.Put(uint32(0), set) }, 1, err
	}
	o.holds = func(id uint32, inner *ebpf.Map) (bool, error) {
		set, err := encodeRules(want[id])
		if err != nil {
			return false, err
		}
		var have bpf.RuleSet
		err = inner.Lookup(uint32(0), &have)
		return err == nil && *set == have, err
	}
	return o
}

func (d *Datapath) targetTables(want map[uint32]plan.TargetTable) *outer {
	o := &outer{
		name: mapTargetTables, m: d.coll.Maps[mapTargetTables], inner: d.spec.Maps[mapTargetTables].InnerMap,
		known: d.tables, texts: map[uint32]string{},
	}
	for id, t := range want {
		o.texts[id] = fmt.Sprintf("%d\n%s", t.Width, t.Text)
	}
	o.build = func(id uint32) (func(*ebpf.Map) error, int, error) {
		words, err := encodeTargets(want[id])
		mark := fingerprint(o.texts[id])
		words = append(words, mark[:]...)
		return func(m *ebpf.Map) error { return bpf.PutTargetTable(m, words) }, len(words), err
	}
	o.holds = func(id uint32, inner *ebpf.Map) (bool, error) { return hasFingerprint(inner, fingerprint(o.texts[id])) }
	return o
}

// fingerprint stands behind a table's targets, where no program looks, and is written last: a table that has it is whole. It
// spares a new agent the computing of all slots. Another way to spread targets, or to lay a table out, needs another
// beginning here.
func fingerprint(text string) [2]uint64 {
	sum := sha256.Sum256([]byte("target table 1\n" + text))
	return [2]uint64{binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])}
}

func hasFingerprint(inner *ebpf.Map, want [2]uint64) (bool, error) {
	n := inner.MaxEntries()
	if n <= uint32(len(want)) {
		return false, nil
	}
	for i, word := range want {
		var have uint64
		if err := inner.Lookup(n-uint32(len(want)-i), &have); err != nil || have != word {
			return false, err
		}
	}
	return true, nil
}

// ruleSet reads a rule set out of the kernel; nil when there is none.
func (d *Datapath) ruleSet(id uint32) (*bpf.RuleSet, error) {
	var inner *ebpf.Map
	if err := d.coll.Maps[mapRuleSets].Lookup(id, &inner); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, nil
		}
		return nil, err
	}
	defer inner.Close()
	var set bpf.RuleSet
	if err := inner.Lookup(uint32(0), &set); err != nil {
		return nil, err
	}
	return &set, nil
}
