package host

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"sync"
)

// Mem is Host in memory, for tests without root. It behaves as Netlink does, as far as Host lets one see. The zero
// value is not ready, see NewMem.
type Mem struct {
	// Fail, if set, is asked at the start of each operation (by the method's name) and may refuse it. Set it before
	// use.
	Fail func(op string) error

	mu      sync.Mutex
	facts   Facts
	next    int // ifindex and inode numbers
	links   map[string]*memLink
	doors   map[string]bool // by link; false: a chain that lets something through
	spaces  map[string]*memSpace
	files   map[string]memFile // resolver files by the namespace's path
	wakes   map[int]func()
	paths   map[netip.Prefix]Path // nil: everything is behind eth0
	address netip.Addr            // the host's
	open    HostSpec              // what the host's door lets through
	notes   []string              // of Repairs

	noWireGuard bool // of the kernel's
}

type memLink struct {
	Link
	ours bool
	wg   bool   // the kernel's WireGuard
	eni  string // of a workload
	spec WorkloadSpec
	peer *memPeer
}

type memPeer struct {
	space   *memSpace
	ifindex int
	mac     MAC
}

type memSpace struct {
	inode uint64
	state spaceState
}

type memFile struct {
	eni, text string
	saved     string // what a person had there; "" if nothing
}

var _ Host = (*Mem)(nil)

// NewMem is a host without any link.
func NewMem() *Mem {
	return &Mem{
		links: map[string]*memLink{}, doors: map[string]bool{}, spaces: map[string]*memSpace{},
		files: map[string]memFile{}, wakes: map[int]func(){}, next: 1,
	}
}

func (m *Mem) begin(op string) error {
	m.mu.Lock()
	if m.Fail != nil {
		return m.Fail(op)
	}
	return nil
}

// number gives ifindexes and inodes.
func (m *Mem) number() int {
	m.next++
	return m.next
}

// Facts implements Host.
func (m *Mem) Facts() (Facts, error) {
	defer m.mu.Unlock()
	if err := m.begin("Facts"); err != nil {
		return Facts{}, err
	}
	return m.facts, nil
}

// Path implements Host.
func (m *Mem) Path(to netip.Addr) (Path, error) {
	defer m.mu.Unlock()
	if err := m.begin("Path"); err != nil {
		return Path{}, err
	}
	for prefix, p := range m.paths {
		if prefix.Contains(to.Unmap()) {
			return p, nil
		}
	}
	if m.paths == nil {
		return Path{Interface: "eth0", MTU: 1500}, nil
	}
	return Path{}, fmt.Errorf("path to %s: %w", to, ErrNoRoute)
}

// Link implements Host.
func (m *Mem) Link(name string) (Link, error) {
	defer m.mu.Unlock()
	if err := m.begin("Link"); err != nil {
		return Link{}, err
	}
	return m.observe(name), nil
}

func (m *Mem) observe(name string) Link {
	l := m.links[name]
	if l == nil {
		return Link{Name: name}
	}
	out := l.Link
	out.Closed = m.doors[name]
	return out
}

// EnsureTunnel implements Host.
func (m *Mem) EnsureTunnel(spec TunnelSpec) (Link, error) {
	defer m.mu.Unlock()
	if err := m.begin("EnsureTunnel"); err != nil {
		return Link{}, err
	}
	spec, err := spec.normal()
	if err != nil {
		return Link{}, err
	}
	l, err := m.tunnel(spec)
	if err != nil {
		return Link{}, fmt.Errorf("tunnel link %s: %w", spec.Name, err)
	}
	m.doors[spec.Name] = true
	l.MTU = spec.MTU
	if spec.TxQueueLen > 0 {
		l.TxQueueLen = spec.TxQueueLen
	}
	return m.observe(spec.Name), nil
}

