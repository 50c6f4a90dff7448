package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/internal/resident"
	"github.com/culvert-net/culvert/plan"
)

// keepalive keeps NAT mappings open and notices a restarted peer; WireGuard's recommendation, in seconds.
const keepalive = 25 * time.Second

// loop is the only place that changes the node. Events only wake it; it always works on the latest view and on what it
// observes, so a missed event, a restart and drift by somebody else's hand are the same case.
func (a *Agent) loop(ctx context.Context) error {
	tick := time.NewTicker(a.cfg.Tick)
	defer tick.Stop()
	follow := rate.NewLimiter(rate.Every(tablesEvery), tablesBurst)
	ready := false
	for {
		select {
		case <-a.hint: // this round looks
		default:
		}
		select {
		case <-a.ill: // likewise
		default:
		}
		errs := a.round(ctx)
		a.finishRound(errs)
		a.looked = time.Now()
		if !ready && a.lastPlan() != nil {
			ready = true
			a.writeReady()
			if err := resident.Shed(); err != nil {
				a.log.Warn("memory that only the start needed is kept", logkey.Error, err)
			}
		}
		for again := false; !again; {
			var ill bool
			if ill, again = a.next(ctx, tick.C, follow); ctx.Err() != nil {
				return nil
			}
			again = again || ill && !a.tables(ctx)
		}
	}
}

// hintPause is the least time between a round and one that a hint causes.
const hintPause = time.Second

// next waits for a reason to look again, or for one to have the tables follow the health of targets; for none when ctx has ended.
func (a *Agent) next(ctx context.Context, tick <-chan time.Time, follow *rate.Limiter) (ill, again bool) {
	pause := time.NewTimer(hintPause - time.Since(a.looked))
	defer pause.Stop()
	turn := time.NewTimer(time.Duration((1 - follow.Tokens()) * float64(tablesEvery)))
	defer turn.Stop()
	var hint, health chan struct{} // nil: they wait
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-a.wake:
			return false, true
		case <-tick:
			return false, true
		case <-hint:
			return false, true
		case <-health:
			follow.Allow()
			return true, false
		case <-pause.C:
			hint = a.hint
		case <-turn.C:
			health = a.ill
		}
	}
}

func (a *Agent) lastPlan() *plan.Plan {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.applied
}

// finishRound publishes what the round came to and what it put right, and wakes who waits for it.
func (a *Agent) finishRound(errs []error) {
	texts := make([]string, 0, len(errs))
	for _, e := range errs {
		texts = append(texts, e.Error())
	}
	own := slices.Concat(a.own, a.edges.Host.Repairs(), a.edges.Datapath.Repairs())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.own = nil
	a.repaired(own)
	a.logRound(errs, texts)
	a.errors = texts
	close(a.roundDone)
	a.roundDone = make(chan struct{})
}

// errNoView is normal for a moment: at a node's first start, the control plane has not been heard.
var errNoView = errors.New("no view yet: the control plane has not been heard, and none is on disk")

// viewPatience is how long no view is not worth a warning.
const viewPatience = 5 * time.Second

// logRound logs errors that the round before did not have. With a.mu.
func (a *Agent) logRound(errs []error, texts []string) {
	if len(errs) == 1 && errors.Is(errs[0], errNoView) {
		if !a.warned && time.Since(a.made) >= viewPatience {
			a.warned = true
			a.log.Warn("round", logkey.Error, errNoView)
		}
		return
	}
	if !slices.Equal(texts, a.errors) {
		for _, t := range texts {
			a.log.Error("round", logkey.Error, t)
		}
	}
}

// turn is one round's working state.
type turn struct {
	*Agent
	number uint64
	view   *api.View
	signed api.SignedView
	facts  plan.Facts
	inodes map[string]uint64 // of attachments' namespaces, by ENI
	failed map[string]error  // interfaces that cannot be, by ENI
	silent map[string]string // why a workload does not have its resolver, by ENI
	plan   *plan.Plan
	errs   []error
	notes  []string // what is wrong around this node, rather than on it
	open   doors    // of the host that the mesh may reach
}

