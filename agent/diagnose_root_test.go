package agent

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent/doctor"
	"github.com/culvert-net/culvert/internal/netlab"
)

// diagnose examines a namespace as if it were a machine that has not joined.
func diagnose(t *testing.T, ns *netlab.Namespace, dir string) (findings []doctor.Finding) {
	t.Helper()
	if err := ns.Do(func() error {
		findings = doctor.Examine(Diagnose(t.Context(), Config{DataDir: dir}))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return findings
}

// ofCheck are the findings of one check that are not fine, a line each.
func ofCheck(findings []doctor.Finding, check string) string {
	var lines []string
	for _, f := range findings {
		if f.Check == check && f.State != doctor.OK {
			lines = append(lines, string(f.State)+": "+f.Detail+": "+f.Remedy)
		}
	}
	return strings.Join(lines, "\n")
}

// Faults of a real machine are found, one by one; a machine without them is fine.
func TestDoctorFindsWhatIsWrongWithAMachine(t *testing.T) {
	lab := netlab.New(t)
	far := lab.Namespace("far")
	machine := func(name string) *netlab.Namespace {
		ns := lab.Namespace(name)
		lab.Veth(ns, "eth0", far, "to-"+name)
		ns.AddAddress("eth0", netip.MustParsePrefix("192.0.2.1/24"))
		ns.Exec("ip", "route", "add", "default", "via", "192.0.2.2")
		return ns
	}
	healthy := diagnose(t, machine("fine"), t.TempDir())
	for _, check := range []string{"kernel", "privileges", "tun", "ipv6", "port", "mtu", "firewall", "reverse path", "disk"} {
		if got := ofCheck(healthy, check); got != "" {
			t.Errorf("healthy: %s: %s", check, got)
		}
	}
	if got := ofCheck(healthy, "node"); !strings.Contains(got, "has not joined") {
		t.Errorf("healthy: node: %q", got)
	}
	for _, c := range []struct {
		name  string
		fault func(ns *netlab.Namespace)
		check string
		want  []string
	}{
		{"mtu", func(ns *netlab.Namespace) { ns.Exec("ip", "link", "set", "eth0", "mtu", "1200") }, "mtu",
			[]string{"failure", "1200 (eth0)", "raise that interface's MTU"}},
		{"ipv6", func(ns *netlab.Namespace) { ns.Exec("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1") }, "ipv6",
			[]string{"failure", "net.ipv6.conf.all.disable_ipv6"}},
		{"fw", func(ns *netlab.Namespace) {
			ns.Exec("nft", "table inet filter {\nchain input {\ntype filter hook input priority 0; policy drop;\nudp dport 7946 accept\n}\n}")
		}, "firewall", []string{"failure", "does not let udp/51820, tcp/7946, udp/1023 from culvert-host (names of workloads)",
			"nft insert rule inet filter input udp dport 51820 accept"}},
		{"xtables", func(ns *netlab.Namespace) {
			ns.Exec("iptables-nft", "-A", "INPUT", "-p", "udp", "--dport", "51820", "-j", "ACCEPT")
			ns.Exec("iptables-nft", "-A", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "22,7000:7900", "-j", "ACCEPT")
			ns.Exec("iptables-nft", "-A", "INPUT", "-p", "udp", "-m", "multiport", "--dports", "53,7900:8000", "-j", "ACCEPT")
			ns.Exec("iptables-nft", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
			ns.Exec("iptables-nft", "-A", "INPUT", "-j", "REJECT", "--reject-with", "icmp-host-prohibited")
		}, "firewall", []string{"failure", "does not let tcp/7946, udp/1023 from culvert-host"}},
		{"port", func(ns *netlab.Namespace) {
			if err := ns.Do(func() error {
				c, err := net.ListenPacket("udp4", "0.0.0.0:51820")
				if err == nil {
					t.Cleanup(func() { c.Close() })
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}, "port", []string{"failure", "WireGuard udp/51820 is taken by agent.test (process "}},
	} {
		ns := machine(c.name)
		c.fault(ns)
		got := ofCheck(diagnose(t, ns, t.TempDir()), c.check)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q lacks %q", c.name, got, want)
			}
		}
	}
}