func (m *Mem) tunnel(spec TunnelSpec) (*memLink, error) {
	l := m.links[spec.Name]
	switch {
	case l == nil && spec.Kernel && m.noWireGuard:
		return nil, ErrNoWireGuard
	case l == nil && spec.Kernel:
		l = &memLink{ours: true, wg: true, Link: Link{Name: spec.Name, Ifindex: m.number(), TxQueueLen: 1000}}
		m.links[spec.Name] = l
		m.wake()
	case l == nil:
		return nil, ErrNoLink
	case l.Foreign:
		return nil, ErrForeign
	case l.wg && !spec.Kernel:
		m.drop(spec.Name)
		return nil, ErrNoLink
	case !l.wg && spec.Kernel:
		return nil, ErrKind
	}
	return l, nil
}

// EnsureHostLink implements Host.
func (m *Mem) EnsureHostLink(spec HostSpec) (HostLink, error) {
	defer m.mu.Unlock()
	if err := m.begin("EnsureHostLink"); err != nil {
		return HostLink{}, err
	}
	if err := spec.check(); err != nil {
		return HostLink{}, err
	}
	for _, name := range []string{HostName, DatapathName} {
		if l := m.links[name]; l != nil && !l.ours {
			return HostLink{}, fmt.Errorf("host link: %s: %w: remove or rename it", name, ErrForeign)
		}
	}
	m.doors[HostName], m.doors[DatapathName], m.open = true, true, spec
	for _, want := range []Link{{Name: HostName, MAC: HostMAC, Up: true}, {Name: DatapathName, MAC: DatapathMAC}} {
		l := m.links[want.Name]
		if l == nil {
			l = &memLink{ours: true, Link: Link{Name: want.Name, Ifindex: m.number(), TxQueueLen: 1000}}
			m.links[want.Name] = l
		}
		l.MAC, l.MTU, l.Up = want.MAC, spec.MTU, l.Up || want.Up
	}
	m.address = spec.Address
	m.wake()
	return m.hostLink(), nil
}

// HostLink implements Host.
func (m *Mem) HostLink() (HostLink, error) {
	defer m.mu.Unlock()
	if err := m.begin("HostLink"); err != nil {
		return HostLink{}, err
	}
	return m.hostLink(), nil
}

func (m *Mem) hostLink() HostLink {
	h := HostLink{Host: m.observe(HostName), Datapath: m.observe(DatapathName)}
	if h.Host.Ifindex != 0 {
		h.Address = m.address
		if h.Host.Closed {
			h.ResolverPort, h.NodePort, h.Probes = m.open.ResolverPort, m.open.NodePort, m.open.Probes
		}
	}
	return h
}

// RemoveHostLink implements Host.
func (m *Mem) RemoveHostLink() error {
	defer m.mu.Unlock()
	if err := m.begin("RemoveHostLink"); err != nil {
		return err
	}
	for _, name := range []string{HostName, DatapathName} {
		if l := m.links[name]; l != nil && !l.ours {
			return fmt.Errorf("host link: %s: %w: remove or rename it", name, ErrForeign)
		}
	}
	m.drop(HostName)
	delete(m.doors, DatapathName)
	delete(m.doors, HostName)
	return nil
}

