package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/internal/oracle"
)

const (
	// putRightBound is promised: a tick of the agent. The test fails at failAt times as much.
	putRightBound = 2 * time.Second
	// wellWithin is for what is waited for before the next fault, and no promise: machines are busy.
	wellWithin = time.Minute
	// otherNet is another network of host-a's, with one neighbour.
	otherHost, otherNeighbour = "192.0.2.1", "192.0.2.2"
)

// hostWorld is the mesh, with host-a as a machine that others use, too.
type hostWorld struct {
	*world
	ns        string            // of host-a
	elsewhere string            // namespace of the neighbour in the other network
	names     map[string]string // what stands in scripts → what is meant
	links     []string
	forbidden *oracle.Forbidden
	stream    *oracle.Stream
	mu        sync.Mutex
	reached   error // a socket of host-a was
}

func newHostWorld(t *testing.T) *hostWorld {
	t.Helper()
	w := &hostWorld{world: mesh(t), ns: prefix + "-host-a", elsewhere: prefix + "-elsewhere", names: map[string]string{}}
	for _, s := range workloads {
		if s.host != "host-a" {
			continue
		}
		eni, err := w.as(s.account).GetENI(t.Context(), s.name)
		if err != nil {
			t.Fatal(err)
		}
		w.names[strings.ToUpper(s.name)] = host.VethName(eni.ID)
		w.links = append(w.links, host.VethName(eni.ID))
	}
	w.links = append(w.links, host.DefaultTunnel, host.DatapathName)
	w.names["LINKS"] = strings.Join(w.links, " ")
	w.names["PINS"] = filepath.Join("/sys/fs/bpf", prefix+"-dev", "host-a", "v*")
	w.names["CARTMAC"] = hardwareAddress(t, wl("cart"), "eni0").String()
	address := strings.Fields(w.host(t, `ip -6 -o addr show dev culvert-host scope global`))
	if len(address) < 4 {
		t.Fatalf("host-a has no overlay address: %v", address)
	}
	own := netip.MustParsePrefix(address[3]).Addr().As16()
	own[15] ^= 0xff
	w.names["MESH"] = netip.AddrFrom16(own).String() + "/128"
	w.addElsewhere(t)
	before := w.host(t, `sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.all.rp_filter net.ipv4.conf.eth0.rp_filter`)
	t.Cleanup(func() { w.host(t, `sysctl -qw `+strings.ReplaceAll(strings.ReplaceAll(before, " = ", "="), "\n", " ")) })
	w.host(t, `sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		for i in all eth0 other0; do sysctl -qw net.ipv4.conf.$i.rp_filter=0; done`)
	w.watch(t)
	return w
}

// addElsewhere gives host-a another network.
func (w *hostWorld) addElsewhere(t *testing.T) {
	t.Helper()
	if err := netns.Add(w.elsewhere); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Remove(w.elsewhere); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { w.host(t, `ip link del other0`) })
	w.host(t, `ip link add other0 type veth peer name eni0 netns `+w.elsewhere+`; ip addr add `+otherHost+`/24 dev other0; ip link set other0 up`)
	w.at(t, w.elsewhere, `ip addr add `+otherNeighbour+`/24 dev eni0; ip link set eni0 up; ip route add default via `+otherHost)
}

