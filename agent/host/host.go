package host

import (
	"context"
	"errors"
	"net/netip"
)

// Names and figures that have no reason to differ between nodes.
const (
	// DefaultTunnel is the name of the tunnel's interface: the tunnel process's TUN, or the kernel's WireGuard.
	DefaultTunnel = "culvert0"
	// HostName is the host's own end of its veth pair: it holds the node's overlay address.
	HostName = "culvert-host"
	// DatapathName is the datapath's end of that pair: it has no address, programs are attached to it.
	DatapathName = "culvert-dp"
	// DefaultInterface is a workload's interface name.
	DefaultInterface = "eni0"
	// DefaultMTU is a workload's MTU in bytes on an underlay of 1500: 1420 in the tunnel, less 28 (IPv6 header
	// instead of IPv4, fragment header).
	DefaultMTU = 1392
	// DefaultTunnelMTU is the tunnel's MTU in bytes on an underlay of 1500: less 80 for IPv6, UDP and WireGuard.
	DefaultTunnelMTU = 1420
	// tunnelOverhead is what WireGuard over IPv6 takes, and jumbo the largest usual frame, in bytes.
	tunnelOverhead, jumbo = 80, 9000
)

// ResolverAddress is the link-local address at which every VPC's resolver answers, besides its base + 2.
var ResolverAddress = netip.AddrFrom4([4]byte{169, 254, 169, 253})

// MAC addresses of links that are the same on every host, locally administered. The gateway's is the same on each
// workload's host-side veth, so that a workload that moves keeps its neighbour entry.
var (
	GatewayMAC  = MAC{0x02, 0xc0, 0x00, 0x00, 0x00, 0x01}
	HostMAC     = MAC{0x02, 0xc0, 0x00, 0x00, 0x00, 0x02}
	DatapathMAC = MAC{0x02, 0xc0, 0x00, 0x00, 0x00, 0x03}
)

// Errors to be told apart with errors.Is.
var (
	// ErrNoLink: the interface named does not exist.
	ErrNoLink = errors.New("no such interface")
	// ErrNoRoute: no route leads to the address.
	ErrNoRoute = errors.New("no route")
	// ErrNoNamespace: the namespace named does not exist or is not a network namespace.
	ErrNoNamespace = errors.New("no such network namespace")
	// ErrForeign: a link has one of our names, but Culvert did not make it, or it is of a kind that none of ours has.
	ErrForeign = errors.New("interface was not made by culvert")
	// ErrOpenDoor: a link may not go up because nothing would drop what programs do not see.
	ErrOpenDoor = errors.New("door is open")
	// ErrConflict: what is already configured stands in the way. The error is a *ConflictError.
	ErrConflict = errors.New("conflict")
	// ErrKind: a link is of another kind than asked for.
	ErrKind = errors.New("interface is of another kind")
	// ErrNoWireGuard: the kernel cannot make WireGuard links.
	ErrNoWireGuard = errors.New("this kernel has no WireGuard")
	// ErrKept: a process has a resolver file until it ends, or until what covers the file is taken away. It is not worth
	// trying again, and all else was done.
	ErrKept = errors.New("it keeps the resolver file")
	// ErrSpec: a specification is not valid.
	ErrSpec = errors.New("invalid specification")
)

// OwnNamespaceError says that the namespace named is the host's, where no workload's interface may be. It is ErrSpec.
type OwnNamespaceError struct{ Path string }

func (e *OwnNamespaceError) Error() string { return e.Path + " is the host's own namespace" }

// Is makes errors.Is(err, ErrSpec) true.
func (e *OwnNamespaceError) Is(target error) bool { return target == ErrSpec }

// MAC is an Ethernet address in transmission order.
type MAC = [6]byte

// TunnelSpec is what culvert0 shall be like.
type TunnelSpec struct {
	Name       string // empty: DefaultTunnel
	MTU        int    // bytes, 1280..65535
	TxQueueLen int    // packets; 0 leaves it as it is

	// Kernel asks for a link of the kernel's WireGuard, which this package makes, instead of the tunnel process's TUN.
	Kernel bool
}

