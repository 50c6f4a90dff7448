package plan

import "github.com/culvert-net/culvert/api"

// Limits that Compile holds a plan to. What a view has beyond one is left out, closed, and named in the plan's Problems;
// see fit for which. The first two are the datapath's (bpf/lib/abi.h); the others bound memory and are the default
// capacities of the datapath's maps.
const (
	LimitRules  = api.MaxRulesPerSet
	LimitGroups = 5 // security groups of one ENI (AWS's limit)

	MaxVPCs         = 4_096 // of which something is hosted here
	MaxENIs         = 1_024 // attached here
	MaxAddresses    = 65_536
	MaxPeers        = 8_192
	MaxAllowedIPs   = 262_144
	MaxRuleSets     = 4_096
	MaxServices     = 16_384
	MaxTargetTables = 4_096
	MaxTargets      = 2_000 // of one target group: api.MaxTargetsPerGroup, and as many that only keep their flows
	MaxGrants       = 32_768
	MaxGrantTargets = 131_072
	MaxProbes       = 16_384
	MaxPaths        = 65_536
	MaxNames        = 65_536
	MaxForwarders   = 8
)

// MaxEndpointID is the longest id of an endpoint, in bytes, that a PROXY protocol header takes along: bpf/lib/abi.h. The
// control plane's have 22.
const MaxEndpointID = 24

// ResolverPort is the port, UDP and TCP, at which a node's resolver answers at the node's overlay address; workloads ask
// port 53 and never see it. It is not 53 because a DNS server of the host that listens on all addresses has that one, and
// it is below 1024 so that no unprivileged user of the host can take it while the agent is down.
const ResolverPort = 1023

// NodePort is the UDP port, at both ends, at which agents tell each other between their nodes' overlay addresses what concerns
// the nodes themselves: bpf/lib/abi.h. Nothing else passes between two nodes' own addresses. A datagram has at most
// MaxMessage bytes of payload: with its headers that is what every path carries. As ResolverPort it is below 1024: no
// unprivileged user of a host can have it and speak for the node, or hear.
const (
	NodePort   = 1022
	MaxMessage = 1200 - 40 - 8
)

// WorkloadMTUReserve is what a workload's MTU is lower than the tunnel's, in bytes: 20 by which the overlay's header is
// longer, 8 for a fragment header.
const WorkloadMTUReserve = 28
