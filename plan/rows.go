package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Row is a comparable value of a table; Key identifies it in its table and sorts.
type Row interface {
	comparable
	Key() string
}

// Plan is what one node must do. Tables are sorted by Key and have no duplicates. Same input, same bytes.
type Plan struct {
	Revision   int64  // of the view
	Generation uint32 // stamped into the datapath last; 0 means closed
	Config     Config

	Links        []Link
	Peers        []Peer
	AllowedIPs   []AllowedIP
	ENIs         []ENI
	Addresses    []Address
	RuleSets     []RuleSet
	Services     []Service
	TargetTables []TargetTable
	Grants       []Grant
	GrantTargets []GrantTarget
	Probes       []Probe
	Paths        []Path
	Quotas       []Quota
	Zones        []Zone
	Names        []Name
	HostedZones  []HostedZone
	Rules        []ResolverRule
	Firewalls    []Firewall

	// Problems name what was left out, closed, because it does not fit the datapath, while the rest of the view is good:
	// what one tenant fills must not hold up the others. Sorted.
	Problems []string
}

// Config is the datapath's one row of settings.
type Config struct {
	Mesh          uint32
	Node          uint32
	HostAddress   netip.Addr // overlay
	TunnelIfindex uint32
	TunnelMTU     uint16
	HostIfindex   uint32 // culvert-dp
	HostMAC       [6]byte
	DPMAC         [6]byte
	ResolverPort  uint16 // of the node's resolver at HostAddress; 0: 53
	ExpiresNS     uint64 // boot time; 0 never
}

// Link is a workload's interface: what agent/host makes.
type Link struct {
	ENI          string
	Number       uint32
	VPC          uint32
	Address      netip.Addr
	Families     Families
	IPv6Address  netip.Addr   // of an ENI that has IPv6
	IPv6Block    netip.Prefix // of its VPC, if so
	Subnet       netip.Prefix
	VPCCIDR      netip.Prefix
	MTU          int // bytes
	Netns        string
	Interface    string
	DefaultRoute bool
	Resolver     netip.Addr // IPv6 for an ENI that has no IPv4
	Search       string
}

// Key is the ENI's id.
func (l Link) Key() string { return l.ENI }

// Peer is a WireGuard peer. Underlay is invalid while unknown.
type Peer struct {
	PublicKey string // base64
	Node      string
	Underlay  netip.AddrPort
}

// Key is the public key.
func (p Peer) Key() string { return p.PublicKey }

// AllowedIP is one overlay prefix that a peer speaks for.
type AllowedIP struct {
	Prefix    netip.Prefix
	PublicKey string
}

// Key is the prefix: no two peers may hold the same.
func (a AllowedIP) Key() string { return a.Prefix.String() }

// Groups are up to five security group numbers, sorted, 0 unused.
type Groups [5]uint32

// ENI is a workload ENI that is up on this node.
type ENI struct {
	VPC          uint32
	Address      netip.Addr
	ID           string
	Number       uint32
	Ifindex      uint32
	MAC          [6]byte
	GatewayMAC   [6]byte
	Families     Families
	IngressRules uint32 // id of a RuleSet
	EgressRules  uint32
	Groups       Groups
	Account      uint32 // number in this plan
	Lane         uint8  // of the account, below Lanes; 0: it has none of its own
	StrictLog    bool   // no new flow while the node's flow log takes no records
}

// Key is VPC and address.
func (e ENI) Key() string { return vpcKey(e.VPC, e.Address) }

// AddressType says what an address of a VPC is; values are the datapath's.
type AddressType uint32

// Address types.
const (
	AddressWorkload     AddressType = 1
	AddressEndpoint     AddressType = 2
	AddressLoadBalancer AddressType = 3
	AddressResolver     AddressType = 4
)

// Address is something that exists in a VPC of this node.
type Address struct {
	VPC         uint32
	Address     netip.Addr
	Type        AddressType
	Families    Families
	ENI         string
	Number      uint32
	Rules       uint32 // endpoint, load balancer: ingress RuleSet
	EgressRules uint32 // load balancer
	Groups      Groups
}

// Key is VPC and address.
func (a Address) Key() string { return vpcKey(a.VPC, a.Address) }