// Link is what was observed of an interface of the host. Ifindex 0: it does not exist.
type Link struct {
	Name       string
	Ifindex    int
	MTU        int // bytes
	TxQueueLen int // packets
	MAC        MAC
	Up         bool // administratively
	Closed     bool // the door is there: what no program takes is dropped; of the host's end, all but what HostSpec names
	Foreign    bool // neither ours nor a TUN: whatever its name, it is left alone
}

// HostSpec is what the host's own veth pair shall be like.
type HostSpec struct {
	Address netip.Addr   // overlay address of this node, IPv6, inside Mesh
	Mesh    netip.Prefix // fdXX:XXXX::/32: everything in the mesh is behind the pair
	MTU     int          // bytes, 1280..65535; the tunnel's
	// What the mesh reaches of the host, and nothing else: the resolver's port, UDP and TCP; the agent's, UDP, from other
	// nodes' own addresses; with Probes what answers the host's own TCP connections, but nothing that opens one. 0: shut.
	ResolverPort uint16
	NodePort     uint16
	Probes       bool
}

// HostLink is what was observed of the host's own veth pair. Absent ends have Ifindex 0.
type HostLink struct {
	Host     Link
	Datapath Link
	Address  netip.Addr // invalid: none
	// What the host's door lets through, as in HostSpec; nothing else if Host.Closed.
	ResolverPort uint16
	NodePort     uint16
	Probes       bool
}

// WorkloadSpec is one attachment of an ENI to a namespace. Comparable.
type WorkloadSpec struct {
	ENI          string       // id, 1..64 printable characters without space
	Netns        string       // path of a namespace file: /run/netns/NAME or /proc/PID/ns/net
	NetnsInode   uint64       // of the namespace that is meant, if Netns leads to another by now; 0: whatever is there
	Interface    string       // name inside the namespace; empty: DefaultInterface
	Address      netip.Addr   // IPv4, inside Subnet; with IPv6Only it only says which ENI this is
	Gateway      netip.Addr   // subnet base + 1
	Subnet       netip.Prefix // inside VPC
	VPC          netip.Prefix
	IPv6Address  netip.Addr   // invalid: none; its gateway is GatewayIPv6
	IPv6Block    netip.Prefix // the VPC's /64, with IPv6Address
	IPv6Only     bool         // no IPv4 address and no routes of IPv4
	MTU          int          // bytes, 1280..65535; 0: DefaultMTU
	DefaultRoute bool         // also route 0.0.0.0/0, and ::/0, to the gateway
	MAC          MAC          // of the workload's end, see WorkloadMAC
	// Resolver is VPC base + 2, or the IPv6 form of that. It is set in the file of a named namespace, or mounted over /etc/resolv.conf of the process that
	// Netns names. Invalid: resolv.conf is left alone.
	Resolver netip.Addr
	Search   string // search domains separated by spaces; may be empty
}

// WorkloadLink is what was observed of one attachment.
type WorkloadLink struct {
	ENI       string
	Interface string // inside the namespace, as asked
	Netns     string // path, as asked

	Name       string // host side
	Ifindex    int    // host side
	MTU        int    // bytes, host side
	GatewayMAC MAC    // host side
	Up         bool   // host side, administratively
	Closed     bool   // host side has its door

	// PeerPresent: the other end is in the namespace that Netns names now, under the name Interface. If false, the
	// attachment is of no use and Attach makes it anew; the fields below are then zero.
	PeerPresent bool
	PeerIfindex int
	PeerUp      bool
	MAC         MAC    // of the workload's end
	NetnsInode  uint64 // of the namespace

	// Unnamed says why what runs there does not have the resolver that was asked for. Only Attach tells it.
	Unnamed string
}

