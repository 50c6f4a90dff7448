package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns"
	"github.com/culvert-net/culvert/dns/zone"
)

// Servers of names, each behind the same veth pair at a port of its own, each with two VPCs that hold the same names with
// other addresses. It tells them apart by the client's address. A server that is not asked sleeps.
const (
	culvertNames = "Culvert"
	corednsNames = "CoreDNS"
	unboundNames = "Unbound"
)

// The mesh whose addresses clients and servers have.
const namesMesh = 0xb51dd5

// VPCs of the clients, as Culvert numbers them.
var namesVPCs = []uint32{7, 8}

// Names and addresses.
const (
	namesDomain = "bench.internal."
	namesClient = "10.0.1.5"
	manyTimes   = 10 // how many times as many names the second of Culvert's servers has
)

var namesNode = api.NodeAddr(namesMesh, 4)

// namesFrom is the address that a VPC's client asks from.
func namesFrom(vpc uint32) netip.Addr {
	host := api.AddrHost(netip.MustParseAddr(namesClient))
	return api.Overlay{Mesh: namesMesh, VPC: vpc, Host: host, Tag: api.TagFamilyIPv4}.Addr()
}

func benchName(i int) string { return fmt.Sprintf("n%d.%s", i, namesDomain) }

// nameAddress is where a name leads in a VPC: another address in each.
func nameAddress(vpc uint32, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(vpc<<4) | byte(i>>16), byte(i >> 8), byte(i)})
}

// nameServer is one server under measurement.
type nameServer struct {
	name  string
	port  int
	names int // in each VPC
	start func(ctx context.Context, w *world, s *nameServer) (*exec.Cmd, error)
	cmd   *exec.Cmd
}

func nameServers(names int) []*nameServer {
	return []*nameServer{
		{name: culvertNames, port: 5301, names: names, start: startCulvertNames},
		{name: corednsNames, port: 5302, names: names, start: startCoreDNS},
		{name: unboundNames, port: 5303, names: names, start: startUnbound},
		{name: fmt.Sprintf("%s, %d names", culvertNames, manyTimes*names), port: 5304, names: manyTimes * names, start: startCulvertNames},
	}
}

