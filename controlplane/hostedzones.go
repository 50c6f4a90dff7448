package controlplane

import (
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// zoneInTheWay is a hosted zone that answers a private name in a VPC, nil if there is none.
func (c *call) zoneInTheWay(vpc, name string) *api.HostedZone {
	for _, z := range c.r.HostedZones {
		if z.Name == strings.TrimPrefix(name, "*.") && slices.Contains(z.VPCs, vpc) {
			return z
		}
	}
	return nil
}
