package api

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Bodies of the HTTP API's requests and of those answers that are not a resource. Wherever a request names another
// resource, it may give the id or, where it is unambiguous among the caller's own, the name.

// CreateAccountRequest is the body of POST /v1/accounts.
type CreateAccountRequest struct {
	Name    string            `json:"name"`
	Domains []string          `json:"domains,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
}

// DomainRequest is the body of POST /v1/accounts/{id}/domains.
type DomainRequest struct {
	Domain string `json:"domain"`
}

// CreateAPIKeyRequest is the body of POST /v1/api-keys. Exactly one of Account and Admin is given.
type CreateAPIKeyRequest struct {
	Account string `json:"account,omitempty"` // id or name
	Name    string `json:"name,omitempty"`
	Admin   bool   `json:"admin,omitempty"`
}

// CreatedAPIKey is a new key with its secret, which is never shown again.
type CreatedAPIKey struct {
	APIKey
	Secret string `json:"secret"` // goes behind "Authorization: Bearer "
}

// CreateTokenRequest is the body of POST /v1/tokens.
type CreateTokenRequest struct {
	NodeName   string `json:"nodeName,omitempty"`   // when set, only a node of this name may use the token
	TTLSeconds int64  `json:"ttlSeconds,omitempty"` // 60 to 30 days; default one hour
}

// CreatedToken is a new join token with its secret, which is never shown again.
type CreatedToken struct {
	JoinToken
	Secret string `json:"secret"` // TOKENID.SECRET.PIN, the pin being the SHA-256 of the server's CA certificate
}

// CreateVPCRequest is the body of POST /v1/vpcs.
type CreateVPCRequest struct {
	Name            string            `json:"name,omitempty"`
	CIDR            netip.Prefix      `json:"cidr"`
	Forwarders      []string          `json:"forwarders,omitempty"`
	PlainForwarders bool              `json:"plainForwarders,omitempty"`
	Tags            map[string]string `json:"tags,omitempty"`
}

// ModifyVPCRequest is the body of PATCH /v1/vpcs/{id}; nil leaves a field as it is.
type ModifyVPCRequest struct {
	Forwarders      *[]string `json:"forwarders,omitempty"`
	PlainForwarders *bool     `json:"plainForwarders,omitempty"`
}

// CreateSubnetRequest is the body of POST /v1/subnets.
type CreateSubnetRequest struct {
	VPC  string            `json:"vpcId"`
	Name string            `json:"name,omitempty"`
	CIDR netip.Prefix      `json:"cidr"`
	Zone string            `json:"zone"`
	Tags map[string]string `json:"tags,omitempty"`
}

// CreateENIRequest is the body of POST /v1/enis. It makes a workload's interface.
type CreateENIRequest struct {
	Subnet         string            `json:"subnetId"`
	Name           string            `json:"name,omitempty"`
	Address        netip.Addr        `json:"address,omitzero"`           // default: a free one
	IPAddressType  IPAddressType     `json:"ipAddressType,omitempty"`    // default ipv4
	SecurityGroups []string          `json:"securityGroupIds,omitempty"` // default: the VPC's default group
	Node           string            `json:"nodeId,omitempty"`           // id or name; may be bound later
	Tags           map[string]string `json:"tags,omitempty"`
}

// ModifyENIRequest is the body of PATCH /v1/enis/{id}; nil leaves a field as it is. Node "" unbinds.
type ModifyENIRequest struct {
	IPAddressType  *IPAddressType `json:"ipAddressType,omitempty"`
	SecurityGroups *[]string      `json:"securityGroupIds,omitempty"`
	Node           *string        `json:"nodeId,omitempty"`
}

// CreateSecurityGroupRequest is the body of POST /v1/security-groups. A new group admits nothing and lets everything out.
type CreateSecurityGroupRequest struct {
	VPC  string            `json:"vpcId"`
	Name string            `json:"name"`
	Tags map[string]string `json:"tags,omitempty"`
}

// RulesRequest is the body of POST /v1/security-groups/{id}/ingress and …/egress. Ids of the rules are given by the server.
type RulesRequest struct {
	Rules []RuleRequest `json:"rules"`
}

// RuleRequest is a Rule to be made. Exactly one of CIDR and Group is given.
type RuleRequest struct {
	Protocol    Protocol     `json:"protocol"`
	FromPort    uint16       `json:"fromPort,omitempty"`
	ToPort      uint16       `json:"toPort,omitempty"`
	ICMPType    ICMPNumber   `json:"icmpType,omitzero"` // with icmp and icmpv6; default any
	ICMPCode    ICMPNumber   `json:"icmpCode,omitzero"` // with icmpType; default any
	CIDR        netip.Prefix `json:"cidr,omitzero"`
	Group       string       `json:"groupId,omitempty"`
	Description string       `json:"description,omitempty"`
}

// CreateTargetGroupRequest is the body of POST /v1/target-groups.
type CreateTargetGroupRequest struct {
	VPC      string          `json:"vpcId"`
	Name     string          `json:"name,omitempty"`
	Protocol Protocol        `json:"protocol"`
	Port     uint16          `json:"port"`
	Targets  []TargetRequest `json:"targets,omitempty"`
	// TargetTags: workloads' interfaces of the VPC that have all of these tags are registered, also those that are made later.
	TargetTags map[string]string `json:"targetTags,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	// Stickiness is "source_ip", or empty.
	Stickiness                 string  `json:"stickiness,omitempty"`
	DeregistrationDelaySeconds *uint32 `json:"deregistrationDelaySeconds,omitempty"` // 0..3600; default 300
	ConnectionTermination      bool    `json:"connectionTermination,omitempty"`
	GroupHealthRequest
}

