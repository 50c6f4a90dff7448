package doctor

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// healthy is a machine on which nothing is wrong.
func healthy() Facts {
	synced, now := true, time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	return Facts{
		Root: true, Release: "6.12.9-amd64", TCX: true, JIT: true, Now: now, TunnelMTU: 1420,
		BPFFS: Pinned{Path: "/sys/fs/bpf/culvert", Mounted: true, Mode: 0o700},
		Ports: []Port{{Name: "WireGuard", Protocol: "udp", Port: 51820}, {Name: "gossip", Protocol: "tcp",
			Port: 7946}},
		Underlays:   []Underlay{{To: "node-b", Interface: "eth0", MTU: 1500, IPv6: true}},
		ClockSynced: &synced, ServerClock: &Clock{Server: "https://192.0.2.1:7443"},
		Certificate: &Validity{now.Add(-time.Hour), now.Add(time.Hour)},
		DataDir:     Disk{Path: "/var/lib/culvert/node", Free: 10 << 30},
	}
}

func TestNothingIsWrongWithAHealthyMachine(t *testing.T) {
	for _, f := range Examine(healthy()) {
		if f.State != OK || f.Remedy != "" || f.Detail == "" {
			t.Errorf("%+v", f)
		}
	}
}

func admits(ports ...string) func(Port) bool {
	return func(x Port) bool {
		for _, p := range ports {
			if p == fmt.Sprintf("%s/%d", x.Protocol, x.Port) {
				return true
			}
		}
		return false
	}
}

// Each fault is found by one check, which says what is so and what to do.
func TestFaults(t *testing.T) {
	no := errors.New("no such file or directory")
	for _, c := range []struct {
		name   string
		fault  func(*Facts)
		check  string
		state  State
		detail string
		remedy string
	}{
		{"old kernel", func(f *Facts) { f.Release = "5.15.0-91-generic" }, "kernel", Failure,
			"5.15.0-91-generic is too old", "6.1 or newer"},
		{"kernel without", func(f *Facts) { f.Missing = []string{"ring buffers"} }, "kernel", Failure,
			"lacks ring buffers", "distribution's own"},
		{"odd kernel", func(f *Facts) { f.Release = "next" }, "kernel", Unknown, `"next"`, ""},
		{"kernel without WireGuard", func(f *Facts) { f.KernelTunnel = true }, "kernel", Failure, "no WireGuard of its own",
			"--wireguard user"},
		{"not root", func(f *Facts) { f.Root = false }, "privileges", Failure, "not root", "as root"},
		{"no bpffs", func(f *Facts) { f.BPFFS.Mounted = false }, "bpf", Warning, "no bpffs", "mount it"},
		{"open bpffs", func(f *Facts) { f.BPFFS.Mode = 0o755 }, "bpf", Failure, "mode 0755",
			"chmod 0700 /sys/fs/bpf/culvert"},
		{"no JIT", func(f *Facts) { f.JIT = false }, "bpf", Warning, "interpreted", "bpf_jit_enable=1"},
		{"no TUN", func(f *Facts) { f.TUN = no }, "tun", Failure, "no such file", "modprobe tun"},
		{"no IPv6", func(f *Facts) { f.IPv6Off = "IPv6 is disabled by ipv6.disable=1" }, "ipv6", Failure,
			"ipv6.disable=1", "command line"},
		{"port taken", func(f *Facts) { f.Ports[0].Holder = "wg-quick (process 7)" }, "port", Failure,
			"udp/51820 is taken by wg-quick", "another port"},
		{"underlay of 1279", func(f *Facts) { f.Underlays[0].MTU = 1279 }, "mtu", Failure, "1279 (eth0)",
			"raise that interface's MTU"},
		{"no way", func(f *Facts) { f.Underlays[0].Error = errors.New("no route") }, "mtu", Failure, "no way to node-b",
			"add a route"},
		{"no underlay", func(f *Facts) { f.Underlays = nil }, "mtu", Unknown, "no default route", ""},
		{"closed firewall", func(f *Facts) {
			f.Chains = []Chain{{"inet", "filter", "input", true, admits("tcp/22", "tcp/7946")}}
		}, "firewall", Failure, "does not let udp/51820 in", "nft insert rule inet filter input udp dport 51820 accept"},
		{"firewalld", func(f *Facts) { f.Chains = []Chain{{"inet", "firewalld", "filter_INPUT", true, admits()}} },
			"firewall", Failure, "udp/51820, tcp/7946",
			"firewall-cmd --permanent --add-port=51820/udp && firewall-cmd --permanent --add-port=7946/tcp && firewall-cmd --reload"},
		{"names are kept out", func(f *Facts) {
			f.Ports = append(f.Ports, Port{Name: "names of workloads", Protocol: "udp", Port: 1023, By: "culvert-host"})
			f.Chains = []Chain{{"inet", "filter", "input", true, admits("udp/51820", "tcp/7946")}}
		}, "firewall", Failure, "does not let udp/1023 from culvert-host (names of workloads) in",
			"nft insert rule inet filter input iifname culvert-host udp dport 1023 accept"},
		{"old iptables", func(f *Facts) { f.Legacy = []string{"ip"} }, "firewall", Unknown, "old iptables",
			"iptables-legacy -S"},
		{"no nftables", func(f *Facts) { f.ChainsError = no }, "firewall", Unknown, "cannot be read", ""},
		{"strict rp_filter", func(f *Facts) { f.RPFilter, f.Underlays = 1, append(f.Underlays, f.Underlays[0]) },
			"reverse path", Warning, "strict", "rp_filter=2"},
		{"firewalld's rpfilter", func(f *Facts) { f.ReversePath = "inet firewalld" }, "reverse path", Warning,
			"inet firewalld", "IPv6_rpfilter=loose"},
		{"another rpfilter", func(f *Facts) { f.ReversePath = "inet mine" }, "reverse path", Warning, "inet mine",
			"any way back"},
		{"clock runs free", func(f *Facts) { *f.ClockSynced = false }, "clock", Warning, "nothing synchronizes", "chrony"},
		{"clock unknown", func(f *Facts) { f.ClockSynced = nil }, "clock", Unknown, "does not say", ""},
		{"clock a little off", func(f *Facts) { f.ServerClock.Ahead = 5 * time.Second }, "clock", Warning, "5s ahead",
			"synchronize both"},
		{"clock far behind", func(f *Facts) { f.ServerClock.Ahead = -time.Hour }, "clock", Failure, "1h0m0s behind",
			"set the clock"},
		{"not joined", func(f *Facts) { f.NotJoined = true }, "node", Unknown, "has not joined", "culvert agent join"},
		{"certificate of the future", func(f *Facts) { f.Certificate.From = f.Now.Add(time.Hour) }, "node", Failure,
			"good from 2026-11-27T13:00:00Z on", "set the clock"},
		{"certificate expired", func(f *Facts) { f.Certificate.To = f.Now.Add(-time.Minute) }, "node", Failure,
			"expired at 2026-11-27T11:59:00Z", "30 days"},
		{"no tunnel", func(f *Facts) { f.TunnelError = no }, "node", Failure, "the tunnel does not answer",
			"culvert tunnel"},
		{"no agent", func(f *Facts) { f.AgentError = no }, "node", Failure, "the agent does not answer", "culvert agent"},
		{"no server", func(f *Facts) { f.ServerClock, f.ServerError = nil, no }, "node", Failure, "no server answers",
			"TCP"},
		{"no data directory", func(f *Facts) { f.DataDir.Error = no }, "disk", Failure, "data directory",
			"install -d -m 0700 /var/lib/culvert/node"},
		{"data in memory", func(f *Facts) { f.DataDir.Memory = true }, "disk", Warning, "in memory", "--data-dir"},
		{"disk full", func(f *Facts) { f.DataDir.Free = 100 << 20 }, "disk", Warning, "100 MiB left", "free some"},
	} {
		f := healthy()
		c.fault(&f)
		findings := Examine(f)
		found := 0
		for _, g := range findings {
			if g.State == OK {
				continue
			}
			found++
			if g.Check != c.check || g.State != c.state || !strings.Contains(g.Detail, c.detail) || !strings.Contains(g.Remedy, c.remedy) {
				t.Errorf("%s: %+v", c.name, g)
			}
			if (c.remedy == "") != (g.Remedy == "") {
				t.Errorf("%s: remedy %q", c.name, g.Remedy)
			}
		}
		if found != 1 || Worst(findings) != c.state {
			t.Errorf("%s: %d findings, the worst %s", c.name, found, Worst(findings))
		}
	}
}

