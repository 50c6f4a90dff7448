package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/agent/doctor"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/plan"
)

// diagnoseWait bounds each question to another process or machine.
const diagnoseWait = 5 * time.Second

// Diagnose reads of this machine what decides whether it can be a node. It changes nothing, and asks nobody but the
// mesh's own server. What cannot be read is left out; the findings then say so.
func Diagnose(ctx context.Context, cfg Config) doctor.Facts {
	cfg.setDefaults()
	f := doctor.Facts{Root: os.Geteuid() == 0, TunnelMTU: cfg.TunnelMTU, Now: time.Now(),
		KernelTunnel: cfg.KernelTunnel}
	f.Release = release()
	diagnoseKernel(&f, cfg)
	peers := diagnoseNode(ctx, &f, cfg)
	diagnoseNetwork(&f, peers)
	diagnosePorts(&f, cfg)
	diagnoseClock(&f)
	diagnoseDisk(&f, cfg.DataDir)
	return f
}

// release is that of the kernel; "" when it does not say.
func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func diagnoseKernel(f *doctor.Facts, cfg Config) {
	s, err := datapath.Probe()
	f.TCX, f.JIT, f.Missing = s.TCX, s.JIT, s.Missing
	if err != nil && f.Root {
		f.Missing = append(f.Missing, err.Error())
	}
	mounted, mode := datapath.Pinnable(cfg.PinDir)
	f.BPFFS = doctor.Pinned{Path: cfg.PinDir, Mounted: mounted, Mode: uint32(mode)}
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		err = tun.Close()
	}
	f.TUN = err
	if _, err := os.Stat("/sys/module/wireguard"); err == nil {
		f.WireGuardModule = true
	} else if dirs, err := filepath.Glob("/lib/modules/" + f.Release + "/kernel/drivers/net/wireguard/wireguard.ko*"); err == nil {
		f.WireGuardModule = len(dirs) > 0
	}
}

// diagnoseNode looks at what joined, and returns where tunnels lead: peers' names by address.
func diagnoseNode(ctx context.Context, f *doctor.Facts, cfg Config) map[netip.Addr]string {
	dir := state.Dir(cfg.DataDir)
	if joined, err := dir.HasIdentity(); err == nil && !joined {
		f.NotJoined = true
		return nil
	}
	id, err := dir.LoadIdentity()
	if err == nil {
		v := doctor.Validity{}
		if v.From, v.To, err = id.Validity(); err == nil {
			f.Certificate = &v
		}
		f.ServerClock, f.ServerError = serverClock(ctx, id)
	} else {
		f.ServerError = err
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseWait)
	defer cancel()
	agent := local.NewClient(cfg.LocalSocket)
	status, err := agent.Status(ctx)
	f.AgentError = err
	if err == nil {
		f.KernelTunnel = status.KernelTunnel
	}
	_, f.TunnelError = wire.NewUAPI(cfg.TunnelSocket).Observe(ctx)
	peers := map[netip.Addr]string{}
	for _, p := range status.Peers {
		if a, err := netip.ParseAddrPort(p.Underlay); err == nil {
			peers[a.Addr().Unmap()] = p.Node
		}
	}
	return peers
}

// serverClock asks the servers that the node knows, until one answers.
func serverClock(ctx context.Context, id *state.Identity) (*doctor.Clock, error) {
	err := errors.New("none is known")
	for _, address := range id.Servers {
		var c *client.Client
		if c, err = client.New(client.Config{Address: address, CA: []byte(id.CAPEM), Timeout: diagnoseWait}); err != nil {
			continue
		}
		var at time.Time
		at, err = c.ServerTime(ctx)
		c.Close()
		if err == nil {
			return &doctor.Clock{Server: address, Ahead: time.Since(at)}, nil
		}
	}
	return nil, err
}

func diagnoseNetwork(f *doctor.Facts, peers map[netip.Addr]string) {
	h := host.New(host.Config{})
	defer h.Close()
	if facts, err := h.Facts(); err == nil {
		f.RPFilter = facts.RPFilterAll
		f.IPv6Off = ipv6Off(facts)
	}
	s, err := h.Survey()
	f.ChainsError = errors.Join(err, s.ChainsError)
	f.Legacy, f.ReversePath = s.Legacy, s.ReversePath
	if len(peers) == 0 { // who peers will be is not known: most likely they are where all else is
		for _, d := range []struct {
			to   string
			path *host.Path
			ipv6 bool
		}{{"the default route of IPv4", s.Default4, false}, {"the default route of IPv6", s.Default6, true}} {
			if d.path != nil {
				f.Underlays = append(f.Underlays, doctor.Underlay{To: d.to, Interface: d.path.Interface, MTU: d.path.MTU, IPv6: d.ipv6})
			}
		}
	}
	for to, name := range peers {
		u := doctor.Underlay{To: name, IPv6: to.Is6()}
		p, err := h.Path(to)
		u.Interface, u.MTU, u.Error = p.Interface, p.MTU, err
		f.Underlays = append(f.Underlays, u)
	}
	slices.SortStableFunc(f.Underlays, func(a, b doctor.Underlay) int { return strings.Compare(a.To, b.To) })
	for _, c := range s.Chains {
		chain := doctor.Chain{Family: c.Family, Table: c.Table, Name: c.Name, Closed: c.Closed}
		chain.Admits = func(p doctor.Port) bool {
			return c.Admits(host.Packet{Protocol: map[string]byte{"udp": unix.IPPROTO_UDP, "tcp": unix.IPPROTO_TCP}[p.Protocol],
				Port: p.Port, By: p.By})
		}
		f.Chains = append(f.Chains, chain)
	}
}

