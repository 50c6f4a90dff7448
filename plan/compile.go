package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// LinkLocalResolver answers in every VPC, besides its base + 2 (AWS's address).
var LinkLocalResolver = netip.AddrFrom4([4]byte{169, 254, 169, 253})

// Compile turns a view and what was observed on the host into what the node must do. It is pure: the same input, in any
// order within its lists, gives the same plan. The view is untrusted: whatever contradicts itself is an error that names
// the field, and the caller keeps its last good plan. What exceeds a limit, and a name or record that is malformed, is left out
// and stands in Problems; the rest of the view is in force, what it revokes included. A node that is neither Ready nor Draining gets an empty plan of
// generation 0: closed.
func Compile(v api.View, f Facts) (*Plan, error) { return compile(v, f, nodeLimits) }

func compile(v api.View, f Facts, l limits) (*Plan, error) {
	if v.Node.State != api.NodeReady && v.Node.State != api.NodeDraining {
		return &Plan{Revision: v.Revision}, nil
	}
	c := newCompiler(v, f)
	for _, step := range []func() error{
		c.config, c.indexVPCs, c.indexGroups, c.indexAddresses, c.indexENIs, c.peers, c.links, c.addresses,
		c.endpoints, c.admissions, c.grants, c.probes, c.names, c.hostedZones, c.resolverRules, c.firewalls,
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("compile view %d: %w", v.Revision, err)
		}
	}
	c.fit(l)
	c.quotas()
	if err := c.finish(); err != nil {
		return nil, fmt.Errorf("compile view %d: %w", v.Revision, err)
	}
	return c.plan, nil
}

// vpcAddr is an address of a VPC; bare tenant addresses key nothing.
type vpcAddr struct {
	vpc  uint32
	addr netip.Addr
}

type compiler struct {
	view       *api.View
	facts      *Facts
	plan       *Plan
	vpcs       map[uint32]*api.ViewVPC
	groups     map[string]*api.ViewGroup
	addressOf  map[vpcAddr]*api.ViewAddress
	eniOf      map[vpcAddr]*api.ViewENI
	sets       *ruleBook
	admitted   map[string]*admission // by endpoint
	tables     *idBook
	tableTexts map[uint32]string // target group number → text of its targets
	tablesMade map[uint32]bool   // by id
	// Endpoints' ENIs by number, of one of their listeners each: targets are well, near the ENI, or anywhere; one is ill; one is not.
	alive, well, ill, hope map[uint32]bool
	excess                 excesses
}

// newCompiler sorts copies of the lists, so that nothing below depends on the order of the input.
func newCompiler(v api.View, f Facts) *compiler {
	sorted(&v.Peers, func(p api.ViewPeer) string { return p.PublicKey })
	sorted(&v.VPCs, func(x api.ViewVPC) string { return pad(uint64(x.Number)) })
	sorted(&v.ENIs, func(e api.ViewENI) string { return e.ID })
	sorted(&v.Addresses, func(a api.ViewAddress) string { return pad(uint64(a.VPC)) + a.Address.StringExpanded() })
	sorted(&v.Groups, func(g api.ViewGroup) string { return g.ID })
	sorted(&v.Endpoints, func(e api.ViewEndpoint) string { return e.ID })
	sorted(&v.LoadBalancers, func(e api.ViewEndpoint) string { return e.ID })
	sorted(&v.LoadBalancerGrants, func(g api.ViewGrant) string { return pad(uint64(g.ConsumerVPC)) + pad(uint64(g.Tag)) })
	sorted(&v.Admitted, func(a api.ViewAdmitted) string { return a.Endpoint })
	sorted(&v.Grants, func(g api.ViewGrant) string { return pad(uint64(g.ConsumerVPC)) + pad(uint64(g.Tag)) })
	sorted(&v.HostedZones, func(z api.ViewHostedZone) string { return z.ID })
	sorted(&f.Attachments, func(a Attachment) string { return a.ENI })
	sorted(&f.Ready, func(r ReadyLink) string { return r.ENI })
	return &compiler{
		view: &v, facts: &f, plan: &Plan{Revision: v.Revision, Generation: f.Generation},
		vpcs: map[uint32]*api.ViewVPC{}, groups: map[string]*api.ViewGroup{},
		addressOf: map[vpcAddr]*api.ViewAddress{}, eniOf: map[vpcAddr]*api.ViewENI{},
		admitted: map[string]*admission{}, sets: &ruleBook{newIDBook(textHash)}, tables: newIDBook(textHash), tableTexts: map[uint32]string{},
		tablesMade: map[uint32]bool{}, alive: map[uint32]bool{}, well: map[uint32]bool{},
		ill: map[uint32]bool{}, hope: map[uint32]bool{},
		excess: excesses{},
	}
}

