package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
)

// underlay is what lies between two hosts.
type underlay struct {
	name  string // as the report says it
	short string // follows prefix
	mtu   int
	six   bool // IPv6
	bare  bool // no segmentation or coalescing of datagrams, the worst that a network card does
}

var usual = underlay{name: "IPv4, MTU 1500", mtu: 1500}

// underlays other than that are measured with fewer tests.
var underlays = []underlay{
	{name: "IPv6, MTU 1500", short: "6", mtu: 1500, six: true},
	{name: "IPv4, MTU 9000", short: "j", mtu: 9000},
	{name: "IPv4, MTU 1500, no UDP segmentation or coalescing", short: "b", mtu: 1500, bare: true},
}

// ends are the addresses of two hosts.
func (u underlay) ends() [2]netip.Addr {
	if u.six {
		return [2]netip.Addr{netip.MustParseAddr("fd00:198:18::1"), netip.MustParseAddr("fd00:198:18::2")}
	}
	return [2]netip.Addr{underlayA, underlayB}
}

// twoHosts are two hosts with a workload each: w1 – n1 = n2 – w2. Workloads' links have the tunnel's MTU.
func twoHosts(ctx context.Context, w *world, u underlay, tunnelMTU int) error {
	if err := w.add("w1", "n1", "n2", "w2"); err != nil {
		return err
	}
	ends, bits := u.ends(), "/24"
	if u.six {
		bits = "/64 nodad"
	}
	err := errors.Join(
		w.join(ctx, u.mtu, "n1", "eth0", ends[0].String()+bits, "n2", "eth0", ends[1].String()+bits),
		w.join(ctx, tunnelMTU, "w1", "eth0", workloadA.String()+"/24", "n1", "w1", gatewayA.String()+"/24"),
		w.join(ctx, tunnelMTU, "w2", "eth0", workloadB.String()+"/24", "n2", "w2", gatewayB.String()+"/24"),
		w.forwards("n1", "n2"),
		w.ip(ctx, "w1", "route add default via "+gatewayA.String()), w.ip(ctx, "w2", "route add default via "+gatewayB.String()))
	if err != nil || !u.bare {
		return err
	}
	return errors.Join(bareLink(ctx, w.ns("n1"), "eth0"), bareLink(ctx, w.ns("n2"), "eth0"))
}

// bareLink turns off what a link does to spare the machine single datagrams.
func bareLink(ctx context.Context, namespace, link string) error {
	_, err := output(ctx, namespace, "ethtool", "-K", link, "tx-udp-segmentation", "off", "gro", "off")
	return err
}

const wireguardPort = 51820

// wireguardUp is wireguard-go as its authors ship it, between two hosts that route to it.
func wireguardUp(ctx context.Context, w *world, u underlay) (*system, error) {
	mtu := u.mtu - 80
	if err := twoHosts(ctx, w, u, mtu); err != nil {
		return nil, err
	}
	var keys [2]wire.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = wire.NewPrivateKey(); err != nil {
			return nil, err
		}
	}
	inside, networks := [2]netip.Addr{insideA, insideB}, [2]string{networkA, networkB}
	for i, host := range [2]string{"n1", "n2"} {
		device := prefix + w.name + host // its control socket lies in one directory for all namespaces
		if err := w.daemon(ctx, host, "wireguard-go", device); err != nil {
			return nil, err
		}
		uapi := wire.NewUAPI("/var/run/wireguard/" + device + ".sock")
		if err := eventually(ctx, 10*time.Second, func() error { return uapi.SetKey(ctx, keys[i], wireguardPort) }); err != nil {
			return nil, err
		}
		if err := uapi.Apply(ctx, wire.Change{Add: []wire.Peer{{
			PublicKey: keys[1-i].Public(), Underlay: netip.AddrPortFrom(u.ends()[1-i], wireguardPort),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(inside[1-i], 32), netip.MustParsePrefix(networks[1-i])},
		}}}); err != nil {
			return nil, err
		}
		err := w.ip(ctx, host, "address add "+inside[i].String()+"/24 dev "+device, fmt.Sprintf("link set %s mtu %d up", device, mtu),
			"route add "+networks[1-i]+" dev "+device)
		if err != nil {
			return nil, err
		}
	}
	return &system{name: wireguardName, client: w.ns("w1"), server: w.ns("w2"), dial: workloadB}, nil
}

// nebulaMTU and tailscaleMTU are their defaults.
const (
	nebulaMTU    = 1300
	tailscaleMTU = 1280
)

