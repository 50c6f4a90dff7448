package dev

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/netns"
)

const bpfRoot = "/sys/fs/bpf"

// ip runs iproute2's batch mode on lines of arguments, inside a namespace unless that is "".
func ip(namespace string, lines ...string) error {
	args := []string{"-batch", "-"}
	if namespace != "" {
		args = append([]string{"-n", namespace}, args...)
	}
	cmd := exec.Command("ip", args...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s (%s): %w: %s", namespace, strings.Join(lines, "; "), err, bytes.TrimSpace(out))
	}
	return nil
}

// addNamespace makes a namespace with loopback up that forwards nothing, unless it is there.
func addNamespace(name string) error {
	if err := netns.Add(name); err != nil {
		return err
	}
	return netns.Do(netns.Path(name), func() error {
		// These files speak of the namespace of the thread that opens them.
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
		return nil
	})
}

func hasLink(namespace, link string) bool {
	return exec.Command("ip", "-n", namespace, "link", "show", link).Run() == nil
}

// addUnderlay makes the bridge.
func (l *Lab) addUnderlay() error {
	ns := l.namespace("underlay")
	if err := addNamespace(ns); err != nil {
		return err
	}
	if hasLink(ns, "br0") {
		return ip(ns, "link set br0 up")
	}
	return ip(ns, "link add br0 type bridge", "link set br0 up")
}

// plug makes a namespace whose eth0 is a port of the bridge.
func (l *Lab) plug(suffix string, mtu int, addresses ...netip.Prefix) error {
	ns, underlay := l.namespace(suffix), l.namespace("underlay")
	if err := addNamespace(ns); err != nil {
		return err
	}
	if !hasLink(ns, "eth0") {
		port := "p-" + suffix
		line := fmt.Sprintf("link add %s mtu %d type veth peer name eth0 mtu %d netns %s", port, mtu, mtu, ns)
		if err := ip(underlay, line); err != nil {
			return err
		}
	}
	failpoint.Here("dev.veth")
	if err := ip(underlay, "link set p-"+suffix+" master br0 up"); err != nil {
		return err
	}
	var lines []string
	for _, a := range addresses {
		line := "address replace " + a.String() + " dev eth0"
		if a.Addr().Is6() {
			line += " nodad"
		}
		lines = append(lines, line)
	}
	return ip(ns, append(lines, "link set eth0 up")...)
}

// mountBPF mounts bpffs where pins live, unless it is there.
func mountBPF() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(bpfRoot, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", bpfRoot, err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", bpfRoot, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", bpfRoot, err)
	}
	return nil
}