// ModifyTargetGroupRequest is the body of PATCH /v1/target-groups/{id}; nil leaves a field as it is.
type ModifyTargetGroupRequest struct {
	Stickiness                 *string `json:"stickiness,omitempty"` // "" turns it off
	DeregistrationDelaySeconds *uint32 `json:"deregistrationDelaySeconds,omitempty"`
	ConnectionTermination      *bool   `json:"connectionTermination,omitempty"`
	GroupHealthRequest
}

// TargetsRequest is the body of POST /v1/target-groups/{id}/register and …/deregister.
type TargetsRequest struct {
	Targets []TargetRequest `json:"targets"`
}

// TargetRequest names a target, by the id, name or address of its network interface; with port 0, the group's port is used (when
// deregistering: every port of the ENI).
type TargetRequest struct {
	ENI    string  `json:"eniId"`
	Port   uint16  `json:"port,omitempty"`
	Weight *uint16 `json:"weight,omitempty"` // 0..999; default 100, and what a target has that is there; not when deregistering
}

// CreateLoadBalancerRequest is the body of POST /v1/load-balancers. At least one of VPC and Subnets is given.
type CreateLoadBalancerRequest struct {
	VPC            string            `json:"vpcId,omitempty"`
	Name           string            `json:"name,omitempty"`
	Subnets        []string          `json:"subnetIds,omitempty"`        // default: one of each zone
	SecurityGroups []string          `json:"securityGroupIds,omitempty"` // default: the VPC's default group
	Listeners      []ListenerRequest `json:"listeners,omitempty"`
	Tags           map[string]string `json:"tags,omitempty"`
	CrossZone      *bool             `json:"crossZone,omitempty"` // default true
}

// ModifyLoadBalancerRequest is the body of PATCH /v1/load-balancers/{id}; nil leaves a field as it is.
type ModifyLoadBalancerRequest struct {
	CrossZone *bool `json:"crossZone,omitempty"`
}

// ListenerRequest is the body of POST /v1/load-balancers/{id}/listeners.
type ListenerRequest struct {
	Protocol           Protocol `json:"protocol"`
	Port               uint16   `json:"port"`
	TargetGroup        string   `json:"targetGroupId"`
	IdleTimeoutSeconds uint32   `json:"idleTimeoutSeconds,omitempty"`
}

