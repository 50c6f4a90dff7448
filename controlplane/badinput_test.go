package controlplane

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// many is a JSON list of n times the same.
func many(n int, item string) string {
	return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
}

var badAccounts = []bad{
	{"create-account", "admin", nil, `{}`, api.CodeMissingParameter, "name"},
	{"create-account", "admin", nil, `{"name":"Shop"}`, api.CodeInvalidParameter, "name"},
	{"create-account", "admin", nil, `{"name":"shop"}`, api.CodeDuplicateName, "name"},
	{"create-account", "admin", nil, `{"name":"123456789012"}`, api.CodeInvalidParameter, "name"},
	{"create-account", "admin", nil, `{"name":"new","domains":["pay.internal"]}`, api.CodeConflictingDomain, "domains"},
	{"create-account", "admin", nil, `{"name":"new","domains":["a.pay.internal"]}`, api.CodeConflictingDomain, "domains"},
	{"create-account", "admin", nil, `{"name":"new","domains":["vpce.culvert.internal"]}`, api.CodeInvalidParameter, "domains"},
	{"create-account", "admin", nil, `{"name":"new","tags":{"":"x"}}`, api.CodeInvalidParameter, "tags"},
	{"get-account", "shop", args("nobody"), "", api.CodeAccountNotFound, "id"},
	{"delete-account", "admin", args("nobody"), "", api.CodeAccountNotFound, "id"},
	{"delete-account", "admin", args("pay"), "", api.CodeDependencyViolation, "id"},
	{"add-domain", "admin", args("nobody"), `{"domain":"a.b"}`, api.CodeAccountNotFound, "id"},
	{"add-domain", "admin", args("pay"), `{"domain":"shop.internal"}`, api.CodeConflictingDomain, "domain"},
	{"add-domain", "admin", args("pay"), `{"domain":"Upper.Case"}`, api.CodeInvalidParameter, "domain"},
	{"remove-domain", "admin", args("pay", "other.internal"), "", api.CodeDomainNotFound, "domain"},
	{"remove-domain", "admin", args("pay", "pay.internal"), "", api.CodeDependencyViolation, "id"},
	{"create-api-key", "admin", nil, `{}`, api.CodeInvalidCombination, "account"},
	{"create-api-key", "admin", nil, `{"admin":true,"account":"pay"}`, api.CodeInvalidCombination, "account"},
	{"create-api-key", "admin", nil, `{"account":"nobody"}`, api.CodeAccountNotFound, "account"},
	{"create-api-key", "admin", nil, `{"account":"pay","name":"-"}`, api.CodeInvalidParameter, "name"},
	{"delete-api-key", "admin", args("first-admin"), "", api.CodeDependencyViolation, "id"},
	{"delete-api-key", "admin", args("nothing"), "", api.CodeKeyNotFound, "id"},
	{"create-token", "admin", nil, `{"ttlSeconds":59}`, api.CodeInvalidParameter, "ttlSeconds"},
	{"create-token", "admin", nil, `{"ttlSeconds":2592001}`, api.CodeInvalidParameter, "ttlSeconds"},
	{"create-token", "admin", nil, `{"nodeName":"Host A"}`, api.CodeInvalidParameter, "nodeName"},
	{"delete-token", "admin", args("nothing"), "", api.CodeTokenNotFound, "id"},
}

