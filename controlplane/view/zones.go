package view

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// addHostedZones adds those of the VPCs that the node hosts a workload of. What an account has beyond its share of a view is left
// out, the newest first: the names then do not exist, rather than be asked for elsewhere.
func (x *Index) addHostedZones(v *api.View, local map[string]bool) {
	type sized struct {
		*api.HostedZone
		bytes int
	}
	var zones []sized
	accounts, wants := map[string]int{}, map[string]int{} // bytes so far, and all
	for _, z := range x.r.HostedZones {
		if slices.ContainsFunc(z.VPCs, func(vpc string) bool { return local[vpc] && x.r.VPCs[vpc] != nil }) {
			zones = append(zones, sized{z, z.Size()})
			wants[z.Account] += zones[len(zones)-1].bytes
		}
	}
	slices.SortFunc(zones, func(a, b sized) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	share := evenShare(wants, api.MaxHostedZoneBytesPerAccount, api.MaxHostedZoneBytesPerNode)
	for _, z := range zones {
		out := api.ViewHostedZone{ID: z.ID, Account: z.Account, Domain: z.Name}
		for _, vpc := range z.VPCs {
			if p := x.r.VPCs[vpc]; p != nil && local[vpc] {
				out.VPCs = append(out.VPCs, p.Number)
			}
		}
		slices.Sort(out.VPCs)
		if accounts[z.Account]+z.bytes > share {
			out.LeftOut = fmt.Sprintf("a node has room for %d KiB of an account's records", share>>10)
		} else {
			accounts[z.Account] += z.bytes
			out.RecordSets = z.RecordSets
		}
		v.HostedZones = append(v.HostedZones, out)
	}
	slices.SortFunc(v.HostedZones, func(a, b api.ViewHostedZone) int { return cmp.Compare(a.ID, b.ID) })
}
