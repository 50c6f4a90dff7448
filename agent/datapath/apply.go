package datapath

import (
	"context"
	"errors"
	"fmt"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/plan"
)

// Apply moves the tables to the plan and reports whether anything differed. What rows refer to (rule sets, target tables)
// comes first and goes last; of the rows themselves those that are gone go before any comes, so an address that has a
// new owner never meets an old permission; the configuration with its generation comes last of all. After an error the
// next call starts from what the kernel then holds. Pins that somebody removed are made again.
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
	if have == want.config && size == 0 {
		return false, nil
	}
	if err := d.apply(want.config, sets, tables, steps); err != nil {
		return true, err
	}
	if connectionsGone(steps) && want.config.Generation != 0 {
		return true, d.promptRevoked(ctx, want)
	}
	return true, nil
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

func (d *Datapath) apply(config bpf.Config, sets, tables *outer, steps []step) error {
	if config.Generation == 0 { // closed: before anything else
		if err := d.setConfig(config); err != nil {
			return err
		}
	}
	failpoint.Here("apply.begun")
	if err := errors.Join(sets.putAll(), tables.putAll()); err != nil {
		return err
	}
	failpoint.Here("apply.referred")
	for i := range steps {
		if err := steps[len(steps)-1-i].removeAll(); err != nil {
			return err
		}
		failpoint.Here("apply.removed")
	}
	for _, s := range steps {
		if err := s.putAll(); err != nil {
			return err
		}
		failpoint.Here("apply.put")
	}
	if err := d.setConfig(config); err != nil {
		return err
	}
	failpoint.Here("apply.stamped")
	err := errors.Join(tables.removeAll(), sets.removeAll())
	failpoint.Here("apply.done")
	return err
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
