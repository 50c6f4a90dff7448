package judge

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// Meaning is what a private name stands for in a VPC.
type Meaning struct {
	Endpoint  string
	Addresses []netip.Addr // sorted
	Wildcard  bool         // a "*." name stands for it
}

// Resolve says what a name means to the workloads of a VPC: the endpoint whose Available connection gives it, of several the one
// of the smallest priority, of equals the oldest. The endpoint's own names are
// ENDPOINT[-ZONE].SERVICE.ACCOUNT.vpce.culvert.internal, by names, and ENDPOINT-SUFFIX[-ZONE].SERVICE.REGION…, by ids; its
// service's private names count when the endpoint asked for them, and one that begins with "*." for everything below that no
// other name is at or above. Nothing: the name is not private here.
func Resolve(r *api.Resources, vpc, name string) []Meaning {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	var exact, below []Meaning
	longest := -1 // of the apexes that the name lies at or below
	for _, id := range endpointIDs(r) {
		e := r.Endpoints[id]
		if e.VPC != vpc {
			continue
		}
		for pattern, addresses := range namesOf(r, e) {
			apex, wild := strings.CutPrefix(pattern, "*.")
			if name != apex && !strings.HasSuffix(name, "."+apex) || len(apex) < longest {
				continue
			}
			if len(apex) > longest {
				longest, exact, below = len(apex), nil, nil
			}
			m := Meaning{Endpoint: id, Addresses: addresses, Wildcard: wild}
			if wild && name != apex {
				below = append(below, m)
			} else if !wild && name == apex {
				exact = append(exact, m)
			}
		}
	}
	if len(exact) > 0 {
		return first(r, exact)
	}
	return first(r, below)
}

// first is the one of several endpoints that answers: of the smallest priority, and of equals the oldest.
func first(r *api.Resources, all []Meaning) []Meaning {
	var best []Meaning
	place := func(m Meaning) (uint16, uint32) {
		e := r.Endpoints[m.Endpoint]
		return e.Priority(), r.Connections[e.Connection].Number
	}
	for _, m := range all {
		if best == nil {
			best = []Meaning{m}
			continue
		}
		mine, number := place(m)
		other, older := place(best[0])
		if mine < other || mine == other && number < older {
			best[0] = m
		}
	}
	return best
}

func endpointIDs(r *api.Resources) []string {
	var ids []string
	for id := range r.Endpoints {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// namesOf are an endpoint's names with their addresses; none unless its connection is Available.
func namesOf(r *api.Resources, e *api.Endpoint) map[string][]netip.Addr {
	names := map[string][]netip.Addr{}
	s := r.Services[e.Service]
	for _, id := range e.ENIs {
		eni := r.ENIs[id]
		if eni == nil || s == nil {
			continue
		}
		account := r.Accounts[s.Account]
		if c, _ := connectionOf(r, eni); c == nil || account == nil {
			continue
		}
		rest := "." + s.Name + "." + account.Name + "." + api.ReservedDomain
		ids := "." + s.ID + "." + r.Mesh.Region + "." + api.ReservedDomain
		long, zone := e.ID+"-"+api.EndpointSuffix(e.ID), "-"+zoneOf(r, eni)
		list := []string{e.ID + rest, e.ID + zone + rest, long + ids, long + zone + ids}
		if e.PrivateDNSEnabled {
			list = append(list, s.PrivateNames()...)
		}
		for _, n := range list {
			if e.IPAddressType != api.IPv6Only {
				names[n] = append(names[n], eni.Address)
			}
			if e.IPAddressType == api.IPv6Only || e.IPAddressType == api.DualStack {
				names[n] = append(names[n], ipv6(r, e.VPC, eni.Address))
			}
		}
	}
	for _, a := range names {
		slices.SortFunc(a, netip.Addr.Compare)
	}
	return names
}