// Facts are settings of the host that this package reads and never changes. -1: the kernel does not have it.
type Facts struct {
	IPv4Forward     int // net.ipv4.ip_forward
	IPv6Forward     int // net.ipv6.conf.all.forwarding
	RPFilterAll     int // net.ipv4.conf.all.rp_filter
	RPFilterDefault int // net.ipv4.conf.default.rp_filter
	IPv6Disabled    int // net.ipv6.conf.all.disable_ipv6
}

// Path is how packets to an address leave the host.
type Path struct {
	Interface string
	// MTU in bytes: the route's, which holds what the kernel has learned of the way, or the interface's if that is less.
	MTU int
}

// Host is the edge to the kernel's network configuration. Implementations are safe for concurrent use and serialise
// their operations.
type Host interface {
	// Facts reads the host's settings.
	Facts() (Facts, error)

	// Path tells how packets to an underlay address would leave; ErrNoRoute.
	Path(to netip.Addr) (Path, error)

	// Link observes any interface of the host; Ifindex is 0 when it does not exist.
	Link(name string) (Link, error)

	// EnsureTunnel closes the door of the tunnel's interface, sets MTU and queue length and keeps IPv6 of the host's
	// stack off it. It does not put it up. The kernel's WireGuard it makes, down: ErrNoWireGuard, ErrKind when a TUN has
	// the name, ErrForeign when somebody else made it or it is of any other kind. A TUN is ErrNoLink as long as the tunnel
	// process has not made it; a WireGuard link of ours in its place is removed.
	EnsureTunnel(TunnelSpec) (Link, error)

	// EnsureHostLink makes the host's own veth pair or corrects it. Both doors are closed before the host's end goes up;
	// the datapath's stays as it is: down when new. ErrForeign, ErrConflict, ErrSpec.
	EnsureHostLink(HostSpec) (HostLink, error)
	// HostLink observes the pair.
	HostLink() (HostLink, error)
	// RemoveHostLink deletes the pair and its doors.
	RemoveHostLink() error

	// Attach makes an attachment or corrects it: link pair, door, addresses, routes, resolver file. The host side
	// stays as it is: down when new. ErrNoNamespace, ErrForeign, ErrConflict, ErrSpec; after an error nothing new is
	// left behind.
	Attach(WorkloadSpec) (WorkloadLink, error)
	// Detach deletes an attachment and puts the namespace back as it was, its resolver first. It needs no namespace: one
	// that is gone is fine. ErrKept: it is detached nevertheless.
	Detach(eni string) error
	// Workloads lists the attachments, sorted by ENI. One whose namespace or link is gone is absent or has
	// PeerPresent false.
	Workloads() ([]WorkloadLink, error)

	// SetUp puts an interface up or down. Up is refused with ErrOpenDoor unless the door is closed. Down succeeds when
	// the interface is absent, up is ErrNoLink.
	SetUp(ifname string, up bool) error
	// Closed tells whether an interface's door is closed. An absent interface has none.
	Closed(ifname string) (bool, error)

	// Fence makes sure that every link of ours that is there, and the tunnel's of that name, has its door and the settings
	// that keep the host's stack off it, whatever else is wrong. A host's door that is not as it should be lets nothing
	// through until EnsureHostLink.
	Fence(tunnel string) error
	// Repairs hands out once what operations since the last call found not as it was left, and put right, in one
	// sentence each, at most 64.
	Repairs() []string

	// Watch calls wake after something changed that this package or the datapath sets up, until ctx ends. It is a hint:
	// calls may be late, merged or without cause. It returns nil when ctx ends.
	Watch(ctx context.Context, wake func()) error

	// Sweep removes doors and resolver files of attachments whose link is gone, as with its namespace, but not those of the
	// ENIs to keep. What is mounted in processes it looks for once: it costs reading every process's mounts.
	Sweep(keep []string) error

	// Cleanup removes every link, door and resolver file that Culvert made on this host, the kernel's WireGuard
	// included. The tunnel's TUN stays, without its door.
	Cleanup() error
}