// nebulaUp is Nebula with its defaults on two hosts, the workloads' networks behind it as "unsafe" routes.
func nebulaUp(ctx context.Context, w *world) (*system, error) {
	if err := twoHosts(ctx, w, usual, nebulaMTU); err != nil {
		return nil, err
	}
	cert := func(args ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "nebula-cert"), args...)
		cmd.Dir = w.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nebula-cert %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	if err := errors.Join(cert("ca", "-name", "bench"),
		cert("sign", "-name", "n1", "-networks", insideA.String()+"/24", "-unsafe-networks", networkA),
		cert("sign", "-name", "n2", "-networks", insideB.String()+"/24", "-unsafe-networks", networkB)); err != nil {
		return nil, err
	}
	type host struct {
		name             string
		own, other, peer netip.Addr
		network          string
		lighthouse       bool
	}
	for _, h := range []host{
		{"n1", underlayA, underlayB, insideB, networkB, true}, {"n2", underlayB, underlayA, insideA, networkA, false},
	} {
		path := filepath.Join(w.dir, h.name+".yml")
		lighthouses := ""
		if !h.lighthouse {
			lighthouses = `"` + h.peer.String() + `"`
		}
		text := fmt.Sprintf(`pki: {ca: %[1]s/ca.crt, cert: %[1]s/%[2]s.crt, key: %[1]s/%[2]s.key}
static_host_map: {"%[3]s": ["%[4]s:4242"]}
lighthouse: {am_lighthouse: %[5]v, interval: 60, hosts: [%[6]s]}
listen: {host: %[7]s, port: 4242}
tun: {dev: nebula1, mtu: %[8]d, unsafe_routes: [{route: %[9]s, via: %[3]s}]}
logging: {level: warning, format: text}
firewall:
  outbound: [{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}]
  inbound: [{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}]
`, w.dir, h.name, h.peer, h.other, h.lighthouse, lighthouses, h.own, nebulaMTU, h.network)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		if err := w.daemon(ctx, h.name, "nebula", "-config", path); err != nil {
			return nil, err
		}
	}
	return &system{name: nebulaName, client: w.ns("w1"), server: w.ns("w2"), dial: workloadB}, nil
}

// tailscaleUp is Tailscale between two hosts with its defaults. Plain is the host's own address; otherwise n2 carries the
// workload's network as a 4via6 route, Tailscale's answer to networks that overlap.
func tailscaleUp(ctx context.Context, w *world, via6 bool) (*system, error) {
	if err := twoHosts(ctx, w, usual, tailscaleMTU); err != nil {
		return nil, err
	}
	if err := w.daemon(ctx, "n1", "peers", underlayA.String(), "8080"); err != nil {
		return nil, err
	}
	network := ""
	if via6 {
		out, err := output(ctx, w.ns("n1"), filepath.Join(w.bin, "tailscale"), "debug", "via", "7", networkB)
		if err != nil {
			return nil, err
		}
		network = strings.TrimSpace(string(out))
	}
	for _, host := range []string{"n1", "n2"} {
		if err := w.tailscaled(ctx, host); err != nil {
			return nil, err
		}
		up := []string{"up", "--login-server=http://" + underlayA.String() + ":8080", "--accept-dns=false", "--accept-routes", "--hostname=" + host}
		if host == "n2" && via6 {
			up = append(up, "--advertise-routes="+network)
		}
		if err := eventually(ctx, 30*time.Second, func() error { _, err := w.tailscale(ctx, host, up...); return err }); err != nil {
			return nil, err
		}
	}
	return w.tailscaleTo(ctx, via6)
}

func (w *world) tailscaleTo(ctx context.Context, via6 bool) (*system, error) {
	s := &system{name: tailscaleName, client: w.ns("n1"), server: w.ns("n2")}
	out, err := w.tailscale(ctx, "n2", "ip", "-4")
	if via6 && err == nil {
		s.name, s.server = via6Name, w.ns("w2")
		out, err = w.tailscale(ctx, "n1", "debug", "via", "7", workloadB.String()+"/32")
	}
	if err != nil {
		return nil, err
	}
	address, _, _ := strings.Cut(strings.TrimSpace(string(out)), "/")
	s.dial, err = netip.ParseAddr(address)
	return s, err
}

func (w *world) socket(host string) string { return filepath.Join(w.dir, host+".sock") }

func (w *world) tailscale(ctx context.Context, host string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return output(ctx, w.ns(host), append([]string{filepath.Join(w.bin, "tailscale"), "--socket=" + w.socket(host)}, args...)...)
}

// tailscaled gets a resolv.conf of its own: it must not change this machine's.
func (w *world) tailscaled(ctx context.Context, host string) error {
	state := filepath.Join(w.dir, host)
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	resolv := filepath.Join(state, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# none\n"), 0o644); err != nil {
		return err
	}
	script := `mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`
	return w.daemon(ctx, host, "env", "TS_DEBUG_FIREWALL_MODE=nftables", "TS_NO_LOGS_NO_SUPPORT=true", "unshare", "-m",
		"sh", "-c", script, "sh", resolv, filepath.Join(w.bin, "tailscaled"), "--tun=tailscale0", "--statedir="+state,
		"--socket="+w.socket(host), "--port=41641", "--no-logs-no-support")
}
