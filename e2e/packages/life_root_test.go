package packages

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/machine"
)

const (
	patience = 60 * time.Second // of waiting for what takes a second or two on an idle machine
	adminEnv = `export CULVERT_SERVER=unix:/run/culvert-server/server.sock CULVERT_CA=/var/lib/culvert-server/ca.pem ` +
		`CULVERT_API_KEY="$(cat /var/lib/culvert-server/admin-key)"; `
	// conversation talks over one connection, and writes down how often it was answered and, in microseconds, how long it
	// ever waited.
	conversation = `exec 3<>/dev/tcp/10.0.1.6/8080; i=0 worst=0
while :; do
	i=$((i+1)) began=${EPOCHREALTIME/./}
	echo $i >&3; read -t 30 -u 3 x || exit 1; [ "$x" = $i ] || exit 1
	took=$((${EPOCHREALTIME/./} - began)); if [ $took -gt $worst ]; then worst=$took; echo $worst >/run/worst; fi
	echo $i >/run/talk; sleep 0.02
done`
)

// host is a machine of the test's mesh; the first has the server too.
type host struct {
	*machine.Machine
	t       *testing.T
	name    string
	address string
	before  string // what remains told before the installation
}

// hosts boots two machines on one wire and installs version A on them.
func hosts(t *testing.T) (a, b *host) {
	t.Helper()
	path := deb(t, "a")
	all := [2]*host{}
	for i, name := range []string{"node-a", "node-b"} {
		h := &host{Machine: machine.Boot(t), t: t, name: name, address: fmt.Sprintf("198.18.0.%d", i+1)}
		h.CopyFile(path, "/opt/a.deb", 0o644)
		h.CopyFile(deb(t, "b"), "/opt/b.deb", 0o644)
		h.before = h.remains()
		h.Run("dpkg", "-i", "/opt/a.deb")
		all[i] = h
	}
	a, b = all[0], all[1]
	// The pair is made inside one machine and its other end moved out of there into the other.
	out, err := exec.Command("nsenter", fmt.Sprintf("--net=%s", a.Netns()), "ip", "link", "add", "eth0", "type", "veth",
		"peer", "name", "eth0", "netns", strconv.Itoa(b.PID())).CombinedOutput()
	if err != nil {
		t.Fatalf("wire: %v: %s", err, out)
	}
	for _, h := range all {
		h.Run("ip", "address", "add", h.address+"/24", "dev", "eth0")
		h.Run("ip", "link", "set", "eth0", "up")
	}
	return a, b
}

// sh runs a command line of the machine's shell.
func (h *host) sh(format string, args ...any) string {
	h.t.Helper()
	return strings.TrimSpace(h.Run("bash", "-c", "set -euo pipefail; "+fmt.Sprintf(format, args...)))
}

// eventually repeats a command line until it succeeds.
func (h *host) eventually(what, format string, args ...any) string {
	h.t.Helper()
	line := fmt.Sprintf(format, args...)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		out, err := h.Try("bash", "-c", "set -euo pipefail; "+line)
		if err == nil {
			return strings.TrimSpace(out)
		}
		select {
		case <-tick.C:
		case <-end.C:
			h.t.Fatalf("%s: not within %v: %s: %s\n%v\n%s", h.name, patience, what, line, err, out)
		}
	}
}

func (h *host) admin(format string, args ...any) string {
	h.t.Helper()
	return h.sh(adminEnv+"culvert "+format, args...)
}

// join makes the machine a node and starts its units.
func (h *host) join(server *host) {
	h.t.Helper()
	token := server.admin("token create --node %s -q", h.name)
	h.sh("CULVERT_JOIN_TOKEN=%s culvert agent join --server https://%s:7443 --name %s --underlay-address %s",
		token, server.address, h.name, h.address)
	h.Run("systemctl", "enable", "--now", "culvert-tunnel.service", "culvert-agent.service")
	h.eventually("the agent runs", "culvert status")
}

// waited tells how long the conversation waited at most so far.
func (h *host) waited() time.Duration {
	h.t.Helper()
	us, err := strconv.Atoi(h.sh("cat /run/worst"))
	if err != nil {
		h.t.Fatal(err)
	}
	return time.Duration(us) * time.Microsecond
}

