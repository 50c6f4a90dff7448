package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// targetTable is the table of a target group as an endpoint ENI of a zone uses it, shared by all services that lead to it.
// Targets of all zones stand in it, so that their flows go on; which of them get new ones says pool.choose. The id depends on the
// width, so that a service never reads a table of another one. No targets: 0, 0. Of more than MaxTargets it holds the lowest addresses.
func (c *compiler) targetTable(e *api.ViewEndpoint, eni api.ViewEndpointENI, l *api.ViewListenerPool) (id uint32, width uint8, err error) {
	list, text, err := poolTargets(l)
	if err != nil {
		return 0, 0, err
	}
	before, known := c.tableTexts[l.TargetGroup]
	if known && before != text || l.TargetGroup == 0 {
		return 0, 0, fmt.Errorf("targetGroup: number %d is 0, or has other targets elsewhere", l.TargetGroup)
	}
	c.tableTexts[l.TargetGroup] = text
	if len(list) > MaxTargets {
		c.leave("endpoints: targets", e.VPC, fmt.Sprintf("a target group has at most %d", MaxTargets), e.ID)
		list = list[:MaxTargets]
	}
	zone := ""
	if l.Zonal {
		zone = eni.Zone
	}
	p := c.pool(l, list)
	c.alive[eni.Number] = c.alive[eni.Number] || p.alive(zone)
	c.well[eni.Number] = c.well[eni.Number] || p.well()
	ill, hope := p.ill()
	c.ill[eni.Number], c.hope[eni.Number] = c.ill[eni.Number] || ill, c.hope[eni.Number] || hope
	targets, zone, _ := p.choose(zone)
	if len(targets) == 0 {
		return 0, 0, nil
	}
	width = tableWidth(targets)
	id = c.tables.id(fmt.Sprintf("target group %d zone %q width %d", l.TargetGroup, zone, width))
	if !c.tablesMade[id] {
		c.tablesMade[id] = true
		c.plan.TargetTables = append(c.plan.TargetTables, TargetTable{ID: id, Width: width, Text: tableText(targets)})
	}
	return id, width, nil
}

type zonedTarget struct {
	TableTarget
	zone    string
	reserve uint16 // its weight where too few of the others are well
}

// poolTargets are a listener's targets by address and port, and all that the view says of them as text.
func poolTargets(l *api.ViewListenerPool) ([]zonedTarget, string, error) {
	list := make([]zonedTarget, 0, len(l.Targets)+len(l.Resting))
	add := func(t api.ViewTarget, weight, reserve uint16) error {
		if !t.Address.Is4() || t.Port == 0 || weight > api.MaxTargetWeight || reserve > api.MaxTargetWeight {
			return fmt.Errorf("targets: %s port %d weight %d", t.Address, t.Port, max(weight, reserve))
		}
		list = append(list, zonedTarget{TableTarget{netip.AddrPortFrom(t.Address, t.Port), weight}, t.Zone, reserve})
		return nil
	}
	for _, t := range l.Targets {
		if err := add(t, cmp.Or(t.Weight, api.DefaultTargetWeight), 0); err != nil {
			return nil, "", err
		}
	}
	for _, t := range l.Resting {
		reserve := uint16(0)
		if t.Leaving {
			reserve = cmp.Or(t.Weight, api.DefaultTargetWeight)
		}
		if err := add(t, 0, reserve); err != nil {
			return nil, "", err
		}
	}
	slices.SortFunc(list, func(a, b zonedTarget) int { return a.Compare(b.AddrPort) })
	var text strings.Builder
	if l.Health != nil {
		fmt.Fprintf(&text, "%+v\n", *l.Health)
	}
	for i, t := range list {
		if i > 0 && list[i-1].AddrPort == t.AddrPort {
			return nil, "", fmt.Errorf("targets: target %s stands twice", t.AddrPort)
		}
		fmt.Fprintf(&text, "%s %q %d\n", t, t.zone, t.reserve)
	}
	return list, text.String(), nil
}

// tableText is the canonical text of targets that are sorted.
func tableText(targets []TableTarget) string {
	var text strings.Builder
	for _, t := range targets {
		text.WriteString(t.String())
		text.WriteByte('\n')
	}
	return text.String()
}
