package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/controlplane/view"
	"github.com/culvert-net/culvert/judge"
)

// TestAnySequence asks for anything in any order. Whatever is asked for, nothing is in the picture that must not be, who is
// refused has changed nothing, every request leaves one audit event, and nothing passes but by an Available connection.
func TestAnySequence(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := startLab(t, nil)
		defer l.stop()
		w := &walker{l: l, clients: map[string]*client.Client{"admin": l.admin()}}
		l.host("host-a")
		for _, name := range []string{"shop", "pay"} {
			c := l.as(name)
			w.clients[name] = c
			must(c.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: name, CIDR: prefix("10.0.0.0/16")}))(t)
			// One is soon full.
			must(c.CreateSubnet(l.ctx(), api.CreateSubnetRequest{VPC: name, Zone: "a", CIDR: prefix("10.0.1.0/28")}))(t)
			must(c.CreateSubnet(l.ctx(), api.CreateSubnetRequest{VPC: name, Name: "large", Zone: "b", CIDR: prefix("10.0.2.0/26")}))(t)
			w.offer(t, name, c)
		}
		w.settle()
		rt.Repeat(w.actions())
	})
}

type walker struct {
	l       *lab
	clients map[string]*client.Client
	last    *api.Resources // as the action before left it
	events  uint64         // number of the newest audit event then
	joined  int
}

// offer is what a walk starts with in each account: something that works, open to everybody.
func (w *walker) offer(t *testing.T, name string, c *client.Client) {
	ctx := w.l.ctx()
	must(c.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: api.All, CIDR: prefix("0.0.0.0/0")}}))(t)
	e := must(c.CreateENI(ctx, api.CreateENIRequest{Subnet: "large", Node: "host-a"}))(t)
	must(c.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: name, Name: "s0", Protocol: api.TCP, Port: 443,
		Targets: []api.TargetRequest{{ENI: e.ID}}}))(t)
	must(c.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{VPC: name, Name: "s0",
		Listeners: []api.ListenerRequest{{Protocol: api.TCP, Port: 443, TargetGroup: "s0"}}}))(t)
	must(c.CreateService(ctx, api.CreateServiceRequest{Name: "s0", LoadBalancers: []string{"s0"}, AcceptanceRequired: true,
		AllowedPrincipals: []string{"*"}, PrivateDNSName: "s0." + name + ".internal"}))(t)
}

func (w *walker) account(t *rapid.T) (string, *client.Client) {
	name := rapid.SampledFrom([]string{"shop", "pay"}).Draw(t, "account")
	return name, w.clients[name]
}