// CreateServiceRequest is the body of POST /v1/services.
type CreateServiceRequest struct {
	Name               string            `json:"name"`
	LoadBalancers      []string          `json:"loadBalancerIds"`
	AcceptanceRequired bool              `json:"acceptanceRequired,omitempty"`
	AllowedPrincipals  []string          `json:"allowedPrincipals,omitempty"` // account ids or names, or "*"
	PrivateDNSNames    []string          `json:"privateDnsNames,omitempty"`
	PrivateDNSName     string            `json:"privateDnsName,omitempty"` // of a client that knows one only: a list of it alone
	Caps               Caps              `json:"caps,omitzero"`
	ClientIdentity     ClientIdentity    `json:"clientIdentity,omitempty"` // default IdentityLoadBalancer
	Tags               map[string]string `json:"tags,omitempty"`
}

// CapsRequest changes caps; nil leaves one as it is, 0 takes it away.
type CapsRequest struct {
	MaxConnectionsPerSecond *uint32 `json:"maxConnectionsPerSecond,omitempty"`
	MaxFlows                *uint32 `json:"maxFlows,omitempty"`
	MaxBitsPerSecond        *uint64 `json:"maxBitsPerSecond,omitempty"`
}

// ModifyServiceRequest is the body of PATCH /v1/services/{id}; nil leaves a field as it is.
type ModifyServiceRequest struct {
	AcceptanceRequired  *bool        `json:"acceptanceRequired,omitempty"`
	PrivateDNSNames     *[]string    `json:"privateDnsNames,omitempty"` // all of them; empty removes them
	PrivateDNSName      *string      `json:"privateDnsName,omitempty"`  // of a client that knows one only; "" removes it
	AddLoadBalancers    []string     `json:"addLoadBalancerIds,omitempty"`
	RemoveLoadBalancers []string     `json:"removeLoadBalancerIds,omitempty"`
	Caps                *CapsRequest `json:"caps,omitempty"`
	// ClientIdentity: flows that are open keep the one that they were opened with.
	ClientIdentity *ClientIdentity `json:"clientIdentity,omitempty"`
}

// PrincipalsRequest is the body of POST /v1/services/{id}/allow and …/disallow.
type PrincipalsRequest struct {
	Principals []string `json:"principals"` // account ids or names, or "*"
}

// EndpointsRequest is the body of POST /v1/services/{id}/accept and …/reject.
type EndpointsRequest struct {
	Endpoints []string `json:"endpointIds"` // vpce-… or vpce-con-…
	// Caps of these connections in place of the service's; only with accept.
	Caps *CapsRequest `json:"caps,omitempty"`
}

// ModifyConnectionsRequest is the body of PATCH /v1/services/{id}/connections.
type ModifyConnectionsRequest struct {
	Endpoints []string `json:"endpointIds"` // vpce-… or vpce-con-…
	// Caps of these connections in place of the service's; nil: the service's again.
	Caps *CapsRequest `json:"caps,omitempty"`
}

// CatalogueEntry is a service as a consumer sees it.
type CatalogueEntry struct {
	ID                 string   `json:"id"`
	ServiceName        string   `json:"serviceName"` // ACCOUNT/NAME
	Account            string   `json:"account"`
	AcceptanceRequired bool     `json:"acceptanceRequired"`
	PrivateDNSNames    []string `json:"privateDnsNames,omitempty"`
	PrivateDNSName     string   `json:"privateDnsName,omitempty"` // the first of them
	Zones              []string `json:"zones"`
	Ports              []string `json:"ports"` // PORT/PROTOCOL, such as 443/tcp
}

// CreateEndpointRequest is the body of POST /v1/endpoints.
type CreateEndpointRequest struct {
	VPC               string                `json:"vpcId"`
	Service           string                `json:"service"` // ACCOUNT/NAME or vpce-svc-…
	Name              string                `json:"name,omitempty"`
	Subnets           []string              `json:"subnetIds,omitempty"`        // default: one of each zone
	SecurityGroups    []string              `json:"securityGroupIds,omitempty"` // default: the VPC's default group
	Addresses         map[string]netip.Addr `json:"addresses,omitempty"`        // chosen addresses by subnet, as in subnetIds
	PrivateDNSEnabled bool                  `json:"privateDnsEnabled,omitempty"`
	// PrivateDNSPriority is 1..1000, default 100.
	PrivateDNSPriority uint16            `json:"privateDnsPriority,omitempty"`
	IPAddressType      IPAddressType     `json:"ipAddressType,omitempty"` // default ipv4
	Tags               map[string]string `json:"tags,omitempty"`
}