func (t *turn) fail(what string, err error) bool {
	if err != nil {
		t.errs = append(t.errs, fmt.Errorf("%s: %w", what, err))
	}
	return err != nil
}

// round moves the node to the latest view. Connectivity adds before it removes, isolation removes before it adds (inside
// Datapath.Apply); names go first and come last. One failing part does not keep the others from being right. Before all,
// and whatever is wrong, what is there already is closed.
func (a *Agent) round(ctx context.Context) []error {
	t := &turn{Agent: a, facts: plan.Facts{Generation: 1}, silent: map[string]string{}}
	t.facts.Config.TunnelMTU = uint16(a.cfg.TunnelMTU)
	t.facts.Shares = plan.Shares{
		Entries: uint32(a.edges.Datapath.FlowEntries()), Account: a.cfg.FlowShare, Reserve: a.cfg.FlowReserve,
	}
	t.fail("fence", t.edges.Host.Fence(a.cfg.Tunnel))
	failpoint.Here("round.fenced")
	t.view, t.signed = a.box.latest()
	t.fail("clock", a.box.skew())
	if t.view == nil {
		t.secureThere()
		return append(t.errs, errNoView)
	}
	a.mu.Lock()
	a.begun++
	t.number = a.begun
	a.mu.Unlock()
	t.facts.Attachments, t.inodes, t.failed = a.namespaces()
	for _, eni := range slices.Sorted(maps.Keys(t.failed)) {
		t.fail("interface "+eni, t.failed[eni])
	}

	t.hear()
	if t.fail("view", t.compile()) { // not usable: everything stays as it was
		t.secureThere()
		return t.errs
	}
	failpoint.Here("round.compiled")
	t.askHealth()
	t.withdrawNames()
	failpoint.Here("round.withdrawn")
	t.infrastructure()
	failpoint.Here("round.infrastructure")
	t.links()
	failpoint.Here("round.links")
	t.lookAtRoutes(time.Now())
	t.measurePaths(ctx)
	t.hear()
	if t.fail("view", t.compile()) {
		return t.errs
	}
	t.fail("tunnel", t.tunnel(ctx))
	failpoint.Here("round.tunnel")
	applied := !t.fail("datapath", t.datapath(ctx))
	failpoint.Here("round.datapath")
	t.detach()
	failpoint.Here("round.detached")
	if applied {
		t.edges.Names.Set(t.plan.Naming(), underlay(t.view))
	}
	failpoint.Here("round.named")
	t.openDoors()
	failpoint.Here("round.resolver")
	t.fail("gossip", t.edges.Members.SetMembers(t.view.Members, t.view.GossipKeys))
	if applied {
		failpoint.Here("round.gossip")
		t.publish()
		failpoint.Here("round.published")
	}
	t.notes = append(t.notes, t.routes.problems...)
	for _, c := range t.edges.Datapath.Pressure() {
		t.notes = append(t.notes, c.text(t.plan))
	}
	t.notes = append(t.notes, recorderTexts(t.edges.Recorder, time.Now())...)
	for _, problem := range append(t.notes, t.plan.Problems...) {
		t.errs = append(t.errs, errors.New(problem))
	}
	return t.errs
}

// compile makes the plan of the latest view and of the facts known so far.
func (t *turn) compile() error {
	p, err := plan.Compile(*t.view, t.facts)
	if err != nil {
		return err
	}
	t.plan = p
	return nil
}

// withdrawNames takes away names that are not in the new plan, before their paths go.
func (t *turn) withdrawNames() {
	old := t.lastPlan()
	if old == nil {
		return
	}
	names := between(old.Names, t.plan.Names)
	if !slices.Equal(names, old.Names) {
		naming := old.Naming()
		naming.Names = names
		t.edges.Names.Set(naming, underlay(t.view))
	}
}

