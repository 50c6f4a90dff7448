package api

import (
	"net/netip"
	"time"
)

// View is what one node may know: computed by the control plane from a snapshot, signed, streamed to the node and kept on its disk.
// It holds nothing that the node does not need for what it hosts. Slices are sorted by their first field(s).
type View struct {
	Revision int64     `json:"revision"`
	IssuedAt time.Time `json:"issuedAt"`
	// MaxAgeSeconds: a node that has heard nothing newer for this long closes (default 72 h).
	MaxAgeSeconds uint32         `json:"maxAgeSeconds"`
	Mesh          Mesh           `json:"mesh"`
	Node          ViewNode       `json:"node"`
	Peers         []ViewPeer     `json:"peers"`
	Members       []ViewMember   `json:"members"` // whom to gossip with
	GossipKeys    [][]byte       `json:"gossipKeys"`
	VPCs          []ViewVPC      `json:"vpcs"`
	ENIs          []ViewENI      `json:"enis"`
	Addresses     []ViewAddress  `json:"addresses"`
	Groups        []ViewGroup    `json:"groups"`
	Endpoints     []ViewEndpoint `json:"endpoints"`
	Admitted      []ViewAdmitted `json:"admitted"`
	Grants        []ViewGrant    `json:"grants"`
	// LoadBalancers are those of local VPCs, for workloads of the same VPC: as endpoints and grants whose connection is the load
	// balancer. They stand apart because no endpoint's groups admit to them.
	LoadBalancers      []ViewEndpoint `json:"loadBalancers,omitempty"`
	LoadBalancerGrants []ViewGrant    `json:"loadBalancerGrants,omitempty"`
	Names              []ViewName     `json:"names"`
	// StandbyNames are private names of endpoints that other ones of the VPC go before, for as long as something behind those is well.
	StandbyNames  []ViewName         `json:"standbyNames,omitempty"`
	HostedZones   []ViewHostedZone   `json:"hostedZones,omitempty"`
	ResolverRules []ViewResolverRule `json:"resolverRules,omitempty"`
	Firewalls     []ViewFirewall     `json:"firewalls,omitempty"`
	// HealthChecks are of the targets that this node hosts, and asks.
	HealthChecks []ViewHealthCheck `json:"healthChecks,omitempty"`
}

// ViewNode is the node itself.
type ViewNode struct {
	ID     string    `json:"id"`
	Name   string    `json:"name"`
	Number uint32    `json:"number"`
	State  NodeState `json:"state"`
	// PublicKey is the WireGuard key that its peers know it by, base64; empty from a server that does not say so yet.
	PublicKey string `json:"publicKey,omitempty"`
	// BehindNAT as in Node.
	BehindNAT bool `json:"behindNat,omitempty"`
}

// ViewPeer is a node that this one exchanges tenants' packets with.
type ViewPeer struct {
	Node       string         `json:"nodeId"`
	Name       string         `json:"name"`
	Number     uint32         `json:"number"`
	PublicKey  string         `json:"publicKey"`
	Underlay   []string       `json:"underlay"`   // ADDRESS:PORT of its WireGuard socket, best first
	AllowedIPs []netip.Prefix `json:"allowedIPs"` // overlay prefixes it speaks for, its host address included
	BehindNAT  bool           `json:"behindNat,omitempty"`
}

// ViewMember is where another node gossips.
type ViewMember struct {
	Node    string `json:"nodeId"`
	Address string `json:"address"` // ADDRESS:PORT
}

// ViewVPC is a VPC of which this node hosts an ENI, or (Local false) one that it only exchanges packets with.
type ViewVPC struct {
	ID              string         `json:"id"`
	Account         string         `json:"account"`
	Number          uint32         `json:"number"`
	CIDR            netip.Prefix   `json:"cidr"`
	Subnets         []ViewSubnet   `json:"subnets,omitempty"`
	Forwarders      []string       `json:"forwarders,omitempty"`
	PlainForwarders bool           `json:"plainForwarders,omitempty"`
	Local           bool           `json:"local"`
	Blocks          []netip.Prefix `json:"blocks,omitempty"` // lent to this node
	QueryLog        bool           `json:"queryLog,omitempty"`
}

// ViewSubnet is a subnet of a local VPC.
type ViewSubnet struct {
	ID   string       `json:"id"`
	CIDR netip.Prefix `json:"cidr"`
	Zone string       `json:"zone"`
}

