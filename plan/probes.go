package plan

import (
	"fmt"

	"github.com/culvert-net/culvert/api"
)

// probes fills Probes: what this node asks of its targets. Where several checks ask at one address and port, for load balancers of
// several addresses, the target sees the least of these.
func (c *compiler) probes() error {
	rows := map[string]Probe{}
	for _, h := range c.view.HealthChecks {
		field := fmt.Sprintf("healthChecks[%q]", h.ID)
		if err := checkIDs(field, h.ID); err != nil {
			return err
		}
		for _, t := range h.Targets {
			row, err := c.probe(&h, t)
			if err != nil {
				return fmt.Errorf("%s.targets: %w", field, err)
			}
			if have, ok := rows[row.Key()]; !ok || row.Source.Less(have.Source) {
				rows[row.Key()] = row
			}
		}
	}
	for _, row := range rows {
		c.plan.Probes = append(c.plan.Probes, row)
	}
	return nil
}

func (c *compiler) probe(h *api.ViewHealthCheck, t api.ViewHealthTarget) (Probe, error) {
	if e := c.eniOf[vpcAddr{h.VPC, t.Address}]; e == nil || e.ID != t.ENI || t.Port == 0 {
		return Probe{}, fmt.Errorf("%s port %d of VPC %d is not hosted here", t.Address, t.Port, h.VPC)
	}
	if a := c.addressOf[vpcAddr{h.VPC, t.Source}]; a == nil || a.Type != api.ENILoadBalancer {
		return Probe{}, fmt.Errorf("source: %s is no load balancer's address of VPC %d", t.Source, h.VPC)
	}
	return Probe{VPC: h.VPC, Address: t.Address, Port: h.Check.ProbePort(t.Port), Source: t.Source}, nil
}

// fitProbes keeps of each account those of its oldest interfaces.
func (c *compiler) fitProbes(l limits) {
	number := map[vpcAddr]uint32{}
	for _, e := range c.view.ENIs {
		number[vpcAddr{e.VPC, e.Address}] = e.Number
	}
	c.plan.Probes = shared(c, "healthChecks", c.plan.Probes, l.Probes, func(p Probe) uint32 { return p.VPC },
		func(p Probe) string { return pad(uint64(number[vpcAddr{p.VPC, p.Address}])) + "/" + p.Key() }, Probe.Key)
}