// infrastructure makes the host's own link and secures the tunnel's. Each link goes up only with its programs attached.
func (t *turn) infrastructure() {
	c := &t.facts.Config
	var had plan.Config
	if p := t.lastPlan(); p != nil {
		had = p.Config
	}
	hl, err := t.edges.Host.EnsureHostLink(t.hostSpec())
	if !t.fail("host link", err) {
		c.HostIfindex, c.HostMAC, c.DPMAC = uint32(hl.Datapath.Ifindex), hl.Host.MAC, hl.Datapath.MAC
		t.compare(host.DatapathName, had.HostIfindex, c.HostIfindex, hl.Datapath.Up)
		err := t.secure(host.DatapathName, hl.Datapath.Ifindex, hl.Datapath.Up, AtHost)
		if !t.fail("host program", err) && !hl.Datapath.Up {
			failpoint.Here("infrastructure.host-secured")
			t.fail("host link", t.edges.Host.SetUp(host.DatapathName, true))
		}
	}
	failpoint.Here("infrastructure.host")
	tun, err := t.edges.Host.EnsureTunnel(host.TunnelSpec{
		Name: t.cfg.Tunnel, MTU: t.cfg.TunnelMTU, Kernel: t.cfg.KernelTunnel,
	})
	if errors.Is(err, host.ErrNoLink) {
		err = fmt.Errorf("interface %s does not exist: is culvert tunnel running?", t.cfg.Tunnel)
	}
	if !t.fail("tunnel link", err) {
		c.TunnelIfindex, c.TunnelMTU = uint32(tun.Ifindex), uint16(tun.MTU)
		t.compare(t.cfg.Tunnel, had.TunnelIfindex, c.TunnelIfindex, tun.Up)
		err := t.secure(t.cfg.Tunnel, tun.Ifindex, tun.Up, AtTunnel)
		if !t.fail("tunnel program", err) && !tun.Up {
			failpoint.Here("infrastructure.tunnel-secured")
			t.fail("tunnel link", t.edges.Host.SetUp(t.cfg.Tunnel, true))
		}
	}
	c.ExpiresNS = t.expires(t.edges.Now())
}

// expires is when the view stops being good, in nanoseconds of boot time, which a change of the wall clock does not move.
// It is computed once per view: held against the clock of every round, it would follow the clock's steps.
func (t *turn) expires(now time.Time) uint64 {
	if t.view.MaxAgeSeconds == 0 {
		return 0
	}
	if p := t.lastPlan(); p != nil && t.appliedIssuedAt().Equal(t.view.IssuedAt) && p.Config.ExpiresNS != 0 {
		return p.Config.ExpiresNS
	}
	left := state.Expires(t.view).Sub(now)
	if heard, _ := t.box.state(); t.signed.View != nil { // the server said when it sent it, a moment ago, whatever this clock says
		left = time.Duration(t.view.MaxAgeSeconds)*time.Second - time.Since(heard)
	}
	// A clock that is wrong must not make a view good for longer than its whole age.
	left = min(left, time.Duration(t.view.MaxAgeSeconds)*time.Second)
	return uint64(max(1, int64(t.edges.BootTime()+left)))
}

func (a *Agent) appliedIssuedAt() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.appliedView == nil {
		return time.Time{}
	}
	return a.appliedView.IssuedAt
}