// ViewENI is a workload ENI that this node hosts.
type ViewENI struct {
	ID      string       `json:"id"`
	Account string       `json:"account"`
	Name    string       `json:"name,omitempty"`
	Number  uint32       `json:"number"`
	VPC     uint32       `json:"vpc"` // VPC number
	VPCID   string       `json:"vpcId"`
	Subnet  string       `json:"subnetId"`
	CIDR    netip.Prefix `json:"cidr"` // of the subnet
	Address netip.Addr   `json:"address"`
	// IPAddressType is "" for ipv4; here and below servers of before do not say it.
	IPAddressType IPAddressType `json:"ipAddressType,omitempty"`
	Groups        []string      `json:"groups"`
	// StrictLog: a flow log that covers it refuses flows that it cannot record; none is opened from or to it while the node's log
	// takes no records.
	StrictLog bool `json:"strictLog,omitempty"`
}

// ViewAddress is an address that exists in a VPC which this node hosts a part of (this node's own included).
type ViewAddress struct {
	VPC     uint32     `json:"vpc"` // VPC number
	Address netip.Addr `json:"address"`
	Type    ENIType    `json:"type"`
	// IPAddressType of a workload; endpoints and load balancers have both families.
	IPAddressType IPAddressType `json:"ipAddressType,omitempty"`
	ENI           string        `json:"eniId"`
	Number        uint32        `json:"number"`
	Groups        []string      `json:"groups"`
}

// ViewGroup is a security group that this view names. It has rules (without descriptions) if a workload of this node, an endpoint
// or a load balancer is in it.
type ViewGroup struct {
	ID      string `json:"id"`
	Number  uint32 `json:"number"`
	Ingress []Rule `json:"ingress"`
	Egress  []Rule `json:"egress"`
	// LeftOut says why the group's rules are not here, and nothing passes by them: they are more than a node takes.
	LeftOut string `json:"leftOut,omitempty"`
}

// ViewEndpoint is an Available endpoint in a VPC of which this node hosts a workload.
type ViewEndpoint struct {
	ID               string             `json:"id"`
	Connection       string             `json:"connectionId"`
	ConnectionNumber uint32             `json:"connectionNumber"`
	Service          string             `json:"serviceId"`
	ServiceName      string             `json:"serviceName"`
	VPC              uint32             `json:"vpc"`         // consumer's VPC number
	ProviderVPC      uint32             `json:"providerVpc"` // number
	Approver         string             `json:"approver"`
	Groups           []string           `json:"groups"`
	ENIs             []ViewEndpointENI  `json:"enis"`
	Listeners        []ViewListenerPool `json:"listeners"`
	Caps             Caps               `json:"caps,omitzero"` // this node's part: as many as there are nodes of the consumer's VPC
	// LeftOut says why the listeners are not here, and the endpoint so is closed: their targets are more than a node takes.
	LeftOut string `json:"leftOut,omitempty"`
}

// ViewEndpointENI is one address of an endpoint.
type ViewEndpointENI struct {
	ENI     string     `json:"eniId"`
	Number  uint32     `json:"number"`
	Address netip.Addr `json:"address"`
	Zone    string     `json:"zone"`
}

// ViewListenerPool is one listener with the targets behind it, for the consumer's node to pick from.
type ViewListenerPool struct {
	Listener           string       `json:"listenerId"`
	Protocol           Protocol     `json:"protocol"`
	Port               uint16       `json:"port"`
	IdleTimeoutSeconds uint32       `json:"idleTimeoutSeconds"`
	TargetGroup        uint32       `json:"targetGroup"` // number
	Targets            []ViewTarget `json:"targets"`
	TagNumbers         []TagNumber  `json:"tagNumbers"` // one per endpoint ENI
	// Resting are targets that keep their flows and get no new ones: of weight 0, deregistered, on draining nodes.
	Resting []ViewTarget `json:"resting,omitempty"`
	// Zonal: an endpoint ENI uses targets of its own zone, while there is one that takes new flows.
	Zonal bool `json:"zonal,omitempty"`
	// Sticky: a client's flows all go to one target, chosen by its address.
	Sticky bool `json:"sticky,omitempty"`
	// Health is nil where the targets' health is not asked for.
	Health *ViewPoolHealth `json:"health,omitempty"`
}

// ViewTarget is a target as a consumer's node sees it: nothing but where to send.
type ViewTarget struct {
	Address netip.Addr `json:"address"` // in the provider's VPC
	Port    uint16     `json:"port"`
	Zone    string     `json:"zone"`
	Weight  uint16     `json:"weight,omitempty"` // share of new flows; 0: DefaultTargetWeight
	// Leaving, among those that rest: it is on a draining node, and takes new flows where too few of the others are healthy.
	Leaving bool `json:"leaving,omitempty"`
}