// namesUp makes the namespaces c (of the clients) and s (of the servers) and starts all servers.
func namesUp(ctx context.Context, w *world, servers []*nameServer) error {
	if err := w.add("c", "s"); err != nil {
		return err
	}
	const link = "link add w0 type veth peer name s0 netns "
	lines := []string{link + w.ns("s"), "link set w0 up", "link set lo up"}
	back := []string{"link set s0 up", "link set lo up", fmt.Sprintf("address add %s/128 dev s0 nodad", namesNode)}
	for _, vpc := range namesVPCs {
		lines = append(lines, fmt.Sprintf("address add %s/128 dev w0 nodad", namesFrom(vpc)))
		back = append(back, fmt.Sprintf("route add %s/128 dev s0", namesFrom(vpc)))
	}
	lines = append(lines, fmt.Sprintf("route add %s/128 dev w0", namesNode))
	if err := errors.Join(w.ip(ctx, "c", lines...), w.ip(ctx, "s", back...)); err != nil {
		return err
	}
	for _, s := range servers {
		var err error
		if s.cmd, err = s.start(ctx, w, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		w.daemons = append(w.daemons, s.cmd)
		if err := s.check(ctx, w); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// check waits until the server answers, and sees that each VPC gets its own answer, also to the last name, and none to a name that
// is not there.
func (s *nameServer) check(ctx context.Context, w *world) error {
	for _, vpc := range namesVPCs {
		for _, i := range []int{0, s.names - 1} {
			want := nameAddress(vpc, i).String()
			err := eventually(ctx, time.Minute, func() error {
				got, err := s.dig(ctx, w, vpc, benchName(i))
				if err == nil && got != want {
					err = fmt.Errorf("%s is %q in vpc %d, not %s", benchName(i), got, vpc, want)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		if got, err := s.dig(ctx, w, vpc, "absent."+namesDomain); err != nil || got != "" {
			return fmt.Errorf("a name that is not there: %q, %w", got, err)
		}
	}
	return nil
}

func (s *nameServer) dig(ctx context.Context, w *world, vpc uint32, name string) (string, error) {
	out, err := output(ctx, w.ns("c"), "dig", "+short", "+tries=1", "+timeout=1", "-b", namesFrom(vpc).String(),
		"-p", fmt.Sprint(s.port), "@"+namesNode.String(), name, "A")
	return string(bytes.TrimSpace(out)), err
}

// startCulvertNames runs this program as a server.
func startCulvertNames(ctx context.Context, w *world, s *nameServer) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(ctx, w.ns("s"), self, "name-server", netip.AddrPortFrom(namesNode, uint16(s.port)).String(), fmt.Sprint(s.names))
}

// serveNames ADDRESS:PORT NAMES answers as an agent does, for clients of two VPCs, until it is ended. Its clients may ask more than
// an interface may; each query is counted towards its client's rate all the same.
func serveNames(args []string, _ io.Writer) error {
	var names int
	if _, err := fmt.Sscan(args[1], &names); err != nil {
		return err
	}
	var rows []zone.Name
	var vpcs []zone.VPC
	for _, number := range namesVPCs {
		vpcs = append(vpcs, zone.VPC{Number: number, CIDR: netip.MustParsePrefix("10.0.0.0/8")})
		for i := range names {
			rows = append(rows, zone.Name{VPC: number, Name: benchName(i), Address: nameAddress(number, i), Endpoint: fmt.Sprint("vpce-", i)})
		}
	}
	z, err := zone.New(rows, vpcs, zone.Reach{})
	if err != nil {
		return err
	}
	s := dns.New(dns.Config{Listen: args[:1], Device: "s0", Mesh: namesMesh, RateLimit: 10_000_000, Log: slog.Default()})
	s.Set(z)
	return s.Run(context.Background())
}

// writeLines writes a file of the world.
func (w *world) writeLines(name string, lines func(write func(format string, args ...any))) (path string, err error) {
	var b bytes.Buffer
	lines(func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) })
	path = filepath.Join(w.dir, name)
	return path, os.WriteFile(path, b.Bytes(), 0o644)
}

// startCoreDNS has a view for each VPC, with the plugin that is CoreDNS's fastest for addresses of names.
func startCoreDNS(ctx context.Context, w *world, s *nameServer) (*exec.Cmd, error) {
	for _, vpc := range namesVPCs {
		if _, err := w.writeLines(fmt.Sprint("hosts-", vpc), func(write func(string, ...any)) {
			for i := range s.names {
				write("%s %s", nameAddress(vpc, i), strings.TrimSuffix(benchName(i), "."))
			}
		}); err != nil {
			return nil, err
		}
	}
	path, err := w.writeLines("Corefile", func(write func(string, ...any)) {
		for _, vpc := range namesVPCs {
			write(".:%d {\n bind %s\n view v%d {\n  expr client_ip() == '%s'\n }", s.port, namesNode, vpc, namesFrom(vpc))
			write(" hosts %s %s {\n  ttl 60\n  no_reverse\n  reload 0\n }\n}", filepath.Join(w.dir, fmt.Sprint("hosts-", vpc)), namesDomain)
		}
	})
	if err != nil {
		return nil, err
	}
	return start(ctx, w.ns("s"), filepath.Join(w.bin, "coredns"), "-quiet", "-conf", path)
}

// startUnbound has a view for each VPC, and a thread for each CPU with a socket of its own.
func startUnbound(ctx context.Context, w *world, s *nameServer) (*exec.Cmd, error) {
	path, err := w.writeLines("unbound.conf", func(write func(string, ...any)) {
		write("server:\n interface: %s@%d\n port: %d\n num-threads: %d\n so-reuseport: yes\n module-config: \"iterator\"", namesNode, s.port,
			s.port, cpus())
		write(" do-daemonize: no\n chroot: \"\"\n username: \"\"\n directory: \"%s\"\n pidfile: \"\"\n use-syslog: no\n logfile: \"\"", w.dir)
		write(" verbosity: 0\n minimal-responses: yes")
		for _, vpc := range namesVPCs {
			write(" access-control: %s/128 allow\n access-control-view: %s/128 v%d", namesFrom(vpc), namesFrom(vpc), vpc)
		}
		write("remote-control:\n control-enable: no")
		for _, vpc := range namesVPCs {
			write("view:\n name: \"v%d\"\n local-zone: \"%s\" static", vpc, namesDomain)
			for i := range s.names {
				write(" local-data: \"%s 60 IN A %s\"", benchName(i), nameAddress(vpc, i))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return start(ctx, w.ns("s"), "unbound", "-d", "-c", path)
}

// usedBy is the CPU time of a process so far, seconds.
func usedBy(cmd *exec.Cmd) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	p, ok := parseProcess(text)
	if !ok {
		return 0, fmt.Errorf("process %d has ended", cmd.Process.Pid)
	}
	return p.used, nil
}

// alive reports whether a server still runs.
func (s *nameServer) alive() bool { return s.cmd.Process.Signal(syscall.Signal(0)) == nil }