// links makes the workloads' interfaces and notes which are ready.
func (t *turn) links() {
	for _, l := range t.plan.Links {
		if err := t.link(l); err != nil {
			t.failed[l.ENI] = err
			t.fail("interface "+l.ENI, err)
		}
	}
	t.mu.Lock()
	t.linkErrors, t.unnamed, t.linksSeen = t.failed, t.silent, t.number
	t.mu.Unlock()
	have, err := t.edges.Host.Workloads()
	if t.fail("interfaces", err) {
		return
	}
	for _, w := range have {
		wanted := slices.ContainsFunc(t.plan.Links, func(l plan.Link) bool { return l.ENI == w.ENI })
		if wanted && w.PeerPresent && t.failed[w.ENI] == nil {
			t.facts.Ready = append(t.facts.Ready, plan.ReadyLink{ENI: w.ENI, Ifindex: uint32(w.Ifindex), MAC: w.MAC,
				GatewayMAC: w.GatewayMAC})
		}
	}
}

func (t *turn) link(l plan.Link) error {
	if slices.ContainsFunc(t.facts.Attachments, func(a plan.Attachment) bool { return a.ENI == l.ENI && a.KeepResolver }) {
		l.Resolver = netip.Addr{}
	}
	w, err := t.edges.Host.Attach(host.WorkloadSpec{
		ENI: l.ENI, Netns: l.Netns, NetnsInode: t.inodes[l.ENI], Interface: l.Interface, Address: l.Address,
		Gateway: l.Subnet.Masked().Addr().Next(), Subnet: l.Subnet, VPC: l.VPCCIDR, MTU: l.MTU,
		IPv6Address: l.IPv6Address, IPv6Block: l.IPv6Block, IPv6Only: l.Families == plan.FamilyIPv6,
		DefaultRoute: l.DefaultRoute, MAC: host.WorkloadMAC(l.VPC, l.Address), Resolver: l.Resolver, Search: l.Search,
	})
	if err != nil {
		return err
	}
	if w.Unnamed != "" {
		t.silent[l.ENI] = w.Unnamed
	}
	failpoint.Here("link.attached")
	t.compare(w.Name+" of "+w.ENI, hadLink(t.lastPlan(), w.ENI), uint32(w.Ifindex), w.Up)
	if err := t.secure(w.Name, w.Ifindex, w.Up, AtWorkload); err != nil {
		return err
	}
	failpoint.Here("link.secured")
	if !w.Up {
		return t.edges.Host.SetUp(w.Name, true)
	}
	return nil
}

// detach removes interfaces that nothing asks for any more, after the datapath has forgotten them, and what is left of
// those that went with their namespace.
func (t *turn) detach() {
	have, err := t.edges.Host.Workloads()
	if t.fail("interfaces", err) {
		return
	}
	t.mu.Lock()
	gone := maps.Clone(t.leaving)
	t.mu.Unlock()
	for _, w := range have {
		gone[w.ENI] = true
	}
	var keep []string
	for _, l := range t.plan.Links {
		keep = append(keep, l.ENI)
		delete(gone, l.ENI) // attached again
	}
	for _, eni := range slices.Sorted(maps.Keys(gone)) {
		failpoint.Here("detach.before")
		err := t.edges.Host.Detach(eni)
		if errors.Is(err, host.ErrKept) {
			t.log.Warn("detached, though a process keeps its resolver file", logkey.Error, err)
			err = nil
		}
		if !t.fail("detach "+eni, err) {
			failpoint.Here("detach.after")
			t.mu.Lock()
			delete(t.leaving, eni)
			t.mu.Unlock()
		}
	}
	t.fail("doors", t.edges.Host.Sweep(keep))
}

