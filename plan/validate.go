package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// checkIDs demands that identifiers be short and of harmless characters: they stand in dumps, rule texts and logs.
func checkIDs(field string, ids ...string) error {
	for _, id := range ids {
		ok := id != "" && len(id) <= 128 && strings.IndexFunc(id, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
		}) < 0
		if !ok {
			return fmt.Errorf("%s: %q is not an identifier (1 to 128 of a-z, A-Z, 0-9, - _ .)", field, id)
		}
	}
	return nil
}

// checkCIDR demands a canonical IPv4 prefix of /16 to /28, as VPCs and subnets have.
func checkCIDR(field string, p netip.Prefix) error {
	if !p.IsValid() || !p.Addr().Is4() || p != p.Masked() || p.Bits() < 16 || p.Bits() > 28 {
		return fmt.Errorf("%s: %s is not an IPv4 prefix of /16 to /28 with its host bits 0", field, p)
	}
	if p.Addr().As4()[0] >= 224 {
		return fmt.Errorf("%s: %s is in 224.0.0.0/3, which no VPC may use", field, p)
	}
	return nil
}

func within(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

func (c *compiler) indexVPCs() error {
	for i := range c.view.VPCs {
		v := &c.view.VPCs[i]
		field := fmt.Sprintf("vpcs[%q]", v.ID)
		if err := checkIDs(field, v.ID); err != nil {
			return err
		}
		if v.Number == 0 || c.vpcs[v.Number] != nil {
			return fmt.Errorf("%s.number: %d is 0 or taken", field, v.Number)
		}
		c.vpcs[v.Number] = v
		if !v.Local {
			continue
		}
		if err := checkCIDR(field+".cidr", v.CIDR); err != nil {
			return err
		}
		for _, s := range v.Subnets {
			if err := checkCIDR(field+".subnets", s.CIDR); err != nil {
				return err
			}
			if !within(v.CIDR, s.CIDR) {
				return fmt.Errorf("%s.subnets: %s is outside %s", field, s.CIDR, v.CIDR)
			}
		}
		for _, f := range v.Forwarders {
			if e := api.ValidateForwarder(f, v.PlainForwarders); e != nil {
				return fmt.Errorf("%s: %w", field, e)
			}
		}
	}
	return nil
}

func (c *compiler) indexGroups() error {
	numbers := map[uint32]bool{}
	for i := range c.view.Groups {
		g := &c.view.Groups[i]
		field := fmt.Sprintf("groups[%q]", g.ID)
		if err := checkIDs(field, g.ID); err != nil {
			return err
		}
		if c.groups[g.ID] != nil || g.Number == 0 || numbers[g.Number] {
			return fmt.Errorf("%s: stands twice, or number %d is 0 or taken", field, g.Number)
		}
		c.groups[g.ID], numbers[g.Number] = g, true
	}
	return nil
}

// checkPlace demands that an address lie in its VPC, which has a part here, and apart from what the VPC itself uses.
func (c *compiler) checkPlace(field string, vpc uint32, a netip.Addr) error {
	v := c.vpcs[vpc]
	if v == nil || !v.Local {
		return fmt.Errorf("%s.vpc: %d is no VPC of this node", field, vpc)
	}
	if !a.Is4() || !v.CIDR.Contains(a) {
		return fmt.Errorf("%s.address: %s is outside the VPC's %s", field, a, v.CIDR)
	}
	return nil
}

func (c *compiler) indexAddresses() error {
	numbers := map[uint32]bool{}
	for i := range c.view.Addresses {
		a := &c.view.Addresses[i]
		field := fmt.Sprintf("addresses[%q]", a.ENI)
		if err := checkIDs(field, a.ENI); err != nil {
			return err
		}
		if err := c.checkPlace(field, a.VPC, a.Address); err != nil {
			return err
		}
		if !slices.Contains([]api.ENIType{api.ENIWorkload, api.ENIEndpoint, api.ENILoadBalancer}, a.Type) {
			return fmt.Errorf("%s.type: %q", field, a.Type)
		}
		if !slices.Contains([]api.IPAddressType{"", api.IPv4Only, api.IPv6Only, api.DualStack}, a.IPAddressType) {
			return fmt.Errorf("%s.ipAddressType: %q", field, a.IPAddressType)
		}
		if a.Number == 0 || numbers[a.Number] {
			return fmt.Errorf("%s.number: %d is 0 or taken", field, a.Number)
		}
		numbers[a.Number] = true
		key := vpcAddr{a.VPC, a.Address}
		if c.addressOf[key] != nil {
			return fmt.Errorf("%s.address: %s stands twice", field, a.Address)
		}
		c.addressOf[key] = a
	}
	return nil
}

// indexENIs demands that what this node hosts stands among the addresses, as the same.
func (c *compiler) indexENIs() error {
	for i := range c.view.ENIs {
		e := &c.view.ENIs[i]
		field := fmt.Sprintf("enis[%q]", e.ID)
		if err := c.checkPlace(field, e.VPC, e.Address); err != nil {
			return err
		}
		if err := checkCIDR(field+".cidr", e.CIDR); err != nil {
			return err
		}
		if !e.CIDR.Contains(e.Address) || !within(c.vpcs[e.VPC].CIDR, e.CIDR) {
			return fmt.Errorf("%s.cidr: %s does not hold %s within the VPC's %s", field, e.CIDR, e.Address, c.vpcs[e.VPC].CIDR)
		}
		key := vpcAddr{e.VPC, e.Address}
		a := c.addressOf[key]
		if a == nil || a.ENI != e.ID || a.Number != e.Number || a.Type != api.ENIWorkload || !sameSet(a.Groups, e.Groups) ||
			a.IPAddressType != e.IPAddressType {
			return fmt.Errorf("%s: not among the addresses, or different there", field)
		}
		c.eniOf[key] = e
	}
	return nil
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

func validName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for i, label := range strings.Split(name, ".") {
		if i == 0 && label == "*" && len(name) > 2 {
			continue
		}
		ok := label != "" && len(label) <= 63 && strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
		if !ok {
			return false
		}
	}
	return true
}