func sorted[T any](list *[]T, key func(T) string) {
	*list = slices.Clone(*list)
	slices.SortStableFunc(*list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}

func (c *compiler) config() error {
	v := c.view
	if v.Mesh.Number == 0 || v.Mesh.Number > 0xffffff {
		return fmt.Errorf("mesh.number: %d is not in 1..2^24-1", v.Mesh.Number)
	}
	if v.Node.Number == 0 {
		return fmt.Errorf("node.number: 0 is not a node")
	}
	c.plan.Config = c.facts.Config
	c.plan.Config.Mesh, c.plan.Config.Node = v.Mesh.Number, v.Node.Number
	c.plan.Config.ResolverPort = ResolverPort
	c.plan.Config.HostAddress = api.NodeAddr(v.Mesh.Number, v.Node.Number)
	return nil
}

// peers fills Peers and AllowedIPs. No two peers may speak for one address, nor a peer for what is here.
func (c *compiler) peers() error {
	var spoken []AllowedIP
	nodes := map[string]bool{}
	for _, p := range c.view.Peers {
		field := fmt.Sprintf("peers[%q]", p.Node)
		if err := checkIDs(field, p.Node); err != nil {
			return err
		}
		if e := api.ValidatePublicKey("publicKey", p.PublicKey); e != nil {
			return fmt.Errorf("%s: %w", field, e)
		}
		if p.Node == c.view.Node.ID || p.Number == c.view.Node.Number || nodes[p.Node] {
			return fmt.Errorf("%s: this node itself, or twice", field)
		}
		nodes[p.Node] = true
		c.plan.Peers = append(c.plan.Peers, Peer{PublicKey: p.PublicKey, Node: p.Node, Underlay: firstUnderlay(p.Underlay)})
		for _, prefix := range p.AllowedIPs {
			if err := c.checkAllowedIP(p, prefix); err != nil {
				return fmt.Errorf("%s.allowedIPs: %w", field, err)
			}
			spoken = append(spoken, AllowedIP{Prefix: prefix, PublicKey: p.PublicKey})
		}
	}
	c.plan.AllowedIPs = slices.Clone(spoken)
	for _, e := range c.view.ENIs {
		own := api.OverlayPrefix(c.view.Mesh.Number, e.VPC, netip.PrefixFrom(e.Address, 32))
		spoken = append(spoken, AllowedIP{Prefix: own})
	}
	own := netip.PrefixFrom(c.plan.Config.HostAddress, 128)
	return checkApart(append(spoken, AllowedIP{Prefix: own}))
}

func (c *compiler) checkAllowedIP(p api.ViewPeer, prefix netip.Prefix) error {
	if !prefix.IsValid() || prefix != prefix.Masked() || !api.MeshPrefix(c.view.Mesh.Number).Contains(prefix.Addr()) {
		return fmt.Errorf("%s: not a prefix of mesh %06x", prefix, c.view.Mesh.Number)
	}
	b := prefix.Addr().As16()
	if b[4]|b[5]|b[6]|b[7] == 0 {
		if prefix.Bits() < 96 || !prefix.Contains(api.NodeAddr(c.view.Mesh.Number, p.Number)) {
			return fmt.Errorf("%s: not the host address of node number %d", prefix, p.Number)
		}
		return nil
	}
	if prefix.Bits() < 80 {
		return fmt.Errorf("%s: wider than a VPC may be (/80)", prefix)
	}
	return nil
}

// checkApart demands that prefixes of different keys do not overlap and none stands twice; the key "" is this node.
func checkApart(list []AllowedIP) error {
	slices.SortFunc(list, func(a, b AllowedIP) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	var open []AllowedIP // prefixes that contain the one before, widest first
	for _, a := range list {
		for len(open) > 0 && !open[len(open)-1].Prefix.Contains(a.Prefix.Addr()) {
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			last := open[len(open)-1]
			if last.PublicKey != a.PublicKey || last.Prefix == a.Prefix {
				return fmt.Errorf("peers.allowedIPs: %s overlaps %s", a.Prefix, last.Prefix)
			}
		}
		open = append(open, a)
	}
	return nil
}

// firstUnderlay is the first address that can be sent to; invalid when there is none.
func firstUnderlay(list []string) netip.AddrPort {
	for _, text := range list {
		a, err := netip.ParseAddrPort(text)
		if err == nil && a.Port() != 0 && !a.Addr().IsUnspecified() && !a.Addr().IsMulticast() {
			return a
		}
	}
	return netip.AddrPort{}
}

// links fills Links from what the user attached and the view allows, and ENIs from those of them that exist.
func (c *compiler) links() error {
	enis := map[string]*api.ViewENI{}
	for i := range c.view.ENIs {
		enis[c.view.ENIs[i].ID] = &c.view.ENIs[i]
	}
	attached := map[string]bool{}
	for _, a := range c.facts.Attachments {
		e := enis[a.ENI]
		if e == nil {
			continue
		}
		if attached[a.ENI] {
			return fmt.Errorf("facts.attachments: %s twice", a.ENI)
		}
		attached[a.ENI] = true
		vpc := c.vpcs[e.VPC]
		link := Link{
			ENI: e.ID, Number: e.Number, VPC: e.VPC, Address: e.Address, Subnet: e.CIDR, VPCCIDR: vpc.CIDR,
			MTU: int(c.facts.Config.TunnelMTU) - WorkloadMTUReserve, Netns: a.Netns, Interface: a.Interface,
			DefaultRoute: a.DefaultRoute, Resolver: resolverOf(vpc.CIDR), Families: familiesOf(api.ENIWorkload, e.IPAddressType),
		}
		if link.Families&FamilyIPv6 != 0 {
			mesh := c.view.Mesh.Number
			link.IPv6Address, link.IPv6Block = api.IPv6Address(mesh, e.VPC, e.Address), api.VPCIPv6Block(mesh, e.VPC)
			if link.Families == FamilyIPv6 {
				link.Resolver = api.IPv6Address(mesh, e.VPC, link.Resolver)
			}
		}
		c.plan.Links = append(c.plan.Links, link)
	}
	interfaces := map[uint32]bool{}
	for i, r := range c.facts.Ready {
		e := enis[r.ENI]
		if e == nil || !attached[r.ENI] {
			continue
		}
		if i > 0 && c.facts.Ready[i-1].ENI == r.ENI || r.Ifindex == 0 || interfaces[r.Ifindex] {
			return fmt.Errorf("facts.ready: %s twice, or interface %d of another ENI or none", r.ENI, r.Ifindex)
		}
		interfaces[r.Ifindex] = true
		row := ENI{
			VPC: e.VPC, Address: e.Address, ID: e.ID, Number: e.Number,
			Ifindex: r.Ifindex, MAC: r.MAC, GatewayMAC: r.GatewayMAC, Families: familiesOf(api.ENIWorkload, e.IPAddressType),
			StrictLog: e.StrictLog,
		}
		var err error
		h := holder{fmt.Sprintf("enis[%q].groups", e.ID), e.VPC, e.ID}
		groups := e.Groups
		if row.Groups, groups, err = c.groupNumbers(h, groups); err != nil {
			return err
		}
		if row.IngressRules, err = c.groupRules(h, groups, ingress); err != nil {
			return err
		}
		if row.EgressRules, err = c.groupRules(h, groups, egress); err != nil {
			return err
		}
		c.plan.ENIs = append(c.plan.ENIs, row)
	}
	return nil
}

// resolverOf is a VPC's or subnet's base + 2.
func resolverOf(cidr netip.Prefix) netip.Addr { return cidr.Addr().Next().Next() }

// addresses fills Addresses: what the view lists, and the resolver's in each VPC that has a part here.
func (c *compiler) addresses() error {
	for _, a := range c.view.Addresses {
		row := Address{VPC: a.VPC, Address: a.Address, ENI: a.ENI, Number: a.Number, Families: familiesOf(a.Type, a.IPAddressType)}
		h := holder{fmt.Sprintf("addresses[%q].groups", a.ENI), a.VPC, a.ENI}
		groups := a.Groups
		var err error
		if row.Groups, groups, err = c.groupNumbers(h, groups); err != nil {
			return err
		}
		switch a.Type {
		case api.ENIWorkload:
			row.Type = AddressWorkload
		case api.ENIEndpoint:
			row.Type = AddressEndpoint
			row.Rules, err = c.groupRules(h, groups, ingress)
		case api.ENILoadBalancer:
			row.Type = AddressLoadBalancer
			if row.Rules, err = c.loadBalancerRules(h, groups, ingress); err == nil {
				row.EgressRules, err = c.loadBalancerRules(h, groups, egress)
			}
		}
		if err != nil {
			return err
		}
		c.plan.Addresses = append(c.plan.Addresses, row)
	}
	for _, v := range c.view.VPCs {
		if !v.Local {
			continue
		}
		resolvers := []netip.Addr{LinkLocalResolver, resolverOf(v.CIDR)}
		for _, s := range v.Subnets {
			resolvers = append(resolvers, resolverOf(s.CIDR))
		}
		slices.SortFunc(resolvers, netip.Addr.Compare)
		for _, a := range slices.Compact(resolvers) {
			row := Address{VPC: v.Number, Address: a, Type: AddressResolver, Families: BothFamilies}
			if a == LinkLocalResolver {
				row.Families = FamilyIPv4 // routes of IPv6 lead to the VPC's own range only
			}
			c.plan.Addresses = append(c.plan.Addresses, row)
		}
	}
	return nil
}

// finish sorts the tables and refuses duplicate keys.
func (c *compiler) finish() error {
	p := c.plan
	p.RuleSets = c.sets.rows()
	return cmpErr(
		sortRows("links", &p.Links), sortRows("peers", &p.Peers), sortRows("peers.allowedIPs", &p.AllowedIPs),
		sortRows("enis", &p.ENIs), sortRows("addresses", &p.Addresses), sortRows("groups", &p.RuleSets),
		sortRows("endpoints", &p.Services), sortRows("endpoints", &p.TargetTables), sortRows("grants", &p.Grants),
		sortRows("grants.targets", &p.GrantTargets), sortRows("healthChecks", &p.Probes),
		sortRows("peers.allowedIPs", &p.Paths), sortRows("quotas", &p.Quotas),
		sortRows("vpcs", &p.Zones), sortRows("names", &p.Names), sortRows("hostedZones", &p.HostedZones), sortRows("resolverRules", &p.Rules),
		sortRows("firewalls", &p.Firewalls),
	)
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// sortRows sorts a table by key, making each key once.
func sortRows[R Row](field string, table *[]R) error {
	type keyed struct {
		key string
		row R
	}
	rows := make([]keyed, len(*table))
	for i, r := range *table {
		rows[i] = keyed{r.Key(), r}
	}
	slices.SortFunc(rows, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	for i, r := range rows {
		if i > 0 && rows[i-1].key == r.key {
			return fmt.Errorf("%s: two rows for %s", field, r.key)
		}
		(*table)[i] = r.row
	}
	return nil
}