var badNetworks = []bad{
	{"create-vpc", "shop", nil, `{}`, api.CodeMissingParameter, "cidr"},
	{"create-vpc", "shop", nil, `{"cidr":"nonsense"}`, api.CodeInvalidParameter, "cidr"},
	{"create-vpc", "shop", nil, `{"cidr":"fd00::/16"}`, api.CodeInvalidParameter, "cidr"},
	{"create-vpc", "shop", nil, `{"cidr":"10.0.0.1/16"}`, api.CodeVPCRange, "cidr"},
	{"create-vpc", "shop", nil, `{"cidr":"10.0.0.0/15"}`, api.CodeVPCRange, "cidr"},
	{"create-vpc", "shop", nil, `{"cidr":"8.8.0.0/16"}`, api.CodeVPCRange, "cidr"},
	{"create-vpc", "shop", nil, `{"cidr":"10.0.0.0/16","name":"shop"}`, api.CodeDuplicateName, "name"},
	{"create-vpc", "shop", nil, `{"cidr":"10.0.0.0/16","forwarders":["1.1.1.1"]}`, api.CodeInvalidParameter, "forwarders"},
	{"get-vpc", "shop", args(noVPC), "", api.CodeVPCNotFound, "id"},
	{"modify-vpc", "shop", args("shop"), `{"forwarders":["x"]}`, api.CodeInvalidParameter, "forwarders"},
	{"modify-vpc", "shop", args("pay"), `{}`, api.CodeVPCNotFound, "id"},
	{"delete-vpc", "shop", args("shop"), "", api.CodeDependencyViolation, "id"},
	{"create-subnet", "shop", nil, `{"vpcId":"pay","cidr":"10.0.9.0/24","zone":"a"}`, api.CodeVPCNotFound, "vpcId"},
	{"create-subnet", "shop", nil, `{"vpcId":"","cidr":"10.0.9.0/24","zone":"a"}`, api.CodeMissingParameter, "vpcId"},
	{"create-subnet", "shop", nil, `{"vpcId":"shop","cidr":"10.9.0.0/24","zone":"a"}`, api.CodeSubnetRange, "cidr"},
	{"create-subnet", "shop", nil, `{"vpcId":"shop","cidr":"10.0.1.128/25","zone":"a"}`, api.CodeSubnetConflict, "cidr"},
	{"create-subnet", "shop", nil, `{"vpcId":"shop","cidr":"10.0.9.0/24","zone":"A"}`, api.CodeInvalidParameter, "zone"},
	{"create-subnet", "shop", nil, `{"vpcId":"shop","cidr":"10.0.9.0/29","zone":"a"}`, api.CodeSubnetRange, "cidr"},
	{"get-subnet", "shop", args("pay-a"), "", api.CodeSubnetNotFound, "id"},
	{"delete-subnet", "shop", args("shop-a"), "", api.CodeDependencyViolation, "id"},
	{"create-eni", "shop", nil, `{"subnetId":"pay-a"}`, api.CodeSubnetNotFound, "subnetId"},
	{"create-eni", "shop", nil, `{"subnetId":"shop-a","address":"10.0.1.2"}`, api.CodeAddressInvalid, "address"},
	{"create-eni", "shop", nil, `{"subnetId":"shop-a","address":"10.0.2.9"}`, api.CodeAddressInvalid, "address"},
	{"create-eni", "shop", nil, `{"subnetId":"shop-a","address":"10.0.1.4"}`, api.CodeAddressInUse, "address"},
	{"create-eni", "shop", nil, `{"subnetId":"shop-a","address":"::1"}`, api.CodeAddressInvalid, "address"},
	{"create-eni", "shop", nil, `{"subnetId":"shop-a","nodeId":"nowhere"}`, api.CodeNodeNotFound, "nodeId"},
	{"create-eni", "shop", nil, `{"subnetId":"shop-a","name":"cart"}`, api.CodeDuplicateName, "name"},
	{"create-eni", "shop", nil, `{"subnetId":"shop-a","securityGroupIds":["` + noGroup + `"]}`, api.CodeGroupNotFound,
		"securityGroupIds"},
	{"get-eni", "shop", args(noENI), "", api.CodeENINotFound, "id"},
	{"modify-eni", "shop", args("cart"), `{"nodeId":"nowhere"}`, api.CodeNodeNotFound, "nodeId"},
	{"modify-eni", "shop", args("cart"), `{"securityGroupIds":["web"]}`, api.CodeGroupNotFound, "securityGroupIds"},
	{"delete-eni", "pay", args("ledger"), "", api.CodeDependencyViolation, "id"},
	{"create-security-group", "shop", nil, `{"vpcId":"shop","name":"default"}`, api.CodeDuplicateName, "name"},
	{"create-security-group", "shop", nil, `{"vpcId":"shop","name":""}`, api.CodeInvalidParameter, "name"},
	{"get-security-group", "shop", args("web"), "", api.CodeGroupNotFound, "id"},
	{"get-security-group", "shop", args("default"), "", api.CodeAmbiguousName, "id"},
	{"delete-security-group", "pay", args("default"), "", api.CodeDependencyViolation, "id"},
	{"authorize-ingress", "pay", args("web"), `{"rules":[]}`, api.CodeMissingParameter, "rules"},
	{"authorize-ingress", "pay", args("web"), `{"rules":[{"protocol":"tcp","cidr":"10.0.0.0/8"}]}`, api.CodeInvalidParameter,
		"fromPort"},
	{"authorize-ingress", "pay", args("web"), `{"rules":[{"protocol":"tcp","fromPort":70000,"toPort":2,"cidr":"10.0.0.0/8"}]}`,
		api.CodeInvalidParameter, "rules[0].fromPort"},
	{"authorize-ingress", "pay", args("web"), `{"rules":[{"protocol":"tcp","fromPort":1,"toPort":2,"cidr":"10.0.0.0/8"}]}`,
		api.CodePermissionDuplicate, "rules"},
	{"authorize-ingress", "pay", args("web"), `{"rules":[{"protocol":"-1"}]}`, api.CodeInvalidCombination, "cidr"},
	{"authorize-ingress", "pay", args("web"), `{"rules":` + many(101, `{"protocol":"-1","cidr":"10.0.0.0/8"}`) + `}`,
		api.CodeLimitExceeded, "rules"},
	{"authorize-egress", "pay", args("web"), `{"rules":[{"protocol":"gre","cidr":"10.0.0.0/8"}]}`, api.CodeInvalidParameter,
		"protocol"},
	{"authorize-egress", "pay", args("web"), `{"rules":[{"protocol":"-1","groupId":"` + noGroup + `"}]}`, api.CodeGroupNotFound,
		"groupId"},
	{"revoke-rule", "pay", args("web", "sgr-00000000000000000"), "", api.CodePermissionNotFound, "rule"},
}

