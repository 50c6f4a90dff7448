// Package dev is the body of `culvert dev`: a whole mesh on one machine. Every host is a network namespace on an
// underlay bridge that leads nowhere else, with the same processes that a real host runs; workloads are namespaces too.
//
//	PREFIX-underlay   the bridge
//	PREFIX-server     10.99.0.1    culvert server
//	PREFIX-host-a     10.99.0.10   culvert tunnel, culvert agent
//	PREFIX-host-b     10.99.0.11   …
//
// What is to be made is written down before it is made (mesh.json), so that Down finds all of it even after everything,
// this program included, was killed at any moment. A namespace that was there before is never taken over.
package dev

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
)

// DefaultPrefix names the namespaces and directories of the mesh that one gets without asking for another.
const DefaultPrefix = "culvert"

// MaxHosts of one mesh: one letter each.
const MaxHosts = 26

// Config says where a mesh lives.
type Config struct {
	// Prefix of namespace names; /var/lib/PREFIX-dev, /run/PREFIX-dev and /sys/fs/bpf/PREFIX-dev are the directories. At most
	// 12 of a-z, 0-9 and '-'. Two meshes with different prefixes do not meet.
	Prefix string
	// Program is the culvert binary that the processes run.
	Program string
	// KernelTunnel: the tunnels of a new mesh are the kernel's WireGuard; one that is there keeps what it has.
	KernelTunnel bool
	// UnderlayMTU of a new mesh, bytes; 0: 1500. The tunnels' is 80 less.
	UnderlayMTU int
	// UnderlayIPv6: hosts of a new mesh reach each other over IPv6. The server is reached over IPv4 as ever.
	UnderlayIPv6 bool
	// LogLevel and LogFormat are those of the processes that Up starts, and of later ones; "": as before, at first info and text.
	LogLevel, LogFormat string
	// Out gets one line per step; nil: none.
	Out io.Writer
	// Environment is more of it for a process, NAME=VALUE each; nil: none. Role is server, tunnel or agent.
	Environment func(host, role string) []string
	// AgentFlags are more of them for the agent of a host; nil: none.
	AgentFlags func(host string) []string
	// ServerFlags are more of them for the server.
	ServerFlags []string
}

// Lab is one mesh on this machine.
type Lab struct {
	cfg Config
}

// New checks the configuration and touches nothing.
func New(cfg Config) (*Lab, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	if len(cfg.Prefix) > 12 || !validName(cfg.Prefix) {
		return nil, fmt.Errorf("prefix %q: use at most 12 of a-z, 0-9 and '-', beginning with a letter", cfg.Prefix)
	}
	return &Lab{cfg: cfg}, nil
}

