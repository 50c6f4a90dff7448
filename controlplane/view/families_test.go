package view

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

// What a node is told of families is what the resources say; an endpoint's names lead to each of its interfaces in each family of
// its type, and to nothing else.
func TestFamiliesOfAView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawWorld(t)
		for node := range r.Nodes {
			v := Compute(r, node)
			for _, e := range v.ENIs {
				sameFamilies(t, r, e.ID, e.IPAddressType)
			}
			for _, a := range v.Addresses {
				if a.Type == api.ENIWorkload {
					sameFamilies(t, r, a.ENI, a.IPAddressType)
				}
			}
			for _, e := range v.Endpoints {
				checkNames(t, r, v, r.Endpoints[e.ID])
			}
		}
	})
}

func sameFamilies(t *rapid.T, r *api.Resources, eni string, got api.IPAddressType) {
	want := r.ENIs[eni].IPAddressType
	if got.HasIPv4() != want.HasIPv4() || got.HasIPv6() != want.HasIPv6() {
		t.Fatalf("%s is %q, the node is told %q", eni, want, got)
	}
}

func checkNames(t *rapid.T, r *api.Resources, v *api.View, e *api.Endpoint) {
	vpc := r.VPCs[e.VPC]
	var want []netip.Addr
	for _, id := range e.ENIs {
		a := r.ENIs[id].Address
		if e.IPAddressType != api.IPv6Only {
			want = append(want, a)
		}
		if e.IPAddressType == api.IPv6Only || e.IPAddressType == api.DualStack {
			want = append(want, api.IPv6Address(r.Mesh.Number, vpc.Number, a))
		}
	}
	names := map[string][]netip.Addr{}
	others := map[string]bool{} // what other endpoints of the VPC answer
	for _, n := range v.Names {
		others[n.Name] = others[n.Name] || n.VPC == vpc.Number && n.Endpoint != e.ID
		if n.Endpoint == e.ID {
			names[n.Name] = append(names[n.Name], n.Address)
		}
	}
	s := r.Services[e.Service]
	slices.SortFunc(want, netip.Addr.Compare)
	for _, name := range append(DNSNames(e.ID, s, r.Accounts[s.Account].Name, r.Mesh.Region, nil), s.PrivateNames()...) {
		asked := !slices.Contains(s.PrivateNames(), name) || e.PrivateDNSEnabled
		if asked && !slices.Equal(names[name], want) && (!others[name] || names[name] != nil) {
			t.Fatalf("%s is %q: names %v, want of %s %v", e.ID, e.IPAddressType, names, name, want)
		}
	}
}