// watch starts what looks on during all faults: forbidden probes everywhere, and a stream that is allowed.
func (w *hostWorld) watch(t *testing.T) {
	t.Helper()
	at := netip.MustParseAddrPort
	var probes []oracle.Probe
	add := func(p oracle.Probe, to ...string) {
		for _, x := range to {
			p.To = at(x)
			probes = append(probes, p)
		}
	}
	// A workload's packets are addressed to the host's own MAC: nothing but our fences keeps them from its stack.
	for _, s := range workloads {
		if s.host == "host-a" {
			add(oracle.Probe{From: wl(s.name), Source: netip.MustParseAddr(s.address), MAC: host.GatewayMAC},
				otherNeighbour+":9", otherHost+":9", "10.99.0.10:9", "10.99.0.11:9", "10.99.0.1:9", "10.0.1.99:9", "10.0.1.1:9")
		}
	}
	add(oracle.Probe{From: w.elsewhere, Quoted: true, Source: netip.MustParseAddr(otherNeighbour), MAC: [6]byte(hardwareAddress(t, w.ns, "other0"))},
		"10.0.1.5:9", "10.0.1.8:9", "198.51.100.1:9")
	add(oracle.Probe{From: prefix + "-server", Quoted: true, Source: netip.MustParseAddr("10.99.0.1"), Interface: "eth0",
		MAC: [6]byte(hardwareAddress(t, w.ns, "eth0"))}, "10.0.1.5:9", "10.0.1.8:9", "198.51.100.1:9")
	echo := netip.AddrPortFrom(netip.MustParseAddr(w.endpointAddress(t, "echo")), 7777)
	probes = append(probes, oracle.Probe{From: wl("cart"), Source: netip.MustParseAddr("10.0.1.5"), To: echo, Allowed: true})
	places := []oracle.Place{
		{Namespace: w.elsewhere, Interface: "eni0"}, {Namespace: prefix + "-server", Interface: "eth0"},
		{Namespace: prefix + "-host-b", Interface: "eth0"}, {Namespace: prefix + "-host-b", Interface: host.DefaultTunnel},
		{Namespace: prefix + "-host-b", Interface: host.HostName},
	}
	for _, s := range workloads {
		places = append(places, oracle.Place{Namespace: wl(s.name), Interface: "eni0"})
	}
	w.listen(t)
	var err error
	if w.stream, err = oracle.StartStream(wl("cart"), echo.String(), wl("ledger-1"), "10.0.1.5:7777"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.stream.Stop)
	if w.forbidden, err = oracle.StartForbidden(probes, places, 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.forbidden.Stop)
}

// ownProbes are packets that a program of host-a writes to workloads' links.
func (w *hostWorld) ownProbes(t *testing.T) *oracle.Forbidden {
	t.Helper()
	var probes []oracle.Probe
	var places []oracle.Place
	for _, name := range []string{"cart", "visitor"} {
		probes = append(probes, oracle.Probe{From: w.ns, Source: netip.MustParseAddr(otherHost), To: netip.MustParseAddrPort("10.0.1.5:9"),
			Interface: w.names[strings.ToUpper(name)], MAC: [6]byte(hardwareAddress(t, wl(name), "eni0"))})
		places = append(places, oracle.Place{Namespace: wl(name), Interface: "eni0"})
	}
	f, err := oracle.StartForbidden(probes, places, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Stop)
	return f
}

// listen hears what reaches a socket of host-a itself.
func (w *hostWorld) listen(t *testing.T) {
	t.Helper()
	var pc net.PacketConn
	if err := netns.Do(netns.Path(w.ns), func() (err error) { pc, err = net.ListenPacket("udp", ":9"); return err }); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 256)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			w.mu.Lock()
			w.reached = errors.Join(w.reached, fmt.Errorf("%s reached a socket of host-a: %q", from, buf[:n]))
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() { pc.Close(); wg.Wait() })
}

// passed says what passed that must not.
func (w *hostWorld) passed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.reached, w.forbidden.Err())
}

func (w *hostWorld) expand(s string) string {
	keys := make([]string, 0, len(w.names))
	for k := range w.names {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return len(b) - len(a) }) // CARTMAC before CART
	for _, k := range keys {
		s = strings.ReplaceAll(s, k, w.names[k])
	}
	return s
}

func (w *hostWorld) host(t *testing.T, script string) string { return w.at(t, w.ns, w.expand(script)) }

// at runs a script in a namespace.
func (w *hostWorld) at(t *testing.T, ns, script string) string {
	t.Helper()
	out, err := w.try(ns, script)
	if err != nil {
		t.Fatalf("%s$ %s: %v\n%s", ns, script, err, out)
	}
	return out
}

func (w *hostWorld) try(ns, script string) (string, error) {
	out, err := exec.Command("nsenter", "--net="+netns.Path(ns), "sh", "-e", "-c", script).CombinedOutput()
	return string(out), err
}

