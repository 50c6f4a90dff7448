package datapath

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/plan"
)

// Apply moves the tables to the plan and reports whether anything differed. What rows refer to (rule sets, target tables)
// comes first and goes last; of the rows themselves those that are gone go before any comes, so an address that has a
// new owner never meets an old permission, and no program that still reads one that is gone reads one that comes (decision 0019);
// the configuration with its generation comes last of all. After an error live flows are
// judged by what the kernel then holds, and the next call starts from it. Pins that somebody removed are made again.
//
// Ends of flows whose permission went are prompted (prompt.go). It is owed from before the first change until it is done:
// also after an error, and at the first call of a process, as the one before may have died in between.
func (d *Datapath) Apply(ctx context.Context, p *plan.Plan) (changed bool, err error) {
	want, err := encode(p)
	if err != nil {
		return false, fmt.Errorf("encode the plan: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() { err = errors.Join(err, d.keepPins()) }()
	sets, tables := d.ruleSets(want.ruleSets), d.targetTables(want.targetTables)
	if err := errors.Join(sets.diff(ctx), tables.diff(ctx)); err != nil {
		return false, err
	}
	steps, err := d.steps(ctx, want)
	if err != nil {
		return false, err
	}
	have, err := d.config()
	if err != nil {
		return false, err
	}
	size := sets.size() + tables.size()
	for _, s := range steps {
		size += s.size()
	}
	if have == want.config && size == 0 && d.before == nil {
		return false, d.promptOwed(ctx, want)
	}
	d.prompted = d.prompted && !permissionGone(steps, tables)
	tookOver, err := d.apply(ctx, want.config, sets, tables, steps)
	d.prompted = d.prompted && !tookOver
	if err != nil {
		return true, errors.Join(err, d.judgeAgain(want.config))
	}
	return true, errors.Join(d.promptOwed(ctx, want), d.finish(ctx), d.foldCounters(ctx, want.enis))
}

// promptOwed prompts where it was not done yet. While the datapath is closed nothing meets a judgement.
func (d *Datapath) promptOwed(ctx context.Context, inForce *rows) error {
	if d.prompted || inForce.config.Generation == 0 {
		return nil
	}
	err := d.promptRevoked(ctx, inForce)
	d.prompted = err == nil
	return err
}

// steps are the tables in the order in which their rows are added; they are removed in the reverse one.
func (d *Datapath) steps(ctx context.Context, want *rows) ([]step, error) {
	addresses, e1 := placed[bpf.VPCAddr](d, mapAddresses, bpf.RowAddress, sameAddress).diff(ctx, want.addresses)
	enis, e2 := placed[bpf.VPCAddr](d, mapENIs, bpf.RowENI, sameENI).diff(ctx, want.enis)
	links, e3 := placed[uint32](d, mapLinks, bpf.RowLink, sameLink).diff(ctx, want.links)
	targets, e4 := placed[bpf.GrantTargetKey](d, mapGrantTargets, bpf.RowGrantTarget, sameGrantTarget).diff(ctx, want.grantTargets)
	grants, e5 := placed[bpf.GrantKey](d, mapGrants, bpf.RowGrant, sameGrant).diff(ctx, want.grants)
	services, e6 := placed[bpf.ServiceKey](d, mapServices, bpf.RowService, sameService).diff(ctx, want.services)
	paths, e7 := table[bpf.PathKey, bpf.Path]{name: mapPaths, m: d.coll.Maps[mapPaths]}.diff(ctx, want.paths)
	quotas, e8 := d.diffQuotas(ctx, want.quotas)
	probes, e9 := placed[bpf.ProbeKey](d, mapProbes, bpf.RowProbe, sameProbe).diff(ctx, want.probes)
	return []step{quotas, paths, addresses, enis, links, probes, targets, grants, services},
		errors.Join(e1, e2, e3, e4, e5, e6, e7, e8, e9)
}

func (d *Datapath) apply(ctx context.Context, config bpf.Config, sets, tables *outer, steps []step) (tookOver bool, err error) {
	if config.Generation == 0 { // closed: before anything else
		if err := d.setConfig(config); err != nil {
			return false, err
		}
	}
	failpoint.Here("apply.begun")
	if err := errors.Join(sets.putAll(), tables.putAll()); err != nil {
		return false, err
	}
	failpoint.Here("apply.referred")
	for i := range steps {
		s := steps[len(steps)-1-i]
		if s.removes() {
			d.freed = true
		}
		if err := s.removeAll(); err != nil {
			return false, err
		}
		failpoint.Here("apply.removed")
	}
	if slices.ContainsFunc(steps, step.adds) {
		if err := d.settleFreed(ctx); err != nil {
			return false, err
		}
	}
	for _, s := range steps {
		if err := s.putAll(); err != nil {
			return false, err
		}
		failpoint.Here("apply.put")
	}
	if tookOver, err = d.takeOver(ctx); err != nil {
		return tookOver, err
	}
	if err := d.setConfig(config); err != nil {
		return tookOver, err
	}
	failpoint.Here("apply.stamped")
	err = errors.Join(tables.removeAll(), sets.removeAll())
	failpoint.Here("apply.done")
	return tookOver, err
}

// judgeAgain has live flows judged by the rows that a plan left behind which could not be applied whole, because the kernel had no
// room for more: what it took away holds for them too. The generation is nobody's, the rest of the configuration is as it was.
func (d *Datapath) judgeAgain(want bpf.Config) error {
	c, err := d.config()
	if err != nil || c.Generation == 0 || c == want {
		return err
	}
	c.Generation++
	return d.setConfig(c)
}

func (d *Datapath) config() (bpf.Config, error) {
	var c bpf.Config
	if err := d.coll.Maps[mapConfig].Lookup(uint32(0), &c); err != nil {
		return c, fmt.Errorf("read %s: %w", mapConfig, err)
	}
	return c, nil
}

func (d *Datapath) setConfig(c bpf.Config) error {
	if err := d.coll.Maps[mapConfig].Put(uint32(0), &c); err != nil {
		return fmt.Errorf("write %s: %w", mapConfig, err)
	}
	return nil
}

// Generation is the one in force; 0 when nothing passes.
func (d *Datapath) Generation() (uint32, error) {
	d.moving.RLock()
	defer d.moving.RUnlock()
	if d.waiting() {
		return d.before.generation()
	}
	c, err := d.config()
	return c.Generation, err
}

// SetLogReady implements Tables. A plan that is being applied does not keep it waiting.
func (d *Datapath) SetLogReady(untilNS uint64) error {
	if err := d.coll.Maps[mapLogReady].Put(uint32(0), untilNS); err != nil {
		return fmt.Errorf("write %s: %w", mapLogReady, err)
	}
	return nil
}
