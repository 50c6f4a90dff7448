package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/plan"
)

// repairShown is how long status speaks of what was put right: a look every few seconds sees it.
const repairShown = 10 * time.Second

// maxRepairs bounds what status shows of it.
const maxRepairs = 64

// repair is something of ours that was not as this node had it, and was put right: another's hand had changed it, or this process
// died before it had finished it.
type repair struct {
	at   time.Time
	text string
}

func (r repair) String() string {
	return fmt.Sprintf("was not as this node had it, and was put right at %s: %s", r.at.UTC().Format(time.TimeOnly), r.text)
}

// repaired takes note of what a round put right. With a.mu.
func (a *Agent) repaired(texts []string) {
	now := time.Now()
	a.repairs = slices.DeleteFunc(a.repairs, func(r repair) bool { return now.Sub(r.at) > repairShown })
	for _, t := range texts {
		a.log.Warn("was not as this node had it, and was put right", logkey.Error, t)
		known := slices.IndexFunc(a.repairs, func(r repair) bool { return r.text == t })
		switch {
		case known >= 0:
			a.repairs[known].at = now
		case len(a.repairs) < maxRepairs:
			a.repairs = append(a.repairs, repair{now, t})
		}
	}
}

// problems are what the last round could not do, and what lately had to be put right. With a.mu.
func (a *Agent) problems() []string {
	out := slices.Clone(a.errors)
	for _, r := range a.repairs {
		if time.Since(r.at) <= repairShown {
			out = append(out, r.String())
		}
	}
	return out
}

// secure puts a place's programs at an interface. One at which they cannot be goes down.
func (t *turn) secure(name string, ifindex int, up bool, place Place) error {
	err := t.edges.Datapath.Secure(ifindex, place)
	if err != nil && up {
		if down := t.edges.Host.SetUp(name, false); down != nil {
			return fmt.Errorf("%w (and it could not be put down: %w)", err, down)
		}
	}
	return err
}

// secureThere secures what is there already. It is for rounds that can do no more.
func (t *turn) secureThere() {
	if hl, err := t.edges.Host.HostLink(); !t.fail("host link", err) && hl.Datapath.Ifindex != 0 {
		t.fail("host program", t.secure(host.DatapathName, hl.Datapath.Ifindex, hl.Datapath.Up, AtHost))
	}
	if tun, err := t.edges.Host.Link(t.cfg.Tunnel); !t.fail("tunnel link", err) && tun.Ifindex != 0 && !tun.Foreign {
		t.fail("tunnel program", t.secure(t.cfg.Tunnel, tun.Ifindex, tun.Up, AtTunnel))
	}
	have, err := t.edges.Host.Workloads()
	t.fail("interfaces", err)
	for _, w := range have {
		t.fail("interface "+w.ENI, t.secure(w.Name, w.Ifindex, w.Up, AtWorkload))
	}
}

// compare notes what happened to links between the plan in force and this round's look at them.
func (t *turn) compare(name string, had, have uint32, up bool) {
	switch {
	case had == 0:
	case had != have:
		t.own = append(t.own, name+" was gone; there is a new one")
	case !up:
		t.own = append(t.own, name+" was down; put up again")
	}
}

// hadLink is the index that the host's end of an interface has in the plan in force; 0: none.
func hadLink(p *plan.Plan, eni string) uint32 {
	if p == nil {
		return 0
	}
	i := slices.IndexFunc(p.ENIs, func(e plan.ENI) bool { return e.ID == eni })
	if i < 0 {
		return 0
	}
	return p.ENIs[i].Ifindex
}
