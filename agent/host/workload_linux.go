package host

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/culvert-net/culvert/internal/failpoint"
)

// Attach implements Host.
func (n *Netlink) Attach(spec WorkloadSpec) (WorkloadLink, error) {
	spec, err := spec.Normal()
	if err != nil {
		return WorkloadLink{}, err
	}
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return WorkloadLink{}, err
	}
	link, err := n.attach(s, spec)
	if err != nil {
		return WorkloadLink{}, fmt.Errorf("attach %s: %w", spec.ENI, err)
	}
	return link, nil
}

func (n *Netlink) attach(s *space, spec WorkloadSpec) (WorkloadLink, error) {
	w, err := openSpace(spec.Netns)
	if err != nil {
		return WorkloadLink{}, err
	}
	defer w.close()
	w.notes = s.notes
	if spec.NetnsInode != 0 && spec.NetnsInode != w.inode {
		return WorkloadLink{}, errOther(spec)
	}
	if w.inode == s.inode {
		return WorkloadLink{}, &OwnNamespaceError{spec.Netns}
	}
	link, err := s.workload(spec.ENI)
	if err != nil {
		return WorkloadLink{}, err
	}
	peer, err := s.peerIn(w, link)
	if err == nil && link == nil {
		err = s.removeOrphan(w, spec.MAC)
	}
	if err != nil {
		return WorkloadLink{}, err
	}
	routes, err := refuse(w, spec, peer)
	if err != nil {
		return WorkloadLink{}, err
	}
	made := false
	if peer == nil || peer.Attrs().Name != spec.Interface || link.Attrs().Name != VethName(spec.ENI) {
		if link != nil {
			if err := s.remove(link); err != nil {
				return WorkloadLink{}, fmt.Errorf("remove old %s: %w", link.Attrs().Name, err)
			}
		}
		if link, peer, err = s.makeWorkload(w, spec); err != nil {
			return WorkloadLink{}, err
		}
		made = true
		s.fresh, w.fresh = true, true
		failpoint.Here("veth.made")
	}
	spec.NetnsInode = w.inode
	unnamed := ""
	err = s.configureWorkload(w, link, peer, spec, routes)
	failpoint.Here("veth.configured")
	if err == nil {
		unnamed, err = n.setResolver(spec)
	}
	failpoint.Here("veth.resolver")
	if err != nil {
		if made {
			_ = n.detach(s, spec.ENI)
		}
		return WorkloadLink{}, err
	}
	closed, err := s.door().state()
	if err != nil {
		return WorkloadLink{}, err
	}
	if link, err = s.linkAt(link.Attrs().Index); err != nil {
		return WorkloadLink{}, err
	} else if link == nil {
		return WorkloadLink{}, fmt.Errorf("%s vanished: %w", VethName(spec.ENI), ErrNoLink)
	}
	out, err := s.observeWorkload(link, w, closed)
	out.Unnamed = unnamed
	return out, err
}

// setResolver tells what runs in the namespace of its resolver, if it can be told. A process that cannot be has its interface
// nevertheless.
func (n *Netlink) setResolver(spec WorkloadSpec) (unnamed string, err error) {
	pid, ok := processOf(spec.Netns)
	switch {
	case !spec.Resolver.IsValid():
		return "", nil
	case ok:
		return n.tellProcess(processResolver{pid, spec, n.resolvers.host}), nil
	case n.resolvers.space(spec.Netns) == "":
		return "the namespace has no name in " + n.config.RunNetns, nil
	}
	return "", n.resolvers.set(spec)
}

// tellProcess says why a process is not told. One that did not answer is left alone for a while, and one that has not yet
// answered altogether, unless something else is to be told.
func (n *Netlink) tellProcess(r processResolver) (unnamed string) {
	eni := r.spec.ENI
	e := n.errands[eni]
	switch {
	case e == nil || e.of != r || !e.late:
	case !e.ended():
		return noAnswer
	case time.Since(e.began) < errandRest:
		return e.answer()
	}
	e.callOff()
	e = begin(r, r.set)
	n.errands[eni] = e
	if !e.wait() {
		return noAnswer
	}
	return e.answer()
}

// refuse checks for conflicts before anything is changed, and says which routes are to be made.
func refuse(w *space, spec WorkloadSpec, peer netlink.Link) ([]route, error) {
	st, err := w.states(spec)
	if err != nil {
		return nil, err
	}
	own := 0
	if peer != nil {
		own = peer.Attrs().Index
	}
	if err := conflictError("namespace "+spec.Netns, workloadConflicts(spec, st, own)); err != nil {
		return nil, err
	}
	return workloadRoutes(spec, st, own), nil
}

// workload finds an ENI's link on the host; nil if there is none. One without alias, of our group, is half made: it
// counts. So does one that somebody renamed.
func (s *space) workload(eni string) (netlink.Link, error) {
	name := VethName(eni)
	l, err := s.link(name)
	if err == nil && l == nil {
		return s.renamed(eni)
	} else if err != nil {
		return nil, err
	}
	owner, _, _, ok := parseAlias(l.Attrs().Alias)
	if !ours(l) || ok && owner != eni {
		return nil, fmt.Errorf("%s: %w: remove or rename it", name, ErrForeign)
	}
	return l, nil
}

