package controlplane

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/judge"
)

func (s *Server) registerExplain() {
	reading(s, operation{http.MethodGet, "/v1/explain", "explain-flow",
		"What both sides of a connection, as their owners made them, say to a new flow", aUser}, explain)
}

type explainInput struct {
	From     string       `query:"from" required:"true" doc:"A workload's network interface, id or name"`
	To       string       `query:"to" required:"true" doc:"Address, or name as the workload would ask for it"`
	Port     uint16       `query:"port" doc:"Of the destination; 0 with icmp and icmpv6"`
	Protocol api.Protocol `query:"protocol" enum:"tcp,udp,icmp,icmpv6" default:"tcp" doc:"Of the flow"`
}

// explain asks the judge. A node knows its own side only; the server knows both, and tells the consumer which one stops a
// flow, not what the other side's rules are.
func explain(c *call, in *explainInput) (*api.Explanation, error) {
	src, err := find(c, c.r.ENIs, api.KindENI, "from", in.From, nil)
	if err != nil {
		return nil, err
	}
	to, err := netip.ParseAddr(in.To)
	if err != nil {
		var missing *api.Stage
		if to, missing = c.explainName(src, in.To); missing != nil {
			return explained(*missing), nil
		}
	}
	to = to.Unmap()
	if in.Protocol == api.ICMP && to.Is6() {
		in.Protocol = api.ICMPv6
	}
	v := judge.Judge(c.r, judge.Packet{From: src.ID, To: to, Protocol: in.Protocol, Port: in.Port})
	if v.Allowed && !v.Resolver && !c.reachesAttached(v) {
		return explained(notAttached(v)), nil
	}
	if v.Allowed {
		detail := "every security group on the way lets it pass"
		if v.Via != "" && v.Connection == "" {
			detail = fmt.Sprintf("load balancer %s of the same VPC: its groups and its target's let it pass", v.Via)
		} else if v.Via != "" {
			detail = fmt.Sprintf("connection %s: the provider's load balancer and target let it pass", v.Connection)
		}
		return explained(api.Stage{Name: "receiver", OK: true, Detail: detail}), nil
	}
	return explained(c.explainRefusal(v, src, to, in)), nil
}

// reachesAttached tells whether some receiver of a flow is in a namespace, as far as its node has said. The judge knows what
// owners made, not what nodes do.
func (c *call) reachesAttached(v judge.Verdict) bool {
	all := v.Targets
	if len(all) == 0 {
		all = []judge.Verdict{v}
	}
	return slices.ContainsFunc(all, func(t judge.Verdict) bool {
		e := c.r.ENIs[t.To]
		return t.Allowed && e != nil && c.s.hub.attached(e.Node, e.ID)
	})
}

// notAttached says who can attach it.
func notAttached(v judge.Verdict) api.Stage {
	s := api.Stage{Name: "receiver", Reason: judge.NotHere}
	if v.Via == "" {
		s.Detail, s.Remedy = v.To+" is attached nowhere", "attach it on its node: culvert eni attach "+v.To+" --netns NAME"
		return s
	}
	s.Detail = "no target behind the service is attached"
	s.Remedy = "the provider has to attach one on its node: culvert eni attach ENI --netns NAME"
	return s
}

func explained(s api.Stage) *api.Explanation {
	return &api.Explanation{Allowed: s.OK, Stages: []api.Stage{s}}
}

