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
	MaxTargets      = 655 // of one target group: 100 slots each in the largest table
	MaxGrants       = 32_768
	MaxGrantTargets = 131_072
	MaxNames        = 65_536
	MaxForwarders   = 8
)

// ResolverPort is the port, UDP and TCP, at which a node's resolver answers at the node's overlay address; workloads ask
// port 53 and never see it. It is not 53 because a DNS server of the host that listens on all addresses has that one, and
// it is below 1024 so that no unprivileged user of the host can take it while the agent is down.
const ResolverPort = 1023

// WorkloadMTUReserve is what a workload's MTU is lower than the tunnel's, in bytes: 20 by which the overlay's header is
// longer, 8 for a fragment header.
const WorkloadMTUReserve = 28