// ipv6Off says why the kernel speaks no IPv6.
func ipv6Off(facts host.Facts) string {
	text, err := os.ReadFile("/sys/module/ipv6/parameters/disable")
	switch {
	case errors.Is(err, fs.ErrNotExist) && facts.IPv6Disabled < 0:
		return "the kernel has no IPv6"
	case err == nil && strings.TrimSpace(string(text)) == "1":
		return "IPv6 is disabled by ipv6.disable=1"
	case facts.IPv6Disabled == 1:
		return "IPv6 is disabled by net.ipv6.conf.all.disable_ipv6"
	}
	return ""
}

// diagnosePorts looks who has the node's ports.
func diagnosePorts(f *doctor.Facts, cfg Config) {
	wireGuard, gossip := cfg.WireGuardPort, cfg.GossipPort
	if id, err := state.Dir(cfg.DataDir).LoadIdentity(); err == nil {
		if id.WireGuardPort != 0 {
			wireGuard = id.WireGuardPort
		}
		if id.GossipPort != 0 {
			gossip = id.GossipPort
		}
	}
	f.Ports = []doctor.Port{
		{Name: "WireGuard", Protocol: "udp", Port: wireGuard},
		{Name: "gossip", Protocol: "udp", Port: gossip}, {Name: "gossip", Protocol: "tcp", Port: gossip},
		{Name: "names of workloads", Protocol: "udp", Port: resolverPort, By: host.HostName},
		{Name: "names of workloads", Protocol: "tcp", Port: resolverPort, By: host.HostName},
		{Name: "health of targets", Protocol: "udp", Port: plan.NodePort, By: host.HostName},
	}
	for i := range f.Ports {
		p := &f.Ports[i]
		inode := holderOf(p.Protocol, p.Port)
		if inode == "" {
			continue
		}
		p.Holder = programOf(inode)
		p.Ours = strings.HasPrefix(p.Holder, "culvert") || f.KernelTunnel && p.Holder == inKernel
	}
}

// Columns and states of /proc/net/tcp and its like (Documentation/networking/proc_net_tcp.rst).
const (
	columnLocal = 1
	columnState = 3
	columnInode = 9
	tcpListen   = "0A"
)

// holderOf is the inode of a socket that has the port, "" when none has.
func holderOf(protocol string, port uint16) string {
	for _, suffix := range []string{"", "6"} {
		table, err := os.ReadFile("/proc/thread-self/net/" + protocol + suffix)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) <= columnInode || protocol == "tcp" && fields[columnState] != tcpListen {
				continue
			}
			_, hex, _ := strings.Cut(fields[columnLocal], ":")
			if n, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(n) == port {
				return fields[columnInode]
			}
		}
	}
	return ""
}

// inKernel has sockets of the kernel's own, such as its WireGuard's: they have no inode.
const inKernel = "the kernel"

// programOf names the process that has a socket open.
func programOf(inode string) string {
	if inode == "0" {
		return inKernel
	}
	want := "socket:[" + inode + "]"
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, path := range files {
		if to, err := os.Readlink(path); err != nil || to != want {
			continue
		}
		process := filepath.Dir(filepath.Dir(path))
		if name, err := os.ReadFile(process + "/comm"); err == nil {
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), filepath.Base(process))
		}
	}
	return "a program that cannot be seen"
}

// diagnoseClock asks the kernel whether something synchronizes its clock (adjtimex(2)). It changes nothing: no mode is set.
func diagnoseClock(f *doctor.Facts) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err == nil {
		synced := t.Status&unix.STA_UNSYNC == 0
		f.ClockSynced = &synced
	}
}

func diagnoseDisk(f *doctor.Facts, dir string) {
	f.DataDir.Path = dir
	at := dir
	var st unix.Statfs_t
	err := unix.Statfs(at, &st)
	for errors.Is(err, unix.ENOENT) && filepath.Dir(at) != at && f.NotJoined { // it is made when the machine joins
		at = filepath.Dir(at)
		err = unix.Statfs(at, &st)
	}
	f.DataDir.Error = err
	if err == nil {
		f.DataDir.Free, f.DataDir.Memory = st.Bavail*uint64(st.Bsize), st.Type == unix.TMPFS_MAGIC
	}
}
