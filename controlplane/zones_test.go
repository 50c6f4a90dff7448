package controlplane

import (
	"slices"

	"github.com/culvert-net/culvert/api"
)

// badDNS are requests about domains, hosted zones, resolver rules and the query firewall that are refused. The shop has the zone bad.internal.
func badDNS(l *lab) []bad {
	have := find1(l.s.Resources().HostedZones, "bad.internal")
	if have == nil {
		have = must(l.as("shop").CreateHostedZone(l.ctx(), api.CreateHostedZoneRequest{Domain: "bad.internal", VPCs: []string{"shop"}}))(l.t)
	}
	z := have.ID
	put := func(set string) string { return `{"put":[` + set + `]}` }
	none := "hz-00000000000000000"
	list := []bad{
		{"create-domain", "pay", nil, `{"domainName":"example.com"}`, api.CodeIncorrectState, "domainName"},
		{"get-domain", "pay", args("domain-00000000000000000"), "", api.CodeDomainNotFound, "id"},
		{"verify-domain", "pay", args("example.com"), "", api.CodeDomainNotFound, "id"},
		{"delete-domain", "pay", args("example.com"), "", api.CodeDomainNotFound, "id"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"Corp.internal"}`, api.CodeInvalidParameter, "domainName"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"*.internal"}`, api.CodeInvalidParameter, "domainName"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"10.in-addr.arpa"}`, api.CodeInvalidParameter, "domainName"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"culvert.internal"}`, api.CodeInvalidParameter, "domainName"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"new.internal","vpcIds":["pay"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"bad.internal","vpcIds":["shop"]}`, api.CodeConflictingDomain, "vpcIds"},
		{"get-hosted-zone", "pay", args(z), "", api.CodeHostedZoneNotFound, "id"},
		{"delete-hosted-zone", "pay", args(none), "", api.CodeHostedZoneNotFound, "id"},
		{"associate-hosted-zone", "shop", args(z), `{"vpcIds":[]}`, api.CodeMissingParameter, "vpcIds"},
		{"associate-hosted-zone", "shop", args(z), `{"vpcIds":["nothing"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"disassociate-hosted-zone", "shop", args(z), `{"vpcIds":["nothing"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"change-records", "shop", args(z), `{}`, api.CodeMissingParameter, "put"},
		{"change-records", "shop", args(z), `{"put":` + many(101, `{"name":"a.bad.internal","type":"A","values":["10.0.0.1"]}`) + `}`,
			api.CodeLimitExceeded, "put"},
		{"change-records", "shop", args(z), `{"remove":[{"name":"@","type":"A"}]}`, api.CodeRecordNotFound, "remove"},
	}
	for _, r := range []struct {
		set   string
		code  api.ErrorCode
		field string
	}{
		{`{"name":"www.good.internal","type":"A","values":["10.0.0.1"]}`, api.CodeInvalidParameter, "recordSets"},
		{`{"name":"w w.bad.internal","type":"A","values":["10.0.0.1"]}`, api.CodeInvalidParameter, "recordSets"},
		{`{"name":"@","type":"NS","values":["10.0.0.1"]}`, api.CodeInvalidParameter, "type"},
		{`{"name":"@","type":"CNAME","values":["x.internal"]}`, api.CodeInvalidParameter, "type"},
		{`{"name":"@","type":"A","values":[]}`, api.CodeMissingParameter, "values"},
		{`{"name":"@","type":"A","values":["10.0.0.1","10.0.0.1"]}`, api.CodeInvalidParameter, "values"},
		{`{"name":"@","type":"A","values":["2001:db8::1"]}`, api.CodeInvalidParameter, "values"},
		{`{"name":"a.bad.internal","type":"CNAME","values":["x.internal","y.internal"]}`, api.CodeLimitExceeded, "values"},
		{`{"name":"@","type":"TXT","values":["a\u0007"]}`, api.CodeInvalidParameter, "values"},
		{`{"name":"@","type":"A","ttlSeconds":2147483648,"values":["10.0.0.1"]}`, api.CodeInvalidParameter, "ttlSeconds"},
		{`{"name":"@","type":"A","values":["10.0.0.1"]},{"name":"bad.internal","type":"A","values":["10.0.0.2"]}`, api.CodeInvalidParameter, "put"},
		{`{"name":"a.bad.internal","type":"A","values":["10.0.0.1"]},{"name":"a.bad.internal","type":"CNAME","values":["x.y"]}`,
			api.CodeInvalidCombination, "type"},
	} {
		list = append(list, bad{"change-records", "shop", args(z), put(r.set), r.code, r.field})
	}
	return slices.Concat(list, badRules(l), badFirewalls(l))
}