// Attach implements Host.
func (m *Mem) Attach(spec WorkloadSpec) (WorkloadLink, error) {
	defer m.mu.Unlock()
	if err := m.begin("Attach"); err != nil {
		return WorkloadLink{}, err
	}
	spec, err := spec.Normal()
	if err != nil {
		return WorkloadLink{}, err
	}
	w := m.spaces[spec.Netns]
	if w == nil {
		return WorkloadLink{}, fmt.Errorf("attach %s: open namespace %s: %w", spec.ENI, spec.Netns, ErrNoNamespace)
	}
	if spec.NetnsInode != 0 && spec.NetnsInode != w.inode {
		return WorkloadLink{}, fmt.Errorf("attach %s: %w", spec.ENI, errOther(spec))
	}
	name := VethName(spec.ENI)
	l := m.links[name]
	if l != nil && !l.ours {
		return WorkloadLink{}, fmt.Errorf("attach %s: %s: %w: remove or rename it", spec.ENI, name, ErrForeign)
	}
	own := 0
	if l != nil && l.peer.space == w {
		own = l.peer.ifindex
	}
	if err := conflictError("namespace "+spec.Netns, workloadConflicts(spec, w.state, own)); err != nil {
		return WorkloadLink{}, fmt.Errorf("attach %s: %w", spec.ENI, err)
	}
	if l != nil && (own == 0 || l.spec.Interface != spec.Interface) {
		m.drop(name)
		l = nil
	}
	if l == nil {
		l = &memLink{ours: true, eni: spec.ENI, Link: Link{Name: name, Ifindex: m.number(), TxQueueLen: 1000}}
		l.peer = &memPeer{space: w, ifindex: m.number()}
		m.links[name] = l
	}
	m.doors[name] = true
	l.spec, l.MAC, l.MTU, l.peer.mac = spec, GatewayMAC, spec.MTU, spec.MAC
	w.state = w.state.without(l.peer.ifindex)
	w.state.links = append(w.state.links, spaceLink{l.peer.ifindex, spec.Interface})
	for _, p := range append(spec.addresses(false), spec.addresses(true)...) {
		w.state.addresses = append(w.state.addresses, spaceAddress{l.peer.ifindex, spec.Interface, p})
	}
	for _, r := range workloadRoutes(spec, w.state, l.peer.ifindex) {
		w.state.routes = append(w.state.routes,
			spaceRoute{ifindex: l.peer.ifindex, name: spec.Interface, dst: r.dst, ours: true})
	}
	m.setFile(spec)
	m.wake()
	return m.observeWorkload(l), nil
}

// without is the state less one interface and all that is on it.
func (s spaceState) without(ifindex int) spaceState {
	return spaceState{
		links:     slices.DeleteFunc(slices.Clone(s.links), func(l spaceLink) bool { return l.ifindex == ifindex }),
		addresses: slices.DeleteFunc(slices.Clone(s.addresses), func(a spaceAddress) bool { return a.ifindex == ifindex }),
		routes:    slices.DeleteFunc(slices.Clone(s.routes), func(r spaceRoute) bool { return r.ifindex == ifindex }),
	}
}

// setFile writes the resolver file of a namespace that has a name, unless another attachment has.
func (m *Mem) setFile(s WorkloadSpec) {
	f := m.files[s.Netns]
	if !s.Resolver.IsValid() || path.Dir(s.Netns) != "/run/netns" || f.eni != "" && f.eni != s.ENI {
		return
	}
	if f.eni == "" {
		f.saved = f.text
	}
	f.eni, f.text = s.ENI, resolverText(s.ENI, 0, 0, s.Resolver, s.Search)
	m.files[s.Netns] = f
}

func (m *Mem) restoreFiles(which func(eni string) bool) {
	for p, f := range m.files {
		if f.eni == "" || !which(f.eni) {
			continue
		}
		if f.saved == "" {
			delete(m.files, p)
		} else {
			m.files[p] = memFile{text: f.saved}
		}
	}
}

// Detach implements Host.
func (m *Mem) Detach(eni string) error {
	defer m.mu.Unlock()
	if err := m.begin("Detach"); err != nil {
		return err
	}
	name := VethName(eni)
	if l := m.links[name]; l != nil && !l.ours {
		return fmt.Errorf("detach %s: %s: %w: remove or rename it", eni, name, ErrForeign)
	}
	m.drop(name)
	delete(m.doors, name)
	m.restoreFiles(func(its string) bool { return its == eni })
	return nil
}

// Sweep implements Host.
func (m *Mem) Sweep(keep []string) error {
	defer m.mu.Unlock()
	if err := m.begin("Sweep"); err != nil {
		return err
	}
	for name := range m.doors {
		kept := slices.ContainsFunc(keep, func(eni string) bool { return VethName(eni) == name })
		if isVethName(name) && !kept && m.links[name] == nil {
			delete(m.doors, name)
		}
	}
	m.restoreFiles(func(eni string) bool { return !slices.Contains(keep, eni) && m.links[VethName(eni)] == nil })
	return nil
}