// renamed finds an ENI's link on the host by what it says about itself; nil if there is none.
func (s *space) renamed(eni string) (netlink.Link, error) {
	all, err := s.links()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range all {
		if owner, _, _, ok := parseAlias(l.Attrs().Alias); ok && owner == eni && ours(l) {
			return l, nil
		}
	}
	return nil, nil
}

// removeOrphan deletes a workload's end in w whose other end was moved away from the host. It is known by its MAC, which is
// the ENI's.
func (s *space) removeOrphan(w *space, mac MAC) error {
	all, err := w.links()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	host, err := w.nl.GetNetNsIdByFd(int(s.file.Fd()))
	if err != nil {
		return fmt.Errorf("namespace id: %w", err)
	}
	for _, l := range all {
		if l.Type() != "veth" || macOf(l) != mac || l.Attrs().NetNsID == host {
			continue
		}
		if err := w.remove(l); err != nil {
			return fmt.Errorf("remove %s, whose other end is gone: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// peerIn finds the other end of a host link in namespace w; nil if it is not there.
func (s *space) peerIn(w *space, link netlink.Link) (netlink.Link, error) {
	if link == nil || link.Attrs().NetNsID < 0 {
		return nil, nil
	}
	id, err := s.nl.GetNetNsIdByFd(int(w.file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("namespace id: %w", err)
	}
	if id != link.Attrs().NetNsID {
		return nil, nil
	}
	return w.linkAt(link.Attrs().ParentIndex)
}

// makeWorkload makes the pair, its far end born inside w: if the name is taken, nothing has happened.
func (s *space) makeWorkload(w *space, spec WorkloadSpec) (link, peer netlink.Link, err error) {
	v := netlink.NewVeth(netlink.NewLinkAttrs())
	v.Name, v.MTU, v.HardwareAddr, v.Group = VethName(spec.ENI), spec.MTU, GatewayMAC[:], linkGroup
	v.PeerName, v.PeerMTU, v.PeerHardwareAddr, v.PeerTxQLen = spec.Interface, uint32(spec.MTU), spec.MAC[:], -1
	v.PeerNamespace = netlink.NsFd(int(w.file.Fd()))
	if err := s.nl.LinkAdd(v); err != nil {
		return nil, nil, fmt.Errorf("make %s: %w", v.Name, err)
	}
	if link, err = s.workload(spec.ENI); err == nil {
		peer, err = s.peerIn(w, link)
	}
	if err == nil && peer == nil {
		err = ErrNoLink
	}
	if err != nil {
		_ = s.remove(v)
		return nil, nil, fmt.Errorf("make %s: %w", v.Name, err)
	}
	return link, peer, nil
}

// configureWorkload brings both ends to what spec says: host side first, and its door before all.
func (s *space) configureWorkload(w *space, link, peer netlink.Link, spec WorkloadSpec, routes []route) error {
	if err := s.shut(link); err != nil {
		return err
	}
	failpoint.Here("veth.door")
	if err := s.seal(link); err != nil {
		return err
	}
	if err := s.identify(link, alias(spec.ENI, spec.Interface, spec.Netns), GatewayMAC, spec.MTU); err != nil {
		return err
	}
	conf := "ipv6/conf/" + spec.Interface + "/"
	if err := w.set(setting{conf + "addr_gen_mode", "1"}, setting{conf + "accept_ra", "0"}); err != nil {
		return err
	}
	newFamily, err := w.allowIPv6(conf, spec)
	if err != nil {
		return err
	}
	if err := w.shape(peer, spec.MAC, spec.MTU); err != nil {
		return err
	}
	if !isUp(peer) {
		if err := w.nl.LinkSetUp(peer); err != nil {
			return fmt.Errorf("put %s up: %w", spec.Interface, err)
		}
	}
	failpoint.Here("veth.up")
	v4, v6 := split(routes)
	if err := w.setAddresses(peer, netlink.FAMILY_V4, spec.addresses(false)); err != nil {
		return err
	}
	failpoint.Here("veth.addressed")
	if err := w.setRoutes(peer, netlink.FAMILY_V4, v4); err != nil {
		return err
	}
	w.fresh = w.fresh || newFamily
	if err := w.setAddresses(peer, netlink.FAMILY_V6, spec.addresses(true)); err != nil {
		return err
	}
	failpoint.Here("veth.addressed-ipv6")
	return w.setRoutes(peer, netlink.FAMILY_V6, v6)
}

// allowIPv6 turns IPv6 on at the workload's end, whatever the namespace has as its default, if the ENI has it. No duplicates are
// looked for: the address is the control plane's to give, and the gateway answers for all others. first tells that IPv6 was not
// set up there before.
func (s *space) allowIPv6(conf string, spec WorkloadSpec) (first bool, err error) {
	if !spec.IPv6Address.IsValid() {
		return false, nil
	}
	err = s.do(func() error {
		dad, err := getSetting(conf + "accept_dad")
		first = dad != 0
		return err
	})
	if err != nil {
		return false, err
	}
	return first, s.set(setting{conf + "accept_dad", "0"}, setting{conf + "disable_ipv6", "0"})
}

// Detach implements Host.
func (n *Netlink) Detach(eni string) error {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return err
	}
	if err := n.detach(s, eni); err != nil {
		return fmt.Errorf("detach %s: %w", eni, err)
	}
	return nil
}

// detach puts resolvers back, as the link leads to them, and deletes the host's end; the other goes with it, and its
// addresses, routes and settings.
func (n *Netlink) detach(s *space, eni string) error {
	link, err := s.workload(eni)
	if err != nil {
		return err
	}
	n.errands[eni].callOff()
	delete(n.errands, eni)
	restored := errors.Join(n.resolvers.restore(n.resolvers.of(eni)),
		restorer{n.resolvers.of(eni), s.netsOf(link)}.run())
	failpoint.Here("unveth.resolver")
	if link != nil {
		if err := s.remove(link); err != nil {
			return fmt.Errorf("remove %s: %w", link.Attrs().Name, err)
		}
	}
	failpoint.Here("unveth.removed")
	if err := s.door().forget(VethName(eni)); err != nil {
		return err
	}
	failpoint.Here("unveth.door")
	return restored
}

// netsOf are the inodes of the namespaces that links of workloads lead to.
func (s *space) netsOf(links ...netlink.Link) map[uint64]bool {
	out := map[uint64]bool{}
	for _, l := range links {
		if l == nil {
			continue
		}
		_, _, path, ok := parseAlias(l.Attrs().Alias)
		if !ok || !ours(l) {
			continue
		}
		w, err := openSpace(path)
		if err != nil {
			continue // what ran there has ended, or cannot be found by it
		}
		if peer, err := s.peerIn(w, l); err == nil && peer != nil {
			out[w.inode] = true
		}
		w.close()
	}
	return out
}

// Sweep implements Host.
func (n *Netlink) Sweep(keep []string) error {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return err
	}
	doors, err := s.door().state()
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	for name := range doors {
		if !isVethName(name) || slices.ContainsFunc(keep, func(eni string) bool { return VethName(eni) == name }) {
			continue
		}
		link, err := s.link(name)
		if err == nil && link == nil {
			err = s.door().forget(name)
		}
		if err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
	}
	if err := n.sweepResolvers(s, keep); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}

// sweepResolvers puts back what nothing leads to any more: a link may go with its namespace while no agent runs, and what
// was attached there be detached before one does.
func (n *Netlink) sweepResolvers(s *space, keep []string) error {
	links, err := s.links()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	keep = slices.Clone(keep)
	for _, l := range links {
		if eni, _, _, ok := parseAlias(l.Attrs().Alias); ok {
			keep = append(keep, eni)
		}
	}
	orphan := func(eni string, host uint64) bool {
		return host == n.resolvers.host && host != 0 && !slices.Contains(keep, eni)
	}
	if err := n.resolvers.restore(orphan); err != nil || n.swept {
		return err
	}
	if err := (restorer{which: orphan}).run(); err != nil && !errors.Is(err, ErrKept) {
		return err
	}
	n.swept = true
	return nil
}

// Workloads implements Host.
func (n *Netlink) Workloads() ([]WorkloadLink, error) {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	links, err := s.links()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	closed, err := s.door().state()
	if err != nil {
		return nil, err
	}
	spaces := map[string]*space{} // by path; nil: there is none
	defer func() {
		for _, w := range spaces {
			if w != nil {
				w.close()
			}
		}
	}()
	var out []WorkloadLink
	for _, l := range links {
		_, _, path, ok := parseAlias(l.Attrs().Alias)
		if !ok || !ours(l) {
			continue
		}
		w, seen := spaces[path]
		if !seen {
			w, _ = openSpace(path) // an attachment whose namespace cannot be opened has no peer
			spaces[path] = w
		}
		o, err := s.observeWorkload(l, w, closed)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b WorkloadLink) int { return cmp.Compare(a.ENI, b.ENI) })
	return out, nil
}

// observeWorkload reads one attachment; w is nil if its namespace is gone.
func (s *space) observeWorkload(l netlink.Link, w *space, closed map[string]bool) (WorkloadLink, error) {
	var o WorkloadLink
	a := l.Attrs()
	o.ENI, o.Interface, o.Netns, _ = parseAlias(a.Alias)
	o.Name, o.Ifindex, o.MTU, o.GatewayMAC, o.Up, o.Closed = a.Name, a.Index, a.MTU, macOf(l), isUp(l), closed[a.Name]
	if w == nil {
		return o, nil
	}
	peer, err := s.peerIn(w, l)
	if err != nil {
		return o, fmt.Errorf("other end of %s: %w", a.Name, err)
	}
	if peer == nil || peer.Attrs().Name != o.Interface {
		return o, nil
	}
	o.PeerPresent, o.PeerIfindex, o.PeerUp = true, peer.Attrs().Index, isUp(peer)
	o.MAC, o.NetnsInode = macOf(peer), w.inode
	return o, nil
}