func badBalancing(l *lab) []bad {
	endpointENI := find1(l.s.Resources().Endpoints, "ledger").ENIs[0]
	lbENI := find1(l.s.Resources().LoadBalancers, "ledger").ENIs[0]
	return []bad{
		{"create-target-group", "pay", nil, `{"vpcId":"shop","protocol":"tcp","port":1}`, api.CodeVPCNotFound, "vpcId"},
		{"create-target-group", "pay", nil, `{"vpcId":"pay","protocol":"icmp","port":1}`, api.CodeInvalidParameter, "protocol"},
		{"create-target-group", "pay", nil, `{"vpcId":"pay","protocol":"tcp","port":0}`, api.CodeInvalidParameter, "port"},
		{"create-target-group", "pay", nil, `{"vpcId":"pay","protocol":"tcp","port":1,"name":"dns"}`, api.CodeDuplicateName, "name"},
		{"create-target-group", "pay", nil, `{"vpcId":"pay","protocol":"tcp","port":1,"targets":[{"eniId":"` + lbENI + `"}]}`,
			api.CodeInvalidParameter, "eniId"},
		{"get-target-group", "pay", args(noTargets), "", api.CodeTargetGroupNotFound, "id"},
		{"delete-target-group", "pay", args("ledger"), "", api.CodeDependencyViolation, "id"},
		{"register-targets", "pay", args("dns"), `{"targets":[]}`, api.CodeMissingParameter, "targets"},
		{"register-targets", "pay", args("dns"), `{"targets":[{"eniId":"` + endpointENI + `"}]}`, api.CodeENINotFound, "eniId"},
		{"register-targets", "pay", args("dns"), `{"targets":[{"eniId":"ledger","port":65536}]}`, api.CodeInvalidParameter,
			"targets[0].port"},
		{"deregister-targets", "pay", args("dns"), `{"targets":[{"eniId":"ledger"}]}`, api.CodeTargetNotFound, "targets"},
		{"deregister-targets", "pay", args("ledger"), `{"targets":[{"eniId":"ledger","port":444}]}`, api.CodeTargetNotFound, "targets"},
		{"create-load-balancer", "pay", nil, `{}`, api.CodeMissingParameter, "vpcId"},
		{"create-load-balancer", "pay", nil, `{"vpcId":"pay","name":"ledger"}`, api.CodeDuplicateName, "name"},
		{"create-load-balancer", "pay", nil, `{"subnetIds":["shop-a"]}`, api.CodeSubnetNotFound, "subnetIds"},
		{"create-load-balancer", "pay", nil, `{"subnetIds":["pay-a","pay-a"]}`, api.CodeInvalidParameter, "subnetIds"},
		{"create-load-balancer", "pay", nil, `{"vpcId":"pay","listeners":[{"protocol":"udp","port":53,"targetGroupId":"ledger"}]}`,
			api.CodeInvalidParameter, "protocol"},
		{"create-load-balancer", "pay", nil, `{"vpcId":"pay","listeners":` +
			many(2, `{"protocol":"udp","port":53,"targetGroupId":"dns"}`) + `}`, api.CodeDuplicateName, "port"},
		{"create-load-balancer", "shop", nil, `{"subnetIds":["shop-a","shop2-b"]}`, api.CodeSubnetNotFound, "subnetIds"},
		{"get-load-balancer", "pay", args(noBalancer), "", api.CodeLoadBalancerNotFound, "id"},
		{"delete-load-balancer", "pay", args("ledger"), "", api.CodeDependencyViolation, "id"},
		{"create-listener", "pay", args("ledger"), `{"protocol":"tcp","port":443,"targetGroupId":"ledger"}`, api.CodeDuplicateName,
			"port"},
		{"create-listener", "pay", args("ledger"), `{"protocol":"tcp","port":0,"targetGroupId":"ledger"}`, api.CodeInvalidParameter,
			"port"},
		{"create-listener", "pay", args("ledger"), `{"protocol":"tcp","port":53,"targetGroupId":"dns"}`, api.CodeInvalidParameter,
			"protocol"},
		{"create-listener", "pay", args("ledger"), `{"protocol":"tcp","port":80,"targetGroupId":"` + noTargets + `"}`,
			api.CodeTargetGroupNotFound, "targetGroupId"},
		{"create-listener", "pay", args("ledger"), `{"protocol":"tcp","port":80,"targetGroupId":"ledger","idleTimeoutSeconds":59}`,
			api.CodeInvalidParameter, "idleTimeoutSeconds"},
		{"create-listener", "pay", args("ledger"), `{"protocol":"udp","port":53,"targetGroupId":"dns","idleTimeoutSeconds":60}`,
			api.CodeInvalidParameter, "idleTimeoutSeconds"},
		{"delete-listener", "pay", args("ledger", noListener), "", api.CodeListenerNotFound, "listener"},
	}
}

