//go:build linux

package host

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/google/nftables"
)

// kernelWorld is a namespace that plays the host.
type kernelWorld struct {
	*Netlink
	t      *testing.T
	lab    *netlab.Lab
	ns     *netlab.Namespace
	etc    string
	spaces map[string]*netlab.Namespace // by path
}

func newKernelWorld(t *testing.T) *kernelWorld {
	t.Helper()
	lab := netlab.New(t)
	w := &kernelWorld{
		t: t, lab: lab, ns: lab.Namespace("host"), etc: filepath.Join(t.TempDir(), "netns"),
		spaces: map[string]*netlab.Namespace{},
	}
	w.Netlink = New(Config{Netns: w.ns.Path(), EtcNetns: w.etc})
	t.Cleanup(w.Netlink.Close)
	return w
}

func (w *kernelWorld) namespace(name string) string {
	ns := w.lab.Namespace(name)
	if _, err := os.Stat(ns.Path()); err != nil { // removed before: make it anew, the lab removes it
		w.ns.Exec("ip", "netns", "add", ns.Name)
	}
	w.spaces[ns.Path()] = ns
	return ns.Path()
}

func (w *kernelWorld) removeNamespace(path string) { w.spaces[path].Remove() }

func (w *kernelWorld) inode(path string) uint64 {
	w.t.Helper()
	s := must(openSpace(path))(w.t)
	defer s.close()
	return s.inode
}

func (w *kernelWorld) doors() []string {
	w.t.Helper()
	s := must(openSpace(w.ns.Path()))(w.t)
	defer s.close()
	return slices.Sorted(maps.Keys(must(s.door().state())(w.t)))
}

func (w *kernelWorld) addLink(name string) {
	w.ns.Exec("ip", "tuntap", "add", "dev", name, "mode", "tun")
}

func (w *kernelWorld) addWireGuard(name string) {
	w.ns.Exec("ip", "link", "add", name, "type", "wireguard")
}

func (w *kernelWorld) addBridge(name string) { w.ns.Exec("ip", "link", "add", name, "type", "bridge") }

func (w *kernelWorld) deleteLink(name string) { w.ns.DeleteLink(name) }

func (w *kernelWorld) deleteInterface(path, ifname string) { w.spaces[path].DeleteLink(ifname) }

// nft runs a change of the host's ruleset.
func (w *kernelWorld) nft(change func(c *nftables.Conn, table *nftables.Table)) {
	w.t.Helper()
	if err := w.ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		change(c, &nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName})
		return c.Flush()
	}); err != nil {
		w.t.Fatalf("nft: %v", err)
	}
}

func (w *kernelWorld) openDoor(ifname string) {
	if ifname == HostName {
		w.nft(func(c *nftables.Conn, table *nftables.Table) {
			table.Family = nftables.TableFamilyINet
			c.FlushChain(&nftables.Chain{Name: ifname, Table: table})
		})
		return
	}
	w.nft(func(c *nftables.Conn, table *nftables.Table) {
		accept := nftables.ChainPolicyAccept
		c.AddChain(&nftables.Chain{
			Name: ifname, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
			Priority: nftables.ChainPriorityRef(doorPriority), Device: ifname, Policy: &accept,
		})
	})
}

func (w *kernelWorld) addInterface(path, ifname string, a netip.Prefix) {
	ns := w.spaces[path]
	ns.Exec("ip", "tuntap", "add", "dev", ifname, "mode", "tap") // no carrier: it does nothing by itself
	ns.Exec("ip", "link", "set", ifname, "up")
	ns.AddAddress(ifname, a)
}

func (w *kernelWorld) addRoute(path, ifname string, dst netip.Prefix) {
	w.spaces[path].AddRoute(dst, netip.Addr{}, ifname)
}

func (w *kernelWorld) file(path string) string {
	return filepath.Join(w.etc, filepath.Base(path), resolvConf)
}

func (w *kernelWorld) resolverFile(path string) string {
	b, err := os.ReadFile(w.file(path))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return string(b)
}

func (w *kernelWorld) setResolverFile(path, text string) {
	w.t.Helper()
	ok(w.t, os.MkdirAll(filepath.Dir(w.file(path)), 0o755))
	_ = os.Remove(w.file(path)) // as an editor does: a new file
	ok(w.t, os.WriteFile(w.file(path), []byte(text), 0o644))
}

func TestNetlinkContract(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	contract(t, func(t *testing.T) world { return newKernelWorld(t) })
}

// TestKernelTunnel runs what this kernel allows: Debian's have WireGuard as a module. CULVERT_KERNEL_WIREGUARD=1 (see
// scripts/test-kernels) demands it.
func TestKernelTunnel(t *testing.T) {
	w := newKernelWorld(t)
	_, err := w.EnsureTunnel(TunnelSpec{Name: "probe0", MTU: 1420, Kernel: true})
	switch {
	case err == nil:
		w.deleteLink("probe0")
		ok(t, w.Cleanup()) // the door
		contractKernelTunnel(t, w)
	case os.Getenv("CULVERT_KERNEL_WIREGUARD") != "":
		t.Fatal(err)
	default:
		contractNoWireGuard(t, w)
	}
}
