package api

// Limits. Each is written once, here; the control plane refuses what exceeds one (CodeLimitExceeded). What a node has room
// for stands in plan. Figures without a source are Culvert's own choice and bound memory or message size.
const (
	MaxAccounts                       = 10_000
	MaxDomainsPerAccount              = 100
	MaxKeysPerAccount                 = 100
	MaxNodes                          = 5_000
	MaxTokens                         = 10_000
	MaxVPCsPerAccount                 = 100
	MaxSubnetsPerVPC                  = 200 // AWS's default quota
	MaxENIsPerVPC                     = 16_384
	MaxGroupsPerVPC                   = 500
	MaxGroupsPerENI                   = 5  // AWS's default quota; the datapath holds no more
	MaxRulesPerDirection              = 60 // of a group; AWS's default quota
	MaxTargetGroupsPerAccount         = 1_000
	MaxTargetsPerGroup                = 1_000 // 65 slots each of a node's table (decision 0014)
	MaxLoadBalancersPerVPC            = 50
	MaxListenersPerLB                 = 50 // AWS's default quota
	MaxSubnetsPerLB                   = 16
	MaxServicesPerAccount             = 200
	MaxLBsPerService                  = 10
	MaxPrincipalsPerService           = 1_000
	MaxPrivateNamesPerService         = 10 // AWS has one
	MaxHostedZonesPerAccount          = 100
	MaxVPCsPerHostedZone              = 100
	MaxRecordSetsPerZone              = 1_000
	MaxRecordsPerSet                  = 100
	MaxRecordValueLen                 = 4_000 // bytes; AWS's limit
	MaxEndpointsPerVPC                = 50    // AWS's default quota
	MaxSubnetsPerEndpoint             = 16
	MaxConnectionsPerService          = 2_000
	MaxForwardersPerVPC               = 4
	MaxUnderlayPerNode                = 8
	MaxStatusNames                    = 20  // in each list of a status
	MaxItemsPerRequest                = 100 // rules, targets, principals or endpoints in one call
	MaxResourceTags                   = 50  // AWS's limit
	MaxTagKeyLen                      = 128 // characters; AWS's limit
	MaxTagValueLen                    = 256 // characters; AWS's limit
	MaxNameLen                        = 63  // one DNS label
	MaxNodeNameLen                    = 253 // a DNS name
	MaxZoneLen                        = 32  // so that VPCE-ID-ZONE fits a DNS label
	MaxDescriptionLen                 = 255 // AWS's limit for rules
	MaxENIsPerNodeAndAccount          = 256
	MaxAddressesPerNodeAndAccount     = 16_384 // one VPC that is full
	MaxServicesPerNodeAndAccount      = 4_096
	MaxNamesPerNodeAndAccount         = 16_384
	MaxGrantsPerNodeAndAccount        = 8_192
	MaxGrantTargetsPerNodeAndAccount  = 32_768
	MaxGroupRulesPerNode              = 131_072
	MaxGroupRulesPerNodeAndAccount    = 32_768 // 273 groups that are full, and an even share of the node at most
	MaxRulesPerSet                    = 320    // of one endpoint: five groups of 60 (AWS's limits), rounded up
	MaxAdmittedRulesPerNode           = 65_536
	MaxAdmittedRulesPerNodeAndAccount = 16_384 // of one consumer, and an even share of the node at most
	MaxListedTargetsPerNode           = 131_072
	MaxListedTargetsPerNodeAndAccount = 32_768 // of one account's VPCs, or an even share where a node has less than all want
	MaxHealthChecksPerNode            = 4_096
	MaxHealthChecksPerNodeAndAccount  = 1_024 // of the targets' owner, or an even share where a node has less than all want
	MaxResolverRulesPerAccount        = 100
	MaxVPCsPerResolverRule            = 100
	MaxForwardersPerRule              = MaxForwardersPerVPC
	MaxRuleRoutesPerNode              = 4_096
	MaxRuleRoutesPerNodeAndAccount    = 1_024 // and an even share of the node at most
	MaxFlowLogsPerAccount             = 100
	MaxDestinationLen                 = 1_024 // bytes
	MaxFirewallRuleGroupsPerAccount   = 100
	MaxVPCsPerFirewallRuleGroup       = 100
	MaxRulesPerFirewallRuleGroup      = 100 // AWS's default quota
	MaxDomainsPerFirewallRule         = 5_000
	MaxFirewallRuleGroupsPerVPC       = 5 // AWS's quota
	MaxDomainListsPerAccount          = 100
	MaxDomainsPerList                 = 5_000
	MaxFirewallBytesPerAccount        = 256 << 10
	MaxFirewallRuleGroupBytes         = 256 << 10
	MaxFirewallBytesPerNode           = 4 << 20
	MaxFirewallPriority               = 10_000  // of rules in their group, and of groups in a VPC
	DefaultFirewallPriority           = 1_000   // of groups in a VPC
	MaxBlockOverrideTTL               = 604_800 // seconds; AWS's limit
	MaxQueryLogsPerAccount            = 20
	MaxVPCsPerQueryLog                = 100
	MaxHostedZoneBytes                = 256 << 10
	MaxHostedZoneBytesPerAccount      = 1 << 20
	MaxHostedZoneBytesPerNode         = 8 << 20
	MaxRecordTTL                      = 1<<31 - 1 // seconds; RFC 2181
	DefaultRecordTTL                  = 300
)

// MaxViewBytes is how much JSON a view may be. It travels as base64 in one line, which a node cuts off at 64 MiB.
const MaxViewBytes = 32 << 20

// How often one API key, or one node, may ask: so many at once, and then so many a second. Administrators' keys may always.
const (
	ReadsPerSecond           = 100
	ReadBurst                = 400
	WritesPerSecond          = 20
	WriteBurst               = 200
	MaxWatchesPerKey         = 32
	MaxWatches               = 1024
	MaxAnswersPerKey         = 10_000
	MaxAnswerBytesPerKey     = 4 << 20
	MaxAuditEvents           = 500_000
	MaxAuditEventsPerAccount = 50_000
	AuditRetentionDays       = 400
	AuditDocumentsBurst      = 16 << 20
	AuditDocumentsPerDay     = 32 << 20
	AuditBytesBurst          = 64 << 20
	AuditBytesPerDay         = 128 << 20
	MaxAuditSources          = 10
	MaxAuditAsked            = 64
	MinPrefixBits            = 16
	MaxPrefixBits            = 28
	// BlockBits is the size of an address block lent to a node.
	BlockBits                  = 28
	MinPrivateDNSPriority      = 1
	MaxPrivateDNSPriority      = 1000
	DefaultPrivateDNSPriority  = 100
	MaxTargetWeight            = 999
	DefaultTargetWeight        = 100
	MaxDeregistrationDelay     = 3600
	DefaultDeregistrationDelay = 300
	MinTCPIdleTimeout          = 60
	MaxTCPIdleTimeout          = 6000
	DefaultTCPIdleTimeout      = 350
	UDPIdleTimeout             = 120
	MaxStatusErrors            = 100  // in one report
	MaxStatusErrorLen          = 4096 // bytes
	MaxCapConnectionsPerSecond = 10_000_000
	MaxCapFlows                = 100_000_000
	MinCapBitsPerSecond        = 12_000
	MaxCapBitsPerSecond        = 1_000_000_000_000
	MinTokenTTL                = 60
	MaxTokenTTL                = 30 * 24 * 3600
	DefaultTokenTTL            = 3600
	DefaultWireGuardPort       = 51820
	DefaultGossipPort          = 7946
	DefaultServerPort          = 7443
)
