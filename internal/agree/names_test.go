package agree

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/internal/randomly"
	"github.com/culvert-net/culvert/internal/worlds"
	"github.com/culvert-net/culvert/judge"
)

// What a node's resolver answers to a VPC that it hosts a part of is what the judge says the name means there.
func TestNamesAgree(t *testing.T) {
	s := randomly.Seed(t)
	found, six := 0, 0
	for i := range count(t, "CULVERT_WORLDS", 300) {
		rng := rand.New(rand.NewPCG(s, uint64(i)))
		r := worlds.New(rng, worlds.Small)
		worlds.AddFamilies(rng, r)
		m := newMesh(t, r)
		asked := map[string]bool{"nobody.example.internal": true, "example.internal": true, "vpce.culvert.internal": true}
		for _, n := range m.nodes {
			for _, row := range n.plan.Names {
				name := strings.Replace(row.Name, "*", "a", 1)
				asked[name], asked["x."+name] = true, true
				_, above, _ := strings.Cut(row.Name, ".")
				asked[above] = true
			}
		}
		for id, n := range m.nodes {
			var names []zone.Name
			var vpcs []zone.VPC
			for _, row := range n.plan.Names {
				names = append(names, zone.Name{VPC: row.VPC, Name: row.Name, Address: row.Address, Endpoint: row.Endpoint})
			}
			for _, row := range n.plan.Zones {
				vpcs = append(vpcs, zone.VPC{Number: row.VPC, CIDR: row.CIDR})
			}
			z, err := zone.New(names, vpcs, zone.Reach{})
			if err != nil {
				t.Fatalf("world %d node %s: %v", i, id, err)
			}
			for _, row := range n.plan.Zones {
				for name := range asked {
					got := slices.Concat(z.Lookup(row.VPC, name, zone.TypeA).Addresses, z.Lookup(row.VPC, name, zone.TypeAAAA).Addresses)
					six += len(z.Lookup(row.VPC, name, zone.TypeAAAA).Addresses)
					want := m.means(row.VPC, name)
					if !slices.Equal(sortedAddresses(got), want) {
						t.Fatalf("CULVERT_SEED=%d world %d node %s: %s in VPC %d is %v; the judge: %v", s, i, id, name, row.VPC, got, want)
					}
					found += min(1, len(want))
				}
			}
		}
	}
	t.Logf("%d names found, %d IPv6 addresses", found, six)
	if found == 0 || six == 0 {
		t.Error("no world had a name, or none an IPv6 address")
	}
}

// means are the addresses that the judge gives a name in the VPC with this number.
func (m *mesh) means(vpc uint32, name string) []netip.Addr {
	var all []netip.Addr
	for id, v := range m.r.VPCs {
		if v.Number != vpc {
			continue
		}
		for _, meaning := range judge.Resolve(m.r, id, name) {
			all = append(all, meaning.Addresses...)
		}
	}
	return sortedAddresses(all)
}

func sortedAddresses(list []netip.Addr) []netip.Addr {
	list = slices.Clone(list)
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
