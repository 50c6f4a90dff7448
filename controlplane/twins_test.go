package controlplane

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Two machines with one identity are told from one whose agent starts anew, and who looks at nodes is told.
func TestTwoMachinesWithOneIdentity(t *testing.T) {
	began := time.Now()
	var later atomic.Int64 // nanoseconds
	l := startLab(t, func(c *Config) { c.Now = func() time.Time { return began.Add(time.Duration(later.Load())) } })
	h := l.host("host-a")
	for _, c := range []struct {
		said string // runs that report, 10 s apart; a dot is a minute in which nobody does
		want bool
	}{
		{"aaaa", false}, {"abcdef", false}, {"gghhg", false}, {"hh", true}, {"hhhhhhh", false}, {"..ijkijk", true}, {"..llll", false},
		{"..mnm", false}, {"..n", false},
	} {
		for _, run := range strings.Split(c.said, "") {
			if run == "." {
				later.Add(int64(time.Minute))
				continue
			}
			later.Add(int64(10 * time.Second))
			if err := h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id, Run: run, Errors: []string{"its own"}}); err != nil {
				t.Fatal(err)
			}
		}
		n := must(l.admin().GetNode(l.ctx(), "host-a"))(t)
		if got := slices.Contains(n.Status.Errors, twinsProblem); got != c.want || !slices.Contains(n.Status.Errors, "its own") {
			t.Errorf("after %s: errors %q, want the two told: %t", c.said, n.Status.Errors, c.want)
		}
	}
	for _, bad := range []string{strings.Repeat("x", maxRunLen+1), "a\nb"} {
		if e := wantCode(t, h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id, Run: bad}), api.CodeInvalidParameter); e.Field != "agentRun" {
			t.Errorf("%v", e)
		}
	}
}
