// Package doctor says whether a machine can be a node, what stands in the way and what to do about it. It is pure: the
// agent reads the machine, this package judges what was read.
package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OldestKernel that has what the programs need, see decision 0003: Debian 12's.
var OldestKernel = Version{6, 1}

// Bytes that WireGuard adds to a packet: the outer IP header, 8 of UDP, 32 of its own.
const (
	Overhead4 = 20 + 8 + 32
	Overhead6 = 40 + 8 + 32
)

// State of a finding.
type State string

// States, from good to bad. Unknown: it could not be looked at.
const (
	OK      State = "ok"
	Unknown State = "unknown"
	Warning State = "warning"
	Failure State = "failure"
)

// Finding is the answer to one question.
type Finding struct {
	Check  string `json:"check"`
	State  State  `json:"state"`
	Detail string `json:"detail"`           // what is so, a clause
	Remedy string `json:"remedy,omitempty"` // what to do; empty when there is nothing
}

// Version of a kernel, as far as it matters.
type Version struct{ Major, Minor int }

// ParseVersion reads the beginning of a kernel's release, such as 6.1.0-37-amd64.
func ParseVersion(release string) (v Version, ok bool) {
	major, rest, _ := strings.Cut(release, ".")
	digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
	var err1, err2 error
	v.Major, err1 = strconv.Atoi(major)
	v.Minor, err2 = strconv.Atoi(rest[:digits])
	return v, err1 == nil && err2 == nil
}

// Compare orders versions.
func (v Version) Compare(o Version) int {
	return cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor))
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// CheckKernel is an error, in one sentence, for a kernel that is too old. What cannot be read passes: the programs' loading
// tells.
func CheckKernel(release string) error {
	if v, ok := ParseVersion(release); ok && v.Compare(OldestKernel) < 0 {
		return fmt.Errorf("the kernel %s is too old: boot Linux %s or newer (Debian 12 has 6.1)", release, OldestKernel)
	}
	return nil
}

// Facts are what was read of a machine. Slices of errors and pointers that are nil say that something could not be read.
type Facts struct {
	Root    bool
	Release string // uname -r
	// Missing are features of the kernel that the programs or the links need, in words.
	Missing []string
	TCX     bool   // else programs are filters of clsact
	JIT     bool   // net.core.bpf_jit_enable
	BPFFS   Pinned // where programs and maps are pinned
	TUN     error  // why /dev/net/tun cannot be opened
	// KernelTunnel: the node shall use the kernel's WireGuard, so no process of ours is looked for.
	KernelTunnel bool
	// WireGuardModule tells whether this kernel has a WireGuard of its own.
	WireGuardModule bool

	IPv6Off     string // why there is no IPv6: "" when there is
	RPFilter    int    // net.ipv4.conf.all.rp_filter; -1: unknown
	Ports       []Port
	TunnelMTU   int // bytes
	Underlays   []Underlay
	Chains      []Chain // that packets to this host pass
	ChainsError error
	Legacy      []string // families whose rules are of the old iptables, which is not looked into: ip, ip6
	ReversePath string   // family and table of nftables that drop IPv6 packets whose way back is another interface; "": none

	ClockSynced *bool
	ServerClock *Clock // nil: no server is known, or none answers
	ServerError error  // why it does not answer
	NotJoined   bool
	Certificate *Validity
	Now         time.Time
	AgentError  error // why the agent does not answer; nil: it does
	TunnelError error // likewise
	DataDir     Disk
}

// Pinned is where programs are pinned.
type Pinned struct {
	Path    string
	Mounted bool   // a bpffs is there
	Mode    uint32 // permissions of the directory; 0: it is not there yet
}

// Port is one that a node listens on.
type Port struct {
	Name     string // what for
	Protocol string // udp, tcp
	Port     uint16
	By       string // the only interface that packets to it come by; "": those of the underlay
	Holder   string // who has it: a program's name; "" when it is free
	Ours     bool   // the holder is Culvert
}

// Underlay is a way that tunnelled packets take.
type Underlay struct {
	To        string // a peer's name, or "the default route"
	Interface string
	MTU       int // bytes
	IPv6      bool
	Error     error // why there is no way
}

// Chain is one of nftables at the hook "input".
type Chain struct {
	Family, Table, Name string
	Closed              bool // what no rule is about is dropped or rejected
	// Admits tells whether packets to a port come in.
	Admits func(Port) bool
}

// Clock compares this machine's clock with the server's.
type Clock struct {
	Server string
	Ahead  time.Duration // of ours; negative: behind
}

// Validity of the node's certificate.
type Validity struct{ From, To time.Time }

// Disk is the data directory.
type Disk struct {
	Path   string
	Free   uint64 // bytes
	Memory bool   // a tmpfs: a reboot loses it
	Error  error
}

// Limits of what is fine.
const (
	maxSkew  = 30 * time.Second // above, tokens and certificates may be refused
	warnSkew = 2 * time.Second  // above, flow records of two nodes cannot be put in order
	minFree  = 512 << 20        // bytes: flow records of an hour without the server at 1,000 flows a second
)