// explainName finds the address behind a private name, of a family that the source has; a name of an endpoint that is not
// Available says so.
func (c *call) explainName(src *api.ENI, name string) (netip.Addr, *api.Stage) {
	vpc := src.VPC
	if m := judge.Resolve(c.r, vpc, name); len(m) > 0 && len(m[0].Addresses) > 0 {
		for _, a := range m[0].Addresses {
			if a.Is4() && src.IPAddressType.HasIPv4() || a.Is6() && src.IPAddressType.HasIPv6() {
				return a, nil
			}
		}
		return netip.Addr{}, &api.Stage{Name: "name", Reason: "NODATA",
			Detail: fmt.Sprintf("%s has no address of a family that %s has", name, src.ID),
			Remedy: "let it answer with both: culvert endpoint modify " + m[0].Endpoint + " --ip-address-type dualstack"}
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	s := &api.Stage{Name: "name", Reason: "NXDOMAIN", Detail: "no endpoint in this VPC has the name " + name,
		Remedy: "create an endpoint with private DNS: culvert endpoint create --vpc VPC --service ACCOUNT/NAME --private-dns"}
	for _, p := range c.r.Endpoints {
		service := c.r.Services[p.Service]
		own := slices.Contains(p.DNSNames, name)
		private := service != nil && slices.Contains(service.PrivateNames(), name)
		switch {
		case p.VPC != vpc || !own && !private:
		case p.State != api.Available:
			*s = notAvailable(p)
			return netip.Addr{}, s
		case private && !p.PrivateDNSEnabled:
			s.Detail = fmt.Sprintf("endpoint %s would have the name %s, but its private DNS is off", p.ID, name)
			s.Remedy = "turn it on: culvert endpoint modify " + p.ID + " --private-dns"
		}
	}
	return netip.Addr{}, s
}

// notAvailable tells a consumer why its endpoint does not work, and who can change that.
func notAvailable(p *api.Endpoint) api.Stage {
	remedy := "delete the endpoint and create it again"
	switch p.State {
	case api.PendingAcceptance:
		remedy = "the provider has to accept it: culvert service accept SERVICE " + p.ID
	case api.Pending:
		remedy = "wait: culvert endpoint describe " + p.ID
	case api.Rejected:
		remedy = "the provider rejected it, and may accept it after all: culvert service accept SERVICE " + p.ID
	}
	return api.Stage{Name: "connection", Reason: judge.NoListener, Remedy: remedy,
		Detail: fmt.Sprintf("endpoint %s is %s", p.ID, p.State)}
}

// explainRefusal puts the judge's reason into words for the owner of the source.
func (c *call) explainRefusal(v judge.Verdict, src *api.ENI, to netip.Addr, in *explainInput) api.Stage {
	s := api.Stage{Name: "receiver", Reason: v.Reason}
	from := src.Address
	if to.Is6() {
		from = api.IPv6Address(c.r.Mesh.Number, c.r.VPCs[src.VPC].Number, src.Address)
	}
	what := fmt.Sprintf("%s to port %d/%s", from, in.Port, in.Protocol)
	if in.Protocol == api.ICMP || in.Protocol == api.ICMPv6 {
		what = fmt.Sprintf("%s from %s", in.Protocol, from)
	}
	switch p := c.r.Endpoints[v.Via]; {
	case v.Reason == judge.NoListener && p != nil && p.State != api.Available:
		return notAvailable(p)
	case v.Reason == judge.LBGroupIngress, v.Reason == judge.LBGroupEgress, v.Reason == judge.GroupIngress && p != nil:
		whose := map[string]string{judge.LBGroupIngress: "load balancer, inward", judge.LBGroupEgress: "load balancer, outward",
			judge.GroupIngress: "targets"}[v.Reason]
		s.Detail = fmt.Sprintf("the provider's security groups (%s) do not let %s pass", whose, what)
		s.Remedy = "the provider has to authorize it with culvert sg authorize"
	case v.Reason == judge.GroupIngress:
		s.Detail = fmt.Sprintf("no ingress rule of the security groups of %s lets %s in", to, what)
		s.Remedy = "authorize it with culvert sg authorize"
	case v.Reason == judge.NotIP:
		s.Detail = fmt.Sprintf("%s is %s, and %s is not of that family", src.ID, src.IPAddressType, to)
		s.Remedy = "give it the family: culvert eni modify " + src.ID + " --ip-address-type dualstack"
	case v.Reason == judge.NoTarget:
		s.Detail = "no target is registered and attached behind the service"
		s.Remedy = "the provider has to register one: culvert target-group register GROUP ENI"
	case v.Reason == judge.NotHere:
		s.Detail = fmt.Sprintf("%s is bound to no node", to)
		s.Remedy = "attach it: culvert eni attach ENI --netns NAME"
	default:
		s.Detail = fmt.Sprintf("%s to %s is refused", what, to)
		s.Remedy = "docs/REASONS.md says what " + cmp.Or(v.Reason, "that") + " means"
	}
	return s
}
