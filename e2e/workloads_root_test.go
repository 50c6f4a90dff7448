package e2e

import (
	_ "embed"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/machine"
)

// What people run, on a machine with systemd: each kind of workload gets an interface, finds a service by its private name with
// its C library, reaches it, and nothing else.

//go:embed testdata/workloads.sh
var workloadScript string

// workloadHost is a machine with a mesh in it.
type workloadHost struct {
	t *testing.T
	m *machine.Machine
}

func newWorkloadHost(t *testing.T) workloadHost {
	t.Helper()
	m := machine.Boot(t)
	bin := filepath.Join(t.TempDir(), "culvert")
	if out, err := exec.Command("go", "build", "-o", bin, "../cmd/culvert").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	m.CopyFile(bin, "/usr/local/bin/culvert", 0o755)
	h := workloadHost{t, m}
	h.sh("mesh")
	return h
}

func (h workloadHost) try(script string) (string, error) {
	return h.m.Try("bash", "-c", workloadScript+script)
}

func (h workloadHost) sh(script string) string {
	h.t.Helper()
	out, err := h.try(script)
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(out)
}

// works checks what runs inside, where inside is a command that runs another there.
func (h workloadHost) works(inside string) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, inside+" reaches the service", func() error {
		out, err := h.try(inside + " curl -sS --max-time 3 http://ledger.pay.internal/")
		if err == nil && !strings.Contains(out, "balance 42") {
			err = errors.New("another answer")
		}
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if out := h.sh(inside + " getent hosts ledger.pay.internal"); !strings.HasPrefix(out, "10.0.1.") {
		h.t.Errorf("%s: the C library finds %q", inside, out)
	}
	for _, target := range []string{
		"ledger.pay.internal:81", // a port that the service does not have, though the target listens
		"10.0.1.77",              // the target, which is in another VPC
		"203.0.113.1",            // nowhere
	} {
		if out, err := h.try(inside + " curl -sS --max-time 1 http://" + target); err == nil {
			h.t.Errorf("%s: %s answers: %s", inside, target, out)
		}
	}
	if out := h.sh(inside + " cat /etc/resolv.conf"); !strings.Contains(out, "nameserver 10.0.0.2") {
		h.t.Errorf("%s: resolv.conf is %q", inside, out)
	}
}

func TestWorkloads(t *testing.T) {
	beside(t)
	h := newWorkloadHost(t)
	before := h.sh("cat /etc/resolv.conf")
	for file, text := range workloadFiles {
		h.m.WriteFile(file, text, 0o644)
	}
	t.Run("kinds", func(t *testing.T) {
		for name, run := range map[string]func(workloadHost){
			"named namespace": workloadHost.named, "systemd unit": workloadHost.unit, "podman": workloadHost.podman,
			"containerd": workloadHost.containerd, "command": workloadHost.command,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(workloadHost{t, h.m})
			})
		}
	})
	if now := h.sh("cat /etc/resolv.conf"); now != before {
		t.Errorf("the machine's own resolver was %q, is %q", before, now)
	}
	if out := h.sh("grep -l culvert: /proc/[0-9]*/mountinfo 2>/dev/null || true; ls /etc/netns/named 2>/dev/null || true"); out != "" {
		t.Errorf("resolvers are left: %s", out)
	}
}

func (h workloadHost) named() {
	h.sh("ip netns add named; on culvert eni attach named --netns named --default-route")
	h.works("ip netns exec named")
	h.sh("on culvert eni detach named; ip netns delete named")
}

// workloadFiles are what the kinds of workload need on the machine.
var workloadFiles = map[string]string{
	"/etc/systemd/system/cart.service": `[Service]
Type=exec
PrivateNetwork=yes
PrivateMounts=yes
ExecStart=/bin/sleep infinity
ExecStartPost=/usr/local/bin/culvert eni attach $ENI --unit %n --default-route
EnvironmentFile=/srv/workloads/cart.env
`,
	// The limits are a container's here, as some machines let nobody raise any.
	"/srv/podman.conf": "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n",
	"/srv/containerd.toml": `version = 2
root = "/srv/containerd/root"
state = "/run/cvw-containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/cvw-containerd/sock"
`,
}

// A unit with a network of its own, which is given its interface whenever it starts.
func (h workloadHost) unit() {
	h.sh(`on sh -c 'echo CULVERT_AGENT_SOCKET=$CULVERT_AGENT_SOCKET' >$D/cart.env; echo "ENI=$(cat $D/unit)" >>$D/cart.env
systemctl daemon-reload; systemctl start cart`)
	inside := "nsenter --mount --net --target $(systemctl show --property=MainPID --value cart)"
	h.works(inside)
	h.sh("systemctl restart cart")
	h.works(inside)
	h.sh("on culvert eni detach unit; systemctl stop cart")
	// One that does not run, and one that is in the host's own network, are refused.
	h.sh("systemd-run --unit=plain --property=NetworkNamespacePath=/run/netns/cvw-host-a sleep infinity")
	for unit, want := range map[string]string{
		"none.service": "has no main process", "plain.service": "host's own namespace",
	} {
		if out, err := h.try("on culvert eni attach unit --unit " + unit); err == nil || !strings.Contains(out, want) {
			h.t.Errorf("attach --unit %s: %v %s", unit, err, out)
		}
	}
	h.sh("systemctl stop plain")
}

const podman = `podman() { CONTAINERS_CONF=/srv/podman.conf command podman --cgroup-manager cgroupfs --storage-driver vfs --runtime crun "$@"; }
`

func (h workloadHost) podman() {
	h.sh(podman + `root /srv/podman
podman run --detach --name cart --network none --cgroups disabled --log-driver none --rootfs /srv/podman sleep infinity
on culvert eni attach podman --default-route --pid "$(podman inspect --format '{{.State.Pid}}' cart)"`)
	h.works(podman + "podman exec cart")
	h.sh(podman + `on culvert eni detach podman
podman exec cart cat /etc/resolv.conf >$D/after || true; ! grep -q 10.0.0.2 $D/after
podman rm --force --time 0 cart`)
}

const containerd = `ctr() { command ctr --address /run/cvw-containerd/sock "$@"; }
`

func (h workloadHost) containerd() {
	h.sh("systemd-run --unit=cvw-containerd --property=Delegate=yes containerd --config /srv/containerd.toml")
	eventually(h.t, 20*time.Second, "containerd", func() error {
		_, err := h.try(containerd + "ctr version")
		return err
	})
	// As images of distributions have it: a link to where nothing is, and all is read-only.
	h.sh(containerd + `root /srv/ctr; ln -s ../run/systemd/resolve/stub-resolv.conf /srv/ctr/etc/resolv.conf
ctr run --detach --cpu-shares 0 --env PATH=/usr/bin:/bin --read-only --rootfs /srv/ctr cart /bin/sleep infinity
on culvert eni attach ctr --default-route --pid "$(ctr task list | awk '$1 == "cart" { print $2 }')"`)
	h.works(containerd + "ctr task exec --exec-id x cart")
	h.sh(containerd + `on culvert eni detach ctr
! ctr task exec --exec-id y cart cat /etc/resolv.conf
ctr task kill --signal KILL cart; ctr task wait cart || true; ctr container delete cart; systemctl stop cvw-containerd`)
}

// A command of the host, which then has no other network.
func (h workloadHost) command() {
	h.works("on culvert run --eni run --")
	if out, err := h.try("on culvert run --eni run -- sh -c 'exit 7'"); err == nil || !strings.Contains(err.Error(), "7") {
		h.t.Errorf("its exit status: %v %s", err, out)
	}
}
