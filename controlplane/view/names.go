package view

import (
	"cmp"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// naming makes an endpoint's own names, in two forms: by the names of service and account,
// ENDPOINT[-ZONE].SERVICE.ACCOUNT.vpce.culvert.internal, and as AWS does, by ids, ENDPOINT-SUFFIX[-ZONE].SERVICE.REGION….
type naming struct {
	endpoint         string // id
	service, account string // names
	serviceID        string
	region           string
}

// regional names answer with every address of the endpoint.
func (n naming) regional() [2]string { return n.of("") }

// zonal names answer with the address in one zone.
func (n naming) zonal(zone string) [2]string { return n.of("-" + zone) }

func (n naming) of(zone string) [2]string {
	return [2]string{
		n.endpoint + zone + "." + n.service + "." + n.account + "." + api.ReservedDomain,
		n.endpoint + "-" + api.EndpointSuffix(n.endpoint) + zone + "." + n.serviceID + "." + n.region + "." + api.ReservedDomain,
	}
}

// DNSNames are an endpoint's own names: of each form the regional one first, then one per zone.
func DNSNames(endpoint string, service *api.Service, account, region string, zones []string) []string {
	n := naming{endpoint: endpoint, service: service.Name, account: account, serviceID: service.ID, region: region}
	zones = slices.Compact(slices.Sorted(slices.Values(zones)))
	var names []string
	for form := range n.regional() {
		names = append(names, n.regional()[form])
		for _, z := range zones {
			names = append(names, n.zonal(z)[form])
		}
	}
	return names
}

// privateName is one in a VPC.
type privateName struct{ vpc, name string }

// answering finds which links can answer each private name of each VPC: those that ask for it, the one first whose endpoint has the
// smallest priority, and of equals the oldest.
func answering(links []*link) map[privateName][]*link {
	by := map[privateName][]*link{}
	for _, l := range links {
		if !l.endpoint.PrivateDNSEnabled {
			continue
		}
		for _, name := range l.service.PrivateNames() {
			key := privateName{l.consumer.ID, name}
			by[key] = append(by[key], l)
		}
	}
	for _, list := range by {
		slices.SortFunc(list, func(a, b *link) int {
			return cmp.Or(cmp.Compare(a.endpoint.Priority(), b.endpoint.Priority()), cmp.Compare(a.conn.Number, b.conn.Number))
		})
	}
	return by
}

// names lists what an endpoint's VPC may resolve, and the private names that the endpoint answers when others do not.
func (x *Index) names(l *link) (names, standby []api.ViewName) {
	account := x.r.Accounts[l.service.Account]
	if account == nil {
		return nil, nil
	}
	form := naming{endpoint: l.endpoint.ID, service: l.service.Name, account: account.Name, serviceID: l.service.ID,
		region: x.r.Mesh.Region}
	ranks := map[string]uint16{} // of private names
	if l.endpoint.PrivateDNSEnabled {
		for _, name := range l.service.PrivateNames() {
			ranks[name] = uint16(slices.Index(x.answering[privateName{l.consumer.ID, name}], l))
		}
	}
	for _, id := range l.endpoint.ENIs {
		e := x.r.ENIs[id]
		if e == nil {
			continue
		}
		regional, zonal := form.regional(), form.zonal(x.zone(e.Subnet))
		for _, name := range slices.Concat(regional[:], zonal[:], slices.Collect(maps.Keys(ranks))) {
			n := api.ViewName{VPC: l.consumer.Number, Name: name, Address: e.Address, Endpoint: l.endpoint.ID, Rank: ranks[name]}
			list := &names
			if n.Rank > 0 {
				list = &standby
			}
			if l.endpoint.IPAddressType.HasIPv4() {
				*list = append(*list, n)
			}
			if l.endpoint.IPAddressType.HasIPv6() {
				n.Address = api.IPv6Address(x.r.Mesh.Number, l.consumer.Number, e.Address)
				*list = append(*list, n)
			}
		}
	}
	return names, standby
}