// oneOf is the id of something that an account has, seldom of something that it has not.
func oneOf[T api.Resource](w *walker, t *rapid.T, all map[string]T, account, what string) string {
	var ids []string
	for id, res := range all {
		if a := res.GetMeta().Account; a == "" || a == w.l.account(account) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if len(ids) == 0 || rapid.IntRange(0, 19).Draw(t, "stray") == 0 {
		ids = append(slices.Sorted(maps.Keys(all)), "nothing")
	}
	return rapid.SampledFrom(ids).Draw(t, what)
}

// some draws up to most different ids.
func some[T api.Resource](w *walker, t *rapid.T, all map[string]T, account, what string, most int) (out []string) {
	for range rapid.IntRange(0, most).Draw(t, "count") {
		if id := oneOf(w, t, all, account, what); !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// settle takes things as they are for where the next action starts.
func (w *walker) settle() {
	w.last, w.events = w.l.s.Resources(), w.audited()
}

// audited is how many events there are, with the refusals that are still counted.
func (w *walker) audited() (n uint64) {
	w.l.t.Helper()
	for _, kv := range must(w.l.s.store.List(w.l.ctx(), store.PrefixAudit, "", 1))(w.l.t) {
		var e api.AuditEvent
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			w.l.t.Fatal(err)
		}
		n = e.Seq
	}
	w.l.s.repeats.mu.Lock()
	defer w.l.s.repeats.mu.Unlock()
	for _, o := range w.l.s.repeats.open {
		n += o.last.Count
	}
	return n
}

// after judges what came of a request.
func (w *walker) after(t *rapid.T, err error) {
	now := w.l.s.Resources()
	if err != nil {
		var e *api.Error
		if !errors.As(err, &e) || e.Code == api.CodeInternal || e.Code == api.CodeUnavailable || e.Message == "" || e.Remedy == "" {
			t.Fatalf("not a refusal: %v", err)
		}
		if now != w.last {
			t.Fatalf("refused with %v, and yet something changed", err)
		}
	}
	if w.events++; w.audited() != w.events {
		t.Fatalf("not exactly one audit event (%v)", err)
	}
	w.last = now
}

func (w *walker) actions() map[string]func(*rapid.T) {
	all := map[string]func(*rapid.T){"": func(t *rapid.T) {
		r := w.l.s.Resources()
		for _, p := range append(problems(r), strays(r)...) {
			t.Error(p)
		}
	}}
	for _, set := range []map[string]func(*rapid.T){w.networking(), w.balancing(), w.serving(), w.operating()} {
		maps.Copy(all, set)
	}
	return all
}

func (w *walker) networking() map[string]func(*rapid.T) {
	r := w.l.s.Resources
	return map[string]func(*rapid.T){
		"create-eni": func(t *rapid.T) {
			name, c := w.account(t)
			q := api.CreateENIRequest{Subnet: oneOf(w, t, r().Subnets, name, "subnet")}
			if rapid.Bool().Draw(t, "bound") {
				q.Node = oneOf(w, t, r().Nodes, name, "node")
			}
			if rapid.IntRange(0, 3).Draw(t, "chosen") == 0 {
				q.Address = netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(1, 2).Draw(t, "net")), byte(rapid.IntRange(0, 20).Draw(t, "host"))})
			}
			_, err := c.CreateENI(w.l.ctx(), q)
			w.after(t, err)
		},
		"modify-eni": func(t *rapid.T) {
			name, c := w.account(t)
			node, groups := "", some(w, t, r().SecurityGroups, name, "group", 2)
			if rapid.Bool().Draw(t, "bound") {
				node = oneOf(w, t, r().Nodes, name, "node")
			}
			_, err := c.ModifyENI(w.l.ctx(), oneOf(w, t, r().ENIs, name, "eni"), api.ModifyENIRequest{Node: &node, SecurityGroups: &groups})
			w.after(t, err)
		},
		"delete-eni": func(t *rapid.T) {
			name, c := w.account(t)
			_, err := c.DeleteENI(w.l.ctx(), oneOf(w, t, r().ENIs, name, "eni"))
			w.after(t, err)
		},
		"create-security-group": func(t *rapid.T) {
			name, c := w.account(t)
			g, err := c.CreateSecurityGroup(w.l.ctx(), api.CreateSecurityGroupRequest{VPC: name, Name: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name")})
			w.after(t, err)
			if err == nil {
				_, err = c.AuthorizeIngress(w.l.ctx(), g.ID, []api.RuleRequest{{Protocol: api.All, CIDR: prefix("0.0.0.0/0")}})
				w.after(t, err)
			}
		},
		"delete-security-group": func(t *rapid.T) {
			name, c := w.account(t)
			_, err := c.DeleteSecurityGroup(w.l.ctx(), oneOf(w, t, r().SecurityGroups, name, "group"))
			w.after(t, err)
		},
	}
}

func (w *walker) balancing() map[string]func(*rapid.T) {
	r := w.l.s.Resources
	port := func(t *rapid.T) uint16 { return rapid.SampledFrom([]uint16{80, 443, 8443}).Draw(t, "port") }
	listener := func(t *rapid.T, name string) api.ListenerRequest {
		return api.ListenerRequest{Protocol: api.TCP, Port: port(t), TargetGroup: oneOf(w, t, r().TargetGroups, name, "target group")}
	}
	return map[string]func(*rapid.T){
		"create-target-group": func(t *rapid.T) {
			name, c := w.account(t)
			q := api.CreateTargetGroupRequest{VPC: name, Protocol: rapid.SampledFrom([]api.Protocol{api.TCP, api.TCP, api.UDP}).Draw(t, "protocol"),
				Port: port(t)}
			for _, e := range some(w, t, r().ENIs, name, "target", 3) {
				q.Targets = append(q.Targets, api.TargetRequest{ENI: e})
			}
			_, err := c.CreateTargetGroup(w.l.ctx(), q)
			w.after(t, err)
		},
		"change-targets": func(t *rapid.T) {
			name, c := w.account(t)
			change := c.RegisterTargets
			if rapid.Bool().Draw(t, "remove") {
				change = c.DeregisterTargets
			}
			_, err := change(w.l.ctx(), oneOf(w, t, r().TargetGroups, name, "target group"),
				[]api.TargetRequest{{ENI: oneOf(w, t, r().ENIs, name, "target"), Port: rapid.SampledFrom([]uint16{0, 80, 443}).Draw(t, "port")}})
			w.after(t, err)
		},
		"delete-target-group": func(t *rapid.T) {
			name, c := w.account(t)
			_, err := c.DeleteTargetGroup(w.l.ctx(), oneOf(w, t, r().TargetGroups, name, "target group"))
			w.after(t, err)
		},
		"create-load-balancer": func(t *rapid.T) {
			name, c := w.account(t)
			q := api.CreateLoadBalancerRequest{VPC: name, Subnets: some(w, t, r().Subnets, name, "subnet", 2),
				SecurityGroups: some(w, t, r().SecurityGroups, name, "group", 2)}
			for range rapid.IntRange(0, 2).Draw(t, "listeners") {
				q.Listeners = append(q.Listeners, listener(t, name))
			}
			_, err := c.CreateLoadBalancer(w.l.ctx(), q)
			w.after(t, err)
		},
		"delete-load-balancer": func(t *rapid.T) {
			name, c := w.account(t)
			_, err := c.DeleteLoadBalancer(w.l.ctx(), oneOf(w, t, r().LoadBalancers, name, "load balancer"))
			w.after(t, err)
		},
		"create-listener": func(t *rapid.T) {
			name, c := w.account(t)
			_, err := c.CreateListener(w.l.ctx(), oneOf(w, t, r().LoadBalancers, name, "load balancer"), listener(t, name))
			w.after(t, err)
		},
		"delete-listener": func(t *rapid.T) {
			name, c := w.account(t)
			id, which := oneOf(w, t, r().LoadBalancers, name, "load balancer"), noListener
			if b := r().LoadBalancers[id]; b != nil && len(b.Listeners) > 0 {
				which = rapid.SampledFrom(b.Listeners).Draw(t, "listener").ID
			}
			_, err := c.DeleteListener(w.l.ctx(), id, which)
			w.after(t, err)
		},
	}
}

func (w *walker) serving() map[string]func(*rapid.T) {
	r := w.l.s.Resources
	both := func(t *rapid.T) string { return rapid.SampledFrom([]string{"shop", "pay"}).Draw(t, "other account") }
	return map[string]func(*rapid.T){
		"create-service": func(t *rapid.T) {
			name, c := w.account(t)
			q := api.CreateServiceRequest{Name: rapid.SampledFrom([]string{"s1", "s2", "s3"}).Draw(t, "name"),
				LoadBalancers:      some(w, t, r().LoadBalancers, name, "load balancer", 2),
				AcceptanceRequired: rapid.Bool().Draw(t, "acceptance"), AllowedPrincipals: []string{both(t)}}
			if rapid.Bool().Draw(t, "private") {
				q.PrivateDNSName = fmt.Sprintf("%s.%s.internal", rapid.SampledFrom([]string{"a", "*.a"}).Draw(t, "label"), both(t))
			}
			_, err := c.CreateService(w.l.ctx(), q)
			w.after(t, err)
		},
		"modify-service": func(t *rapid.T) {
			name, c := w.account(t)
			acceptance, private := rapid.Bool().Draw(t, "acceptance"), rapid.SampledFrom([]string{"", "a." + name + ".internal"}).Draw(t, "private")
			_, err := c.ModifyService(w.l.ctx(), oneOf(w, t, r().Services, name, "service"), api.ModifyServiceRequest{
				AcceptanceRequired: &acceptance, PrivateDNSName: &private,
				AddLoadBalancers:    some(w, t, r().LoadBalancers, name, "load balancer", 1),
				RemoveLoadBalancers: some(w, t, r().LoadBalancers, name, "load balancer", 1)})
			w.after(t, err)
		},
		"delete-service": func(t *rapid.T) {
			name, c := w.account(t)
			_, err := c.DeleteService(w.l.ctx(), oneOf(w, t, r().Services, name, "service"))
			w.after(t, err)
		},
		"change-principals": func(t *rapid.T) {
			name, c := w.account(t)
			change := c.AllowPrincipals
			if rapid.Bool().Draw(t, "remove") {
				change = c.DisallowPrincipals
			}
			_, err := change(w.l.ctx(), oneOf(w, t, r().Services, name, "service"), []string{rapid.SampledFrom([]string{"shop", "pay", "*"}).Draw(t, "whom")})
			w.after(t, err)
		},
		"create-endpoint": func(t *rapid.T) {
			name, c := w.account(t)
			_, err := c.CreateEndpoint(w.l.ctx(), api.CreateEndpointRequest{VPC: name, Service: oneOf(w, t, r().Services, both(t), "service"),
				Subnets: some(w, t, r().Subnets, name, "subnet", 2), SecurityGroups: some(w, t, r().SecurityGroups, name, "group", 2),
				PrivateDNSEnabled: rapid.Bool().Draw(t, "private")})
			w.after(t, err)
		},
		"modify-endpoint": func(t *rapid.T) {
			name, c := w.account(t)
			private, groups := rapid.Bool().Draw(t, "private"), some(w, t, r().SecurityGroups, name, "group", 2)
			_, err := c.ModifyEndpoint(w.l.ctx(), oneOf(w, t, r().Endpoints, name, "endpoint"),
				api.ModifyEndpointRequest{PrivateDNSEnabled: &private, SecurityGroups: &groups})
			w.after(t, err)
		},
		"delete-endpoint": func(t *rapid.T) {
			name, c := w.account(t)
			_, err := c.DeleteEndpoint(w.l.ctx(), oneOf(w, t, r().Endpoints, name, "endpoint"))
			w.after(t, err)
		},
		"decide": func(t *rapid.T) {
			name, c := w.account(t)
			decide := c.AcceptConnections
			if rapid.IntRange(0, 2).Draw(t, "reject") == 0 {
				decide = c.RejectConnections
			}
			service, which := oneOf(w, t, r().Services, name, "service"), some(w, t, r().Connections, name, "connection", 2)
			if len(which) > 0 && r().Connections[which[0]] != nil {
				service = r().Connections[which[0]].Service
			}
			_, err := decide(w.l.ctx(), service, which)
			w.after(t, err)
		},
	}
}

func (w *walker) operating() map[string]func(*rapid.T) {
	r, admin := w.l.s.Resources, w.clients["admin"]
	return map[string]func(*rapid.T){
		"join": func(t *rapid.T) {
			if w.joined++; w.joined > 3 {
				return
			}
			w.l.host(fmt.Sprintf("host-%d", w.joined))
			w.settle()
		},
		"move-node": func(t *rapid.T) {
			move := rapid.SampledFrom([]func(string) error{
				func(n string) error { _, err := admin.DrainNode(w.l.ctx(), n); return err },
				func(n string) error { _, err := admin.UndrainNode(w.l.ctx(), n); return err },
				func(n string) error { _, err := admin.UndrainNode(w.l.ctx(), n); return err },
				func(n string) error { _, err := admin.RevokeNode(w.l.ctx(), n); return err },
				func(n string) error { _, err := admin.DeleteNode(w.l.ctx(), n); return err },
			}).Draw(t, "move")
			w.after(t, move(oneOf(w, t, r().Nodes, "", "node")))
		},
	}
}

// strays lists what the judge lets pass and should not, and endpoints that views have and should not.
func strays(r *api.Resources) (found []string) {
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, from := range r.ENIs {
		if from.Type != api.ENIWorkload || from.Node == "" {
			continue
		}
		for _, e := range r.Endpoints {
			if e.VPC != from.VPC {
				continue
			}
			for _, id := range e.ENIs {
				for _, port := range []uint16{80, 443, 8443} {
					v := judge.Judge(r, judge.Packet{From: from.ID, To: r.ENIs[id].Address, Protocol: api.TCP, Port: port})
					if con := r.Connections[e.Connection]; v.Allowed &&
						(v.Via != e.ID || con == nil || con.State != api.Available || r.ENIs[v.To].Account != con.Account) {
						say("%s reaches %s by %s, port %d", from.ID, v.To, e.ID, port)
					}
				}
			}
		}
	}
	x := view.NewIndex(r)
	for id := range r.Nodes {
		v := x.View(id)
		for _, e := range v.Endpoints {
			if r.Endpoints[e.ID].State != api.Available {
				say("%s is told of the endpoint %s", id, e.ID)
			}
		}
		for _, g := range v.Grants {
			if con := r.Connections[g.Connection]; con.State != api.Available || !slices.ContainsFunc(con.TagNumbers,
				func(n api.TagNumber) bool { return n.Number == g.Tag }) {
				say("%s grants %s the number %d", id, g.Connection, g.Tag)
			}
		}
	}
	return found
}
