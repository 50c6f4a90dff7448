package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// notAName is why a name or domain is left out.
const notAName = "not a lower-case DNS name of at most 253 bytes"

// names fills Zones and Names.
func (c *compiler) names() error {
	for _, v := range c.view.VPCs {
		if !v.Local {
			continue
		}
		forwarders := v.Forwarders
		if len(forwarders) > MaxForwarders {
			forwarders = forwarders[:MaxForwarders]
			c.leave("forwarders", v.Number, fmt.Sprintf("a VPC has at most %d", MaxForwarders), v.ID)
		}
		c.plan.Zones = append(c.plan.Zones, Zone{
			VPC: v.Number, ID: v.ID, Account: v.Account, CIDR: v.CIDR, Forwarders: strings.Join(forwarders, ","),
			Plain: v.PlainForwarders, QueryLog: v.QueryLog,
		})
	}
	var rows []Name
	for _, n := range c.view.Names {
		if err := c.addName(&rows, "names", n); err != nil {
			return err
		}
	}
	standby, err := c.standbyNames()
	if err != nil {
		return err
	}
	c.plan.Names = c.healthy(c.takenOver(rows, standby))
	return nil
}

// addName adds the row of a name, unless the name is malformed.
func (c *compiler) addName(rows *[]Name, list string, n api.ViewName) error {
	field := fmt.Sprintf("%s[%q]", list, n.Name)
	vpc := c.vpcs[n.VPC]
	if vpc == nil || !vpc.Local {
		return fmt.Errorf("%s.vpc: %d is no VPC of this node", field, n.VPC)
	}
	if !validName(n.Name) { // a tenant's text: it must not keep another's revocation from the node
		c.leave(list, n.VPC, notAName, strconv.Quote(api.Shortened(n.Name)))
		return nil
	}
	if err := c.checkNamed(vpc, n.Address); err != nil {
		return fmt.Errorf("%s.address: %w", field, err)
	}
	if err := checkIDs(field, n.Endpoint); err != nil {
		return err
	}
	*rows = append(*rows, Name{VPC: n.VPC, Name: n.Name, Address: n.Address, Endpoint: n.Endpoint})
	return nil
}

// place is a name in a VPC.
type place struct {
	vpc  uint32
	name string
}

func (n Name) place() place { return place{n.VPC, n.Name} }

// standbyNames are the rows of those that take a name over, in their order.
func (c *compiler) standbyNames() (map[place][]Name, error) {
	list := slices.Clone(c.view.StandbyNames)
	slices.SortStableFunc(list, func(a, b api.ViewName) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	var rows []Name
	for _, n := range list {
		if err := c.addName(&rows, "standbyNames", n); err != nil {
			return nil, err
		}
	}
	by := map[place][]Name{}
	for _, n := range rows {
		by[n.place()] = append(by[n.place()], n)
	}
	return by, nil
}

// takenOver gives names whose endpoint has nothing but ill targets to the first endpoint of those that stand by of which something is
// well. Where there is none they stay: then it may be the checks that are ill.
func (c *compiler) takenOver(rows []Name, standby map[place][]Name) []Name {
	if len(standby) == 0 {
		return rows
	}
	stays, ill := map[place]bool{}, map[place]bool{}
	for _, n := range rows {
		number := c.behind(n)
		stays[n.place()] = stays[n.place()] || c.well[number] || c.hope[number]
		ill[n.place()] = ill[n.place()] || c.ill[number]
	}
	var out []Name
	for at := range ill {
		if stays[at] || !ill[at] {
			delete(ill, at)
			continue
		}
		i := slices.IndexFunc(standby[at], func(n Name) bool { return c.well[c.behind(n)] })
		if i < 0 {
			delete(ill, at)
			continue
		}
		endpoint := standby[at][i].Endpoint
		for _, n := range standby[at] {
			if n.Endpoint == endpoint {
				out = append(out, n)
			}
		}
	}
	for _, n := range rows {
		if !ill[n.place()] {
			out = append(out, n)
		}
	}
	return out
}

// behind is the number of the ENI whose address a name leads to, 0 if there is none.
func (c *compiler) behind(n Name) uint32 {
	address := n.Address
	if _, _, form, ok := api.IPv4Form(address); ok {
		address = form
	}
	if a := c.addressOf[vpcAddr{n.VPC, address}]; a != nil {
		return a.Number
	}
	return 0
}

// healthy leaves out addresses behind which no target is well, except of names that would have none left: then it may be the
// checks that are ill.
func (c *compiler) healthy(rows []Name) []Name {
	some := map[place]bool{}
	for _, n := range rows {
		if c.alive[c.behind(n)] {
			some[n.place()] = true
		}
	}
	return slices.DeleteFunc(rows, func(n Name) bool { return some[n.place()] && !c.alive[c.behind(n)] })
}

// checkNamed demands that an address that a name leads to be one of the VPC, in either form.
func (c *compiler) checkNamed(vpc *api.ViewVPC, a netip.Addr) error {
	v4 := a
	if !a.Is4() {
		mesh, number, form, ok := api.IPv4Form(a)
		if !ok || mesh != c.view.Mesh.Number || number != vpc.Number {
			return fmt.Errorf("%s is no IPv6 address of VPC %d", a, vpc.Number)
		}
		v4 = form
	}
	if !vpc.CIDR.Contains(v4) {
		return fmt.Errorf("%s is outside the VPC's %s", a, vpc.CIDR)
	}
	return nil
}
