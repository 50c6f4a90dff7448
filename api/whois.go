package api

import "net/netip"

// Whois is the answer of GET /v1/whois: whose an overlay address is. What the caller may not know, and what the address does not
// name, is empty.
type Whois struct {
	Address     netip.Addr `json:"address"`
	Account     string     `json:"accountId,omitempty"`
	AccountName string     `json:"accountName,omitempty"`
	VPC         string     `json:"vpcId,omitempty"`
	// VPCAddress is the IPv4 address in the VPC that the address was made of.
	VPCAddress netip.Addr `json:"vpcAddress,omitzero"`
	// ENI is the interface that has the address now; its name only for the account's own.
	ENI     string `json:"eniId,omitempty"`
	ENIName string `json:"eniName,omitempty"`
	Node    string `json:"nodeId,omitempty"` // of a node's own address; for administrators

	// LoadBalancer is the one that the address is on its way to inside its own VPC.
	LoadBalancer string `json:"loadBalancerId,omitempty"`

	// Of a consumer's address on its way to a service, the last four inside a VPC too:
	Connection    string     `json:"connectionId,omitempty"`
	Endpoint      string     `json:"endpointId,omitempty"`
	Service       string     `json:"serviceId,omitempty"`
	ServiceName   string     `json:"serviceName,omitempty"`  // ACCOUNT/NAME
	DialedAddress netip.Addr `json:"dialedAddress,omitzero"` // the endpoint's
	DialedPort    uint16     `json:"dialedPort,omitempty"`   // the listener's
	Protocol      Protocol   `json:"protocol,omitempty"`     // the listener's
	PacketFamily  string     `json:"packetFamily,omitempty"` // ipv4 or ipv6: of the consumer's packets
}
