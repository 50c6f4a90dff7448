package plan

import "fmt"

// minPathMTU is what is left inside of the least underlay, IPv6's 1280, in bytes. A path that carries less carries no more
// in smaller pieces.
const minPathMTU = 1200

// paths fills Paths: for what the kept peers speak for. When there are too many rows, every flow is held to the least:
// slow and right.
func (c *compiler) paths(l limits) {
	config := &c.plan.Config
	least := config.TunnelMTU
	for _, a := range c.plan.AllowedIPs {
		mtu, known := c.facts.PathMTU[a.PublicKey]
		if mtu = max(mtu, minPathMTU); !known || mtu >= config.TunnelMTU || prefixVPC(a) == 0 || a.Prefix.Bits() > 96 {
			continue
		}
		c.plan.Paths = append(c.plan.Paths, Path{Prefix: a.Prefix, MTU: mtu})
		least = min(least, mtu)
	}
	if n := len(c.plan.Paths); n > l.Paths {
		c.plan.Problems = append(c.plan.Problems, fmt.Sprintf("paths: %d prefixes are reached with less than the tunnel's MTU of %d, "+
			"a node has room for %d: all flows are held to the least, %d", n, config.TunnelMTU, l.Paths, least))
		c.plan.Paths, config.TunnelMTU = nil, least
	}
}
