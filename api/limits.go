package api

// Limits. Each is written once, here; the control plane refuses what exceeds one (CodeLimitExceeded). What a node has room
// for stands in plan. Figures without a source are Culvert's own choice and bound memory or message size.
const (
	MaxAccounts               = 10_000
	MaxDomainsPerAccount      = 100
	MaxKeysPerAccount         = 100
	MaxNodes                  = 5_000
	MaxTokens                 = 10_000
	MaxVPCsPerAccount         = 100
	MaxSubnetsPerVPC          = 200 // AWS's default quota
	MaxENIsPerVPC             = 16_384
	MaxGroupsPerVPC           = 500
	MaxGroupsPerENI           = 5  // AWS's default quota; the datapath holds no more
	MaxRulesPerDirection      = 60 // of a group; AWS's default quota
	MaxTargetGroupsPerAccount = 1_000
	MaxTargetsPerGroup        = 1_000 // 65 slots each of a node's table (decision 0014)
	MaxLoadBalancersPerVPC    = 50
	MaxListenersPerLB         = 50 // AWS's default quota
	MaxSubnetsPerLB           = 16
	MaxServicesPerAccount     = 200
	MaxLBsPerService          = 10
	MaxPrincipalsPerService   = 1_000
	MaxPrivateNamesPerService = 10 // AWS has one
	MaxHostedZonesPerAccount  = 100
	MaxVPCsPerHostedZone      = 100
	MaxRecordSetsPerZone      = 1_000
	MaxRecordsPerSet          = 100
	MaxRecordValueLen         = 4_000 // bytes; AWS's limit
	MaxEndpointsPerVPC        = 50    // AWS's default quota
	MaxSubnetsPerEndpoint     = 16
	MaxConnectionsPerService  = 2_000
	MaxForwardersPerVPC       = 4
	MaxUnderlayPerNode        = 8
	MaxStatusNames            = 20  // in each list of a status
	MaxItemsPerRequest        = 100 // rules, targets, principals or endpoints in one call
	MaxResourceTags           = 50  // AWS's limit
	MaxTagKeyLen              = 128 // characters; AWS's limit
	MaxTagValueLen            = 256 // characters; AWS's limit
	MaxNameLen                = 63  // one DNS label
	MaxNodeNameLen            = 253 // a DNS name
	MaxZoneLen                = 32  // so that VPCE-ID-SUFFIX-ZONE fits a DNS label
	MaxDescriptionLen         = 255 // AWS's limit for rules
)

// An account's share of one node, of what the node's datapath holds (package plan): a quarter, so that no account keeps the
// others from a node. Only an administrator lets an account have more.
const (
	MaxENIsPerNodeAndAccount         = 256
	MaxAddressesPerNodeAndAccount    = 16_384 // one VPC that is full
	MaxServicesPerNodeAndAccount     = 4_096
	MaxNamesPerNodeAndAccount        = 16_384
	MaxGrantsPerNodeAndAccount       = 8_192
	MaxGrantTargetsPerNodeAndAccount = 32_768
)

// What a view holds of rules: of the groups in its VPCs, and of those that let consumers in. MaxRulesPerSet is the datapath's.
const (
	MaxGroupRulesPerNode              = 131_072
	MaxGroupRulesPerNodeAndAccount    = 32_768 // 273 groups that are full, or an even share where a node has less than all want
	MaxRulesPerSet                    = 320    // of one endpoint: five groups of 60 (AWS's limits), rounded up
	MaxAdmittedRulesPerNode           = 65_536
	MaxAdmittedRulesPerNodeAndAccount = 16_384 // of one consumer, or an even share where a node has less than all want
)

// What a view holds of targets behind the listeners that its node's workloads use, each listener's for itself: 8 MiB.
const (
	MaxListedTargetsPerNode           = 131_072
	MaxListedTargetsPerNodeAndAccount = 32_768 // of one account's VPCs, or an even share where a node has less than all want
)

// What a node checks of its targets, each in each target group for itself: some hundred a second at the default interval.
const (
	MaxHealthChecksPerNode           = 4_096
	MaxHealthChecksPerNodeAndAccount = 1_024 // of the targets' owner, or an even share where a node has less than all want
)

// Resolver rules of an account, and what a view holds of them: routes, one for each VPC that asks by a rule. A node keeps an answer cache
// and up to four forwarders for each.
const (
	MaxResolverRulesPerAccount     = 100
	MaxVPCsPerResolverRule         = 100
	MaxForwardersPerRule           = MaxForwardersPerVPC
	MaxRuleRoutesPerNode           = 4_096
	MaxRuleRoutesPerNodeAndAccount = 1_024 // and an even share of the node at most
)

// Flow logs: each reads the records of its account once more.
const (
	MaxFlowLogsPerAccount = 100
	MaxDestinationLen     = 1_024 // bytes
)