// Rule allows. Protocol is the IANA number, 256 any.
// For ICMP the place of ports has type << 8 | code (ICMPPort).
// Group != 0: the peer must be in it, Prefix is then invalid.
type Rule struct {
	Protocol uint16
	PortLow  uint16
	PortHigh uint16
	Prefix   netip.Prefix
	Group    uint32
	ID       uint32 // number of the rule, stable while its text is; see RuleNumber
	Name     string // sgr-…
}

// RuleSet is an ordered, deduplicated list of rules, content-addressed: equal text, equal ID. Text makes the row comparable.
type RuleSet struct {
	ID   uint32
	Text string // canonical, one rule per line; ParseRules reads it back
}

// Key is the id.
func (r RuleSet) Key() string { return pad(uint64(r.ID)) }

// Service is one port of an endpoint ENI, on the consumer's node.
type Service struct {
	VPC         uint32
	Address     netip.Addr
	Protocol    uint8
	Port        uint16
	Tag         uint16
	Connection  uint32
	ProviderVPC uint32
	Table       uint32
	TableWidth  uint8 // the table's; 0: no target takes new flows
	Sticky      bool  // the target goes by the client's address alone
	EndpointENI uint32
	IdleSeconds uint32
	Endpoint    string // id
}

// Key is VPC, address, protocol, port.
func (s Service) Key() string {
	return vpcKey(s.VPC, s.Address) + "/" + pad(uint64(s.Protocol)) + "/" + pad(uint64(s.Port))
}

// TargetTable says which targets new flows go to. Targets are written once each in Text, the slots are computed from them
// by Slots.
type TargetTable struct {
	ID    uint32
	Width uint8  // bits that a slot takes in the datapath: 1, 2, 4, 8 or 16; 0 when no target takes new flows
	Text  string // one ADDRESS:PORT WEIGHT per line, sorted by address and port
}

// Key is the id.
func (t TargetTable) Key() string { return pad(uint64(t.ID)) }

// Grant lets one (consumer VPC, tag number) in, on the provider's node.
type Grant struct {
	ConsumerVPC   uint32
	Tag           uint16
	Connection    uint32
	ProviderVPC   uint32
	Admitted      uint32 // RuleSet
	LBRules       uint32 // RuleSet
	LBEgressRules uint32 // RuleSet
	DialedAddress netip.Addr
	DialedPort    uint16
	Protocol      uint8
	IdleSeconds   uint32
	Account       uint32 // consumer's, its number in this plan
	ConnectionID  string
	Endpoint      string // id
	ProxyHeader   bool   // targets get a PROXY protocol header; TCP only
	Inside        bool   // a load balancer for its own VPC: no endpoint admits, and sources have groups
	ClientAddress bool   // targets that have IPv6 see the client's own address
}

// Key is consumer VPC and tag.
func (g Grant) Key() string { return pad(uint64(g.ConsumerVPC)) + "/" + pad(uint64(g.Tag)) }

// GrantTarget is a target that a grant admits.
type GrantTarget struct {
	ConsumerVPC uint32
	Tag         uint16
	Address     netip.Addr
	Port        uint16
	Source      netip.Addr
	SourceENI   uint32
	Draining    bool   // deregistered: keeps its flows and gets no new ones
	Ports       uint32 // source ports toward the target that the connection is guaranteed
}

// Key is consumer VPC, tag, address, port.
func (g GrantTarget) Key() string {
	return pad(uint64(g.ConsumerVPC)) + "/" + pad(uint64(g.Tag)) + "/" + g.Address.String() + "/" + pad(uint64(g.Port))
}

// Probe is a target here that the node itself may open a TCP connection to, to see whether it is alive.
type Probe struct {
	VPC     uint32
	Address netip.Addr // the target's
	Port    uint16
	Source  netip.Addr // the load balancer's, which the target sees
}

// Key is VPC, address and port.
func (p Probe) Key() string { return vpcKey(p.VPC, p.Address) + "/" + pad(uint64(p.Port)) }

// Path is an overlay prefix whose node is reached with less than the tunnel's MTU. The longest prefix counts.
type Path struct {
	Prefix netip.Prefix // of 64 to 96 bits: a VPC's, a block of addresses, or one
	MTU    uint16       // bytes of an overlay packet
}

// Key is the prefix.
func (p Path) Key() string { return p.Prefix.String() }

// Zone is a VPC's name space.
type Zone struct {
	VPC        uint32
	ID         string // of the VPC; what errors say
	Account    string // id; what the resolver's limits count by
	CIDR       netip.Prefix
	Forwarders string // comma separated
	Plain      bool
	QueryLog   bool // its questions are recorded
}

