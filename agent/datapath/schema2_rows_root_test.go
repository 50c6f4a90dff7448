package datapath

import (
	"errors"
	"fmt"
	"testing"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// agent2 plays an agent of schema 2: its programs, and tables as it filled them. Flows and all that was counted it takes up as
// it finds them.
type agent2 struct {
	*Datapath
	t *testing.T
}

// openOld is its start: programs in place, and then its plan. The caller closes it.
func (h *meshHost) openOld(t *testing.T, p *plan.Plan) *agent2 {
	t.Helper()
	a := &agent2{t: t}
	if err := h.Do(func() (err error) { a.Datapath, err = open(h.cfg, 2, schema2(t)); return err }); err != nil {
		t.Fatalf("open as schema 2: %+v", err)
	}
	a.fill(p)
	return a
}

// fill writes a plan's rows, which have not changed since schema 2 (TestSchema2Rows).
func (a *agent2) fill(p *plan.Plan) {
	a.t.Helper()
	want, err := encode(p)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx := a.t.Context()
	sets, tables := a.ruleSets(want.ruleSets), a.targetTables(want.targetTables)
	steps, err := a.steps(ctx, want)
	if err := errors.Join(err, sets.diff(ctx), tables.diff(ctx), sets.putAll(), tables.putAll()); err != nil {
		a.t.Fatal(err)
	}
	for _, s := range steps {
		if err := s.putAll(); err != nil {
			a.t.Fatal(err)
		}
	}
	if err := a.setConfig(want.config); err != nil {
		a.t.Fatal(err)
	}
}

// entries are the flow entries as they are pinned, by id and direction.
func (a *agent2) entries() map[string]flow2 {
	a.t.Helper()
	all := map[string]flow2{}
	if err := each(a.t.Context(), a.coll.Maps[mapFlows], func(k *bpf.FlowKey, f *flow2) error {
		if f.Key != *k {
			return fmt.Errorf("entry of %+v has the key %+v", f.Key, *k)
		}
		all[fmt.Sprint(f.Id, "/", f.Key)] = *f
		return nil
	}); err != nil {
		a.t.Fatal(err)
	}
	return all
}
