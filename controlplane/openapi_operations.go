package controlplane

import (
	"net/netip"
	"time"

	"github.com/culvert-net/culvert/api"
)

// words are what the document says of an operation beyond its summary.
type words struct {
	description string
	example     any // of the body; nil where there is none
}

const (
	wholeList = "All that the caller may see, sorted by account, name and id. With watch=true it goes on as a " +
		"stream of events."
	unused = " DependencyViolation names what still needs it."
)

var (
	exampleTags    = map[string]string{"team": "payments"}
	exampleCSR     = []byte("PKCS #10 in DER")
	exampleKey     = "mB1oVn6vxDRjrbe6ZxvGoM9wWyb2Y3nD2X8u1O3sQkY="
	exampleTargets = []api.TargetRequest{{ENI: "ledger-1"}, {ENI: "ledger-2", Port: 8443}}
	exampleRule    = api.RuleRequest{Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: netip.MustParsePrefix("10.0.0.0/16"),
		Description: "the shop"}
	exampleDays     = 400
	exampleFlows    = uint32(10_000)
	exampleCaps     = api.CapsRequest{MaxFlows: &exampleFlows}
	exampleListener = api.ListenerRequest{Protocol: api.TCP, Port: 443, TargetGroup: "ledger", IdleTimeoutSeconds: 350}
	yes             = true
)

