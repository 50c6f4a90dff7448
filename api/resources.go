package api

import (
	"net/netip"
	"time"
)

// Kind names a resource type; it is also the store's key prefix and the path segment of the HTTP API.
type Kind string

// The kinds of resources, in AWS's words where AWS has one.
const (
	KindAccount       Kind = "accounts"
	KindVPC           Kind = "vpcs"
	KindSubnet        Kind = "subnets"
	KindENI           Kind = "enis"
	KindSecurityGroup Kind = "security-groups"
	KindTargetGroup   Kind = "target-groups"
	KindLoadBalancer  Kind = "load-balancers"
	KindService       Kind = "services"
	KindEndpoint      Kind = "endpoints"
	KindConnection    Kind = "connections"
	KindNode          Kind = "nodes"
	KindJoinToken     Kind = "tokens"
	KindAPIKey        Kind = "api-keys"
	KindDomain        Kind = "domains"
	KindHostedZone    Kind = "hosted-zones"
	KindResolverRule  Kind = "resolver-rules"

	KindFirewallDomainList Kind = "firewall-domain-lists"
	KindFirewallRuleGroup  Kind = "firewall-rule-groups"
	KindFlowLog            Kind = "flow-logs"
	KindQueryLog           Kind = "query-logs"
)

// Meta is what every resource has.
type Meta struct {
	ID        string            `json:"id"`             // with AWS's prefix, such as vpc-0a1b2c3d4e5f60718
	Account   string            `json:"account"`        // id of the owning account, 12 digits; "" for mesh-wide resources
	Name      string            `json:"name,omitempty"` // label; see Validate for which kinds need it unique
	Tags      map[string]string `json:"tags,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
	Revision  int64             `json:"revision"` // the store's revision of the last write to this resource
}

// GetMeta returns the metadata for reading and writing.
func (m *Meta) GetMeta() *Meta { return m }

// Resource is any of the types below, as a pointer.
type Resource interface {
	GetMeta() *Meta
	Kind() Kind
}

// Account is a tenant.
type Account struct {
	Meta
	// Domains are the DNS names this account owns, lower case without trailing dot. A private DNS name must equal one or lie below one.
	Domains []string `json:"domains,omitempty"`
}

// VPC is an isolated network with its own address plan.
type VPC struct {
	Meta
	CIDR   netip.Prefix `json:"cidr"`   // IPv4, /16 to /28
	Number uint32       `json:"number"` // 1..2^32-1, never reused within the quarantine
	// IPv6CIDRBlock is the /64 of its IPv6 addresses, which follows from mesh and number.
	IPv6CIDRBlock netip.Prefix `json:"ipv6CidrBlock,omitzero"`
	// Forwarders answer names that are not private here. "tls://ADDRESS[:853]" or, only with PlainForwarders, "ADDRESS[:53]" and
	// "tcp://ADDRESS[:53]", which is never asked by UDP. Empty: NXDOMAIN.
	Forwarders      []string `json:"forwarders,omitempty"`
	PlainForwarders bool     `json:"plainForwarders,omitempty"`
}

// Subnet is a part of a VPC in one zone. Base, +1 (router), +2 (resolver), +3 and the last address are reserved, as in AWS.
type Subnet struct {
	Meta
	VPC  string       `json:"vpcId"`
	CIDR netip.Prefix `json:"cidr"` // IPv4, within the VPC's, /16 to /28
	// IPv6CIDRBlock is the subnet's part of the VPC's: /64 + the bits of CIDR.
	IPv6CIDRBlock netip.Prefix `json:"ipv6CidrBlock,omitzero"`
	Zone          string       `json:"zone"`
	Blocks        []Block      `json:"blocks,omitempty"` // address blocks lent to nodes
}

// Block is a range of a subnet's addresses lent to one node.
type Block struct {
	CIDR netip.Prefix `json:"cidr"` // default /28
	Node string       `json:"nodeId"`
}

// ENIType says what an ENI belongs to.
type ENIType string

// ENI types.
const (
	ENIWorkload     ENIType = "workload"
	ENIEndpoint     ENIType = "vpc_endpoint"
	ENILoadBalancer ENIType = "network_load_balancer"
)

// ENI is a network interface: one address in a subnet, in one family or both.
type ENI struct {
	Meta
	Type   ENIType `json:"type"`
	VPC    string  `json:"vpcId"`
	Subnet string  `json:"subnetId"`
	// Address is IPv4, of the subnet. An interface of type ipv6 has it too, as what IPv6Address is made of, and does not use it.
	Address       netip.Addr    `json:"address"`
	IPAddressType IPAddressType `json:"ipAddressType"`
	// IPv6Address is the IPv6 form of Address, if the interface has IPv6; see IPv6Address.
	IPv6Address    netip.Addr `json:"ipv6Address,omitzero"`
	SecurityGroups []string   `json:"securityGroupIds"`
	// Node is the node that hosts a workload ENI; "" while it is bound to none.
	Node string `json:"nodeId,omitempty"`
	// Owner is the endpoint or load balancer that an ENI of those types belongs to.
	Owner  string `json:"ownerId,omitempty"`
	Number uint32 `json:"number"`
	// Attached is reported by the node: the interface exists in a namespace there.
	Attached bool `json:"attached"`
}

// Protocol of a rule or listener.
type Protocol string

// Protocols.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	ICMP Protocol = "icmp" // IPv4's; in rules only
	// ICMPv6 in rules only.
	ICMPv6 Protocol = "icmpv6"
	All    Protocol = "-1" // AWS's word for every protocol; in rules only
)

// Rule is one allowance of a security group. Exactly one of CIDR and Group is set. A rule with a CIDR is for packets of its family
// only, one with a group for both.
type Rule struct {
	ID       string   `json:"id"` // sgr-…, given by the control plane
	Protocol Protocol `json:"protocol"`
	FromPort uint16   `json:"fromPort"` // for TCP and UDP; 0 with others
	ToPort   uint16   `json:"toPort"`
	// ICMPType and ICMPCode are for ICMP and ICMPv6. Echo requests (8, and 128 of ICMPv6) are what opens a flow.
	ICMPType    ICMPNumber   `json:"icmpType,omitzero"`
	ICMPCode    ICMPNumber   `json:"icmpCode,omitzero"` // any unless the type is said
	CIDR        netip.Prefix `json:"cidr,omitzero"`
	Group       string       `json:"groupId,omitempty"` // a security group of the same VPC: every ENI in it
	Description string       `json:"description,omitempty"`
}

// SecurityGroup is stateful and allows only.
type SecurityGroup struct {
	Meta
	VPC     string `json:"vpcId"`
	Ingress []Rule `json:"ingress"`
	Egress  []Rule `json:"egress"`
	Number  uint32 `json:"number"`
	// Default marks the group that a VPC is born with: all from itself, all outward.
	Default bool `json:"default,omitempty"`
}

// Target is one receiver in a target group.
type Target struct {
	ENI    string `json:"eniId"`
	Port   uint16 `json:"port"`   // 0: the group's port
	Weight uint16 `json:"weight"` // 0..999: its share of new flows among the group's; 0: none
}

// DrainingTarget is one that was deregistered: it keeps its flows and gets no new ones.
type DrainingTarget struct {
	ENI  string `json:"eniId"`
	Port uint16 `json:"port"`
	// Until: its flows are ended then, where the group ends them; else they go on until they end.
	Until time.Time `json:"until"`
}

// SourceIP is AWS's stickiness.type of a group whose targets go by the client's address.
const SourceIP = "source_ip"

// TargetGroup is a set of targets of one VPC.
type TargetGroup struct {
	Meta
	VPC      string   `json:"vpcId"`
	Protocol Protocol `json:"protocol"` // tcp or udp
	Port     uint16   `json:"port"`
	Targets  []Target `json:"targets"`
	Number   uint32   `json:"number"`
	// Stickiness is SourceIP, or empty: each flow's target goes by its addresses and ports.
	Stickiness string `json:"stickiness,omitempty"`
	// DeregistrationDelaySeconds is how long a target that was deregistered keeps its flows: 0..3600, default 300 (AWS's figures).
	DeregistrationDelaySeconds uint32 `json:"deregistrationDelaySeconds"`
	// ConnectionTermination: what flows are left when the delay is over are ended; without it they go on.
	ConnectionTermination bool             `json:"connectionTermination"`
	Draining              []DrainingTarget `json:"draining,omitempty"`
	// TargetTags: workloads' interfaces of the VPC that have all of these tags are registered, those that are there when the group is
	// made and those that are made later. One that is deregistered stays so.
	TargetTags  map[string]string `json:"targetTags,omitempty"`
	HealthCheck HealthCheck       `json:"healthCheck"`
	// UnhealthyConnectionTermination: flows of a target that is unhealthy are ended (AWS's default), at once or when
	// UnhealthyDrainingIntervalSeconds are over: 0..360000, default 0.
	UnhealthyConnectionTermination   bool   `json:"unhealthyConnectionTermination"`
	UnhealthyDrainingIntervalSeconds uint32 `json:"unhealthyDrainingIntervalSeconds"`
	// SlowStartSeconds is how long a target that has become healthy takes to get its whole share: 0 (at once) or 30..900.
	SlowStartSeconds      uint32         `json:"slowStartSeconds"`
	MinimumHealthyTargets MinimumHealthy `json:"minimumHealthyTargets"`
}

// Listener is a port of a load balancer.
type Listener struct {
	ID          string   `json:"id"` // listener-…
	Protocol    Protocol `json:"protocol"`
	Port        uint16   `json:"port"`
	TargetGroup string   `json:"targetGroupId"`
	// IdleTimeoutSeconds: TCP 60..6000, default 350; UDP 120 fixed (AWS NLB's figures).
	IdleTimeoutSeconds uint32 `json:"idleTimeoutSeconds"`
}

// LoadBalancer is the front of a service's targets. It has one ENI per subnet.
type LoadBalancer struct {
	Meta
	VPC            string     `json:"vpcId"`
	Subnets        []string   `json:"subnetIds"`
	SecurityGroups []string   `json:"securityGroupIds"`
	ENIs           []string   `json:"eniIds"`
	Listeners      []Listener `json:"listeners"`
	// CrossZone is AWS's load_balancing.cross_zone.enabled: targets of every zone are used, not only those of the zone whose address was
	// dialled. Default true.
	CrossZone bool `json:"crossZone"`
	// Number and TagNumbers are for flows from its own VPC, as a connection's.
	Number     uint32      `json:"number"`
	TagNumbers []TagNumber `json:"tagNumbers"`
}

// ServiceState is AWS's ServiceState.
type ServiceState string

// States of an endpoint service.
const (
	ServicePending   ServiceState = "Pending"
	ServiceAvailable ServiceState = "Available"
	ServiceDeleting  ServiceState = "Deleting"
	ServiceDeleted   ServiceState = "Deleted"
	ServiceFailed    ServiceState = "Failed"
)

// Caps bound what one endpoint connection may use of a service. 0: no bound.
type Caps struct {
	MaxConnectionsPerSecond uint32 `json:"maxConnectionsPerSecond,omitempty"` // new flows, of every protocol
	MaxFlows                uint32 `json:"maxFlows,omitempty"`                // at a time
	MaxBitsPerSecond        uint64 `json:"maxBitsPerSecond,omitempty"`        // of IP packets, in each direction
}

// ClientIdentity says how the targets of a service learn who a client is; decision 0016.
type ClientIdentity string

// Client identities. The first is the default.
const (
	IdentityLoadBalancer  ClientIdentity = "loadBalancer"    // not: they see an address of the load balancer
	IdentityProxyProtocol ClientIdentity = "proxyProtocolV2" // TCP: by a header before the first byte of each connection
	IdentityClientAddress ClientIdentity = "clientAddress"   // targets that have IPv6: they see its own overlay address
)

// Service is an endpoint service: what a provider offers. Its Name is unique in its account; consumers write ACCOUNT/NAME.
type Service struct {
	Meta
	State              ServiceState `json:"state"`
	LoadBalancers      []string     `json:"loadBalancerIds"`
	AcceptanceRequired bool         `json:"acceptanceRequired"`
	// AllowedPrincipals: account ids, or "*".
	AllowedPrincipals []string `json:"allowedPrincipals"`
	// PrivateDNSNames lie in domains that the account owns; lower case, "*." allowed as first label. Services may have some in common.
	PrivateDNSNames []string `json:"privateDnsNames,omitempty"`
	// PrivateDNSName is the first of them, the one that AWS has. Records of before have it alone: see PrivateNames.
	PrivateDNSName string `json:"privateDnsName,omitempty"`
	// Caps are those of each connection that has none of its own.
	Caps Caps `json:"caps,omitzero"`
	// ClientIdentity holds for connections that are opened from then on; "" is IdentityLoadBalancer.
	ClientIdentity ClientIdentity `json:"clientIdentity,omitempty"`
}

// ConnectionState is AWS's vpcEndpointState.
type ConnectionState string

// States of an endpoint and of its connection; see transitions.go for which follows which.
const (
	PendingAcceptance ConnectionState = "PendingAcceptance"
	Pending           ConnectionState = "Pending"
	Available         ConnectionState = "Available"
	Deleting          ConnectionState = "Deleting"
	Deleted           ConnectionState = "Deleted"
	Rejected          ConnectionState = "Rejected"
	Failed            ConnectionState = "Failed"
	Expired           ConnectionState = "Expired"
)

// Endpoint is a consumer's attachment to a service, and only that. It has one ENI per subnet.
type Endpoint struct {
	Meta
	VPC               string          `json:"vpcId"`
	Service           string          `json:"serviceId"`
	ServiceName       string          `json:"serviceName"` // ACCOUNT/NAME as at creation
	Subnets           []string        `json:"subnetIds"`
	SecurityGroups    []string        `json:"securityGroupIds"`
	ENIs              []string        `json:"eniIds"`
	IPAddressType     IPAddressType   `json:"ipAddressType"` // what its names answer with; its interfaces take both families
	State             ConnectionState `json:"state"`         // mirrors the connection's
	Connection        string          `json:"connectionId"`
	PrivateDNSEnabled bool            `json:"privateDnsEnabled"`
	// PrivateDNSPriority: of the VPC's endpoints with a private name in common the one with the smallest number answers it. 0: the default.
	PrivateDNSPriority uint16   `json:"privateDnsPriority,omitempty"`
	DNSNames           []string `json:"dnsNames"` // regional name first
	Message            string   `json:"message,omitempty"`
}

// TagNumber is the overlay tag number of one (endpoint ENI, listener) of a connection; see decision 0002.
type TagNumber struct {
	ENI      string `json:"eniId"`
	Listener string `json:"listenerId"`
	Number   uint16 `json:"number"` // 1..32767, unique in the consumer's VPC
}

// Connection is the pair of an endpoint and a service. Account is the provider's.
type Connection struct {
	Meta
	Endpoint        string          `json:"endpointId"`
	EndpointAccount string          `json:"endpointAccount"`
	EndpointVPC     string          `json:"endpointVpcId"`
	Service         string          `json:"serviceId"`
	LoadBalancer    string          `json:"loadBalancerId"`
	State           ConnectionState `json:"state"`
	TagNumbers      []TagNumber     `json:"tagNumbers"`
	Number          uint32          `json:"number"`
	// Approver is who accepted or rejected last: an API key's id, or "automatic" where acceptance is not required.
	Approver  string    `json:"approver,omitempty"`
	DecidedAt time.Time `json:"decidedAt,omitzero"`
	// Caps of this connection in place of the service's; nil: those.
	Caps *Caps `json:"caps,omitempty"`
}

// NodeState of a node.
type NodeState string

// Node states.
const (
	NodeReady    NodeState = "Ready"
	NodeDraining NodeState = "Draining"
	NodeRevoked  NodeState = "Revoked"
)

// Node is a host running an agent.
type Node struct {
	Meta
	Number    uint32    `json:"number"`
	PublicKey string    `json:"publicKey"` // WireGuard, base64
	Underlay  []string  `json:"underlayAddresses"`
	State     NodeState `json:"state"`
	// Serial of the newest certificate, hexadecimal.
	CertificateSerial string `json:"certificateSerial"`
	// PreviousSerial is that of the certificate which the newest one replaces: good until the newest one is used.
	PreviousSerial string `json:"previousSerial,omitempty"`
	Version        string `json:"version"`
	GossipPort     uint16 `json:"gossipPort"`
	// BehindNAT: its underlay address is where NAT sends its packets from, and others may not reach it there on their own.
	BehindNAT bool `json:"behindNat,omitempty"`
}

// NodeStatus is what a node last reported. It is kept apart from Node: it changes often and grants nothing.
type NodeStatus struct {
	Node       string    `json:"nodeId"`
	Revision   int64     `json:"revision"` // of the view the node has fully applied
	SeenAt     time.Time `json:"seenAt"`
	Errors     []string  `json:"errors,omitempty"`
	Attached   []string  `json:"attachedEniIds"`
	Generation uint32    `json:"generation"`
	// Run names the run of the agent that reports, at random. Runs follow each other; two that take turns are two machines.
	Run string `json:"agentRun,omitempty"`
	// TargetHealth is of all targets that the node checks, and HealthTransitions are those of the agent's run that it has not told the
	// server yet, oldest first. The server keeps them apart, and shows them to the target group's owner.
	TargetHealth      []TargetHealth     `json:"targetHealth,omitempty"`
	HealthTransitions []HealthTransition `json:"healthTransitions,omitempty"`
}

// JoinToken lets one node join, once.
type JoinToken struct {
	Meta
	Hash      string    `json:"hash,omitempty"` // SHA-256 of the secret, hexadecimal; the store keeps it, the HTTP layer blanks it
	ExpiresAt time.Time `json:"expiresAt"`
	UsedBy    string    `json:"usedBy,omitempty"` // node id
	// UsedKey is the SHA-256 of the key that the node had certified, hexadecimal: who holds it may ask again.
	UsedKey  string `json:"usedKey,omitempty"`
	NodeName string `json:"nodeName,omitempty"`
}

// APIKey is a user's credential, bound to one account. Admin keys have no account.
type APIKey struct {
	Meta
	Hash     string    `json:"hash,omitempty"` // as in JoinToken
	Admin    bool      `json:"admin"`
	LastUsed time.Time `json:"lastUsed,omitzero"`
}

// Mesh holds what the whole mesh shares.
type Mesh struct {
	Number uint32 `json:"number"` // 24 bits of the overlay prefix
	Region string `json:"region"`
}
