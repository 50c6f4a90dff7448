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
	fmt.Fprintf(&b, "culvert-dp ifindex %d mac %s peer %s\nresolver port %d\n", c.HostIfindex, macText(c.DPMAC), macText(c.HostMAC), c.ResolverPort)
	section(&b, "links", p.Links, func(l Link) []any {
		return []any{
			l.ENI, "number", l.Number, "vpc", l.VPC, "address", l.Address, l.Families, "ipv6", l.IPv6Address, "in", l.IPv6Block,
			"subnet", l.Subnet, "vpc-cidr", l.VPCCIDR,
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
			"vpc", e.VPC, e.Address, e.Families, e.ID, "number", e.Number, "ifindex", e.Ifindex, "mac", macText(e.MAC),
			"gateway", macText(e.GatewayMAC), "in", e.IngressRules, "out", e.EgressRules, "groups", e.Groups,
			"account", e.Account, "lane", e.Lane, "strict-log", e.StrictLog,
		}
	})
	section(&b, "addresses", p.Addresses, func(a Address) []any {
		return []any{
			"vpc", a.VPC, a.Address, a.Type, a.Families, quote(a.ENI), "number", a.Number,
			"in", a.Rules, "out", a.EgressRules, "groups", a.Groups,
		}
	})
	section(&b, "rule-sets", p.RuleSets, func(r RuleSet) []any { return []any{r.ID, indented(r.Text)} })
	section(&b, "services", p.Services, func(s Service) []any {
		return []any{
			"vpc", s.VPC, s.Address, "protocol", s.Protocol, "port", s.Port, "endpoint", s.Endpoint, "eni", s.EndpointENI,
			"tag", s.Tag, "connection", s.Connection, "provider-vpc", s.ProviderVPC, "table", s.Table, "width", s.TableWidth,
			"sticky", s.Sticky, "idle", s.IdleSeconds,
		}
	})
	section(&b, "target-tables", p.TargetTables, func(t TargetTable) []any {
		return []any{t.ID, "width", t.Width, indented(t.Text)}
	})
	section(&b, "grants", p.Grants, func(g Grant) []any {
		return []any{
			"consumer-vpc", g.ConsumerVPC, "tag", g.Tag, "connection", g.Connection, g.ConnectionID, "provider-vpc", g.ProviderVPC,
			"dialed", g.DialedAddress, "protocol", g.Protocol, "port", g.DialedPort, "admitted", g.Admitted, "lb-in", g.LBRules,
			"lb-out", g.LBEgressRules, "idle", g.IdleSeconds, "endpoint", g.Endpoint, "proxy-header", g.ProxyHeader,
			"inside", g.Inside, "account", g.Account, "client-address", g.ClientAddress,
		}
	})
	section(&b, "grant-targets", p.GrantTargets, func(g GrantTarget) []any {
		return []any{
			"consumer-vpc", g.ConsumerVPC, "tag", g.Tag, g.Address, "port", g.Port, "source", g.Source, "eni", g.SourceENI,
			"draining", g.Draining, "ports", g.Ports,
		}
	})
	dumpQuotas(&b, p.Quotas)
	dumpWays(&b, p)
	dumpNaming(&b, p.Naming())
	if len(p.Problems) > 0 {
		fmt.Fprintf(&b, "\n[problems]\n%s\n", strings.Join(p.Problems, "\n"))
	}
	return b.String()
}

func dumpWays(b *strings.Builder, p *Plan) {
	section(b, "probes", p.Probes, func(x Probe) []any { return []any{"vpc", x.VPC, x.Address, "port", x.Port, "source", x.Source} })
	section(b, "paths", p.Paths, func(x Path) []any { return []any{x.Prefix, "mtu", x.MTU} })
}

func dumpQuotas(b *strings.Builder, rows []Quota) {
	section(b, "quotas", rows, func(q Quota) []any {
		return []any{
			"kind", uint32(q.Kind), "id", q.ID, quote(q.Name), "guaranteed", q.Guaranteed, "ceiling", q.Ceiling, "open", q.Open,
			"most", q.Most, "connections-per-second", q.ConnectionsPerSecond, "bits-per-second", q.BitsPerSecond,
		}
	})
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

// dumpNaming prints what the resolver answers from.
func dumpNaming(b *strings.Builder, n Naming) {
	section(b, "zones", n.Zones, func(z Zone) []any {
		return []any{
			"vpc", z.VPC, z.CIDR, "account", quote(z.Account), "forwarders", quote(z.Forwarders), "plain", z.Plain, "query-log", z.QueryLog,
		}
	})
	section(b, "names", n.Names, func(x Name) []any { return []any{"vpc", x.VPC, x.Name, x.Address, x.Endpoint} })
	section(b, "hosted-zones", n.HostedZones, func(z HostedZone) []any {
		return []any{z.ID, z.Domain, "account", quote(z.Account), "vpcs", z.VPCs, indented(z.Text)}
	})
	section(b, "resolver-rules", n.Rules, func(r ResolverRule) []any {
		return []any{r.ID, r.Domain, "vpcs", r.VPCs, "forwarders", quote(r.Forwarders), "plain", r.Plain}
	})
	section(b, "firewalls", n.Firewalls, func(f Firewall) []any {
		return []any{f.ID, "vpcs", f.VPCs, "closed", f.Closed, indented(f.Text)}
	})
}