// The query firewall: groups and domain lists of an account, their rules, and bytes as FirewallRule.Size counts them: of what an account
// stores, of one group with the domains of the lists that its rules name, and of what a view holds, by even shares of accounts. 256 KiB are
// some 8,000 domains.
const (
	MaxFirewallRuleGroupsPerAccount = 100
	MaxVPCsPerFirewallRuleGroup     = 100
	MaxRulesPerFirewallRuleGroup    = 100 // AWS's default quota
	MaxDomainsPerFirewallRule       = 5_000
	MaxFirewallRuleGroupsPerVPC     = 5 // AWS's quota
	MaxDomainListsPerAccount        = 100
	MaxDomainsPerList               = 5_000
	MaxFirewallBytesPerAccount      = 256 << 10
	MaxFirewallRuleGroupBytes       = 256 << 10
	MaxFirewallBytesPerNode         = 4 << 20
	MaxFirewallPriority             = 10_000  // of rules in their group, and of groups in a VPC
	DefaultFirewallPriority         = 1_000   // of groups in a VPC
	MaxBlockOverrideTTL             = 604_800 // seconds; AWS's limit
)

// Query logs of an account, and the VPCs of each. AWS's quotas.
const (
	MaxQueryLogsPerAccount = 20
	MaxVPCsPerQueryLog     = 100
)

// What hosted zones take, in bytes as RecordSet.Size counts them: of one zone, of an account's together, of what a view holds.
const (
	MaxHostedZoneBytes           = 256 << 10
	MaxHostedZoneBytesPerAccount = 1 << 20
	MaxHostedZoneBytesPerNode    = 8 << 20
	MaxRecordTTL                 = 1<<31 - 1 // seconds; RFC 2181
	DefaultRecordTTL             = 300
)

// MaxViewBytes is how much JSON a view may be. It travels as base64 in one line, which a node cuts off at 64 MiB.
const MaxViewBytes = 32 << 20

// How often one API key, or one node, may ask: so many at once, and then so many a second. Administrators' keys may always.
const (
	ReadsPerSecond  = 100
	ReadBurst       = 400
	WritesPerSecond = 20
	WriteBurst      = 200
)

// How many watches may be open at a time: of one API key, and of all together.
const (
	MaxWatchesPerKey = 32
	MaxWatches       = 1024
)

// The answers that are kept for repeated calls of one API key, in number and bytes; each is kept for a day.
const (
	MaxAnswersPerKey     = 10_000
	MaxAnswerBytesPerKey = 4 << 20
)

// What the store keeps of the audit log, in bytes as they take room there: an eighth of the 4 GB of an embedded etcd, some 100,000
// events. What is older is in the Merkle log alone. 400 days let a yearly review look at a whole year.
const (
	MaxAuditBytes           = 512 << 20
	MaxAuditBytesPerAccount = 64 << 20
	AuditRetentionDays      = 400
)

// What one account may add to the audit log, in bytes; administrators may what they must. Of its changes the log has the resources as
// they were and are, at first so many bytes of them and then so many a day, and beyond that their hashes. Where all its events together
// are more than so many, it may only take away.
const (
	AuditDocumentsBurst  = 16 << 20
	AuditDocumentsPerDay = 32 << 20
	AuditBytesBurst      = 64 << 20
	AuditBytesPerDay     = 128 << 20
)

// MaxAuditSources is how many addresses, and resources, an audit event names that counts requests; the rest are one more. MaxAuditAsked
// bounds, in bytes, what it says of a name that somebody asked for.
const (
	MaxAuditSources = 10
	MaxAuditAsked   = 64
)

// VPC and subnet sizes in prefix bits, AWS's.
const (
	MinPrefixBits = 16
	MaxPrefixBits = 28
	// BlockBits is the size of an address block lent to a node.
	BlockBits = 28
)

// Priorities of endpoints for private names: the smaller goes first.
const (
	MinPrivateDNSPriority     = 1
	MaxPrivateDNSPriority     = 1000
	DefaultPrivateDNSPriority = 100
)

// Weights of targets: the range is that of AWS's target groups.
const (
	MaxTargetWeight     = 999
	DefaultTargetWeight = 100
)

// How long a deregistered target keeps its flows, in seconds (AWS's figures).
const (
	MaxDeregistrationDelay     = 3600
	DefaultDeregistrationDelay = 300
)

// Idle timeouts in seconds, AWS NLB's figures.
const (
	MinTCPIdleTimeout     = 60
	MaxTCPIdleTimeout     = 6000
	DefaultTCPIdleTimeout = 350
	UDPIdleTimeout        = 120
)

// What a node reports of its state.
const (
	MaxStatusErrors   = 100  // in one report
	MaxStatusErrorLen = 4096 // bytes
)

// Caps of an endpoint connection. The least rate lets a packet of 1500 bytes pass each second.
const (
	MaxCapConnectionsPerSecond = 10_000_000
	MaxCapFlows                = 100_000_000
	MinCapBitsPerSecond        = 12_000
	MaxCapBitsPerSecond        = 1_000_000_000_000
)

// Join tokens' lifetimes in seconds.
const (
	MinTokenTTL     = 60
	MaxTokenTTL     = 30 * 24 * 3600
	DefaultTokenTTL = 3600
)

// Default ports.
const (
	DefaultWireGuardPort = 51820
	DefaultGossipPort    = 7946
	DefaultServerPort    = 7443
)
