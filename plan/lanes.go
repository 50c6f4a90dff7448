package plan

import "slices"

// Lanes is how many queues the tunnel's interface has (bpf/lib/abi.h), so that accounts share the tunnel. The first is for
// those that have none of their own.
const Lanes = 64

// lanes gives each account with interfaces here a lane: by its name, so that it stays when others come, and the next free one
// where that is taken. Beyond Lanes-1 accounts some share.
func (c *compiler) lanes() {
	names := map[string]uint8{}
	for _, e := range c.plan.ENIs {
		names[c.account(e.VPC)] = 0
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	var taken [Lanes]bool
	for n, name := range sorted {
		lane := textHash("lane "+name) % (Lanes - 1)
		for n < Lanes-1 && taken[lane] {
			lane = (lane + 1) % (Lanes - 1)
		}
		taken[lane] = true
		names[name] = uint8(lane + 1)
	}
	for i := range c.plan.ENIs {
		c.plan.ENIs[i].Lane = names[c.account(c.plan.ENIs[i].VPC)]
	}
}