func validName(s string) bool {
	ok := s != "" && s[0] >= 'a' && s[0] <= 'z'
	for _, c := range s {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	return ok
}

// StateDir holds what outlives a reboot: the record, the server's and the nodes' data, keys, logs.
func (l *Lab) StateDir(elem ...string) string {
	return filepath.Join(append([]string{"/var/lib", l.cfg.Prefix + "-dev"}, elem...)...)
}

// RunDir holds sockets and process ids.
func (l *Lab) RunDir(elem ...string) string {
	return filepath.Join(append([]string{"/run", l.cfg.Prefix + "-dev"}, elem...)...)
}

func (l *Lab) bpfDir(elem ...string) string {
	return filepath.Join(append([]string{bpfRoot, l.cfg.Prefix + "-dev"}, elem...)...)
}

// ServerAddress is where commands on this machine reach the mesh's server.
func (l *Lab) ServerAddress() string { return "unix:" + l.RunDir("server.sock") }

// CAFile is the server's CA certificate.
func (l *Lab) CAFile() string { return l.StateDir("server", "ca.pem") }

// AgentSocket is where a host's agent listens.
func (l *Lab) AgentSocket(host string) string { return l.RunDir(host, "agent.sock") }

// Record is what the mesh consists of.
type Record struct {
	// Kernel: the hosts' tunnels are the kernel's WireGuard, without a process.
	Kernel bool `json:"kernelTunnel,omitempty"`
	// UnderlayMTU and UnderlayIPv6 are as in Config.
	UnderlayMTU  int  `json:"underlayMtu,omitempty"`
	UnderlayIPv6 bool `json:"underlayIpv6,omitempty"`
	// LogLevel and LogFormat of processes that are started; "": their own defaults.
	LogLevel  string     `json:"logLevel,omitempty"`
	LogFormat string     `json:"logFormat,omitempty"`
	Hosts     []Host     `json:"hosts"`
	Workloads []Workload `json:"workloads"`
}

// Host is a namespace that plays a machine.
type Host struct {
	Name    string     `json:"name"` // host-a, host-b, …
	Netns   string     `json:"netns"`
	Address netip.Addr `json:"address"` // on the underlay
}

// six is the host's IPv6 address on the underlay.
func (h Host) six() netip.Addr {
	b := netip.MustParseAddr("fd99::").As16()
	four := h.Address.As4()
	copy(b[12:], four[:])
	return netip.AddrFrom16(b)
}

// underlayMTU in bytes.
func (r *Record) underlayMTU() int { return cmp.Or(r.UnderlayMTU, 1500) }

// Workload is a namespace that plays a workload.
type Workload struct {
	Name      string     `json:"name"` // of the namespace too
	Host      string     `json:"host"`
	ENI       string     `json:"eniId"`
	Interface string     `json:"interface,omitempty"`
	Address   netip.Addr `json:"address,omitzero"`
	// IPv6Address of an ENI that has IPv6.
	IPv6Address netip.Addr `json:"ipv6Address,omitzero"`
}

var (
	underlayNet   = netip.MustParsePrefix("10.99.0.0/24")
	serverAddress = netip.MustParseAddr("10.99.0.1")
)

// serverPort on the underlay, TCP.
const serverPort = 7443

func hostNumber(i int) Host {
	name := "host-" + string(rune('a'+i))
	addr := underlayNet.Addr().As4()
	addr[3] = byte(10 + i)
	return Host{Name: name, Netns: name, Address: netip.AddrFrom4(addr)}
}

func (l *Lab) namespace(suffix string) string { return l.cfg.Prefix + "-" + suffix }

func (r *Record) host(name string) (*Host, error) {
	var names []string
	for i := range r.Hosts {
		if r.Hosts[i].Name == name {
			return &r.Hosts[i], nil
		}
		names = append(names, r.Hosts[i].Name)
	}
	return nil, fmt.Errorf("host %q: this mesh has %s", name, orNone(names))
}

func (r *Record) workload(name string) (*Workload, error) {
	var names []string
	for i := range r.Workloads {
		if r.Workloads[i].Name == name {
			return &r.Workloads[i], nil
		}
		names = append(names, r.Workloads[i].Name)
	}
	return nil, fmt.Errorf("workload %q: this mesh has %s; make one with: culvert dev workload add NAME --host HOST --eni ENI",
		name, orNone(names))
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// ErrNoMesh says that there is nothing to work on.
var ErrNoMesh = errors.New("no development mesh on this machine: make one with: culvert dev up")

// Load reads the record. Without one the error is ErrNoMesh.
func (l *Lab) Load() (*Record, error) {
	data, err := os.ReadFile(l.StateDir("mesh.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoMesh
	}
	if errors.Is(err, os.ErrPermission) {
		return nil, errors.New("the development mesh belongs to root: run the command as root")
	}
	if err != nil {
		return nil, fmt.Errorf("read record of the mesh: %w", err)
	}
	r, err := parseRecord(data)
	if err == nil {
		return r, nil
	}
	// Without the record nobody knows what to take down, so there are two.
	if data, err = os.ReadFile(l.StateDir(recordCopy)); err == nil {
		r, err = parseRecord(data)
	}
	if err != nil {
		return nil, fmt.Errorf("the record of the mesh, %s, is damaged, and so is its copy (%w): take down by hand what is named %s-*: "+
			"ip netns list; then remove %s and %s", l.StateDir("mesh.json"), err, l.cfg.Prefix, l.StateDir(), l.RunDir())
	}
	return r, nil
}

// parseRecord reads a record. What it names becomes paths and arguments of other programs, so names are held to what this package
// gives.
func parseRecord(data []byte) (*Record, error) {
	r := new(Record)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, err
	}
	for i, h := range r.Hosts {
		if !validName(h.Name) || !validName(h.Netns) || !underlayNet.Contains(h.Address) {
			return nil, fmt.Errorf("hosts[%d]: %q is not a host of a mesh", i, h.Name)
		}
	}
	strange := func(c rune) bool { return c <= ' ' || c > '~' || c == '/' }
	for i, w := range r.Workloads {
		if !validName(w.Name) || !validName(w.Host) || strings.ContainsFunc(w.ENI+w.Interface, strange) {
			return nil, fmt.Errorf("workloads[%d]: %q is not a workload of a mesh", i, w.Name)
		}
	}
	return r, nil
}

const recordCopy = "mesh.json.copy"

func (l *Lab) save(r *Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write record of the mesh: %w", err)
	}
	data = append(data, '\n')
	return errors.Join(writeFile(l.StateDir("mesh.json"), data), writeFile(l.StateDir(recordCopy), data))
}

// writeFile replaces a file as a whole: 0600, with its directory made 0700.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	failpoint.Here("dev.written")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// lock keeps other dev commands off this mesh until unlock.
func (l *Lab) lock() (unlock func(), err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("namespaces, tunnels and BPF programs need root: run the command as root (sudo)")
	}
	if err := os.MkdirAll(l.RunDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", l.RunDir(), err)
	}
	f, err := os.OpenFile(l.RunDir("lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the mesh: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the mesh: %w", err)
	}
	return func() { f.Close() }, nil
}

func (l *Lab) step(format string, args ...any) { fmt.Fprintf(l.cfg.Out, format+"\n", args...) }

func (r *Record) removeWorkload(name string) {
	r.Workloads = slices.DeleteFunc(r.Workloads, func(w Workload) bool { return w.Name == name })
}