// Key is the VPC.
func (z Zone) Key() string { return pad(uint64(z.VPC)) }

// Name is a private name.
type Name struct {
	VPC      uint32
	Name     string
	Address  netip.Addr // IPv4, or the IPv6 form of one
	Endpoint string
}

// Key is VPC, name, address.
func (n Name) Key() string { return pad(uint64(n.VPC)) + "/" + n.Name + "/" + n.Address.String() }

// HostedZone is a private hosted zone of VPCs of this node.
type HostedZone struct {
	ID      string
	Account string
	Domain  string
	VPCs    string // numbers, sorted, comma separated
	Text    string // one record a line: NAME TTL TYPE VALUE; sorted, those of one name and type together
}

// Key is the id.
func (z HostedZone) Key() string { return z.ID }

// ResolverRule sends questions about a domain to forwarders of its own, in VPCs of this node.
type ResolverRule struct {
	ID         string
	Domain     string
	VPCs       string // numbers, sorted, comma separated
	Forwarders string // comma separated; "": nobody is asked
	Plain      bool
}

// Key is the id.
func (r ResolverRule) Key() string { return r.ID }

// Firewall is a firewall rule group of VPCs of this node, or several as one.
type Firewall struct {
	ID     string
	VPCs   string // numbers, sorted, comma separated
	Text   string // a line for each rule; see Rules
	Closed bool   // nothing is answered
}

// Key is the id.
func (f Firewall) Key() string { return f.ID }

// Naming is what the node's resolver answers from.
type Naming struct {
	Zones       []Zone
	Names       []Name
	HostedZones []HostedZone
	Rules       []ResolverRule
	Firewalls   []Firewall
}

// Naming returns the plan's.
func (p *Plan) Naming() Naming {
	return Naming{Zones: p.Zones, Names: p.Names, HostedZones: p.HostedZones, Rules: p.Rules, Firewalls: p.Firewalls}
}

// Equal compares row by row.
func (n Naming) Equal(o Naming) bool {
	return slices.Equal(n.Zones, o.Zones) && slices.Equal(n.Names, o.Names) && slices.Equal(n.HostedZones, o.HostedZones) &&
		slices.Equal(n.Rules, o.Rules) && slices.Equal(n.Firewalls, o.Firewalls)
}

// Facts are what was observed on the host and what its user asked for.
type Facts struct {
	Generation  uint32
	Config      Config // TunnelIfindex, TunnelMTU, HostIfindex, HostMAC, DPMAC, ExpiresNS; the rest is Compile's
	Attachments []Attachment
	Ready       []ReadyLink
	PathMTU     map[string]uint16 // bytes of an overlay packet to a peer, by its public key; absent: the tunnel's
	Shares      Shares
	Health      map[HealthKey]HealthFact // of targets; what is not in it is unknown
}

// Attachment is a user's wish that an ENI be in a namespace.
type Attachment struct {
	ENI          string
	Netns        string // path that led to it
	Interface    string
	DefaultRoute bool
	KeepResolver bool      `json:",omitempty"` // leave resolv.conf alone
	Outbound     bool      `json:",omitempty"` // the node's resolver asks forwarders inside the VPC through it
	Namespace    Namespace `json:",omitzero"`  // zero: noted by an agent that did not look
}

// Namespace tells a network namespace from all others, whatever its path leads to later.
type Namespace struct {
	Boot    string // of the host: cookies begin anew with it
	Cookie  uint64 // the kernel's, given once in a boot
	Process bool   `json:",omitempty"` // its path names a process, not a namespace
}

// ReadyLink is a workload interface that exists.
type ReadyLink struct {
	ENI        string
	Ifindex    uint32
	MAC        [6]byte
	GatewayMAC [6]byte
}

func vpcKey(vpc uint32, a netip.Addr) string {
	b := a.As4()
	const hex = "0123456789abcdef"
	var s strings.Builder
	s.WriteString(pad(uint64(vpc)))
	s.WriteByte('/')
	for _, x := range b {
		s.WriteByte(hex[x>>4])
		s.WriteByte(hex[x&15])
	}
	return s.String()
}

// pad writes n with ten digits, so that text order is number order.
func pad(n uint64) string {
	var b [10]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return string(b[:])
}

func byKey[R Row](a, b R) int { return cmp.Compare(a.Key(), b.Key()) }
