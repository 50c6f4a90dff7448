package controlplane

import (
	"github.com/culvert-net/culvert/api"
)

// badRules are requests about resolver rules that are refused. The shop has the rule bad.example.com.
func badRules(l *lab) []bad {
	have := find1(l.s.Resources().ResolverRules, "bad.example.com")
	if have == nil {
		have = must(l.as("shop").CreateResolverRule(l.ctx(), api.CreateResolverRuleRequest{Domain: "bad.example.com", VPCs: []string{"shop"},
			Forwarders: []string{"tls://9.9.9.9"}}))(l.t)
	}
	r := have.ID
	create := func(fields string) string { return `{"domainName":"new.example.com",` + fields + `}` }
	const one = `"forwarders":["tls://9.9.9.9"]`
	return []bad{
		{"create-resolver-rule", "shop", nil, `{"domainName":"Corp.internal",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"*.internal",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"culvert.internal",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"arpa",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"8.d.f.ip6.arpa",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":[]`), api.CodeMissingParameter, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":` + many(5, `"tls://9.9.9.9"`)), api.CodeLimitExceeded, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":` + many(2, `"tls://9.9.9.9"`)), api.CodeInvalidParameter, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":["9.9.9.9"]`), api.CodeInvalidParameter, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":["tls://dns.example"]`), api.CodeInvalidParameter, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":["tls://10.0.0.53"]`), api.CodeUnauthorized, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(one + `,"plainForwarders":true`), api.CodeUnauthorized, "plainForwarders"},
		{"create-resolver-rule", "shop", nil, create(one + `,"vpcIds":["pay"]`), api.CodeVPCNotFound, "vpcIds"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"bad.example.com","vpcIds":["shop"],` + one + `}`, api.CodeConflictingDomain, "vpcIds"},
		{"get-resolver-rule", "pay", args(r), "", api.CodeResolverRuleNotFound, "id"},
		{"modify-resolver-rule", "shop", args(r), `{"forwarders":[]}`, api.CodeMissingParameter, "forwarders"},
		{"modify-resolver-rule", "shop", args(r), `{"forwarders":["tcp://9.9.9.9"]}`, api.CodeInvalidParameter, "forwarders"},
		{"modify-resolver-rule", "pay", args(r), `{}`, api.CodeResolverRuleNotFound, "id"},
		{"delete-resolver-rule", "pay", args("rslvr-rr-00000000000000000"), "", api.CodeResolverRuleNotFound, "id"},
		{"associate-resolver-rule", "shop", args(r), `{"vpcIds":[]}`, api.CodeMissingParameter, "vpcIds"},
		{"associate-resolver-rule", "shop", args(r), `{"vpcIds":["pay"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"disassociate-resolver-rule", "shop", args(r), `{"vpcIds":["nothing"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"disassociate-resolver-rule", "shop", args(r), `{"vpcIds":` + many(101, `"shop"`) + `}`, api.CodeLimitExceeded, "vpcIds"},
	}
}
