package plan

import (
	"fmt"
	"strings"
)

// Dump prints the plan as text: one section a table, one line a row of names and values, rules and targets indented below
// theirs. Equal plans print equally.
func (p *Plan) Dump() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan revision %d generation %d\n", p.Revision, p.Generation)
	c := p.Config
	fmt.Fprintf(&b, "\n[config]\nmesh %06x node %d host %s\n", c.Mesh, c.Node, c.HostAddress)
	fmt.Fprintf(&b, "tunnel ifindex %d mtu %d expires %d\n", c.TunnelIfindex, c.TunnelMTU, c.ExpiresNS)
	fmt.Fprintf(&b, "culvert-dp ifindex %d mac %s peer %s\n", c.HostIfindex, macText(c.DPMAC), macText(c.HostMAC))
	fmt.Fprintf(&b, "resolver port %d\n", c.ResolverPort)
	section(&b, "links", p.Links, func(l Link) []any {
		return []any{
			l.ENI, "number", l.Number, "vpc", l.VPC, "address", l.Address, "subnet", l.Subnet, "vpc-cidr", l.VPCCIDR,
			"mtu", l.MTU, "netns", quote(l.Netns), "interface", quote(l.Interface), "default-route", l.DefaultRoute,
			"resolver", l.Resolver, "search", quote(l.Search),
		}
	})
	section(&b, "peers", p.Peers, func(x Peer) []any {
		return []any{x.PublicKey, "node", x.Node, "underlay", x.Underlay}
	})
	section(&b, "allowed-ips", p.AllowedIPs, func(a AllowedIP) []any { return []any{a.Prefix, "peer", a.PublicKey} })
	section(&b, "enis", p.ENIs, func(e ENI) []any {
		return []any{
			"vpc", e.VPC, e.Address, e.ID, "number", e.Number, "ifindex", e.Ifindex, "mac", macText(e.MAC),
			"gateway", macText(e.GatewayMAC), "in", e.IngressRules, "out", e.EgressRules, "groups", e.Groups,
		}
	})
	section(&b, "addresses", p.Addresses, func(a Address) []any {
		return []any{
			"vpc", a.VPC, a.Address, a.Type, quote(a.ENI), "number", a.Number,
			"in", a.Rules, "out", a.EgressRules, "groups", a.Groups,
		}
	})
	section(&b, "rule-sets", p.RuleSets, func(r RuleSet) []any { return []any{r.ID, indented(r.Text)} })
	section(&b, "services", p.Services, func(s Service) []any {
		return []any{
			"vpc", s.VPC, s.Address, "protocol", s.Protocol, "port", s.Port, "endpoint", s.Endpoint, "eni", s.EndpointENI,
			"tag", s.Tag, "connection", s.Connection, "provider-vpc", s.ProviderVPC, "table", s.Table, "size", s.TableSize,
			"idle", s.IdleSeconds,
		}
	})
	section(&b, "target-tables", p.TargetTables, func(t TargetTable) []any {
		return []any{t.ID, "size", t.Size, indented(t.Text)}
	})
	section(&b, "grants", p.Grants, func(g Grant) []any {
		return []any{
			"consumer-vpc", g.ConsumerVPC, "tag", g.Tag, "connection", g.Connection, g.ConnectionID, "provider-vpc", g.ProviderVPC,
			"dialed", g.DialedAddress, "protocol", g.Protocol, "port", g.DialedPort, "admitted", g.Admitted, "lb-in", g.LBRules,
			"lb-out", g.LBEgressRules, "idle", g.IdleSeconds,
		}
	})
	section(&b, "grant-targets", p.GrantTargets, func(g GrantTarget) []any {
		return []any{
			"consumer-vpc", g.ConsumerVPC, "tag", g.Tag, g.Address, "port", g.Port, "source", g.Source, "eni", g.SourceENI,
		}
	})
	section(&b, "zones", p.Zones, func(z Zone) []any {
		return []any{
			"vpc", z.VPC, z.CIDR, "account", quote(z.Account), "forwarders", quote(z.Forwarders), "plain", z.Plain,
		}
	})
	section(&b, "names", p.Names, func(n Name) []any { return []any{"vpc", n.VPC, n.Name, n.Address, n.Endpoint} })
	if len(p.Problems) > 0 {
		fmt.Fprintf(&b, "\n[problems]\n%s\n", strings.Join(p.Problems, "\n"))
	}
	return b.String()
}

// indented text follows its row on lines of its own.
type indented string

func section[R Row](b *strings.Builder, title string, rows []R, fields func(R) []any) {
	fmt.Fprintf(b, "\n[%s]\n", title)
	for _, r := range rows {
		for i, f := range fields(r) {
			if text, ok := f.(indented); ok {
				for line := range strings.Lines(string(text)) {
					b.WriteString("\n  " + strings.TrimSuffix(line, "\n"))
				}
				continue
			}
			if i > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprint(b, f)
		}
		b.WriteByte('\n')
	}
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

func macText(mac [6]byte) string { return strings.ReplaceAll(fmt.Sprintf("% x", mac[:]), " ", ":") }

// String names the type.
func (t AddressType) String() string {
	switch t {
	case AddressWorkload:
		return "workload"
	case AddressEndpoint:
		return "endpoint"
	case AddressLoadBalancer:
		return "load-balancer"
	case AddressResolver:
		return "resolver"
	}
	return fmt.Sprintf("type-%d", uint32(t))
}

// String lists the numbers, "-" when there are none.
func (g Groups) String() string {
	var s []string
	for _, n := range g {
		if n != 0 {
			s = append(s, fmt.Sprint(n))
		}
	}
	if len(s) == 0 {
		return "-"
	}
	return strings.Join(s, ",")
}
