// Package local is the node's own API: what `culvert eni attach`, `culvert status` and `culvert explain` say to the agent
// on the same machine over a Unix socket that only root may open. HTTP with JSON; errors are api.Error.
package local

import (
	"net/netip"
	"time"

	"github.com/culvert-net/culvert/api"
)

// DefaultSocket is where an agent listens unless told otherwise.
const DefaultSocket = "/run/culvert/agent.sock"

// AttachRequest asks for an ENI in an existing network namespace. POST /v1/attach.
type AttachRequest struct {
	ENI          string `json:"eniId"`
	Netns        string `json:"netns"`               // path, such as /run/netns/cart or /proc/4711/ns/net
	Interface    string `json:"interface,omitempty"` // default eni0
	DefaultRoute bool   `json:"defaultRoute,omitempty"`
	KeepResolver bool   `json:"keepResolver,omitempty"` // leave resolv.conf alone
	Outbound     bool   `json:"outbound,omitempty"`     // the node's resolver asks forwarders inside the VPC through it
}

// AttachResponse tells what was set.
type AttachResponse struct {
	ENI       string `json:"eniId"`
	Interface string `json:"interface"`
	// Address and IPv6Address are those of the families that the interface has.
	Address     netip.Addr `json:"address,omitzero"`
	IPv6Address netip.Addr `json:"ipv6Address,omitzero"`
	MTU         int        `json:"mtu"`
	Resolver    netip.Addr `json:"resolver"`
	// Unnamed says why what runs there was not told of the resolver, though that was not asked for.
	Unnamed string `json:"unnamed,omitempty"`
}

// DetachRequest takes an ENI out again. POST /v1/detach.
type DetachRequest struct {
	ENI string `json:"eniId"`
}

// Status is the node in one look. GET /v1/status.
type Status struct {
	Node        string         `json:"nodeId"`
	Name        string         `json:"name"`
	Version     string         `json:"version"`
	LogKey      string         `json:"logKeyId,omitempty"` // of the key that seals the node's log, as seals and `flows verify` name it
	Revision    int64          `json:"revision"`           // of the view that is applied
	Received    int64          `json:"receivedRevision"`   // of the newest view that came; the server's own while connected
	Generation  uint32         `json:"generation"`
	ViewAge     time.Duration  `json:"viewAgeNanoseconds"`
	Connected   bool           `json:"connected"`             // to the control plane
	ServerError string         `json:"serverError,omitempty"` // why it is not
	Errors      []string       `json:"errors"`
	Peers       []PeerStatus   `json:"peers"`
	Members     []MemberStatus `json:"members"`
	Workloads   []Workload     `json:"workloads"`
	Counters    []Counter      `json:"counters"`
	Flows       int            `json:"flows"`
	Lost        uint64         `json:"lostRecords"`
	PendingSend int            `json:"pendingRecords"`
	Targets     Targets        `json:"targets"`
	// KernelTunnel: the tunnel is the kernel's WireGuard, not a process of ours.
	KernelTunnel bool `json:"kernelTunnel"`
	// TunnelLost are packets that the tunnel lost since its process started, by reason: no_session, no_room (the peer did not
	// say for long that it can take more), malformed, unfinished_out, unfinished_in (they went in and never came out). Absent
	// where the device does not tell.
	TunnelLost map[string]uint64 `json:"tunnelLostPackets,omitempty"`
}

// Targets are those of endpoint services, as this node has to do with them.
type Targets struct {
	Hosted    int `json:"hosted"`    // by this node, for services with an Available endpoint
	Attached  int `json:"attached"`  // of those, in a namespace that is there
	Endpoints int `json:"endpoints"` // that workloads of this node can use
	Without   int `json:"without"`   // of those, with a listener that has no target
	Checked   int `json:"checked"`   // by this node
	Unhealthy int `json:"unhealthy"` // of those
	Watched   int `json:"watched"`   // that workloads of this node can be sent to, and of whose health it was told
	Down      int `json:"down"`      // of those, unhealthy or on a host that does not answer
}

// PeerStatus is a tunnel.
type PeerStatus struct {
	Node          string    `json:"nodeId"`
	PublicKey     string    `json:"publicKey"`
	Underlay      string    `json:"underlay"`
	Name          string    `json:"name"`
	LastHandshake time.Time `json:"lastHandshake,omitzero"`
	// HandshakeAge is the time since LastHandshake by the node's own clock; 0: there was none.
	HandshakeAge time.Duration `json:"handshakeAgeNanoseconds,omitempty"`
	RxBytes      uint64        `json:"rxBytes"`
	TxBytes      uint64        `json:"txBytes"`
	// PathMTU is the largest packet of the tunnel that goes to the node in one piece, in bytes; 0: not known.
	PathMTU int `json:"pathMtu,omitempty"`
}

// MemberStatus is what gossip believes; a hint.
type MemberStatus struct {
	Node    string `json:"nodeId"`
	Address string `json:"address"`
	State   string `json:"state"`
}

// Workload is an attached ENI.
type Workload struct {
	ENI         string     `json:"eniId"`
	Address     netip.Addr `json:"address"` // while it is up, as IPv6Address, if it has the family
	IPv6Address netip.Addr `json:"ipv6Address,omitzero"`
	Netns       string     `json:"netns"`
	Interface   string     `json:"interface"`
	State       string     `json:"state"`             // up, pending, or an error
	Unnamed     string     `json:"unnamed,omitempty"` // why what runs there does not have the VPC's resolver
}

// Counter is a per-ENI, per-hook, per-reason count since boot.
type Counter struct {
	ENI     string `json:"eniId"` // id, or "" for packets of no ENI
	Hook    string `json:"hook"`
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Whois is whose an overlay address is, as this node knows it. GET /v1/whois?address=ADDRESS.
type Whois struct {
	api.Whois
	AskedNode string    `json:"askedNodeId"`
	Revision  int64     `json:"revision"` // of the node's view, from which it says so
	AsOf      time.Time `json:"asOf"`     // when the server issued that
}

// ExplainRequest asks what would happen to a new flow. POST /v1/explain; the answer is an api.Explanation.
type ExplainRequest struct {
	From     string       `json:"from"` // ENI id
	To       string       `json:"to"`   // name or address
	Port     uint16       `json:"port"`
	Protocol api.Protocol `json:"protocol"` // default tcp
}
