//go:build linux

package host

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/machine"
	"github.com/culvert-net/culvert/internal/netlab"
)

// managed is a machine whose systemd runs, with all of our links up in its network namespace.
type managed struct {
	*machine.Machine
	t     *testing.T
	n     *Netlink
	spec  WorkloadSpec
	names []string
}

func newManaged(t *testing.T) *managed {
	t.Helper()
	m := &managed{Machine: machine.Boot(t), t: t}
	m.n = New(Config{Netns: m.Netns(), RunNetns: t.TempDir(), EtcNetns: t.TempDir()})
	t.Cleanup(m.n.Close)
	m.spec = spec(netlab.New(t).Namespace("cart").Path())
	m.Run("ip", "tuntap", "add", DefaultTunnel, "mode", "tun")
	must(m.n.EnsureTunnel(TunnelSpec{MTU: 1420}))(t)
	must(m.n.EnsureHostLink(hostSpec()))(t)
	l := must(m.n.Attach(m.spec))(t)
	m.names = []string{DefaultTunnel, DatapathName, l.Name}
	for _, name := range m.names {
		ok(t, m.n.SetUp(name, true))
	}
	m.n.Repairs()
	return m
}

// after checks what a manager's doing left of our links: doors are closed before anybody has looked, and after one round of
// the agent's part everything is as it was, for good.
func (m *managed) after(what string) (repairs []string) {
	m.t.Helper()
	for _, name := range append(m.names, HostName) {
		if !must(m.n.Closed(name))(m.t) {
			m.t.Errorf("%s: the door of %s is open", what, name)
		}
	}
	quiet := 0
	netlab.Eventually(m.t, 30*time.Second, func() bool {
		ok(m.t, m.n.Fence(DefaultTunnel))
		must(m.n.EnsureTunnel(TunnelSpec{MTU: 1420}))(m.t)
		h := must(m.n.EnsureHostLink(hostSpec()))(m.t)
		w := must(m.n.Attach(m.spec))(m.t)
		if h.Address != hostSpec().Address || h.ResolverPort != hostSpec().ResolverPort || !h.Datapath.Up || !w.Up || !w.Closed {
			m.t.Fatalf("%s: %+v, %+v", what, h, w)
		}
		again := m.n.Repairs()
		repairs = append(repairs, again...)
		if quiet++; len(again) > 0 {
			quiet = 0
		}
		return quiet >= 50
	}, what+": it and we do not come to rest")
	m.t.Logf("%s: put back %q", what, slices.Compact(slices.Sorted(slices.Values(repairs))))
	return repairs
}

// hints are the files with which our packages tell managers to leave our links alone.
func (m *managed) hints(from, to string) {
	m.t.Helper()
	m.CopyFile(filepath.Join("..", "..", "packaging", "files", from), to, 0o644)
}

// firewalld starts, is reloaded both ways, and stops; its rules and ours stand beside each other.
func TestFirewalld(t *testing.T) {
	m := newManaged(t)
	m.Run("systemctl", "start", "firewalld")
	m.after("firewalld started")
	netlab.Eventually(t, 30*time.Second, func() bool { // it says that it runs before it has its rules
		_, err := m.Try("firewall-cmd", "--state")
		return err == nil
	}, "firewalld does not run")
	rules := m.Run("nft", "list", "table", "inet", "firewalld")
	m.Run("firewall-cmd", "--reload")
	m.after("firewalld reloaded")
	m.Run("firewall-cmd", "--complete-reload")
	m.after("firewalld reloaded completely")
	if now := m.Run("nft", "list", "table", "inet", "firewalld"); strings.Count(now, "\n") != strings.Count(rules, "\n") {
		t.Errorf("firewalld's table has %d lines, had %d", strings.Count(now, "\n"), strings.Count(rules, "\n"))
	}
	m.Run("systemctl", "stop", "firewalld")
	m.after("firewalld stopped")
}

// systemd-networkd is told to manage every link. What it did is put back, and it does not do it again; with our packages'
// hint it does nothing.
func TestNetworkd(t *testing.T) {
	for _, hint := range []bool{false, true} {
		m := newManaged(t)
		m.WriteFile("/etc/systemd/network/50-everything.network", "[Match]\nName=*\n\n[Network]\nLinkLocalAddressing=ipv6\n"+
			"IPForward=yes\nAddress=192.0.2.77/24\nConfigureWithoutCarrier=yes\n", 0o644)
		if hint {
			m.hints("culvert.network", "/etc/systemd/network/05-culvert.network")
		}
		m.Run("systemctl", "start", "systemd-networkd")
		netlab.Eventually(t, patience, func() bool {
			return !strings.Contains(m.Run("networkctl", "list", "--no-legend"), "pending")
		}, "networkd has looked at every link")
		m.after("networkd")
		list := m.Run("networkctl", "list", "--no-legend")
		for _, name := range append(m.names, HostName) {
			if unmanaged := strings.Contains(lineOf(list, name), "unmanaged"); hint && !unmanaged {
				t.Errorf("with the hint, networkd manages %s: %s", name, lineOf(list, name))
			}
		}
	}
}

// NetworkManager leaves our links alone, and what was theirs before it came.
func TestNetworkManager(t *testing.T) {
	m := newManaged(t)
	m.hints("culvert.networkmanager.conf", "/etc/NetworkManager/conf.d/10-culvert.conf")
	m.Run("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
	m.Run("systemctl", "start", "NetworkManager")
	netlab.Eventually(t, patience, func() bool {
		out, err := m.Try("nmcli", "-t", "-f", "DEVICE,STATE", "device")
		return err == nil && strings.Contains(out, HostName+":") && strings.Contains(out, "other0:connecting")
	}, "NetworkManager knows every link, and manages another's")
	if repairs := m.after("NetworkManager"); len(repairs) > 0 {
		t.Errorf("it changed our links: %q", repairs)
	}
	list := m.Run("nmcli", "-t", "-f", "DEVICE,STATE", "device")
	for _, name := range append(m.names, HostName) {
		if !strings.Contains(list, name+":unmanaged\n") {
			t.Errorf("NetworkManager manages %s:\n%s", name, list)
		}
	}
	m.Run("systemctl", "restart", "NetworkManager")
	m.after("NetworkManager restarted")
	if a := must(m.n.HostLink())(t).Address; a != hostSpec().Address {
		t.Errorf("address %s", a)
	}
}

// lineOf is the line of an interface in networkctl's list.
func lineOf(list, name string) string {
	for _, line := range strings.Split(list, "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[1] == name {
			return line
		}
	}
	return ""
}