// find1 is the resource of a name.
func find1[T api.Resource](all map[string]T, name string) (found T) {
	for _, res := range all {
		if res.GetMeta().Name == name {
			found = res
		}
	}
	return found
}

func badServices(l *lab) []bad {
	stranger := l.account("stranger")
	return []bad{
		{"create-service", "pay", nil, `{"name":"new"}`, api.CodeMissingParameter, "loadBalancerIds"},
		{"create-service", "pay", nil, `{"name":"new","loadBalancerIds":[]}`, api.CodeMissingParameter, "loadBalancerIds"},
		{"create-service", "pay", nil, `{"name":"New","loadBalancerIds":["ledger"]}`, api.CodeInvalidParameter, "name"},
		{"create-service", "pay", nil, `{"name":"ledger","loadBalancerIds":["ledger"]}`, api.CodeDuplicateName, "name"},
		{"create-service", "shop", nil, `{"name":"new","loadBalancerIds":["ledger"]}`, api.CodeLoadBalancerNotFound, "loadBalancerIds"},
		{"create-service", "pay", nil, `{"name":"new","loadBalancerIds":["ledger"],"privateDnsName":"www.shop.internal"}`,
			api.CodeDomainNotOwned, "privateDnsName"},
		{"create-service", "pay", nil, `{"name":"new","loadBalancerIds":["ledger"],"privateDnsName":"ledger.pay.internal"}`,
			api.CodeConflictingDomain, "privateDnsName"},
		{"create-service", "pay", nil, `{"name":"new","loadBalancerIds":["ledger"],"privateDnsName":"x"}`,
			api.CodeInvalidParameter, "privateDnsName"},
		{"create-service", "pay", nil, `{"name":"new","loadBalancerIds":["ledger"],"allowedPrincipals":["nobody"]}`,
			api.CodePrincipalNotFound, "allowedPrincipals"},
		{"get-service", "pay", args(noService), "", api.CodeServiceNotFound, "id"},
		{"modify-service", "pay", args("ledger"), `{"privateDnsName":"ledger.shop.internal"}`, api.CodeDomainNotOwned,
			"privateDnsName"},
		{"modify-service", "pay", args("ledger"), `{"addLoadBalancerIds":["` + noBalancer + `"]}`, api.CodeLoadBalancerNotFound,
			"addLoadBalancerIds"},
		{"modify-service", "pay", args("ledger"), `{"removeLoadBalancerIds":["ledger"]}`, api.CodeLoadBalancerInUse,
			"removeLoadBalancerIds"},
		{"delete-service", "pay", args("ledger"), "", api.CodeDependencyViolation, "id"},
		{"delete-service", "shop", args("ledger"), "", api.CodeServiceNotFound, "id"},
		{"allow-principals", "pay", args("ledger"), `{"principals":[]}`, api.CodeMissingParameter, "principals"},
		{"allow-principals", "pay", args("ledger"), `{"principals":["nobody"]}`, api.CodePrincipalNotFound, "principals"},
		{"disallow-principals", "pay", args("ledger"), `{"principals":["` + stranger + `"]}`, api.CodePrincipalNotFound, "principals"},
		{"list-connections", "shop", args("ledger"), "", api.CodeServiceNotFound, "id"},
		{"accept-connections", "pay", args("ledger"), `{"endpointIds":[]}`, api.CodeMissingParameter, "endpointIds"},
		{"accept-connections", "pay", args("ledger"), `{"endpointIds":["ledger"]}`, api.CodeIncorrectState, "endpointIds"},
		{"accept-connections", "pay", args("ledger"), `{"endpointIds":["` + noEndpoint + `"]}`, api.CodeConnectionNotFound,
			"endpointIds"},
		{"accept-connections", "pay", args("ledger"), `{"endpointIds":` + many(101, `"ledger"`) + `}`, api.CodeLimitExceeded,
			"endpointIds"},
		{"reject-connections", "pay", args("ledger"), `{"endpointIds":["ledger","other"]}`, api.CodeConnectionNotFound, "endpointIds"},
	}
}

