package api

import "net/netip"

// ServiceTargets is the answer of GET /v1/services/{id}/targets: what is behind a service, and what each target learns of clients.
type ServiceTargets struct {
	Service string `json:"serviceId"`
	// ClientIdentity is what the service asks for.
	ClientIdentity ClientIdentity  `json:"clientIdentity"`
	Targets        []ServiceTarget `json:"targets"` // by load balancer, listener, interface and port
}

// ServiceTarget is one target behind one listener.
type ServiceTarget struct {
	LoadBalancer  string        `json:"loadBalancerId"`
	Listener      string        `json:"listenerId"`
	Protocol      Protocol      `json:"protocol"`
	ListenerPort  uint16        `json:"listenerPort"`
	ENI           string        `json:"eniId"`
	ENIName       string        `json:"eniName,omitempty"`
	Address       netip.Addr    `json:"address,omitzero"`
	IPAddressType IPAddressType `json:"ipAddressType,omitempty"`
	Port          uint16        `json:"port"`
	Draining      bool          `json:"draining,omitempty"` // deregistered: it keeps its flows and gets no new ones
	// Sees is what it learns of clients whose flows open from now on; Reason says why that is not what the service asks for.
	Sees   ClientIdentity `json:"sees"`
	Reason string         `json:"reason,omitempty"`
}

// SeenBy is what a target of a service learns of clients of a listener's protocol, and why not what the service asks for.
func (s *Service) SeenBy(target *ENI, p Protocol) (sees ClientIdentity, reason string) {
	switch {
	case s.ClientIdentity == IdentityProxyProtocol && p != TCP:
		return IdentityLoadBalancer, "a header begins a TCP connection; " + string(p) + " has none"
	case s.ClientIdentity == IdentityClientAddress && !target.IPAddressType.HasIPv6():
		return IdentityLoadBalancer, "it has no IPv6: culvert eni modify " + target.ID + " --ip-address-type dualstack"
	case s.ClientIdentity == "":
		return IdentityLoadBalancer, ""
	}
	return s.ClientIdentity, ""
}