func hardwareAddress(t *testing.T, ns, ifname string) (mac net.HardwareAddr) {
	t.Helper()
	if err := netns.Do(netns.Path(ns), func() error {
		i, err := net.InterfaceByName(ifname)
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return mac
}

// play does the part of a fault that takes BPF. What it attaches goes with undo.
func (w *hostWorld) play(t *testing.T, what string) (undo func()) {
	t.Helper()
	undo = func() {}
	switch what {
	case "":
	case "detach": // as bpftool link detach does
		pins, err := filepath.Glob(filepath.Join(w.names["PINS"], "links", "*"))
		if err != nil || len(pins) < 2*len(w.links)-1 {
			t.Fatalf("pins of links: %v, %v", pins, err)
		}
		for _, pin := range pins {
			l, err := link.LoadPinnedLink(pin, nil)
			if err == nil {
				err = errors.Join(l.Detach(), l.Close())
			}
			if err != nil {
				t.Fatalf("detach %s: %v", pin, err)
			}
		}
	default:
		undo = w.first(t, what)
	}
	return undo
}

// first puts another's program before ours at the workloads' links.
func (w *hostWorld) first(t *testing.T, what string) (undo func()) {
	t.Helper()
	var attached []link.Link
	if err := netns.Do(netns.Path(w.ns), func() error {
		for i, name := range []string{w.names["CART"], w.names["VISITOR"]} {
			neighbour, err := net.InterfaceByName([]string{w.names["VISITOR"], w.names["CART"]}[i])
			if err != nil {
				return err
			}
			self, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			ins := map[string]asm.Instructions{
				"first-pass": {asm.Mov.Imm(asm.R0, 0), asm.Return()},
				"first-drop": {asm.Mov.Imm(asm.R0, 2), asm.Return()},
				"first-redirect": {asm.Mov.Imm(asm.R1, int32(neighbour.Index)), asm.Mov.Imm(asm.R2, 0),
					asm.FnRedirect.Call(), asm.Return()},
			}[what]
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: ins, License: "GPL"})
			if err != nil {
				return err
			}
			defer p.Close()
			l, err := link.AttachTCX(link.TCXOptions{Interface: self.Index, Program: p, Attach: ebpf.AttachTCXIngress,
				Anchor: link.Head()})
			if err != nil {
				return err
			}
			attached = append(attached, l)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return func() {
		for _, l := range attached {
			l.Close()
		}
	}
}

// TestHostOfOthers does to a host what others on it do, one thing after the other and several at once, while workloads, the
// underlay, the host itself and another network of it send what must not pass. Nothing of that does; what is allowed goes on
// within a tick; culvert status names each change.
func TestHostOfOthers(t *testing.T) {
	w := newHostWorld(t)
	w.settle(t, time.Now())
	var pauses, named oracle.Times
	for _, f := range hostFaults {
		w.whole(t)
		own := w.ownProbes(t)
		if f.bare {
			own.Stop()
		}
		began := time.Now()
		undo := w.play(t, f.bpf)
		w.host(t, f.script)
		told := w.told(t, f, began)
		w.settle(t, began)
		pause := w.stream.Since(began, time.Now().Add(-200*time.Millisecond)).Pause
		pauses = append(pauses, pause)
		if !f.lasts {
			named = append(named, told)
		}
		t.Logf("%-60s said after %6v, longest pause of the allowed stream %v", f.name, told.Round(time.Millisecond), pause.Round(time.Millisecond))
		if pause > failAt*putRightBound {
			t.Errorf("%s: what is allowed paused for %s", f.name, pause)
		}
		own.Stop()
		if err := errors.Join(w.passed(), own.Err()); err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		undo()
		w.host(t, f.undo)
	}
	eventually(t, wellWithin, "culvert status is clear again", func() error {
		if errs := w.status(t).Errors; len(errs) > 0 {
			return errors.New(strings.Join(errs, "; "))
		}
		return nil
	})
	if out, err := w.run(t, "cart", "getent", "ahostsv4", "ledger.pay.internal"); err != nil {
		t.Errorf("names, after all that: %v %s", err, out)
	}
	if err := errors.Join(w.passed(), w.forbidden.Deaf(), w.stream.Err()); err != nil {
		t.Error(err)
	}
	t.Logf("%d faults; named in status: %v; pause of what is allowed: %v; %d forbidden probes, 0 arrived", len(hostFaults), named, pauses,
		w.forbidden.Sent())
}

func (w *hostWorld) status(t *testing.T) local.Status {
	t.Helper()
	s, err := local.NewClient(w.lab.AgentSocket("host-a")).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// told waits until status says all that it should of a fault.
func (w *hostWorld) told(t *testing.T, f hostFault, began time.Time) time.Duration {
	t.Helper()
	eventually(t, putRightBound, f.name+": status names it", func() error {
		said := w.status(t).Errors
		for _, part := range f.says {
			if !slices.ContainsFunc(said, func(e string) bool { return strings.Contains(e, w.expand(part)) && !before(e, began) }) {
				return fmt.Errorf("%q is not in %q", w.expand(part), said)
			}
		}
		return nil
	})
	return time.Since(began)
}

// before tells whether what status says was put right before a moment, in whole seconds, of which it tells the time of day.
func before(said string, moment time.Time) bool {
	_, rest, found := strings.Cut(said, "put right at ")
	word, _, _ := strings.Cut(rest, ": ")
	at, err := time.Parse(time.TimeOnly, word)
	if !found || err != nil {
		return false
	}
	const day = 24 * 60 * 60
	seconds := func(t time.Time) int { h, m, s := t.Clock(); return h*3600 + m*60 + s }
	age := (seconds(moment.UTC()) - seconds(at) + day) % day
	return age > 0 && age < day/2
}

// whole waits until all is in place again: status may have told of one link's part a moment before that of the others.
func (w *hostWorld) whole(t *testing.T) {
	t.Helper()
	eventually(t, wellWithin, "all is in place", func() error {
		out, err := w.try(w.ns, w.expand(`for l in LINKS; do tc qdisc show dev $l | grep clsact; nft list chain netdev culvert $l; done
			nft list table inet culvert`))
		pins, errPins := filepath.Glob(filepath.Join(w.names["PINS"], "links", "*"))
		if err == nil && len(pins) < 2*len(w.links)-1 {
			err = fmt.Errorf("pins of links: %v", pins)
		}
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return errors.Join(err, errPins)
	})
}

// settle waits until what is allowed has passed for half a second without loss, after a moment.
func (w *hostWorld) settle(t *testing.T, since time.Time) {
	t.Helper()
	eventually(t, wellWithin, "what is allowed passes", func() error {
		now := time.Now()
		if now.Sub(since) < 700*time.Millisecond {
			return errors.New("too early to tell")
		}
		s := w.stream.Since(now.Add(-700*time.Millisecond), now.Add(-200*time.Millisecond))
		if s.Sent == 0 || s.Lost > 0 {
			return fmt.Errorf("%d of %d datagrams lost", s.Lost, s.Sent)
		}
		return nil
	})
}

// The watch of TestHostOfOthers hears: with no agent, and everything that closes taken away, what must not pass does.
func TestHostOfOthersCanFail(t *testing.T) {
	w := newHostWorld(t)
	if err := w.lab.Kill("host-a", "agent", false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), slack*time.Minute)
		defer cancel()
		if err := w.lab.Start(ctx, "", ""); err != nil {
			t.Errorf("put back: %v", err)
		}
	})
	w.play(t, "detach")
	pins, err := filepath.Glob(w.names["PINS"])
	if err != nil || len(pins) != 1 {
		t.Fatalf("pins: %v, %v", pins, err)
	}
	w.host(t, `nft flush ruleset`)
	w.settleClosed(t, "programs and doors are gone, and no agent is there")
	w.host(t, `for l in LINKS; do tc qdisc del dev $l clsact; done`)
	w.settleClosed(t, "fences are gone, too: only the settings of the links are left")
	w.host(t, `sysctl -qw net.ipv4.ip_forward=0; sysctl -qw net.ipv4.ip_forward=1`)
	w.settleClosed(t, "the links forward: only their check of sources is left")
	w.host(t, `for l in LINKS; do sysctl -qw net.ipv4.conf.$l.rp_filter=0; done`)
	eventually(t, 10*time.Second, "open at last", func() error {
		if w.passed() == nil {
			return errors.New("nothing passes: the test cannot fail")
		}
		return nil
	})
	if _, err := os.Stat(pins[0]); err != nil {
		t.Error(err)
	}
}

// settleClosed waits for many more probes, of which none may arrive.
func (w *hostWorld) settleClosed(t *testing.T, what string) {
	t.Helper()
	enough := w.forbidden.Sent() + 1000
	eventually(t, 30*time.Second, what+": probes are sent", func() error {
		if n := w.forbidden.Sent(); n < enough {
			return fmt.Errorf("%d of %d", n, enough)
		}
		return nil
	})
	if err := w.passed(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