// Examine judges. The findings come in a fixed order, one or more per question.
func Examine(f Facts) []Finding {
	var out []Finding
	for _, check := range []func(Facts) []Finding{
		kernel, privileges, programs, tun, ipv6, ports, mtu, firewall, reversePath, clock, node, disk,
	} {
		out = append(out, check(f)...)
	}
	return out
}

// Worst is the worst state of findings, OK for none.
func Worst(findings []Finding) State {
	order := []State{OK, Unknown, Warning, Failure}
	worst := 0
	for _, f := range findings {
		worst = max(worst, slices.Index(order, f.State))
	}
	return order[worst]
}

func one(check string, state State, remedy, format string, args ...any) []Finding {
	return []Finding{{Check: check, State: state, Detail: fmt.Sprintf(format, args...), Remedy: remedy}}
}

func kernel(f Facts) []Finding {
	const check = "kernel"
	v, ok := ParseVersion(f.Release)
	switch {
	case !ok:
		return one(check, Unknown, "", "%q is no release that can be read", f.Release)
	case v.Compare(OldestKernel) < 0:
		return one(check, Failure, fmt.Sprintf("boot Linux %s or newer (Debian 12 has 6.1)", OldestKernel), "Linux %s is too old", f.Release)
	case len(f.Missing) > 0:
		return one(check, Failure, "boot a kernel that has it, such as one of the distribution's own",
			"Linux %s lacks %s", f.Release, strings.Join(f.Missing, ", "))
	}
	if f.KernelTunnel && !f.WireGuardModule {
		return one(check, Failure, "install the distribution's kernel with its modules (modprobe wireguard), or run with --wireguard user",
			"Linux %s has no WireGuard of its own", f.Release)
	}
	how := "programs are attached by tcx"
	if !f.TCX {
		how = "programs are filters of clsact (tcx comes with 6.6)"
	}
	module := "WireGuard runs in user space"
	switch {
	case f.KernelTunnel:
		module = "its WireGuard is used"
	case f.WireGuardModule:
		module += ", though it has one of its own"
	}
	return one(check, OK, "", "Linux %s; %s; %s", f.Release, how, module)
}

func privileges(f Facts) []Finding {
	if !f.Root {
		return one("privileges", Failure, "run it as root: much cannot be seen otherwise", "not root")
	}
	return one("privileges", OK, "", "root")
}

func programs(f Facts) []Finding {
	const check = "bpf"
	var out []Finding
	switch b := f.BPFFS; {
	case !b.Mounted:
		out = one(check, Warning, "mount it at boot: bpffs /sys/fs/bpf bpf mode=0700 0 0 (systemd does)",
			"no bpffs is mounted for %s; the agent mounts one", b.Path)
	case b.Mode&0o077 != 0:
		out = one(check, Failure, "chmod 0700 "+b.Path, "others may open %s (mode %04o) and change the tables", b.Path, b.Mode)
	default:
		out = one(check, OK, "", "a bpffs is mounted for %s", b.Path)
	}
	if !f.JIT {
		out = append(out, one(check, Warning, "sysctl -w net.core.bpf_jit_enable=1",
			"programs are interpreted, several times slower")...)
	}
	return out
}

func tun(f Facts) []Finding {
	if f.TUN != nil {
		return one("tun", Failure, "modprobe tun; in a container, pass /dev/net/tun in", "the TUN device: %v", f.TUN)
	}
	return one("tun", OK, "", "/dev/net/tun can be opened")
}

func ipv6(f Facts) []Finding {
	if f.IPv6Off != "" {
		return one("ipv6", Failure,
			"take ipv6.disable=1 off the kernel's command line, and set net.ipv6.conf.all.disable_ipv6=0; no IPv6 network is needed",
			"%s, and packets are IPv6 in the tunnel", f.IPv6Off)
	}
	return one("ipv6", OK, "", "the kernel speaks IPv6")
}

func ports(f Facts) []Finding {
	var out []Finding
	for _, p := range f.Ports {
		name := fmt.Sprintf("%s %s/%d", p.Name, p.Protocol, p.Port)
		switch {
		case p.Holder == "":
			out = append(out, one("port", OK, "", "%s is free", name)...)
		case p.Ours:
			out = append(out, one("port", OK, "", "%s is held by %s", name, p.Holder)...)
		default:
			out = append(out, one("port", Failure,
				"stop that, or join with another port (culvert agent join --help)", "%s is taken by %s", name, p.Holder)...)
		}
	}
	return out
}

// Room is the largest tunnel MTU that fits an underlay, in bytes.
func (u Underlay) Room() int {
	if u.IPv6 {
		return u.MTU - Overhead6
	}
	return u.MTU - Overhead4
}

// Inside is the largest packet that the tunnel gets through an underlay in one piece, in bytes: WireGuard pads to 16.
func (u Underlay) Inside() int { return u.Room() &^ 15 }

