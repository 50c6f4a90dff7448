package host

import (
	"maps"
	"net/netip"
	"slices"
)

// The methods of this file are what happens on a real host beside Culvert: people, container engines and the tunnel
// process at work.

// SetFacts says what Facts returns.
func (m *Mem) SetFacts(f Facts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts = f
}

// SetPath says how packets to a prefix leave.
func (m *Mem) SetPath(to netip.Prefix, p Path) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.paths == nil {
		m.paths = map[netip.Prefix]Path{}
	}
	m.paths[to] = p
}

// AddNamespace makes an empty namespace at path.
func (m *Mem) AddNamespace(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := &memSpace{inode: uint64(m.number())}
	w.state.links = []spaceLink{{1, "lo"}}
	m.spaces[path] = w
}

// NamespaceInode is that of the namespace at path; 0: there is none.
func (m *Mem) NamespaceInode(path string) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.spaces[path]; w != nil {
		return w.inode
	}
	return 0
}

// Doors lists the links that have a door, there or not.
func (m *Mem) Doors() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.doors))
}

// RemoveNamespace takes a namespace away, and with it the links into it.
func (m *Mem) RemoveNamespace(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.spaces[path]
	delete(m.spaces, path)
	for name, l := range m.links {
		if l.peer != nil && l.peer.space == w {
			m.drop(name)
		}
	}
}

// AddLink makes an interface on the host that Culvert did not make, such as the tunnel's TUN. It is down.
func (m *Mem) AddLink(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.links[name] = &memLink{Link: Link{Name: name, Ifindex: m.number(), MTU: 1500, TxQueueLen: 500}}
	m.wake()
}

// AddWireGuard makes a link of the kernel's WireGuard that Culvert did not make. It is down.
func (m *Mem) AddWireGuard(name string) {
	m.AddLink(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.links[name].wg, m.links[name].Foreign = true, true
}

// AddBridge makes a link of a kind that none of Culvert's has. It is down.
func (m *Mem) AddBridge(name string) {
	m.AddLink(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.links[name].Foreign = true
}

// WithoutWireGuard takes WireGuard out of the kernel.
func (m *Mem) WithoutWireGuard() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noWireGuard = true
}

// DeleteLink deletes an interface of the host.
func (m *Mem) DeleteLink(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(name)
}

// DeleteInterface deletes an interface inside a namespace.
func (m *Mem) DeleteInterface(path, ifname string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.spaces[path]
	for name, l := range m.links {
		if l.peer != nil && l.peer.space == w && l.spec.Interface == ifname {
			m.drop(name)
		}
	}
	i := slices.IndexFunc(w.state.links, func(l spaceLink) bool { return l.name == ifname })
	if i >= 0 {
		w.state = w.state.without(w.state.links[i].ifindex)
	}
}

// OpenDoor breaks the door of a link: its chain stays and lets everything through.
func (m *Mem) OpenDoor(ifname string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doors[ifname] = false
}

// AddInterface makes an interface with an address, and so with a route to its prefix, inside a namespace.
func (m *Mem) AddInterface(path, ifname string, address netip.Prefix) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w, i := m.spaces[path], m.number()
	w.state.links = append(w.state.links, spaceLink{i, ifname})
	w.state.addresses = append(w.state.addresses, spaceAddress{i, ifname, address})
	w.state.routes = append(w.state.routes, spaceRoute{ifindex: i, name: ifname, dst: address.Masked()})
}

// AddRoute adds a route by an existing interface of a namespace.
func (m *Mem) AddRoute(path, ifname string, dst netip.Prefix) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.spaces[path]
	for _, l := range w.state.links {
		if l.name == ifname {
			w.state.routes = append(w.state.routes, spaceRoute{ifindex: l.ifindex, name: ifname, dst: dst})
		}
	}
}

// ResolverFile is the resolv.conf of the namespace at path, "" if it has none of its own.
func (m *Mem) ResolverFile(path string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.files[path].text
}

// SetResolverFile writes it, as a person would.
func (m *Mem) SetResolverFile(path, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[path] = memFile{text: text}
}