// operationWords are by operation id.
var operationWords = map[string]words{
	"create-account": {"An account owns resources and, through its API keys, is what a user acts for. Domains are " +
		"those in which it may " +
		"give services private names.", api.CreateAccountRequest{Name: "pay", Domains: []string{"pay.internal"}, Tags: exampleTags}},
	"list-accounts": {wholeList, nil},
	"get-account":   {"An ordinary caller sees its own account only.", nil},
	"delete-account": {"Removes an account that owns nothing any more, and with it its API keys, which end at " +
		"once." + unused,
		nil},
	"add-domain": {"From then on the account may give its services private names in the domain. Domains of two " +
		"accounts never overlap, and no service of another one has a name in it.",
		api.DomainRequest{Domain: "pay.internal"}},
	"remove-domain": {"A domain in which a service has its private name stays." + unused, nil},
	"create-api-key": {"The key is bound to one account, or is an administrator's. The answer holds the secret, " +
		"which is shown once; so an " +
		"Idempotency-Key is refused.", api.CreateAPIKeyRequest{Account: "pay", Name: "deploy"}},
	"list-api-keys":  {wholeList, nil},
	"delete-api-key": {"The key is good for nothing from then on; streams that it opened end.", nil},
	"create-token": {"With the token one machine may join the mesh, once. The answer holds the secret, which is " +
		"shown once; so an " +
		"Idempotency-Key is refused.", api.CreateTokenRequest{NodeName: "node-a", TTLSeconds: 3600}},
	"list-tokens":  {wholeList, nil},
	"delete-token": {"Nobody can join with it from then on. A node that has joined with it stays.", nil},

	"create-vpc": {"An isolated network. Its addresses may be those of any other VPC. Its default security group " +
		"lets in what comes from the " +
		"group itself, and everything out.", api.CreateVPCRequest{Name: "pay", CIDR: netip.MustParsePrefix("10.0.0.0/16"), Tags: exampleTags}},
	"list-vpcs": {wholeList, nil},
	"get-vpc":   {"By id or name.", nil},
	"modify-vpc": {"Fields that are left out stay as they " +
		"are.", api.ModifyVPCRequest{Forwarders: &[]string{"tls://192.0.2.53"}}},
	"delete-vpc": {"Removes a VPC without subnets, with its security groups." + unused, nil},
	"create-subnet": {"The first four addresses of a subnet and the last are reserved, as in AWS.",
		api.CreateSubnetRequest{VPC: "pay", Name: "pay-a", CIDR: netip.MustParsePrefix("10.0.1.0/24"), Zone: "a", Tags: exampleTags}},
	"list-subnets":  {wholeList, nil},
	"get-subnet":    {"By id or name.", nil},
	"delete-subnet": {"Removes a subnet without network interfaces." + unused, nil},

	"create-domain": {"A TXT record of verificationName must get verificationValue; the server looks for it each minute, for 72 hours. " +
		"Refused where the server was started without a resolver to ask.", api.CreateDomainRequest{Domain: "example.com", Tags: exampleTags}},
	"list-domains": {wholeList, nil},
	"get-domain":   {"By id or name.", nil},
	"verify-domain": {"It is looked for at once, and a domain that has failed is pendingVerification again. One that is verified stays so " +
		"unless the record is missed three times in a row.", nil},
	"delete-domain": {"Services have no private name in it any more." + unused, nil},
	"create-hosted-zone": {"Of several zones that a name lies in the most specific one answers; in a VPC at most one has a given domain.",
		api.CreateHostedZoneRequest{Domain: "corp.internal", VPCs: []string{"shop"}, Tags: exampleTags}},
	"list-hosted-zones":        {wholeList, nil},
	"get-hosted-zone":          {"By id, or by its domain where only one has it.", nil},
	"delete-hosted-zone":       {"Its names do not exist from then on.", nil},
	"associate-hosted-zone":    {"VPCs that see it already stay.", api.VPCsRequest{VPCs: []string{"shop"}}},
	"disassociate-hosted-zone": {"Its names do not exist there from then on.", api.VPCsRequest{VPCs: []string{"shop"}}},
	"change-records": {"First what is to be removed goes; then each set takes the place of the one of the same name and type. @ is the " +
		"domain itself; values are written as in a zone file.", api.ChangeRecordsRequest{
		Put:    []api.RecordSetRequest{{Name: "www.corp.internal", Type: "A", Values: []string{"10.0.1.5"}}},
		Remove: []api.RecordName{{Name: "old.corp.internal", Type: "A"}}}},

	"create-firewall-rule-group": {"A VPC has five at most, of different priorities; without one everything may be looked up.",
		api.CreateFirewallRuleGroupRequest{Name: "shop", VPCs: []string{"shop"}, Tags: exampleTags}},
	"list-firewall-rule-groups":  {wholeList, nil},
	"get-firewall-rule-group":    {"By id, or by name where only one has it.", nil},
	"delete-firewall-rule-group": {"Its VPCs may look up from then on what their other groups let pass.", nil},
	"associate-firewall-rule-group": {"VPCs that it decides for already stay; a priority changes it there.",
		api.AssociateFirewallRuleGroupRequest{VPCs: []string{"shop"}, Priority: &[]uint32{200}[0]}},
	"disassociate-firewall-rule-group": {"There may be looked up from then on what other groups let pass.", api.VPCsRequest{VPCs: []string{"shop"}}},
	"change-firewall-rules": {"Rules are removed before others are put.", api.ChangeFirewallRulesRequest{
		Put:    []api.FirewallRule{{Priority: 20, Action: api.FirewallBlock, Domains: []string{"*.example.net"}, BlockResponse: api.BlockNXDomain}},
		Remove: []uint32{10}}},
	"create-firewall-domain-list": {"Rules name it by domainListId, in the place of domains.",
		api.CreateFirewallDomainListRequest{Name: "trackers", Domains: []string{"*.example.net"}, Tags: exampleTags}},
	"list-firewall-domain-lists": {wholeList, nil},
	"get-firewall-domain-list":   {"By id or name.", nil},
	"change-firewall-domains": {"Rules that name the list go by it at once. ADD passes over what is there; REMOVE refuses what is not.",
		api.ChangeFirewallDomainsRequest{Operation: api.DomainsAdd, Domains: []string{"ads.example.com"}}},
	"delete-firewall-domain-list": {"Refused while a rule names it.", nil},

	"create-flow-log": {"Records are delivered as the account may see them, all that come from now on. One of a VPC, subnet, network interface or account " +
		"tells the traffic of workloads' own interfaces, one of an endpoint or service both ends of its flows.",
		api.CreateFlowLogRequest{Name: "shop", ResourceType: api.FlowLogVPC, Resource: "shop", TrafficType: api.TrafficAll,
			LogFormat: "${srcaddr} ${dstaddr} ${dstport} ${protocol} ${bytes} ${action} ${reason}", PerHourPartition: true, Tags: exampleTags}},
	"list-flow-logs": {wholeList, nil},
	"get-flow-log":   {"By id or name.", nil},
	"modify-flow-log": {"Fields that are left out stay as they are. Records that came before keep the form of before; files that wait go to the new place.",
		api.ModifyFlowLogRequest{OnLoss: &[]api.OnLoss{api.LossRefuse}[0]}},
	"delete-flow-log": {"What waits for its destination is not delivered any more; what was delivered stays.", nil},
	"create-resolver-rule": {"Of several rules that a name lies in the most specific one counts; names that are private in the VPC go to none.",
		api.CreateResolverRuleRequest{Domain: "example.com", VPCs: []string{"shop"}, Forwarders: []string{"tls://192.0.2.53"}, Tags: exampleTags}},
	"list-resolver-rules":        {wholeList, nil},
	"get-resolver-rule":          {"By id, or by its domain where only one has it.", nil},
	"modify-resolver-rule":       {"Fields that are left out stay as they are.", api.ModifyResolverRuleRequest{Forwarders: &[]string{"tls://192.0.2.53"}}},
	"associate-resolver-rule":    {"VPCs that it is for already stay.", api.VPCsRequest{VPCs: []string{"shop"}}},
	"disassociate-resolver-rule": {"There the VPCs' own forwarders answer the names again.", api.VPCsRequest{VPCs: []string{"shop"}}},
	"delete-resolver-rule":       {"The VPCs' own forwarders answer the names again.", nil},

	"create-query-log": {"What workloads of the VPCs ask the nodes' resolvers from then on is recorded, with what they are answered.",
		api.CreateQueryLogRequest{Name: "shop", VPCs: []string{"shop"}, Tags: exampleTags}},
	"list-query-logs":        {wholeList, nil},
	"get-query-log":          {"By id or name.", nil},
	"associate-query-log":    {"VPCs that it records already stay.", api.VPCsRequest{VPCs: []string{"shop"}}},
	"disassociate-query-log": {"Records that there are stay.", api.VPCsRequest{VPCs: []string{"shop"}}},
	"delete-query-log":       {"Records that there are stay.", nil},

	"create-eni": {"Interfaces of endpoints and load balancers come with those. A workload is attached to its " +
		"interface at the node, by " +
		"`culvert eni attach` there.", api.CreateENIRequest{Subnet: "pay-a", Name: "ledger-1", Address: netip.MustParseAddr("10.0.1.5"),
		SecurityGroups: []string{"default"}, Node: "node-b", Tags: exampleTags}},
	"list-enis": {wholeList, nil},
	"get-eni":   {"By id or name.", nil},
	"modify-eni": {"Fields that are left out stay as they are. Other groups apply to flows that are open, too.",
		api.ModifyENIRequest{SecurityGroups: &[]string{"web"}}},
	"delete-eni": {"Removes an interface of a workload." + unused, nil},
	"create-security-group": {"A new group lets nothing in and everything out.",
		api.CreateSecurityGroupRequest{VPC: "pay", Name: "web", Tags: exampleTags}},
	"list-security-groups":  {wholeList, nil},
	"get-security-group":    {"By id or name.", nil},
	"delete-security-group": {"A VPC's default group goes with the VPC only." + unused, nil},
	"authorize-ingress": {"Adds rules for what comes in: all of them or none. Rules only allow, so their order " +
		"never matters.",
		api.RulesRequest{Rules: []api.RuleRequest{exampleRule}}},
	"authorize-egress": {"Adds rules for what goes out: all of them or none. Rules only allow, so their order " +
		"never matters.",
		api.RulesRequest{Rules: []api.RuleRequest{exampleRule}}},
	"revoke-rule": {"Flows that no other rule allows end.", nil},

	"create-target-group": {"Receivers of one VPC, among which a load balancer spreads new flows.",
		api.CreateTargetGroupRequest{VPC: "pay", Name: "ledger", Protocol: api.TCP, Port: 443, Targets: exampleTargets, Tags: exampleTags}},
	"list-target-groups": {wholeList, nil},
	"get-target-group":   {"By id or name.", nil},
	"list-target-health": {"Of the group that is named, or of all. A watch tells of each change of a target's health.", nil},
	"get-target-health": {"By id or name of the group: its targets, the health of each as the node that hosts it last said, and how that " +
		"came about.", nil},
	"delete-target-group": {"Removes a group that no listener names." + unused, nil},
	"modify-target-group": {"Fields that are left out stay as they are. It holds for flows that are opened, and targets that are " +
		"deregistered, from then on; connectionTermination also for targets that drain.",
		api.ModifyTargetGroupRequest{ConnectionTermination: &yes}},
	"register-targets": {"All of them or none. A target that is there already " +
		"stays, with the weight that is given.", api.TargetsRequest{Targets: exampleTargets}},
	"deregister-targets": {"All of them or none. A target without port stands for every port of the " +
		"interface. They get no new flows, and keep those they have for the group's delay at least.",
		api.TargetsRequest{Targets: exampleTargets[:1]}},
	"create-load-balancer": {"It has one address in each of its subnets, which is what targets see as source.",
		api.CreateLoadBalancerRequest{VPC: "pay", Name: "ledger", Subnets: []string{"pay-a", "pay-b"}, SecurityGroups: []string{"default"},
			Listeners: []api.ListenerRequest{exampleListener}, Tags: exampleTags}},
	"list-load-balancers": {wholeList, nil},
	"get-load-balancer":   {"By id or name.", nil},
	"modify-load-balancer": {"Fields that are left out stay as they are. Flows that are open stay where they are.",
		api.ModifyLoadBalancerRequest{CrossZone: &yes}},
	"delete-load-balancer": {"Removes a load balancer that no service names." + unused, nil},
	"create-listener": {"Every endpoint of the services behind which this load balancer stands gets the port at once.",
		exampleListener},
	"delete-listener": {"Endpoints lose the port.", nil},

	"create-service": {"What stands behind the load balancers is offered to the accounts that are allowed.",
		api.CreateServiceRequest{Name: "ledger", LoadBalancers: []string{"ledger"}, AcceptanceRequired: true,
			AllowedPrincipals: []string{"shop"}, PrivateDNSName: "ledger.pay.internal",
			ClientIdentity: api.IdentityProxyProtocol, Tags: exampleTags}},
	"list-services": {wholeList, nil},
	"get-service":   {"By id or name. Who is no provider of it looks into the catalogue.", nil},
	"get-service-targets": {"By id or name of the service: its targets, and what each of them learns of clients, which may be less than the " +
		"service asks for.", nil},
	"modify-service": {"Fields that are left out stay as they " +
		"are.", api.ModifyServiceRequest{AcceptanceRequired: &yes}},
	"delete-service": {"Refused while an endpoint's connection is not rejected or at its end." + unused, nil},
	"allow-principals": {"Whom the caller allows sees the service in the catalogue and may make endpoints for it.",
		api.PrincipalsRequest{Principals: []string{"shop"}}},
	"disallow-principals": {"Endpoints that are there already stay: reject them to end them.",
		api.PrincipalsRequest{Principals: []string{"shop"}}},
	"list-connections": {"As the provider sees them: who is connected, and who waits. With watch=true it goes on " +
		"as a stream of events.",
		nil},
	"accept-connections": {"From then on the endpoints' flows pass. What was rejected may be accepted later.",
		api.EndpointsRequest{Endpoints: []string{"vpce-0a1b2c3d4e5f60718"}}},
	"modify-connections": {"Caps in place of the service's. Left out, the connections have the service's again.",
		api.ModifyConnectionsRequest{Endpoints: []string{"vpce-0a1b2c3d4e5f60718"}, Caps: &exampleCaps}},
	"reject-connections": {"Flows through them end, also those that are open.",
		api.EndpointsRequest{Endpoints: []string{"vpce-0a1b2c3d4e5f60718"}}},
	"list-catalogue": {"Services of any account that allows the caller's. With watch=true it goes on as a stream " +
		"of events.", nil},

	"create-endpoint": {"The endpoint gets one address in each of its subnets. Where the provider requires " +
		"acceptance, its state is " +
		"PendingAcceptance until then.", api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger",
		Subnets: []string{"shop-a"}, SecurityGroups: []string{"default"}, PrivateDNSEnabled: true, Tags: exampleTags,
		Addresses: map[string]netip.Addr{"shop-a": netip.MustParseAddr("10.0.1.77")}}},
	"list-endpoints": {wholeList, nil},
	"get-endpoint": {"By id or name. With waitSeconds the answer comes when the provider has decided, or after " +
		"that time.",
		nil},
	"modify-endpoint": {"Fields that are left out stay as they are. Only an endpoint that is Available can be changed.",
		api.ModifyEndpointRequest{PrivateDNSEnabled: &yes}},
	"delete-endpoint": {"Its connection, addresses and names go with it, and its flows end.", nil},

	"list-nodes":   {wholeList + " Who is no administrator sees what is needed to place workloads.", nil},
	"get-node":     {"By id or name. Who is no administrator sees what is needed to place workloads.", nil},
	"drain-node":   {"What is on the node goes on.", nil},
	"undrain-node": {"Interfaces can be bound to it again.", nil},
	"revoke-node": {"Its certificate and WireGuard key are good for nothing from then on, and the key of the " +
		"gossip is changed. There is no " +
		"way back: the machine may join as another node.", nil},
	"delete-node": {"Its name is free again." + unused, nil},

	"join": {"The token is the authentication. Asked again with the same token and key, as after an answer that " +
		"was lost, it gives " +
		"the same node.", api.JoinRequest{Token: "token-0a1b2c3d4e5f60718.SECRET.PIN", Name: "node-a", CSR: exampleCSR, PublicKey: exampleKey,
		Underlay: []string{"192.0.2.7"}, WireGuardPort: api.DefaultWireGuardPort, GossipPort: api.DefaultGossipPort, Version: "1.0.0"}},
	"renew": {"Also with a certificate that ended a short while ago. The one before is good until the new one is " +
		"first used.",
		api.RenewRequest{CSR: exampleCSR}},
	"rotate-key": {"The node's device must have the new key from then " +
		"on.", api.RotateKeyRequest{PublicKey: exampleKey}},
	"leave": {"Refused while interfaces are bound to the node, unless it is " +
		"forced.", api.LeaveRequest{Force: true}},
	"report-status": {"Grants nothing: it is shown, and compared with what was changed.", api.NodeStatus{Revision: 41,
		SeenAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Attached: []string{"eni-0a1b2c3d4e5f60718"}, Generation: 7}},
	"stream-view": {"A view is what the node may know, signed. It ends with the certificate that it was opened " +
		"with.", nil},
	"send-flows": {"Sending a record again is harmless: (boot, seq) identify it. Records about what the node has " +
		"nothing to do with are " +
		"counted as refused. Lines of kind seal close those before them: what they prove is kept as evidence, byte for byte; LogKeyUnknown: tell " +
		"the key that signed them, and send again.", nil},
	"report-log-key": {"Seals of the node's log are checked with it from then on. Keys that it told before stay good for what they signed.",
		api.LogKeyRequest{PublicKey: []byte("Ed25519 public key, 32 bytes.   ")}},
	"get-log-key": {"What checkpoints of the evidence are checked with. It should be learned over a way that the caller trusts, and kept.", nil},
	"stream-evidence": {"The whole Merkle log, the segments that were sealed in a span, widened to whole hours, and a manifest, as parts of files. " +
		"Where an account is acted for, only of nodes that wrote about it: segments also hold what is about others. A copy without its last line, " +
		"which says done, is not whole. Reading it is an audit event.", nil},
	"get-retention": {"One entry for each class. What is in the Merkle log is kept for ever.", nil},
	"modify-retention": {"Fields that are left out stay as they are. A shorter term is for what comes from then on. What was kept under a longer one " +
		"stays until that is over.", api.ModifyRetentionRequest{Days: &exampleDays, MinimumDays: &exampleDays}},
	"get-legal-holds": {"All of them, the oldest first.", nil},
	"create-legal-hold": {"Flow records and segments of the span that mention what it is about stay, by whole days and hours, until it is released. It " +
		"is about the VPC, service, endpoint or node that is named, else about the account that is acted for.",
		api.CreateLegalHoldRequest{VPC: "pay", From: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC),
			Reason: "case 4711"}},
	"remove-legal-hold": {"What it alone has kept is disposed of within the hour.", nil},

	"query-dns": {"Oldest first, of VPCs with a query log. Filters are joined by and. With follow=true it goes on with new " +
		"records as they come.", nil},
	"query-flows": {"Oldest first. Filters are joined by and. With follow=true it goes on with new records as " +
		"they come.", nil},
	"get-status": {"Counts are the caller's own; of everything for an administrator.", nil},
	"get-converged": {"With waitSeconds the answer comes when it is so, or after that time. Nodes that nothing is " +
		"heard of are not waited " +
		"for.", nil},
	"get-audited-resource": {"By id, also of what is gone. Of an endpoint connection the answer has what was allowed, by whom, and by which " +
		"policy: the service's principals, the security groups. An account sees what is its own. What is older than the server's own " +
		"part of the log stands in the Merkle log.", nil},
	"get-daily-reports": {"A report is made of each day, in UTC, when the day is over, and put into the Merkle log.", nil},
	"get-daily-report": {"What was refused, by whom and why; who decided about connections; what talked for the first time; what is missing " +
		"of the records; what was wrong with the server; and what came of verifying its own evidence of the day.", nil},
	"list-audit": {"Every change, every refusal, and every reading of logs, by whom and from where. Repetitions within a minute are one " +
		"event with a count. Filters are joined by and. Read further back with " +
		"before. In a watch revisions are sequence numbers: sinceRevision is the seq of the event to go on behind; where more " +
		"than 10,000 are newer, the watch is refused.", nil},
	"get-whois": {"Targets of services that tell clients' addresses see overlay addresses; so do packet captures in the tunnel. The owner " +
		"of the VPC is told all, the provider of the service that the address is on its way to is told the consumer's account, VPC, " +
		"interface and endpoint; to others the address does not exist.", nil},
	"explain-flow": {"The rules as they are now are asked, not the network. Of the other side's rules it says " +
		"that they are in the way, not what " +
		"they are.", nil},
}