// talks waits for ten more answers in the conversation that runs.
func (h *host) talks() {
	h.t.Helper()
	h.Run("systemctl", "is-active", "--quiet", "talk.service")
	n, err := strconv.Atoi(h.eventually("the conversation has begun", "cat /run/talk | grep ."))
	if err != nil {
		h.t.Fatal(err)
	}
	h.eventually("the conversation goes on", "systemctl is-active --quiet talk.service; test $(cat /run/talk) -ge %d", n+10)
}

var mainPID = regexp.MustCompile(`MainPID=(\d+)`)

func (h *host) pid(unit string) string {
	h.t.Helper()
	m := mainPID.FindStringSubmatch(h.Run("systemctl", "show", "-p", "MainPID", unit))
	if m == nil || m[1] == "0" {
		h.t.Fatalf("%s: %s does not run", h.name, unit)
	}
	return m[1]
}

// A host's life: install, join, attach, talk, restart each part, upgrade, leave, remove, purge.
func TestLifeOfAHost(t *testing.T) {
	a, b := hosts(t)
	a.Run("systemctl", "enable", "--now", "culvert-server.service")
	a.eventually("the server answers", adminEnv+"culvert status")
	a.join(a)
	b.join(a)

	a.admin("account create shop")
	a.admin("vpc create main --cidr 10.0.0.0/16 --account shop")
	a.admin("subnet create main --vpc main --cidr 10.0.1.0/24 --zone z1 --account shop")
	cart := a.admin("eni create cart --subnet main --node node-a --address 10.0.1.5 --account shop -q")
	till := a.admin("eni create till --subnet main --node node-b --address 10.0.1.6 --account shop -q")
	// One workload is in a named namespace, which is made after the agent has started, the other a unit of another user.
	a.sh("ip netns add cart")
	a.eventually("cart is attached", "culvert eni attach %s --netns cart", cart)
	b.sh("systemd-run --quiet --unit=till -p PrivateNetwork=yes -p DynamicUser=yes socat TCP-LISTEN:8080,fork,reuseaddr EXEC:cat")
	b.eventually("till is attached", "culvert eni attach %s --pid %s", till, b.pid("till.service"))
	a.sh("grep -q nameserver /etc/netns/cart/resolv.conf")
	b.eventually("till has its VPC's resolver", "nsenter -t %s -m grep -qx 'nameserver 10.0.0.2' /etc/resolv.conf", b.pid("till.service"))
	a.eventually("till answers", "echo hello | ip netns exec cart socat -T 5 - TCP:10.0.1.6:8080,connect-timeout=2 | grep hello")
	a.WriteFile("/opt/talk", conversation, 0o644)
	a.sh("systemd-run --quiet --unit=talk ip netns exec cart bash /opt/talk")
	a.talks()

	for _, part := range []struct {
		host *host
		unit string
	}{
		{a, "culvert-server"}, {a, "culvert-agent"}, {b, "culvert-agent"}, {a, "culvert-tunnel"}, {b, "culvert-tunnel"},
	} {
		began := time.Now()
		part.host.Run("systemctl", "restart", part.unit+".service")
		a.talks()
		t.Logf("restart of %s on %s: goes on after %v", part.unit, part.host.name, time.Since(began).Round(time.Millisecond))
	}
	t.Logf("restarts: no answer took longer than %v", a.waited())
	unmount(t, a)
	upgrade(t, a, b)
	t.Logf("upgrades: no answer took longer than %v", a.waited())
	leave(t, a, b, till)
	if left := b.remains(); left != b.before {
		t.Errorf("left after the purge:\n%s\nbefore the installation:\n%s", left, b.before)
	}
}

// unmount takes the bpffs away from under an agent in its sandbox. It comes back on the host, where pins outlive the agent.
func unmount(t *testing.T, a *host) {
	t.Helper()
	a.Run("umount", "/sys/fs/bpf")
	a.eventually("the bpffs is back", "mountpoint -q /sys/fs/bpf && ls /sys/fs/bpf/culvert/*/maps/flows")
	a.Run("systemctl", "restart", "culvert-agent.service")
	a.talks()
}

