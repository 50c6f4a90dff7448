package verdict

import (
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// slots are a target table's targets, and which of them has each slot.
type slots struct {
	targets []plan.TableTarget
	slots   []uint16
}

// slotsOf is a table; empty for one that is missing.
func (s *State) slotsOf(p *plan.Plan, id uint32) slots {
	for _, t := range p.TargetTables {
		if t.ID != id {
			continue
		}
		out, ok := s.tables[t]
		if !ok {
			out.targets, out.slots, _ = t.Slots()
			if s.tables == nil {
				s.tables = map[plan.TargetTable]slots{}
			}
			s.tables[t] = out
		}
		return out
	}
	return slots{}
}

// lists says whether a service's table has a target, be it for its old flows only.
func (d *decision) lists(s *plan.Service, a netip.Addr, port uint16) bool {
	return slices.ContainsFunc(d.state.slotsOf(d.plan, s.Table).targets, func(t plan.TableTarget) bool {
		return t.AddrPort == netip.AddrPortFrom(a, port)
	})
}

// pick is the target of a service that a new flow goes to.
func (d *decision) pick(key FlowKey, s *plan.Service) (target netip.AddrPort, ok bool) {
	t := d.state.slotsOf(d.plan, s.Table)
	if s.TableWidth == 0 || len(t.slots) == 0 {
		return netip.AddrPort{}, false
	}
	hash := d.hash(key, 0)
	if s.Sticky {
		hash = plan.ClientHash(api.AddrHost(key.Source), key.VPC)
	}
	return t.targets[t.slots[hash%plan.TableSlots]].AddrPort, true
}