func TestTheKernelsTunnelNeedsNoProcess(t *testing.T) {
	f := healthy()
	f.KernelTunnel, f.WireGuardModule, f.TunnelError = true, true, errors.New("no such file")
	if got := Worst(Examine(f)); got != OK {
		t.Error(got)
	}
}

func TestOurOwnProcessMayHaveThePort(t *testing.T) {
	f := healthy()
	f.Ports[0].Holder, f.Ports[0].Ours = "culvert (process 7)", true
	if got := Worst(Examine(f)); got != OK {
		t.Error(got)
	}
}

func TestParseVersion(t *testing.T) {
	for release, want := range map[string]Version{
		"6.1.0-37-amd64": {6, 1}, "6.18.44-fc-v657": {6, 18}, "6.9-rc1": {6, 9}, "7.0": {7, 0}, "5.4.0+": {5, 4},
	} {
		if got, ok := ParseVersion(release); got != want || !ok {
			t.Errorf("%s: %v %v", release, got, ok)
		}
	}
	for _, release := range []string{"", "6", "6.", "a.b", ".1"} {
		if got, ok := ParseVersion(release); ok {
			t.Errorf("%q: %v", release, got)
		}
	}
}

func TestCheckKernel(t *testing.T) {
	for release, old := range map[string]bool{"6.1.0": false, "6.0.19": true, "5.15.0-91-generic": true,
		"10.0": false, "odd": false} {
		err := CheckKernel(release)
		if (err != nil) != old || old && !strings.Contains(err.Error(), "the kernel "+release+" is too old: boot Linux 6.1 or newer") {
			t.Errorf("%s: %v", release, err)
		}
	}
}

// TestNarrowUnderlay: the tunnel adapts to it, and the doctor says to what.
func TestNarrowUnderlay(t *testing.T) {
	for _, c := range []struct {
		underlay Underlay
		want     string
	}{
		{Underlay{"node-b", "eth0", 1400, true, nil}, "eth0 to node-b takes 1400 bytes: packets to it are held to 1312, the tunnel takes 1420"},
		{Underlay{"node-b", "eth0", 1400, false, nil}, "eth0 to node-b takes 1400 bytes: packets to it are held to 1328, the tunnel takes 1420"},
		{Underlay{"node-b", "eth0", 1480, false, nil}, "eth0 to node-b takes 1480 bytes, the tunnel 1420"},
	} {
		got := mtu(Facts{TunnelMTU: 1420, Underlays: []Underlay{c.underlay}})
		if len(got) != 1 || got[0].State != OK || got[0].Detail != c.want {
			t.Errorf("%+v: %+v, want %q", c.underlay, got, c.want)
		}
	}
}
