package datapath

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// outer is a map of maps: each value is built aside and put with one update.
type outer struct {
	name   string
	m      *ebpf.Map
	inner  *ebpf.MapSpec
	known  map[uint32]string              // texts that are in the kernel for sure
	texts  map[uint32]string              // wanted
	build  func(id uint32) ([]any, error) // an inner map's values by index
	remove []uint32
	put    []uint32
}

// diff finds what differs by reading the kernel's map; contents are compared the first time, then by text.
func (o *outer) diff(ctx context.Context) error {
	have, err := table[uint32, uint32]{o.name, o.m}.iterate(ctx)
	if err != nil {
		return err
	}
	for id := range have {
		if _, ok := o.texts[id]; !ok {
			o.remove = append(o.remove, id)
		}
	}
	for id, text := range o.texts {
		if _, ok := have[id]; ok && o.known[id] == text {
			continue
		}
		o.put = append(o.put, id)
	}
	return nil
}

func (o *outer) size() int { return len(o.remove) + len(o.put) }

func (o *outer) putAll() error {
	for _, id := range o.put {
		if err := o.putOne(id); err != nil {
			return fmt.Errorf("write %s %d: %w", o.name, id, err)
		}
		o.known[id] = o.texts[id]
	}
	return nil
}

func (o *outer) putOne(id uint32) error {
	values, err := o.build(id)
	if err != nil {
		return err
	}
	spec := o.inner.Copy()
	spec.MaxEntries = uint32(max(1, len(values)))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	defer m.Close()
	for i, v := range values {
		if err := m.Put(uint32(i), v); err != nil {
			return err
		}
	}
	return o.m.Put(id, uint32(m.FD()))
}

func (o *outer) removeAll() error {
	for _, id := range o.remove {
		if err := o.m.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", o.name, err)
		}
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
	o.build = func(id uint32) ([]any, error) {
		set, err := encodeRules(want[id])
		return []any{set}, err
	}
	return o
}

func (d *Datapath) targetTables(want map[uint32]plan.TargetTable) *outer {
	o := &outer{
		name: mapTargetTables, m: d.coll.Maps[mapTargetTables], inner: d.spec.Maps[mapTargetTables].InnerMap,
		known: d.tables, texts: map[uint32]string{},
	}
	for id, t := range want {
		o.texts[id] = fmt.Sprintf("%d\n%s", t.Size, t.Text)
	}
	o.build = func(id uint32) ([]any, error) {
		targets, err := encodeTargets(want[id])
		values := make([]any, len(targets))
		for i := range targets {
			values[i] = &targets[i]
		}
		return values, err
	}
	return o
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
