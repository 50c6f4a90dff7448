package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-net/culvert/internal/logkey"
)

// A schema's maps cannot serve another's programs, and programs are replaced one by one. Two programs with two tables would let
// one tenant's answer reach another: each table may lend the same source port. So for the moment of the takeover nothing passes, and
// all that could change an entry stands still: decision 0017. In order:
//
//	copy      flow entries, while the programs of before go on
//	stop      one program after another is replaced by its own, which drop: their configuration is closed
//	settle    until no program of before runs any more
//	copy      what changed since
//	commit    the flow entries are pinned here, and no more there: from now on these are in force
//	open      by the caller, with the configuration
//	finish    hand over what was counted, and remove the pins of before
//
// Whoever dies on the way leaves what the next one goes on with.

// takeOver comes until commit. The caller has filled the tables and not yet opened the configuration; it holds mu. It
// reports whether there was something to take over. After an error it can be called again.
func (d *Datapath) takeOver(ctx context.Context) (bool, error) {
	if !d.waiting() {
		return false, nil
	}
	p := d.before
	from, to := p.maps[mapFlows], d.coll.Maps[mapFlows]
	if err := p.flows.move(ctx, from, to, &p.done); err != nil {
		return true, fmt.Errorf("take over flows: %w", err)
	}
	if err := d.step("copied"); err != nil {
		return true, err
	}
	d.moving.Lock()
	defer d.moving.Unlock()
	start := time.Now()
	if err := d.stop(); err != nil {
		return true, fmt.Errorf("take over programs: %w", err)
	}
	if err := d.settle(ctx); err != nil {
		return true, err
	}
	if err := d.step("stopped"); err != nil {
		return true, err
	}
	if err := p.flows.move(ctx, from, to, &p.done); err != nil {
		return true, fmt.Errorf("take over flows: %w", err)
	}
	if err := d.step("settled"); err != nil {
		return true, err
	}
	if err := d.commit(); err != nil {
		return true, fmt.Errorf("take over flows: %w", err)
	}
	d.log.Info("flows of another schema were taken over; nothing passed meanwhile", logkey.Path, p.dir,
		logkey.Entries, len(p.done.sums), logkey.DurationMS, time.Since(start).Milliseconds())
	if p.done.left > 0 {
		d.log.Warn("this schema has no words for some flow entries, and their flows end", logkey.Entries, p.done.left)
	}
	return true, nil
}

// stop puts the own programs in the place of the predecessor's.
func (d *Datapath) stop() error {
	for k, a := range maps.All(d.before.links) {
		if err := d.inherit(k, a); err != nil {
			return fmt.Errorf("%s: %w", nameOf(k.ifindex), err)
		}
		delete(d.before.links, k)
		if err := d.step("replaced"); err != nil {
			return err
		}
	}
	return nil
}

// inherit takes an attachment over, or lets go of it when its interface went. One of the own schema that is there for the same
// place is a leftover that runs behind it.
func (d *Datapath) inherit(k linkKey, a attachment) error {
	if !a.alive() {
		return a.release()
	}
	if leftover, ok := d.links[k]; ok {
		delete(d.links, k)
		if err := leftover.release(); err != nil {
			return err
		}
	}
	h, _ := k.hook()
	kind := linkPins
	if _, ok := a.(*clsact); ok {
		kind = filterPins
	}
	if err := a.move(d.coll.Programs[h.program], d.pinOf(kind, k, h)); err != nil {
		return err
	}
	d.links[k] = a
	return nil
}

// commit makes the own flow entries those in force.
func (d *Datapath) commit() error {
	if err := d.coll.Maps[mapFlows].Pin(filepath.Join(d.dir, "maps", mapFlows)); err != nil {
		return err
	}
	if err := d.step("pinned"); err != nil {
		return err
	}
	if err := removePin(filepath.Join(d.before.dir, "maps", mapFlows)); err != nil {
		return err
	}
	d.before.live = false
	return d.step("committed")
}

// finish hands over what a predecessor that is live no more has counted, and removes its pins. What finds no room yet is left
// for the next time. The lock mu is held.
func (d *Datapath) finish(ctx context.Context) error {
	p := d.before
	if p == nil || p.live {
		return nil
	}
	for k, a := range maps.All(p.links) { // of a takeover the other way that was never committed
		own, ok := d.links[k]
		var err error
		if ok && own.alive() {
			err = a.release()
		} else {
			err = d.inherit(k, a)
		}
		if err != nil {
			return fmt.Errorf("take over programs: %w", err)
		}
		delete(p.links, k)
	}
	d.moving.Lock()
	defer d.moving.Unlock()
	if err := d.settle(ctx); err != nil {
		return err
	}
	err := d.carrySums()
	if err == nil {
		err = d.carryRest(ctx)
	}
	if errors.Is(err, errNoRoom) {
		d.log.Warn("take over counters", logkey.Error, err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := d.step("carried"); err != nil {
		return err
	}
	d.before = nil
	return errors.Join(p.close(), os.RemoveAll(p.dir))
}

// carrySums hands over counters and losses.
func (d *Datapath) carrySums() error {
	var errs []error
	for name, words := range map[string]int{mapCounters: 2, mapLosses: 1} {
		if from := d.before.maps[name]; from != nil {
			c := carrying{from: from, to: d.coll.Maps[name], sums: words, perCPU: true, anyENI: name == mapCounters}
			errs = append(errs, c.carryPerCPU())
		}
	}
	return errors.Join(errs...)
}

// carryRest hands over refusals, and events that nobody has read.
func (d *Datapath) carryRest(ctx context.Context) error {
	p := d.before
	var errs []error
	if from := p.maps[mapRefusals]; from != nil {
		c := carrying{from: from, to: d.coll.Maps[mapRefusals], sums: 2}
		errs = append(errs, c.carryEntries(ctx, p.refusals))
	}
	if from := p.maps[mapEvents]; from != nil {
		errs = append(errs, carryEvents(from, d.coll.Maps[mapEvents], d.coll.Maps[mapLosses], p.events))
	}
	return errors.Join(errs...)
}

// step is a moment at which tests let the takeover end, as if the process had died. The meshes of failpoints' tests have one schema.
func (d *Datapath) step(name string) error {
	if d.cfg.step == nil {
		return nil
	}
	return d.cfg.step(name)
}