var badEndpoints = []bad{
	{"create-endpoint", "shop", nil, `{"service":"pay/ledger"}`, api.CodeMissingParameter, "vpcId"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/other"}`, api.CodeServiceName, "service"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"ledger"}`, api.CodeServiceName, "service"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":""}`, api.CodeServiceName, "service"},
	{"create-endpoint", "shop", nil, `{"vpcId":"pay","service":"pay/ledger"}`, api.CodeVPCNotFound, "vpcId"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/ledger","name":"ledger"}`, api.CodeDuplicateName, "name"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/ledger","subnetIds":["shop2-a"]}`, api.CodeSubnetNotFound,
		"subnetIds"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/ledger","addresses":{"shop-a":"10.0.1.1"}}`,
		api.CodeAddressInvalid, "addresses"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/ledger","addresses":{"shop-a":"10.0.1.4"}}`,
		api.CodeAddressInUse, "addresses"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/ledger","subnetIds":["shop-b"],"addresses":{"shop-a":"10.0.1.9"}}`,
		api.CodeInvalidParameter, "addresses"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/ledger","addresses":{"shop-z":"10.0.1.9"}}`,
		api.CodeSubnetNotFound, "addresses"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/ledger","privateDnsEnabled":true}`,
		api.CodeConflictingDomain, "privateDnsEnabled"},
	{"create-endpoint", "shop", nil, `{"vpcId":"shop","service":"pay/ledger","securityGroupIds":["web"]}`,
		api.CodeGroupNotFound, "securityGroupIds"},
	{"get-endpoint", "shop", args(noEndpoint), "", api.CodeEndpointNotFound, "id"},
	{"get-endpoint", "shop", args("ledger", "?waitSeconds=99"), "", api.CodeInvalidParameter, "waitSeconds"},
	{"modify-endpoint", "shop", args("ledger"), `{"securityGroupIds":["` + noGroup + `"]}`, api.CodeGroupNotFound,
		"securityGroupIds"},
	{"modify-endpoint", "pay", args("ledger"), `{}`, api.CodeEndpointNotFound, "id"},
	{"delete-endpoint", "pay", args("ledger"), "", api.CodeEndpointNotFound, "id"},
}

