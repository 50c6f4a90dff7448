package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var groupKind = kind[api.SecurityGroup]{
	prefix: api.KindSecurityGroup.Prefix(), missing: api.CodeGroupNotFound,
	command: "sg", arg: "GROUP", noun: "security group", plural: "security groups", sample: "web", byVPC: true,
	list: (*client.Client).ListSecurityGroups, watch: (*client.Client).WatchSecurityGroups,
	get:    (*client.Client).GetSecurityGroup,
	remove: (*client.Client).DeleteSecurityGroup,
	head:   []string{"ID", "NAME", "VPC", "INGRESS", "EGRESS"},
	row: func(v *api.SecurityGroup) []string {
		return []string{v.ID, v.Name, v.VPC, ruleList(v.Ingress), ruleList(v.Egress)}
	},
	empty: "You have no security group yet. Every VPC is born with one: culvert vpc create shop --cidr 10.0.0.0/16",
}

func ruleList(rules []api.Rule) string {
	parts := make([]string, len(rules))
	for i, r := range rules {
		parts[i] = ruleText(r)
	}
	return strings.Join(parts, ", ")
}

// ruleText is a rule in a few characters, such as tcp/443:10.0.0.0/16.
func ruleText(r api.Rule) string {
	what := string(r.Protocol)
	switch {
	case r.Protocol == api.All:
		what = "all"
	case r.ICMPType != 0 && r.ICMPCode != 0:
		what += "/" + r.ICMPType.String() + "." + r.ICMPCode.String()
	case r.ICMPType != 0:
		what += "/" + r.ICMPType.String()
	case r.FromPort != 0 && r.FromPort == r.ToPort:
		what += "/" + strconv.Itoa(int(r.FromPort))
	case r.FromPort != 0 || r.ToPort != 0:
		what += "/" + strconv.Itoa(int(r.FromPort)) + "-" + strconv.Itoa(int(r.ToPort))
	}
	if r.Group != "" {
		return what + ":" + r.Group
	}
	if r.CIDR.Addr().Is6() {
		return what + ":[" + r.CIDR.String() + "]"
	}
	return what + ":" + r.CIDR.String()
}

func (a *app) groupCommand() *cobra.Command {
	g := group("sg", "Security groups: what an interface lets in and out", `
A security group is a list of what its network interfaces let in and out. It only allows; what no rule allows is
refused. It is stateful: answers pass.`, `
  culvert sg create web --vpc shop
  culvert sg authorize web --ingress --port 443 --cidr 10.0.0.0/16
  culvert sg list --vpc shop`)
	g.AddCommand(a.groupCreate(), groupKind.listCommand(a), groupKind.describeCommand(a), a.groupAuthorize(),
		a.groupRevoke(), groupKind.deleteCommand(a, "No interface, endpoint, load balancer or rule may refer to it."))
	return g
}

func (a *app) groupCreate() *cobra.Command {
	var r api.CreateSecurityGroupRequest
	var m mutation
	c := command("create NAME --vpc VPC", "Create a security group", `
Create a security group. A new one lets nothing in and everything out.`, `
  culvert sg create web --vpc shop`, nil)
	c.RunE = change(a, groupKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.SecurityGroup, error) {
			r.Name = args[0]
			return cl.CreateSecurityGroup(ctx, r, o...)
		})
	reference(a, c, vpcKind, &r.VPC, "vpc", "the `VPC` it is in")
	tags(c, &r.Tags)
	c.Args = exactly("NAME")
	required(c, "vpc")
	m.flags(c)
	return c
}