// ViewGrant lets one (connection, endpoint ENI, listener) reach targets hosted on this node.
type ViewGrant struct {
	ConsumerVPC        uint32            `json:"consumerVpc"`
	Tag                uint16            `json:"tag"` // number, 1..32767
	Connection         string            `json:"connectionId"`
	ConnectionNumber   uint32            `json:"connectionNumber"`
	Endpoint           string            `json:"endpointId"` // whom it admits stands in the view's Admitted
	Service            string            `json:"serviceId"`
	ServiceName        string            `json:"serviceName"`
	ConsumerAccount    string            `json:"consumerAccount"`
	Approver           string            `json:"approver"`
	ProviderVPC        uint32            `json:"providerVpc"`
	DialedAddress      netip.Addr        `json:"dialedAddress"` // the endpoint ENI's
	Protocol           Protocol          `json:"protocol"`
	Port               uint16            `json:"port"` // the listener's
	IdleTimeoutSeconds uint32            `json:"idleTimeoutSeconds"`
	TargetGroup        uint32            `json:"targetGroup,omitempty"` // number
	LoadBalancerGroups []string          `json:"loadBalancerGroups"`
	Targets            []ViewGrantTarget `json:"targets"`       // hosted on this node only
	Caps               Caps              `json:"caps,omitzero"` // this node's part, by its targets' weights; equal in all grants of a connection
	// Draining are deregistered targets, which keep their flows and get no new ones.
	Draining []ViewGrantTarget `json:"draining,omitempty"`
	// ClientIdentity is the service's.
	ClientIdentity ClientIdentity `json:"clientIdentity,omitempty"`
}

// ViewAdmitted is whom an endpoint with grants on this node lets in: the inward rules of its groups, with the fewest prefixes that
// hold exactly the workloads of a group in place of the group. It stands once for all grants of the endpoint.
type ViewAdmitted struct {
	Endpoint string `json:"endpointId"`
	Rules    []Rule `json:"rules"`
	// LeftOut says why the rules are not here, and the endpoint so is closed: they are more than a node takes.
	LeftOut string `json:"leftOut,omitempty"`
}

// ViewGrantTarget is a local target and the load balancer address that it sees as source.
type ViewGrantTarget struct {
	ENI     string     `json:"eniId"`
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Source  netip.Addr `json:"source"`    // load balancer ENI's address in the target's zone, else its first
	SNATENI string     `json:"sourceEni"` // that ENI
}

// ViewName is a private name in a local VPC.
type ViewName struct {
	VPC      uint32     `json:"vpc"`
	Name     string     `json:"name"`    // lower case, no trailing dot; first label may be "*"
	Address  netip.Addr `json:"address"` // IPv4, or the IPv6 form of one
	Endpoint string     `json:"endpointId"`
	// Rank is 0 of the endpoint that goes first, and 1, 2, … of those that stand by.
	Rank uint16 `json:"rank,omitempty"`
}

// ViewHostedZone is a hosted zone of local VPCs.
type ViewHostedZone struct {
	ID         string      `json:"id"`
	Account    string      `json:"account"`
	Domain     string      `json:"domain"`
	VPCs       []uint32    `json:"vpcs"` // numbers, of local ones
	RecordSets []RecordSet `json:"recordSets"`
	// LeftOut says why the records are not here, and no name in the domain exists: they are more than a node takes.
	LeftOut string `json:"leftOut,omitempty"`
}

// ViewResolverRule is a resolver rule of local VPCs. LeftOut says why it has no forwarders: nobody is asked about the domain then.
type ViewResolverRule struct {
	ID              string   `json:"id"`
	Account         string   `json:"account"`
	Domain          string   `json:"domain"`
	VPCs            []uint32 `json:"vpcs"` // numbers, of local ones
	Forwarders      []string `json:"forwarders"`
	PlainForwarders bool     `json:"plainForwarders,omitempty"`
	LeftOut         string   `json:"leftOut,omitempty"`
}

// ViewFirewall is what decides about questions of local VPCs, each of which has one at most: a firewall rule group, or several in their
// order as one, whose rules are numbered anew. LeftOut says why it has no rules: nothing is answered then.
type ViewFirewall struct {
	ID      string             `json:"id"` // of several groups the first one's, and those of the others without prefix behind dots
	Account string             `json:"account"`
	VPCs    []uint32           `json:"vpcs"` // numbers, of local ones
	Rules   []ViewFirewallRule `json:"rules"`
	LeftOut string             `json:"leftOut,omitempty"`
}

// ViewFirewallRule is a rule whose domains are all there, and where it stands.
type ViewFirewallRule struct {
	FirewallRule
	Rule string `json:"rule,omitempty"` // GROUP/PRIORITY; "": of the group by its own priority
}

// SignedView is a View as it travels and rests: the exact bytes that were signed.
type SignedView struct {
	View      []byte `json:"view"`      // JSON of a View
	Signature []byte `json:"signature"` // Ed25519 over "culvert view v1\n" + View
}