// tunnel gives the device its key and peers. A device that has lost its key is a restarted tunnel process: it is told to
// start new sessions at once. So it is for a new peer: who learns of the other first sends an initiation that the other
// does not know yet what to do with, and the protocol's next one is 5 s away. The kernel's device keeps its sessions, and
// greets a peer when it gets it: who learns of the other last is understood at once.
func (t *turn) tunnel(ctx context.Context) error {
	have, err := t.edges.Wire.Observe(ctx)
	if err != nil && t.cfg.KernelTunnel {
		return err
	} else if err != nil {
		return fmt.Errorf("is culvert tunnel running? %w", err)
	}
	t.checkKey(have)
	t.heardFrom(have)
	t.notes = append(t.notes, unreachable(t.view, have, time.Since(t.made), time.Now())...)
	key := t.wireKey().private
	fresh := have.PublicKey != key.Public()
	meddled := t.meddled(have)
	if fresh || have.ListenPort != t.cfg.WireGuardPort || have.Mark != 0 {
		if err := t.giveKey(ctx, &have, key); err != nil {
			return err
		}
	}
	failpoint.Here("tunnel.keyed")
	want, err := peers(t.plan)
	if err != nil {
		return err
	}
	change := wire.Diff(want, have, time.Now())
	if !change.Empty() {
		if err := t.edges.Wire.Apply(ctx, change); err != nil {
			return err
		}
	}
	t.own = append(t.own, meddled...)
	failpoint.Here("tunnel.peered")
	if k, ok := t.edges.Wire.(wire.Kicker); ok && (fresh && len(want) > 0 || len(change.Add) > 0) {
		return k.Kick(ctx)
	}
	return nil
}

// peers joins the plan's two tables of WireGuard.
func peers(p *plan.Plan) ([]wire.Peer, error) {
	allowed := map[string][]netip.Prefix{}
	for _, a := range p.AllowedIPs {
		allowed[a.PublicKey] = append(allowed[a.PublicKey], a.Prefix)
	}
	var want []wire.Peer
	for _, row := range p.Peers {
		key, err := wire.ParsePublicKey(row.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("peer %s: %w", row.Node, err)
		}
		want = append(want, wire.Peer{PublicKey: key, Underlay: row.Underlay, AllowedIPs: allowed[row.PublicKey],
			Keepalive: keepalive})
	}
	return want, nil
}

// datapath applies the plan under a new generation when anything differs, so that live flows are judged again.
func (t *turn) datapath(ctx context.Context) error {
	current, err := t.edges.Datapath.Generation()
	if err != nil {
		return err
	}
	if t.plan.Generation != 0 { // 0 comes from the view: this node shall be closed
		t.plan.Generation = current
		// What a plan that failed let in, the one before it may refuse: that one is a new generation, too.
		if old := t.lastPlan(); current == 0 || old == nil || t.halfApplied || !sameRules(old, t.plan) {
			t.plan.Generation = current + 1
		}
	}
	t.name()
	failpoint.Here("datapath.named")
	_, err = t.edges.Datapath.Apply(ctx, t.plan)
	t.halfApplied = err != nil
	return err
}

// name tells the recorder what the plan's numbers mean, before the datapath writes them into flows.
func (t *turn) name() {
	t.mu.Lock()
	old, view := t.applied, t.appliedView
	t.mu.Unlock()
	if old == nil || old.Generation != t.plan.Generation || view != t.view {
		t.edges.Recorder.Plan(t.view, t.plan)
	}
}

// sameRules reports whether two plans judge every packet alike.
func sameRules(a, b *plan.Plan) bool {
	x, y := *a, *b
	x.Revision, x.Generation, x.Config.ExpiresNS = y.Revision, y.Generation, y.Config.ExpiresNS
	return reflect.DeepEqual(x, y)
}

// publish makes the plan the one in force and keeps its view for a start without the control plane.
func (t *turn) publish() {
	t.mu.Lock()
	if t.appliedView != t.view {
		t.unsaved = t.signed.View != nil
	}
	first := t.applied == nil
	t.applied, t.appliedView, t.appliedFacts = t.plan, t.view, t.facts
	unsaved := t.unsaved
	t.mu.Unlock()
	if first {
		t.checkTargets()
	}
	if !unsaved {
		return
	}
	if err := t.dir.SaveView(t.signed); err != nil {
		t.fail("the view in force is not on the disk, and a restart without the server would begin with an older one", err)
		return
	}
	t.mu.Lock()
	t.unsaved = false
	t.mu.Unlock()
}