// upgrade installs version B under a conversation, the server's machine first.
func upgrade(t *testing.T, a, b *host) {
	t.Helper()
	a.sh("echo '# mine' >>/etc/culvert/agent.env")
	for _, h := range []*host{a, b} {
		tunnel, agent := h.pid("culvert-tunnel"), h.pid("culvert-agent")
		began := time.Now()
		said := h.Run("dpkg", "-i", "/opt/b.deb")
		a.talks()
		t.Logf("upgrade of %s: goes on after %v", h.name, time.Since(began).Round(time.Millisecond))
		if got := h.Run("culvert", "version"); strings.TrimSpace(got) != versionB {
			t.Errorf("%s: version %s", h.name, got)
		}
		if h.pid("culvert-tunnel") != tunnel {
			t.Errorf("%s: the tunnel was restarted, not replaced: %s\n%s", h.name, said,
				h.Run("journalctl", "--no-pager", "-o", "short-precise", "-u", "culvert-tunnel.service", "-n", "40"))
		}
		if h.pid("culvert-agent") == agent {
			t.Errorf("%s: the old agent still runs", h.name)
		}
		for _, unit := range []string{"culvert-tunnel", "culvert-agent"} {
			if exe := h.sh("readlink /proc/%s/exe", h.pid(unit)); exe != "/usr/bin/culvert" {
				t.Errorf("%s: %s still runs %s", h.name, unit, exe)
			}
		}
	}
	a.eventually("the server is the new one", adminEnv+"culvert status | grep -F %s", versionB)
	a.sh("grep -qx '# mine' /etc/culvert/agent.env")
}

// leave takes node-b out of the mesh and the package off its machine.
func leave(t *testing.T, a, b *host, eni string) {
	t.Helper()
	refused := func(what string, wants ...string) {
		t.Helper()
		out, err := b.Try("culvert", "agent", "leave")
		for _, want := range wants {
			if err == nil || !strings.Contains(out, want) {
				t.Errorf("leave %s: %v, without %q: %s", what, err, want, out)
			}
		}
	}
	refused("while it runs", "stop culvert agent")
	b.Run("systemctl", "stop", "culvert-agent.service")
	a.talks() // without an agent
	b.Run("systemctl", "stop", "culvert-tunnel.service")
	refused("with an interface", eni, "--force", "culvert eni detach")
	b.Run("systemctl", "start", "culvert-agent.service")
	b.eventually("till is detached", "culvert eni detach %s", eni)
	a.eventually("till is deleted", adminEnv+"culvert eni delete %s --account shop", eni)
	b.Run("systemctl", "stop", "culvert-agent.service", "culvert-tunnel.service")
	a.Run("systemctl", "stop", "culvert-server.service")
	refused("without a server", "--local", "culvert node revoke node-b")
	a.Run("systemctl", "start", "culvert-server.service")
	b.eventually("node-b leaves", "culvert agent leave")
	named := regexp.MustCompile(`(?m)^\S+ +node-[ab] `) // ids begin with node-, too
	out := a.sh(adminEnv + "for i in $(seq 50); do culvert node list && break; done")
	if rows := named.FindAllString(out, -1); len(rows) != 1 || !strings.HasSuffix(rows[0], " node-a ") {
		t.Errorf("nodes after the leave: %s", out)
	}
	if audit := a.admin("audit list"); !regexp.MustCompile(`(?m)\bleave\b.*\bsuccess\b`).MatchString(audit) {
		t.Errorf("no audit event of the leave:\n%s", audit)
	}
	b.Run("systemctl", "stop", "till.service")
	b.Run("dpkg", "-r", "culvert")
	if _, err := b.Try("test", "-e", "/usr/bin/culvert"); err == nil {
		t.Error("the binary is left")
	}
	b.sh("test -e /etc/culvert/agent.env") // until the purge
	b.Run("dpkg", "-P", "culvert")
}

// remains lists what Culvert makes on a host, or might.
func (h *host) remains() string {
	h.t.Helper()
	return h.sh(`ip -o link | grep -v ': \(lo\|eth0@[^ ]*\): ' || true
ip rule; ip -6 rule; ip route show table all | grep -v 'dev \(lo\|eth0\)' || true
nft list ruleset
find /sys/fs/bpf /etc/netns /run/netns /run/culvert* /var/lib/culvert* /etc/culvert* /usr/bin/culvert /usr/share/man/man1/culvert* \
	/etc/systemd/system -mindepth 0 2>/dev/null | grep -v '^/sys/fs/bpf$' || true
dpkg -l culvert 2>/dev/null | tail -n 1 || true
sysctl -a 2>/dev/null | grep -e '\.\(ip_\)\?forwarding\? ' -e rp_filter | grep -v '\.eth0\.' || true`)
}
