package view

import (
	"slices"

	"github.com/culvert-net/culvert/api"
)

// RegionalName is the name that every endpoint has, in its own VPC: ENDPOINT.SERVICE.ACCOUNT.vpce.culvert.internal, where
// SERVICE and ACCOUNT are the service's names. It answers with every address of the endpoint.
func RegionalName(endpoint, service, account string) string {
	return endpoint + "." + service + "." + account + "." + api.ReservedDomain
}

// ZonalName is ENDPOINT-ZONE.SERVICE.ACCOUNT.vpce.culvert.internal: the address in one zone.
func ZonalName(endpoint, zone, service, account string) string {
	return RegionalName(endpoint+"-"+zone, service, account)
}

// DNSNames are an endpoint's names, the regional first, then one per zone.
func DNSNames(endpoint, service, account string, zones []string) []string {
	names := []string{RegionalName(endpoint, service, account)}
	for _, z := range slices.Compact(slices.Sorted(slices.Values(zones))) {
		names = append(names, ZonalName(endpoint, z, service, account))
	}
	return names
}

// names lists what an endpoint's VPC may resolve.
func (x *Index) names(l *link) []api.ViewName {
	account := x.r.Accounts[l.service.Account]
	if account == nil {
		return nil
	}
	var out []api.ViewName
	for _, id := range l.endpoint.ENIs {
		e := x.r.ENIs[id]
		if e == nil {
			continue
		}
		add := func(name string) {
			out = append(out, api.ViewName{VPC: l.consumer.Number, Name: name, Address: e.Address, Endpoint: l.endpoint.ID})
		}
		add(RegionalName(l.endpoint.ID, l.service.Name, account.Name))
		add(ZonalName(l.endpoint.ID, x.zone(e.Subnet), l.service.Name, account.Name))
		if l.endpoint.PrivateDNSEnabled && l.service.PrivateDNSName != "" {
			add(l.service.PrivateDNSName)
		}
	}
	return out
}