// ModifyEndpointRequest is the body of PATCH /v1/endpoints/{id}; nil leaves a field as it is.
type ModifyEndpointRequest struct {
	PrivateDNSEnabled  *bool          `json:"privateDnsEnabled,omitempty"`
	PrivateDNSPriority *uint16        `json:"privateDnsPriority,omitempty"`
	IPAddressType      *IPAddressType `json:"ipAddressType,omitempty"`
	SecurityGroups     *[]string      `json:"securityGroupIds,omitempty"`
}

// List is the answer of every GET on a collection, sorted by account, name and id.
type List[T any] struct {
	Items    []T   `json:"items"`
	Revision int64 `json:"revision"` // of the picture it was read from
}

// Result is the answer of a mutation that leaves no resource to show.
type Result struct {
	Revision int64 `json:"revision"`
}

// Status is the answer of GET /v1/status.
type Status struct {
	Version       string       `json:"version"`
	Region        string       `json:"region"`
	Revision      int64        `json:"revision"`
	StartedAt     time.Time    `json:"startedAt"`
	Caller        Caller       `json:"caller"`
	Counts        map[Kind]int `json:"counts"` // the caller's own; of everything for an administrator
	NodesReady    int          `json:"nodesReady"`
	NodesTotal    int          `json:"nodesTotal"`
	NodesLive     int          `json:"nodesLive"` // with a stream, or heard of within the last minute
	CAFingerprint string       `json:"caFingerprint"`
	Converged     bool         `json:"converged"` // every live node has applied Revision
	// Pending are endpoint connections that wait for the caller to accept them; of all providers for an administrator.
	Pending int `json:"pendingAcceptance"`
	// WithoutTarget are names, ACCOUNT/NAME, of the caller's services that an endpoint can use and behind which no target is
	// attached; of all providers for an administrator. The first MaxStatusNames.
	WithoutTarget []string `json:"servicesWithoutTarget,omitempty"`
	// FailingOpen are likewise those of which so many targets are unhealthy that all are used.
	FailingOpen []string `json:"servicesFailingOpen,omitempty"`
	// FlowLogsFailing are names of flow logs that are not delivered, each with the reason. The first MaxStatusNames.
	FlowLogsFailing []string `json:"flowLogsFailing,omitempty"`
	// Waiting are names of live nodes that have not applied Revision, for administrators. The first MaxStatusNames.
	Waiting []string `json:"nodesWaiting,omitempty"`
	// Problems are what is wrong with the server itself, a sentence each, for administrators. The first MaxStatusNames.
	Problems []string `json:"problems,omitempty"`
	// AuditGrowth is what the audit log grew by since StartedAt, for administrators: the MaxStatusNames accounts with most.
	AuditGrowth []AuditGrowth `json:"auditGrowth,omitempty"`
}

// AuditGrowth is what an account's calls added to the audit log.
type AuditGrowth struct {
	Account string `json:"account,omitempty"` // "": of no account, such as administrators' and the server's own
	Bytes   uint64 `json:"bytes"`
}

// Caller is whom the server takes the caller for.
type Caller struct {
	Key         string `json:"keyId"`
	Admin       bool   `json:"admin"`
	Account     string `json:"account,omitempty"`
	AccountName string `json:"accountName,omitempty"`
}

// NodeReport is a node and what it last said. Fields that an ordinary caller need not know are empty for it.
type NodeReport struct {
	Node
	Live   bool        `json:"live"` // has a stream, or was heard of within the last minute
	Status *NodeStatus `json:"status,omitempty"`
}

// Convergence is the answer of GET /v1/converged?revision=N.
type Convergence struct {
	Revision  int64    `json:"revision"`
	Converged bool     `json:"converged"`
	Nodes     int      `json:"nodes"`             // live ones
	Waiting   []string `json:"waiting,omitempty"` // names of live nodes that have not applied the revision
}

