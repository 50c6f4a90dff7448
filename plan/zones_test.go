package plan_test

import (
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
)

// A zonal listener gives an endpoint ENI of zone a targets of zone a, lists the others without a share, and uses them while
// zone a has none that takes flows.
func TestZones(t *testing.T) {
	const a, b = "10.0.1.5:8443 ", "10.0.1.6:8443 "
	for name, c := range map[string]struct {
		change func(*api.ViewListenerPool)
		want   string
	}{
		"cross-zone":      {func(*api.ViewListenerPool) {}, a + "100\n" + b + "100\n"},
		"zonal":           {func(l *api.ViewListenerPool) { l.Zonal = true }, a + "100\n" + b + "0\n"},
		"weights":         {func(l *api.ViewListenerPool) { l.Targets[0].Weight = 7 }, a + "7\n" + b + "100\n"},
		"nobody in a":     {func(l *api.ViewListenerPool) { l.Zonal, l.Targets[0].Zone = true, "c" }, a + "100\n" + b + "100\n"},
		"a rests":         {func(l *api.ViewListenerPool) { l.Resting, l.Targets = l.Targets[:1], l.Targets[1:] }, a + "0\n" + b + "100\n"},
		"zonal, a rests":  {func(l *api.ViewListenerPool) { l.Zonal, l.Resting, l.Targets = true, l.Targets[:1], l.Targets[1:] }, a + "0\n" + b + "100\n"},
		"everything rest": {func(l *api.ViewListenerPool) { l.Resting, l.Targets = l.Targets, nil }, a + "0\n" + b + "0\n"},
	} {
		v := plantest.View(1, plantest.Workloads())
		l := &v.Endpoints[0].Listeners[0]
		l.Targets = append([]api.ViewTarget{}, l.Targets...)
		l.Targets[1].Zone = "b"
		c.change(l)
		p := compiled(t, v)
		for _, s := range p.Services {
			if s.Port != 443 {
				continue
			}
			for _, table := range p.TargetTables {
				if table.ID == s.Table && table.Text != c.want {
					t.Errorf("%s: %q, want %q", name, table.Text, c.want)
				}
			}
			if s.Table == 0 || (s.TableWidth == 0) != (len(l.Targets) == 0) || strings.Count(c.want, "\n") != 2 {
				t.Errorf("%s: service %+v", name, s)
			}
		}
	}
}