func (a *app) groupAuthorize() *cobra.Command {
	var protocol, port, cidr string
	var icmpType, icmpCode int
	var rule api.RuleRequest
	var ingress, egress bool
	var m mutation
	c := command("authorize GROUP --ingress|--egress --cidr CIDR|--sg GROUP [--protocol PROTOCOL] [--port PORT]",
		"Add a rule to a security group", `
Let something in (--ingress) or out (--egress). The other side is a range of addresses, or every interface in a security
group of the same VPC. A rule with a range is for packets of its family: 0.0.0.0/0 says nothing of IPv6. Ranges of IPv6
are ::/0 and parts of a VPC's ipv6CidrBlock, which culvert vpc describe shows.`, `
  culvert sg authorize web --ingress --port 443 --cidr 10.0.0.0/16
  culvert sg authorize default --vpc shop --ingress --port 5432 --sg web
  culvert sg authorize web --egress --protocol all --cidr 0.0.0.0/0
  culvert sg authorize web --ingress --protocol icmpv6 --cidr ::/0`, nil)
	c.RunE = change(a, groupKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.SecurityGroup, error) {
			var err error
			if rule.Protocol, rule.FromPort, rule.ToPort, err = parsePorts(protocol, port); err != nil {
				return nil, err
			}
			if rule.ICMPType, rule.ICMPCode, err = icmpNumbers(rule.Protocol, icmpType, icmpCode); err != nil {
				return nil, err
			}
			if ingress == egress {
				return nil, api.Errorf(api.CodeInvalidCombination, "--ingress", "give --ingress or --egress",
					"the direction must be said, once")
			}
			if (cidr == "") == (rule.Group == "") {
				return nil, api.Errorf(api.CodeInvalidCombination, "--cidr", "give --cidr or --sg",
					"the other side must be said, once")
			}
			if cidr != "" {
				if rule.CIDR, err = parsePrefix("--cidr", cidr); err != nil {
					return nil, err
				}
			}
			if egress {
				return cl.AuthorizeEgress(ctx, args[0], []api.RuleRequest{rule}, o...)
			}
			return cl.AuthorizeIngress(ctx, args[0], []api.RuleRequest{rule}, o...)
		})
	f := c.Flags()
	f.BoolVar(&ingress, "ingress", false, "let in")
	f.BoolVar(&egress, "egress", false, "let out")
	choice(c, &protocol, "protocol", "tcp", "tcp", "udp", "icmp", "icmpv6", "all")
	f.StringVar(&port, "port", "", "`port` or range, such as 443 or 8000-8100 (default all)")
	f.IntVar(&icmpType, "icmp-type", -1, "`type` of ICMP, such as 8 for echo requests (-1: any)")
	f.IntVar(&icmpCode, "icmp-code", -1, "`code` of ICMP (-1: any)")
	f.StringVar(&cidr, "cidr", "", "`CIDR` of the other side, such as 10.0.0.0/16")
	reference(a, c, groupKind, &rule.Group, "sg", "security `GROUP` of the other side")
	f.StringVar(&rule.Description, "description", "", "`text` that says why")
	c.Args = exactly("GROUP")
	c.ValidArgsFunction = complete(a, groupKind)
	m.flags(c)
	groupKind.narrow(a, c, &m.vpc)
	return c
}

func icmpNumbers(p api.Protocol, icmpType, icmpCode int) (t, c api.ICMPNumber, err error) {
	for flag, n := range map[string]int{"--icmp-type": icmpType, "--icmp-code": icmpCode} {
		switch {
		case n < -1 || n > 255:
			return 0, 0, api.Errorf(api.CodeInvalidParameter, flag, "give 0 to 255, or -1 for any", "%d is no type or code of ICMP", n)
		case n >= 0 && p != api.ICMP && p != api.ICMPv6:
			return 0, 0, api.Errorf(api.CodeInvalidCombination, flag, "leave it out, or use --protocol icmp", "%s has none", p)
		}
	}
	if icmpType < 0 && icmpCode >= 0 {
		return 0, 0, api.Errorf(api.CodeInvalidCombination, "--icmp-code", "give --icmp-type too", "a code means something with its type only")
	}
	return api.ICMPOf(icmpType), api.ICMPOf(icmpCode), nil
}

// parsePorts reads a protocol and PORT or LOW-HIGH.
func parsePorts(protocol, port string) (p api.Protocol, from, to uint16, err error) {
	p = api.Protocol(protocol)
	if protocol == "all" {
		p = api.All
	}
	if p != api.TCP && p != api.UDP {
		if port != "" {
			return p, 0, 0, api.Errorf(api.CodeInvalidCombination, "--port", "leave it out, or use --protocol tcp or udp",
				"%s has no ports", protocol)
		}
		return p, 0, 0, nil
	}
	if port == "" {
		return p, 1, 65535, nil
	}
	low, high, ranged := strings.Cut(port, "-")
	if !ranged {
		high = low
	}
	a, errLow := strconv.ParseUint(low, 10, 16)
	b, errHigh := strconv.ParseUint(high, 10, 16)
	if errLow != nil || errHigh != nil || a == 0 || b < a {
		return p, 0, 0, api.Errorf(api.CodeInvalidParameter, "--port", "write it as 443 or 8000-8100, within 1 to 65535",
			"%q is not a port or range of ports", port)
	}
	return p, uint16(a), uint16(b), nil
}

func (a *app) groupRevoke() *cobra.Command {
	var m mutation
	c := command("revoke GROUP RULE...", "Remove rules from a security group", `
Remove rules by their ids, which culvert sg describe shows. Flows that only they allowed are cut within seconds.`, `
  culvert sg revoke web sgr-0a1b2c3d4e5f60718 --wait`, nil)
	c.RunE = change(a, groupKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (g *api.SecurityGroup, err error) {
			if err := m.once(args[1:]); err != nil {
				return nil, err
			}
			for _, rule := range args[1:] {
				if g, err = cl.RevokeRule(ctx, args[0], rule, o...); err != nil {
					return nil, err
				}
			}
			return g, nil
		})
	c.Args = atLeast("GROUP", "RULE")
	c.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return complete(a, groupKind)(cmd, args, word)
		}
		return completeWith(a, func(ctx context.Context, cl *client.Client) ([]string, error) {
			g, err := cl.GetSecurityGroup(ctx, args[0])
			if err != nil {
				return nil, err
			}
			var out []string
			for _, r := range append(g.Ingress, g.Egress...) {
				out = append(out, r.ID+"\t"+ruleText(r))
			}
			return out, nil
		})(cmd, args, word)
	}
	m.flags(c)
	groupKind.narrow(a, c, &m.vpc)
	return c
}