// JoinRequest is the body of POST /v1/node/join.
type JoinRequest struct {
	Token         string   `json:"token"` // as printed by `culvert token create`
	Name          string   `json:"name"`
	CSR           []byte   `json:"csr"`                         // PKCS #10, DER, signed with an ECDSA P-256 or Ed25519 key
	PublicKey     string   `json:"publicKey"`                   // WireGuard, base64
	Underlay      []string `json:"underlayAddresses,omitempty"` // ADDRESS or ADDRESS:PORT; none: the connection's source
	WireGuardPort uint16   `json:"wireguardPort,omitempty"`     // for addresses without one; default 51820
	GossipPort    uint16   `json:"gossipPort,omitempty"`        // default 7946
	Version       string   `json:"version,omitempty"`
	// LocalAddress is the node's own address on its way to the server. Where the server sees another, there is NAT between.
	LocalAddress string `json:"localAddress,omitempty"`
}

// JoinResponse is the answer to a JoinRequest and, without token, to a RenewRequest.
type JoinResponse struct {
	Node        string    `json:"nodeId"`
	Number      uint32    `json:"number"`
	Mesh        Mesh      `json:"mesh"`
	Certificate []byte    `json:"certificate"` // X.509, DER
	CA          []byte    `json:"ca"`          // X.509, PEM
	ViewKey     []byte    `json:"viewKey"`     // Ed25519 public key that signs views
	NotAfter    time.Time `json:"notAfter"`
}

// RenewRequest is the body of POST /v1/node/renew. Fields left empty stay as they are.
type RenewRequest struct {
	CSR           []byte   `json:"csr"`
	PublicKey     string   `json:"publicKey,omitempty"`
	Underlay      []string `json:"underlayAddresses,omitempty"`
	WireGuardPort uint16   `json:"wireguardPort,omitempty"`
	GossipPort    uint16   `json:"gossipPort,omitempty"`
	Version       string   `json:"version,omitempty"`
	LocalAddress  string   `json:"localAddress,omitempty"` // as in JoinRequest
}

// RotateKeyRequest is the body of POST /v1/node/rotate-key.
type RotateKeyRequest struct {
	PublicKey string `json:"publicKey"` // WireGuard, base64: what the node is known by from now on
}

// LeaveRequest is the body of POST /v1/node/leave.
type LeaveRequest struct {
	Force bool `json:"force,omitempty"` // also while interfaces are placed on the node: it is revoked then, and not forgotten
}

// LeaveResponse is the answer to a LeaveRequest: what the mesh knows of the node from now on.
type LeaveResponse struct {
	Forgotten bool  `json:"forgotten"` // nothing; false: it is revoked, until an administrator deletes it
	Revision  int64 `json:"revision"`
}

// Kinds of what an envelope carries.
const (
	KindOfFlow  = ""      // a flow record
	KindOfQuery = "query" // a DNS query record
	KindOfSeal  = "seal"  // a seal, which closes the lines before it
)

// FlowEnvelope carries one line of a node's log to the control plane: what that needs to store and hand it on, and the line.
type FlowEnvelope struct {
	Kind     string          `json:"kind,omitempty"`
	Node     string          `json:"node"`     // set by the control plane from the certificate
	Boot     string          `json:"boot"`     // the agent's boot id; Seq counts within it
	Seq      uint64          `json:"seq"`      // 1, 2, 3, …; a gap is a loss
	Accounts []string        `json:"accounts"` // ids of the accounts that may read it; the control plane says who
	End      time.Time       `json:"end"`
	Record   json.RawMessage `json:"record"` // the line, byte for byte as it was written: a FlowRecord, a QueryLine or a seal
}

// FlowQuery selects flow records of the caller's account.
type FlowQuery struct {
	FlowFilter      // Limit: the newest so many; 0: 1000
	Follow     bool // go on with new records as they come; Until is ignored
}

// FlowReceipt is the answer of POST /v1/node/flows.
type FlowReceipt struct {
	Stored     int `json:"stored"`
	Duplicates int `json:"duplicates"`
	Refused    int `json:"refused"` // about what the node has nothing to do with; sending them again does not help
	// Segments are those that seals among the lines completed and that are kept as evidence now; SegmentsRefused those that do not check.
	Segments        int `json:"segments"`
	SegmentsRefused int `json:"segmentsRefused"`
}
