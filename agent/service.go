package agent

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/version"
	"github.com/culvert-net/culvert/plan"
)

// attachWait bounds how long Attach waits for the view to hold the ENI and for the interface to be up.
const attachWait = 20 * time.Second

var _ local.Backend = (*Agent)(nil)

// Attach puts an ENI into a namespace and returns once it forwards. What cannot be is refused and leaves nothing behind.
func (a *Agent) Attach(ctx context.Context, r local.AttachRequest) (local.AttachResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, attachWait)
	defer cancel()
	att, err := attachment(r)
	if err != nil {
		return local.AttachResponse{}, err
	}
	ns, err := a.edges.Namespaces.Open(att.Netns) // once: what is there now is meant
	if err != nil {
		return local.AttachResponse{}, linkError(err)
	}
	att.Namespace = ns.Namespace
	if err := a.awaitENI(ctx, att.ENI); err != nil {
		return local.AttachResponse{}, errors.Join(err, ns.Close())
	}
	a.namespaces() // so that what is gone does not stand in the way
	att, had, err := a.setAttachment(att, ns)
	if err != nil {
		return local.AttachResponse{}, err
	}
	resp, err := a.awaitLink(ctx, att)
	failpoint.Here("attach.answer")
	if err != nil && !had {
		err = errors.Join(err, a.dropAttachment(att.ENI))
		a.Wake()
	}
	return resp, err
}

func attachment(r local.AttachRequest) (plan.Attachment, error) {
	bad := func(field, message, remedy string) error {
		return &api.Error{Code: api.CodeInvalidParameter, Field: field, Message: message, Remedy: remedy}
	}
	if !plainWord(r.ENI, 64) {
		return plan.Attachment{}, bad("eniId", fmt.Sprintf("%q is not the id of a network interface", api.Shortened(r.ENI)),
			"name the network interface, such as eni-0a1b2c3d4e5f60718")
	}
	strange := func(c rune) bool { return c == utf8.RuneError || !unicode.IsPrint(c) }
	if !filepath.IsAbs(r.Netns) || len(r.Netns) > maxPath || strings.ContainsFunc(r.Netns, strange) {
		return plan.Attachment{}, bad("netns", fmt.Sprintf("%q is not an absolute path", api.Shortened(r.Netns)),
			"give the path of a network namespace, such as /run/netns/cart")
	}
	if r.Interface != "" && !plainWord(r.Interface, 15) { // 15: the kernel's IFNAMSIZ less one
		return plan.Attachment{}, bad("interface", fmt.Sprintf("%q is no interface name", api.Shortened(r.Interface)),
			"use up to 15 letters, digits, '-', '_' and '.', beginning with a letter or digit")
	}
	return plan.Attachment{ENI: r.ENI, Netns: filepath.Clean(r.Netns),
		Interface: cmp.Or(r.Interface, host.DefaultInterface), DefaultRoute: r.DefaultRoute, KeepResolver: r.KeepResolver,
		Outbound: r.Outbound}, nil
}

// maxPath is the kernel's PATH_MAX less the byte that ends a path.
const maxPath = 4095