// Problem says in one sentence what is wrong with an underlay; "" for nothing.
func (u Underlay) Problem() string {
	if u.MTU >= leastMTU {
		return ""
	}
	return fmt.Sprintf("the underlay's MTU to %s is %d (%s), less than the %d that every network has to carry: "+
		"raise that interface's MTU", u.To, u.MTU, u.Interface, leastMTU)
}

// leastMTU of an underlay, in bytes: IPv6's (RFC 8200, section 5).
const leastMTU = 1280

func mtu(f Facts) []Finding {
	if len(f.Underlays) == 0 {
		return one("mtu", Unknown, "", "there is no default route and no peer, so nothing tells which interface counts")
	}
	var out []Finding
	for _, u := range f.Underlays {
		if u.Error != nil {
			out = append(out, one("mtu", Failure, "add a route", "there is no way to %s: %v", u.To, u.Error)...)
			continue
		}
		if problem := u.Problem(); problem != "" {
			detail, remedy, _ := strings.Cut(problem, ": ")
			out = append(out, one("mtu", Failure, remedy, "%s", detail)...)
			continue
		}
		if u.Room() < f.TunnelMTU {
			out = append(out, one("mtu", OK, "", "%s to %s takes %d bytes: packets to it are held to %d, the tunnel takes %d",
				u.Interface, u.To, u.MTU, u.Inside(), f.TunnelMTU)...)
			continue
		}
		out = append(out, one("mtu", OK, "", "%s to %s takes %d bytes, the tunnel %d", u.Interface, u.To, u.MTU, f.TunnelMTU)...)
	}
	return out
}

func clock(f Facts) []Finding {
	const check = "clock"
	var out []Finding
	switch {
	case f.ClockSynced == nil:
		out = one(check, Unknown, "", "the kernel does not say whether its clock is synchronized")
	case !*f.ClockSynced:
		out = one(check, Warning, "install and start chrony or systemd-timesyncd", "nothing synchronizes this machine's clock")
	default:
		out = one(check, OK, "", "it is synchronized")
	}
	if c := f.ServerClock; c != nil {
		text := fmt.Sprintf("%s behind the server's (%s)", c.Ahead.Abs().Round(time.Second), c.Server)
		if c.Ahead > 0 {
			text = fmt.Sprintf("%s ahead of the server's (%s)", c.Ahead.Round(time.Second), c.Server)
		}
		switch skew := c.Ahead.Abs(); {
		case skew > maxSkew:
			out = append(out, one(check, Failure, "set the clock: tokens, certificates and handshakes depend on it", "%s", text)...)
		case skew > warnSkew:
			out = append(out, one(check, Warning, "synchronize both clocks: records of two nodes are put in order by them", "%s", text)...)
		default:
			out = append(out, one(check, OK, "", "it is that of the server (%s)", c.Server)...)
		}
	}
	return out
}

func node(f Facts) []Finding {
	const check = "node"
	if f.NotJoined {
		return one(check, Unknown, "culvert agent join --server https://HOST:7443, with a token of culvert token create",
			"this machine has not joined a mesh")
	}
	var out []Finding
	if v := f.Certificate; v != nil {
		switch {
		case f.Now.Before(v.From):
			out = one(check, Failure, "set the clock", "its certificate is good from %s on, and it is %s", stamp(v.From), stamp(f.Now))
		case f.Now.After(v.To):
			out = one(check, Failure, "let the agent reach the server: it renews for 30 days; after that, leave and join again",
				"its certificate expired at %s", stamp(v.To))
		default:
			out = one(check, OK, "", "its certificate is good until %s", stamp(v.To))
		}
	}
	running := func(what string, err error, remedy string) {
		if err != nil {
			out = append(out, one(check, Failure, remedy, "%s does not answer: %v", what, err)...)
			return
		}
		out = append(out, one(check, OK, "", "%s runs", what)...)
	}
	if !f.KernelTunnel {
		running("the tunnel", f.TunnelError, "start culvert tunnel (systemctl start culvert-tunnel)")
	}
	running("the agent", f.AgentError, "start culvert agent (systemctl start culvert-agent)")
	if f.ServerError != nil {
		out = append(out, one(check, Failure, "is it running, and may this machine open a TCP connection to it?",
			"no server answers: %v", f.ServerError)...)
	} else if f.ServerClock != nil {
		out = append(out, one(check, OK, "", "the server %s answers", f.ServerClock.Server)...)
	}
	return out
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func disk(f Facts) []Finding {
	const check = "disk"
	d := f.DataDir
	switch {
	case d.Error != nil:
		return one(check, Failure, "make it, for root only: install -d -m 0700 "+d.Path, "the data directory: %v", d.Error)
	case d.Memory:
		return one(check, Warning, "choose a directory on a disk with --data-dir",
			"%s is in memory: a reboot loses the node's identity and records", d.Path)
	case d.Free < minFree:
		return one(check, Warning, "free some: records that cannot be written are lost, and counted as lost",
			"%s has %d MiB left", d.Path, d.Free>>20)
	}
	return one(check, OK, "", "%s has %d MiB left", d.Path, d.Free>>20)
}
