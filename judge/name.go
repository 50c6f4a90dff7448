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

// Resolve says what a name means to the workloads of a VPC: every endpoint whose Available connection gives it, by endpoint
// id. The endpoint's own names are ENDPOINT[-ZONE].SERVICE.ACCOUNT.vpce.culvert.internal; its service's private name
// counts when the endpoint asked for it, and one that begins with "*." for everything below that no other name is at or above.
// Nothing: the name is not private here.
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
		return exact
	}
	return below
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
		list := []string{e.ID + rest, e.ID + "-" + zoneOf(r, eni) + rest}
		if e.PrivateDNSEnabled && s.PrivateDNSName != "" {
			list = append(list, s.PrivateDNSName)
		}
		for _, n := range list {
			names[n] = append(names[n], eni.Address)
		}
	}
	for _, a := range names {
		slices.SortFunc(a, netip.Addr.Compare)
	}
	return names
}