func badNodes(h *host) []bad {
	csr := base64.StdEncoding.EncodeToString([]byte("nonsense"))
	status := `{"nodeId":"%s","revision":1,"seenAt":"2026-01-01T00:00:00Z","attachedEniIds":[%s],"generation":1}`
	return []bad{
		{"get-node", "shop", args(noNode), "", api.CodeNodeNotFound, "id"},
		{"drain-node", "admin", args("nowhere"), "", api.CodeNodeNotFound, "id"},
		{"undrain-node", "admin", args("nowhere"), "", api.CodeNodeNotFound, "id"},
		{"revoke-node", "admin", args("nowhere"), "", api.CodeNodeNotFound, "id"},
		{"delete-node", "admin", args("host-a"), "", api.CodeIncorrectState, "id"},
		{"join", "", nil, `{"token":"x.y.z","name":"a","csr":"AAAA","publicKey":""}`, api.CodeTokenInvalid, "token"},
		{"join", "", nil, `{"name":"a","csr":"AAAA","publicKey":""}`, api.CodeMissingParameter, "token"},
		{"renew", "node", nil, `{"csr":"` + csr + `"}`, api.CodeInvalidParameter, "csr"},
		{"renew", "node", nil, `{"csr":"?"}`, api.CodeInvalidParameter, "csr"},
		{"rotate-key", "node", nil, `{"publicKey":"x"}`, api.CodeInvalidParameter, "publicKey"},
		{"rotate-key", "node", nil, `{}`, api.CodeMissingParameter, "publicKey"},
		{"leave", "node", nil, `{"force":"yes"}`, api.CodeInvalidParameter, "force"},
		{"report-status", "node", nil, fmt.Sprintf(status, noNode, ""), api.CodeUnauthorized, "nodeId"},
		{"report-status", "node", nil, fmt.Sprintf(status, h.id, `"x"`), api.CodeInvalidParameter, "attachedEniIds"},
		{"send-flows", "node", nil, `{"boot":`, api.CodeInvalidParameter, "line 1"},
	}
}

var badReads = []bad{
	{"list-subnets", "shop", args("?vpc=pay"), "", api.CodeVPCNotFound, "vpc"},
	{"list-enis", "shop", args("?vpc=pay"), "", api.CodeVPCNotFound, "vpc"},
	{"list-security-groups", "shop", args("?vpc=pay"), "", api.CodeVPCNotFound, "vpc"},
	{"list-target-groups", "shop", args("?vpc=pay"), "", api.CodeVPCNotFound, "vpc"},
	{"list-load-balancers", "shop", args("?vpc=pay"), "", api.CodeVPCNotFound, "vpc"},
	{"list-endpoints", "shop", args("?vpc=pay"), "", api.CodeVPCNotFound, "vpc"},
	{"get-converged", "shop", args("?waitSeconds=1"), "", api.CodeMissingParameter, "revision"},
	{"get-converged", "shop", args("?revision=-1"), "", api.CodeInvalidParameter, "revision"},
	{"list-audit", "shop", args("?limit=10001"), "", api.CodeInvalidParameter, "limit"},
	{"explain-flow", "shop", args("?to=10.0.0.9"), "", api.CodeMissingParameter, "from"},
	{"explain-flow", "shop", args("?from=nothing&to=10.0.0.9"), "", api.CodeENINotFound, "from"},
	{"explain-flow", "shop", args("?from=cart"), "", api.CodeMissingParameter, "to"},
	{"explain-flow", "shop", args("?from=cart&to=10.0.0.9&protocol=sctp"), "", api.CodeInvalidParameter, "protocol"},
	{"explain-flow", "shop", args("?from=cart&to=10.0.0.9&port=65536"), "", api.CodeInvalidParameter, "port"},
	{"query-flows", "shop", args("?action=MAYBE"), "", api.CodeInvalidParameter, "action"},
	{"query-flows", "shop", args("?since=yesterday"), "", api.CodeInvalidParameter, "since"},
	{"query-flows", "shop", args("?port=65536"), "", api.CodeInvalidParameter, "port"},
	{"query-flows", "shop", args("?eni=nothing"), "", api.CodeENINotFound, "eni"},
	{"query-flows", "shop", args("?endpoint=nothing"), "", api.CodeEndpointNotFound, "endpoint"},
	{"query-flows", "shop", args("?vpc=pay"), "", api.CodeVPCNotFound, "vpc"},
	{"query-flows", "shop", args("?service=ledger"), "", api.CodeServiceNotFound, "service"},
	{"query-dns", "shop", args("?firewall=DENY"), "", api.CodeInvalidParameter, "firewall"},
	{"create-query-log", "shop", nil, `{"name":"Shop"}`, api.CodeInvalidParameter, "name"},
	{"create-query-log", "shop", nil, `{"name":"x","vpcIds":["pay"]}`, api.CodeVPCNotFound, "vpcIds"},
	{"get-query-log", "shop", args("nothing"), "", api.CodeQueryLogNotFound, "id"},
	{"associate-query-log", "shop", args("nothing"), `{"vpcIds":["shop"]}`, api.CodeQueryLogNotFound, "id"},
	{"disassociate-query-log", "shop", args("nothing"), `{"vpcIds":["shop"]}`, api.CodeQueryLogNotFound, "id"},
	{"delete-query-log", "shop", args("nothing"), "", api.CodeQueryLogNotFound, "id"},
}
