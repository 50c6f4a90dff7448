package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/culvert-net/culvert/internal/netns"
)

// prefix of the namespaces of a run.
const prefix = "cvbench"

// world is a set of namespaces and daemons that a run brings up and takes down. Addresses are RFC 2544's, and the same
// in every world: they do not meet.
type world struct {
	name    string // follows prefix
	bin     string // directory of programs
	dir     string // its own, for configurations
	spaces  []string
	daemons []*exec.Cmd
}

func (w *world) ns(name string) string { return prefix + "-" + w.name + "-" + name }

// add makes namespaces; a run that was killed may have left them.
func (w *world) add(names ...string) error {
	for _, name := range names {
		ns := w.ns(name)
		if err := netns.Remove(ns); err != nil {
			return err
		}
		if err := netns.Add(ns); err != nil {
			return err
		}
		w.spaces = append(w.spaces, ns)
	}
	return nil
}

// ip runs iproute2 inside a namespace, a command a line.
func (w *world) ip(ctx context.Context, name string, lines ...string) error {
	cmd := exec.CommandContext(ctx, "ip", "-n", w.ns(name), "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -n %s %s: %w: %s", w.ns(name), strings.Join(lines, "; "), err, out)
	}
	return nil
}

// join makes a veth pair between two namespaces, each end with an address.
func (w *world) join(ctx context.Context, mtu int, a, ifA, addressA, b, ifB, addressB string) error {
	line := fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %d netns %s", ifA, mtu, ifB, mtu, w.ns(b))
	return errors.Join(w.ip(ctx, a, line, "address add "+addressA+" dev "+ifA, "link set "+ifA+" up"),
		w.ip(ctx, b, "address add "+addressB+" dev "+ifB, "link set "+ifB+" up"))
}

// forwards lets namespaces route.
func (w *world) forwards(names ...string) error {
	for _, name := range names {
		err := netns.Do(netns.Path(w.ns(name)), func() error {
			return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
				os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// daemon starts a program in a namespace, from bin if it lies there.
func (w *world) daemon(ctx context.Context, name string, argv ...string) error {
	cmd, err := start(ctx, w.ns(name), w.argv(argv)...)
	if err == nil {
		w.daemons = append(w.daemons, cmd)
	}
	return err
}

func (w *world) argv(argv []string) []string {
	if path := filepath.Join(w.bin, argv[0]); exists(path) {
		return append([]string{path}, argv[1:]...)
	}
	return argv
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// down ends the daemons and removes the namespaces.
func (w *world) down() {
	for _, cmd := range w.daemons {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
	for _, ns := range w.spaces {
		if err := netns.Remove(ns); err != nil {
			log.Print(err)
		}
	}
}

// Addresses of a world. Workloads, which clients and servers run in, are .2 of their networks.
var (
	underlayA, underlayB = netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2")
	insideA, insideB     = netip.MustParseAddr("198.18.3.1"), netip.MustParseAddr("198.18.3.2")
	workloadA, workloadB = netip.MustParseAddr("198.18.1.2"), netip.MustParseAddr("198.18.2.2")
	gatewayA, gatewayB   = netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("198.18.2.1")
	virtual              = netip.MustParseAddr("198.18.9.9")
)

const (
	networkA = "198.18.1.0/24"
	networkB = "198.18.2.0/24"
)

// vethUp is a client and a server with nothing between them but a veth pair.
func vethUp(ctx context.Context, w *world) (*system, error) {
	if err := w.add("w1", "w2"); err != nil {
		return nil, err
	}
	err := w.join(ctx, 1500, "w1", "eth0", workloadA.String()+"/24", "w2", "eth0", "198.18.1.3/24")
	return &system{name: vethName, client: w.ns("w1"), server: w.ns("w2"), dial: netip.MustParseAddr("198.18.1.3"), host: true}, err
}

// oneHost is a host with two workloads, which it routes between.
func oneHost(ctx context.Context, w *world) error {
	if err := w.add("w1", "n1", "w2"); err != nil {
		return err
	}
	return errors.Join(
		w.join(ctx, 1500, "w1", "eth0", workloadA.String()+"/24", "n1", "w1", gatewayA.String()+"/24"),
		w.join(ctx, 1500, "w2", "eth0", workloadB.String()+"/24", "n1", "w2", gatewayB.String()+"/24"),
		w.forwards("n1"),
		w.ip(ctx, "w1", "route add default via "+gatewayA.String()), w.ip(ctx, "w2", "route add default via "+gatewayB.String()))
}

// nftUp is what an endpoint on one node does, by the kernel's own means: the client dials an address that is translated to
// the server's, and the server sees the host's.
func nftUp(ctx context.Context, w *world) (*system, error) {
	if err := oneHost(ctx, w); err != nil {
		return nil, err
	}
	rules := fmt.Sprintf(`table ip bench {
	chain in { type nat hook prerouting priority dstnat; ip daddr %s dnat to %s; }
	chain out { type nat hook postrouting priority srcnat; oifname "w2" snat to %s; }
}
`, virtual, workloadB, gatewayB)
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", w.ns("n1"), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("nft: %w: %s", err, out)
	}
	return &system{name: nftName, client: w.ns("w1"), server: w.ns("w2"), dial: virtual, host: true}, nil
}

// haproxyUp is a load balancer of layer 4 in user space in front of the server.
func haproxyUp(ctx context.Context, w *world) (*system, error) {
	if err := oneHost(ctx, w); err != nil {
		return nil, err
	}
	var config strings.Builder
	config.WriteString("global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n")
	for _, port := range []int{iperfPort, echoPort} {
		fmt.Fprintf(&config, "listen p%d\n  bind %s:%d\n  server s %s:%d\n", port, gatewayA, port, workloadB, port)
	}
	path := filepath.Join(w.dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(config.String()), 0o600); err != nil {
		return nil, err
	}
	err := w.daemon(ctx, "n1", "haproxy", "-db", "-f", path)
	return &system{name: haproxyName, client: w.ns("w1"), server: w.ns("w2"), dial: gatewayA, host: true}, err
}