// Workloads implements Host.
func (m *Mem) Workloads() ([]WorkloadLink, error) {
	defer m.mu.Unlock()
	if err := m.begin("Workloads"); err != nil {
		return nil, err
	}
	var out []WorkloadLink
	for _, l := range m.links {
		if l.eni != "" {
			out = append(out, m.observeWorkload(l))
		}
	}
	slices.SortFunc(out, func(a, b WorkloadLink) int { return cmp.Compare(a.ENI, b.ENI) })
	return out, nil
}

func (m *Mem) observeWorkload(l *memLink) WorkloadLink {
	o := WorkloadLink{
		ENI: l.eni, Interface: l.spec.Interface, Netns: l.spec.Netns,
		Name: l.Name, Ifindex: l.Ifindex, MTU: l.MTU, GatewayMAC: l.MAC, Up: l.Up, Closed: m.doors[l.Name],
	}
	if m.spaces[l.spec.Netns] == l.peer.space {
		o.PeerPresent, o.PeerIfindex, o.PeerUp = true, l.peer.ifindex, true
		o.MAC, o.NetnsInode = l.peer.mac, l.peer.space.inode
	}
	return o
}

// SetUp implements Host.
func (m *Mem) SetUp(ifname string, up bool) error {
	defer m.mu.Unlock()
	if err := m.begin("SetUp"); err != nil {
		return err
	}
	l := m.links[ifname]
	switch {
	case l == nil && up:
		return fmt.Errorf("put %s up: %w", ifname, ErrNoLink)
	case l == nil:
		return nil
	case up && !m.doors[ifname]:
		return fmt.Errorf("put %s up: %w", ifname, ErrOpenDoor)
	}
	if l.Up != up {
		l.Up = up
		m.wake()
	}
	return nil
}

// Closed implements Host.
func (m *Mem) Closed(ifname string) (bool, error) {
	defer m.mu.Unlock()
	if err := m.begin("Closed"); err != nil {
		return false, err
	}
	return m.observe(ifname).Closed, nil
}

// Fence implements Host.
func (m *Mem) Fence(tunnel string) error {
	defer m.mu.Unlock()
	if err := m.begin("Fence"); err != nil {
		return err
	}
	for name, l := range m.links {
		if (l.ours || name == tunnel && !l.Foreign) && !m.doors[name] {
			m.doors[name] = true
			if name == HostName {
				m.open = HostSpec{}
			}
			if l.Up {
				m.notes = append(m.notes, "the door of "+name+" was gone or open; closed again")
			}
		}
	}
	return nil
}

// Repairs implements Host.
func (m *Mem) Repairs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.notes
	m.notes = nil
	return out
}

// Watch implements Host. wake is called with Mem locked: it must not call Mem.
func (m *Mem) Watch(ctx context.Context, wake func()) error {
	if err := m.begin("Watch"); err != nil {
		m.mu.Unlock()
		return err
	}
	id := m.number()
	m.wakes[id] = wake
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	delete(m.wakes, id)
	m.mu.Unlock()
	return nil
}

func (m *Mem) wake() {
	for _, w := range m.wakes {
		w()
	}
}

// Cleanup implements Host.
func (m *Mem) Cleanup() error {
	defer m.mu.Unlock()
	if err := m.begin("Cleanup"); err != nil {
		return err
	}
	for name, l := range m.links {
		if l.ours {
			m.drop(name)
		}
	}
	clear(m.doors)
	m.restoreFiles(func(string) bool { return true })
	return nil
}

// drop deletes a link as the kernel does: the other end goes with it, the door stays.
func (m *Mem) drop(name string) {
	l := m.links[name]
	if l == nil {
		return
	}
	delete(m.links, name)
	switch {
	case l.peer != nil:
		l.peer.space.state = l.peer.space.state.without(l.peer.ifindex)
	case name == HostName:
		delete(m.links, DatapathName)
	case name == DatapathName:
		delete(m.links, HostName)
	}
	m.wake()
}
