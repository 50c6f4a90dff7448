package host

import (
	"errors"
	"net/netip"
	"testing"
)

type memWorld struct{ *Mem }

func (w memWorld) namespace(name string) string {
	path := "/run/netns/" + name
	w.AddNamespace(path)
	return path
}

func (w memWorld) removeNamespace(path string) { w.RemoveNamespace(path) }
func (w memWorld) addWireGuard(name string)    { w.AddWireGuard(name) }
func (w memWorld) addBridge(name string)       { w.AddBridge(name) }

func (w memWorld) addLink(name string)                 { w.AddLink(name) }
func (w memWorld) deleteLink(name string)              { w.DeleteLink(name) }
func (w memWorld) deleteInterface(path, ifname string) { w.DeleteInterface(path, ifname) }
func (w memWorld) openDoor(ifname string)              { w.OpenDoor(ifname) }
func (w memWorld) resolverFile(path string) string     { return w.ResolverFile(path) }
func (w memWorld) setResolverFile(path, text string)   { w.SetResolverFile(path, text) }
func (w memWorld) inode(path string) uint64            { return w.NamespaceInode(path) }
func (w memWorld) doors() []string                     { return w.Doors() }
func (w memWorld) addInterface(path, ifname string, a netip.Prefix) {
	w.AddInterface(path, ifname, a)
}
func (w memWorld) addRoute(path, ifname string, dst netip.Prefix) { w.AddRoute(path, ifname, dst) }

func TestMemContract(t *testing.T) {
	contract(t, func(*testing.T) world { return memWorld{NewMem()} })
}

func TestMemFailsOnDemand(t *testing.T) {
	m := NewMem()
	m.SetFacts(Facts{IPv4Forward: 1})
	if f, err := m.Facts(); err != nil || f.IPv4Forward != 1 {
		t.Fatalf("facts %+v, %v", f, err)
	}
	boom := errors.New("boom")
	m.Fail = func(op string) error {
		if op == "Attach" {
			return boom
		}
		return nil
	}
	m.AddNamespace("/run/netns/x")
	if _, err := m.Attach(spec("/run/netns/x")); !errors.Is(err, boom) {
		t.Fatalf("attach: %v", err)
	}
	if all, err := m.Workloads(); err != nil || len(all) != 0 {
		t.Fatalf("workloads %v, %v", all, err)
	}
}

func TestMemKernelTunnel(t *testing.T) {
	contractKernelTunnel(t, memWorld{NewMem()})
	w := memWorld{NewMem()}
	w.WithoutWireGuard()
	contractNoWireGuard(t, w)
}