// plainWord reports whether s is 1 to most letters, digits, '-', '_' and '.', of ASCII, the first a letter or digit.
func plainWord(s string, most int) bool {
	alphanumeric := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }
	for _, c := range []byte(s) {
		if !alphanumeric(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return s != "" && len(s) <= most && alphanumeric(s[0])
}

// awaitENI waits until the view has the ENI on this node: it may have been made a moment ago, also while the agent pauses before it asks
// the server again. A node that the server tells of each change need not wait for long; another waits for the server first.
func (a *Agent) awaitENI(ctx context.Context, eni string) error {
	ctx, cancel := context.WithTimeout(ctx, attachWait/2)
	defer cancel()
	patience := time.NewTimer(attachWait / 4)
	defer patience.Stop()
	for late := false; ; {
		a.mu.Lock()
		done := a.roundDone
		a.mu.Unlock()
		if v, _ := a.box.latest(); v != nil &&
			slices.ContainsFunc(v.ENIs, func(e api.ViewENI) bool { return e.ID == eni }) {
			return nil
		}
		if _, connected := a.box.state(); late && connected {
			return &api.Error{Code: api.CodeENINotFound, Field: "eniId",
				Message: fmt.Sprintf("%s is not an interface of this node (%s)", eni, a.identity().Name),
				Remedy:  fmt.Sprintf("bind it first: culvert eni bind %s --node %s", eni, a.identity().Name)}
		}
		a.box.hurry()
		select {
		case <-done:
		case <-patience.C:
			late = true
		case <-ctx.Done():
			return &api.Error{Code: api.CodeUnavailable, Field: "eniId",
				Message: fmt.Sprintf("this node (%s) does not know %s and does not hear from the server", a.identity().Name, eni),
				Remedy:  "see culvert status on this node, and attach again"}
		}
	}
}

// setAttachment notes the wish, durably, and takes over the namespace. had reports that the same wish was there already,
// maybe by another path, which is the one in noted; the same one but for the namespace that is now at the path, or but for a
// path that leads to the namespace no more, is replaced.
func (a *Agent) setAttachment(att plan.Attachment, ns *Namespace) (noted plan.Attachment, had bool, err error) {
	a.spaces.Lock()
	defer a.spaces.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { err = errors.Join(err, a.discard(att.ENI, ns)) }()
	for _, x := range a.attachments {
		moved := x
		moved.Namespace = att.Namespace
		switch {
		case x == att, otherPath(x, att) && a.held[x.ENI] != nil:
			return x, true, nil
		case moved == att, otherPath(x, att): // which leads to it no more
		case x.ENI == att.ENI:
			return att, false, &api.Error{Code: api.CodeENIInUse, Field: "eniId",
				Message: fmt.Sprintf("%s is attached in %s as %s", att.ENI, x.Netns, x.Interface),
				Remedy:  "detach it first: culvert eni detach " + att.ENI}
		case same(x.Namespace, att.Namespace) && x.Interface == att.Interface:
			return att, false, &api.Error{Code: api.CodeENIInUse, Field: "interface",
				Message: fmt.Sprintf("%s in %s is %s already", x.Interface, x.Netns, x.ENI),
				Remedy:  "choose another name with --interface"}
		}
	}
	others := slices.DeleteFunc(slices.Clone(a.attachments), func(x plan.Attachment) bool { return x.ENI == att.ENI })
	next := append(others, att)
	slices.SortFunc(next, func(x, y plan.Attachment) int { return cmp.Compare(x.ENI, y.ENI) })
	if err := a.dir.SaveAttachments(next); err != nil {
		return att, false, unkept(err)
	}
	failpoint.Here("attach.noted")
	a.attachments = next
	delete(a.leaving, att.ENI)
	a.forgetLost(att.ENI)
	return att, false, a.hold(att.ENI, ns)
}

// unkept refuses what a restart would forget.
func unkept(err error) error {
	return &api.Error{Code: api.CodeUnavailable, Message: "it cannot be kept on this node's disk, so nothing was changed: " + err.Error(),
		Remedy: "see to the node's data directory, then try again"}
}

// otherPath tells whether two wishes differ only in the path of the one namespace that they mean, such as /run/netns/cart and
// /var/run/netns/cart. A path of a process is more than a path: the attachment ends with that process.
func otherPath(x, y plan.Attachment) bool {
	if x.Namespace.Process || y.Namespace.Process || !same(x.Namespace, y.Namespace) {
		return false
	}
	x.Netns = y.Netns
	return x == y
}

func (a *Agent) dropAttachment(eni string) error {
	a.spaces.Lock()
	defer a.spaces.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forgetLost(eni)
	return a.drop(eni)
}

// awaitLink waits for a whole round that began after the wish was noted, and tells how the interface came out.
func (a *Agent) awaitLink(ctx context.Context, att plan.Attachment) (local.AttachResponse, error) {
	a.mu.Lock()
	begun := a.begun
	a.mu.Unlock()
	for a.Wake(); ; {
		a.mu.Lock()
		done, failed, applied, unnamed := a.roundDone, a.linkErrors[att.ENI], a.applied, a.unnamed[att.ENI]
		fresh := a.linksSeen > begun
		a.mu.Unlock()
		if failed != nil && fresh {
			return local.AttachResponse{}, linkError(failed)
		}
		if applied != nil {
			for _, l := range applied.Links {
				up := slices.ContainsFunc(applied.ENIs, func(e plan.ENI) bool { return e.ID == att.ENI })
				if l.ENI == att.ENI && l.Netns == att.Netns && up {
					return attached(l, unnamed), nil
				}
			}
		}
		select {
		case <-done:
		case <-ctx.Done():
			a.mu.Lock()
			errs := slices.Clone(a.errors)
			a.mu.Unlock()
			return local.AttachResponse{}, &api.Error{Code: api.CodeUnavailable, Field: "eniId",
				Message: fmt.Sprintf("%s did not come up: %s", att.ENI, cmp.Or(strings.Join(errs, "; "), "no reason known")),
				Remedy:  "see culvert status on this node"}
		}
	}
}

func attached(l plan.Link, unnamed string) local.AttachResponse {
	out := local.AttachResponse{ENI: l.ENI, Interface: l.Interface, Address: l.Address, IPv6Address: l.IPv6Address, MTU: l.MTU,
		Resolver: l.Resolver, Unnamed: unnamed}
	if l.Families == plan.FamilyIPv6 {
		out.Address = netip.Addr{}
	}
	return out
}

// linkError says to the user what stands in the way.
func linkError(err error) error {
	var own *host.OwnNamespaceError
	switch {
	case errors.As(err, &own):
		return &api.Error{Code: api.CodeInvalidParameter, Field: "netns", Message: own.Error(),
			Remedy: "name a network namespace of the workload's own (a unit: PrivateNetwork=yes, podman: --network none)"}
	case errors.Is(err, host.ErrNoNamespace):
		return &api.Error{Code: api.CodeInvalidParameter, Field: "netns", Message: err.Error(),
			Remedy: "create it first (ip netns add NAME), or name another"}
	case errors.Is(err, host.ErrConflict), errors.Is(err, host.ErrForeign):
		return &api.Error{Code: api.CodeIncorrectState, Field: "netns", Message: err.Error(),
			Remedy: "remove what stands in the way there, or name another namespace"}
	}
	return err
}

// Detach takes an ENI out of its namespace, which is then as it was before. An ENI that is not attached is fine.
func (a *Agent) Detach(ctx context.Context, r local.DetachRequest) error {
	ctx, cancel := context.WithTimeout(ctx, attachWait)
	defer cancel()
	if err := a.dropAttachment(r.ENI); err != nil {
		return err
	}
	failpoint.Here("detach.noted")
	for a.Wake(); ; {
		a.mu.Lock()
		done := a.roundDone
		a.mu.Unlock()
		have, err := a.edges.Host.Workloads()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(have, func(w host.WorkloadLink) bool { return w.ENI == r.ENI }) {
			return nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return &api.Error{Code: api.CodeUnavailable, Field: "eniId", Message: r.ENI + " is still attached",
				Remedy: "see culvert status on this node"}
		}
	}
}

// PlanText is the dump of the plan in force.
func (a *Agent) PlanText(context.Context) (string, error) {
	if p := a.lastPlan(); p != nil {
		return p.Dump(), nil
	}
	return "", &api.Error{Code: api.CodeUnavailable, Message: "no plan has been applied yet",
		Remedy: "see culvert status on this node"}
}

// Flows hands out this node's own records.
func (a *Agent) Flows(ctx context.Context, f api.FlowFilter, follow bool, fn func(*api.FlowRecord) error) error {
	return a.edges.Recorder.Query(ctx, f, follow, fn)
}

// Status is the node in one look.
func (a *Agent) Status(ctx context.Context) (local.Status, error) {
	id := a.identity()
	s := local.Status{Node: id.Node, Name: id.Name, Version: version.Version(), KernelTunnel: a.cfg.KernelTunnel}
	_, s.Connected = a.box.state()
	if key, err := state.Dir(a.cfg.DataDir).LogKey(); err != nil {
		s.Errors = append(s.Errors, err.Error())
	} else {
		s.LogKey = seal.KeyID(key.Public().(ed25519.PublicKey))
	}
	a.mu.Lock()
	s.Errors = a.problems()
	applied, view, attachments, gone := a.applied, a.appliedView, slices.Clone(a.attachments), slices.Clone(a.lost)
	pathMTU := a.pathMTU // replaced, never changed
	a.mu.Unlock()
	if err := a.box.problem(); err != nil {
		if s.Errors = append(s.Errors, "control plane: "+err.Error()); !s.Connected {
			s.ServerError = err.Error()
		}
	}
	latest, _ := a.box.latest()
	if latest != nil {
		s.Received = latest.Revision
	}
	peers := map[string]api.ViewPeer{}
	if applied != nil {
		s.Revision, s.Generation = applied.Revision, applied.Generation
		s.ViewAge = time.Since(view.IssuedAt)
		for _, p := range view.Peers {
			peers[p.PublicKey] = p
		}
		s.Targets = targets(view, applied)
		a.countHealth(&s.Targets)
	}
	if w, err := a.edges.Wire.Observe(ctx); err != nil {
		s.Errors = append(s.Errors, "tunnel: "+err.Error())
	} else {
		for _, p := range w.Peers {
			key := p.PublicKey.String()
			peer := local.PeerStatus{Node: peers[key].Node, Name: peers[key].Name, PublicKey: key, Underlay: p.Underlay.String(),
				LastHandshake: p.LastHandshake, RxBytes: p.RxBytes, TxBytes: p.TxBytes, PathMTU: int(pathMTU[key])}
			if !p.LastHandshake.IsZero() {
				peer.HandshakeAge = max(1, time.Since(p.LastHandshake))
			}
			s.Peers = append(s.Peers, peer)
		}
		s.TunnelLost = a.tunnelLoss(ctx)
	}
	s.Members = a.edges.Members.States()
	for _, att := range attachments {
		s.Workloads = append(s.Workloads, a.workload(att, applied))
	}
	for _, x := range gone {
		s.Workloads = append(s.Workloads,
			local.Workload{ENI: x.ENI, Netns: x.Netns, Interface: x.Interface, State: x.reason.Error()})
	}
	s.PendingSend, s.Lost = a.edges.Recorder.Pending()
	var err1, err2 error
	s.Flows, err1 = a.edges.Datapath.Flows()
	s.Counters, err2 = a.counters(applied)
	return s, errors.Join(err1, err2)
}

// tunnelLoss is what the tunnel process lost, by reason; empty where the device does not tell.
func (a *Agent) tunnelLoss(ctx context.Context) map[string]uint64 {
	u, ok := a.edges.Wire.(interface {
		Counters(context.Context) (wire.Counters, error)
	})
	if !ok {
		return nil
	}
	c, err := u.Counters(ctx)
	if err != nil {
		return nil
	}
	return map[string]uint64{"no_session": c.NoSession, "no_room": c.NoRoom, "malformed": c.Malformed,
		"unfinished_out": c.ForgivenOut, "unfinished_in": c.ForgivenIn}
}

// targets counts those of a view that the plan made of it lets traffic to.
func targets(v *api.View, p *plan.Plan) (t local.Targets) {
	up := map[string]bool{}
	for _, e := range p.ENIs {
		up[e.ID] = true
	}
	type target struct {
		eni  string
		port uint16
	}
	seen := map[target]bool{}
	for _, g := range v.Grants {
		for _, x := range g.Targets {
			if k := (target{x.ENI, x.Port}); !seen[k] {
				seen[k] = true
				t.Hosted++
				if up[x.ENI] {
					t.Attached++
				}
			}
		}
	}
	for _, e := range v.Endpoints {
		t.Endpoints++
		if slices.ContainsFunc(e.Listeners, func(l api.ViewListenerPool) bool { return len(l.Targets) == 0 }) {
			t.Without++
		}
	}
	return t
}

func (a *Agent) workload(att plan.Attachment, p *plan.Plan) local.Workload {
	w := local.Workload{ENI: att.ENI, Netns: att.Netns, Interface: att.Interface, State: "pending"}
	a.mu.Lock()
	failed := a.linkErrors[att.ENI]
	w.Unnamed = a.unnamed[att.ENI]
	a.mu.Unlock()
	if failed != nil {
		w.State = failed.Error()
	}
	if p == nil {
		return w
	}
	for _, e := range p.ENIs {
		if e.ID != att.ENI {
			continue
		}
		if w.State = "up"; e.Families&plan.FamilyIPv4 != 0 {
			w.Address = e.Address
		}
		if e.Families&plan.FamilyIPv6 != 0 {
			w.IPv6Address = api.IPv6Address(p.Config.Mesh, e.VPC, e.Address)
		}
	}
	return w
}

func (a *Agent) counters(p *plan.Plan) ([]local.Counter, error) {
	counts, err := a.edges.Datapath.Counters()
	if err != nil {
		return nil, err
	}
	ids := map[uint32]string{}
	if p != nil {
		for _, e := range p.ENIs {
			ids[e.Number] = e.ID
		}
	}
	var out []local.Counter
	for _, c := range counts {
		out = append(out, local.Counter{ENI: ids[c.ENI], Hook: c.Hook, Reason: c.Reason, Packets: c.Packets, Bytes: c.Bytes})
	}
	return out, nil
}
