package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/netns"
)

// mesh is a development mesh with a consumer on host-a and targets behind endpoint services on both hosts.
type mesh struct {
	lab             *dev.Lab
	program, prefix string
	underlay        underlay
}

func newMesh(program string, u underlay) (*mesh, error) {
	m := &mesh{program: program, prefix: prefix + u.short, underlay: u}
	var err error
	m.lab, err = dev.New(dev.Config{Prefix: m.prefix, Program: program, UnderlayMTU: u.mtu, UnderlayIPv6: u.six})
	return m, err
}

// explain is an error with what each host counted: who measures a mesh that refuses wants to know why.
func (m *mesh) explain(ctx context.Context) error {
	var all []error
	for _, host := range []string{"host-a", "host-b"} {
		out, err := exec.CommandContext(ctx, m.program, "status", "--counters", "--socket", m.lab.AgentSocket(host)).CombinedOutput()
		all = append(all, fmt.Errorf("%s:\n%s", host, out), err)
	}
	return errors.Join(all...)
}

// services and the hosts of their targets.
var services = []struct{ name, system, host string }{
	{"far", farName, "host-b"},
	{"near", nearName, "host-a"},
}

var (
	network = netip.MustParsePrefix("10.0.0.0/16")
	subnet  = netip.MustParsePrefix("10.0.1.0/24")
)

func (m *mesh) up(ctx context.Context) ([]*system, error) {
	if err := m.lab.Down(); err != nil { // a run that was killed leaves one
		return nil, err
	}
	if err := m.lab.Up(ctx, 2); err != nil {
		return nil, err
	}
	if err := m.wire(ctx); err != nil {
		return nil, err
	}
	for _, role := range []string{"server", "tunnel", "agent"} {
		ids, err := m.processes(role)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if err := prefer(id); err != nil {
				return nil, err
			}
		}
	}
	admin, err := m.lab.Admin("")
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	own := map[string]*client.Client{}
	for _, name := range []string{"shop", "pay", crowdName} {
		if _, err := admin.CreateAccount(ctx, api.CreateAccountRequest{Name: name}); err != nil {
			return nil, err
		}
		c, err := m.lab.Admin(name)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		own[name] = c
		if _, err := c.CreateVPC(ctx, api.CreateVPCRequest{Name: "main", CIDR: network}); err != nil {
			return nil, err
		}
		if _, err := c.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: "main", Name: "main", Zone: "z1", CIDR: subnet}); err != nil {
			return nil, err
		}
	}
	if err := m.workload(ctx, own["shop"], "from", "host-a"); err != nil {
		return nil, err
	}
	var systems []*system
	for _, s := range services {
		if err := m.workload(ctx, own["pay"], s.name, s.host); err != nil {
			return nil, err
		}
		address, err := m.connect(ctx, own["shop"], own["pay"], s.name)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s.name, err)
		}
		systems = append(systems, &system{
			name: s.system, client: m.prefix + "-from", server: m.prefix + "-" + s.name, dial: address, host: s.system == nearName,
		})
	}
	if systems[0].crowd, err = m.crowd(ctx, own[crowdName]); err != nil {
		return nil, err
	}
	status, err := admin.Status(ctx)
	if err != nil {
		return nil, err
	}
	return systems, admin.WaitConverged(ctx, status.Revision)
}

// crowdName is the account that floods beside another.
const crowdName = "crowd"

// crowd is a workload on each host, in one VPC of an account of their own.
func (m *mesh) crowd(ctx context.Context, c *client.Client) (*system, error) {
	s := &system{name: crowdName, client: m.prefix + "-crowd", server: m.prefix + "-sink"}
	for name, host := range map[string]string{"crowd": "host-a", "sink": "host-b"} {
		if err := m.workload(ctx, c, name, host); err != nil {
			return nil, err
		}
	}
	for _, protocol := range []api.Protocol{api.TCP, api.UDP} {
		if _, err := c.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: protocol, FromPort: iperfPort, ToPort: echoPort,
			CIDR: subnet}}); err != nil {
			return nil, err
		}
	}
	eni, err := c.GetENI(ctx, "sink")
	if err != nil {
		return nil, err
	}
	s.dial = eni.Address
	return s, nil
}

// wire joins the two hosts directly, as the others' hosts are: the way over the lab's bridge stays for the control plane.
func (m *mesh) wire(ctx context.Context) error {
	const link = "eth1"
	a, b := m.prefix+"-host-a", m.prefix+"-host-b"
	if _, err := output(ctx, a, "ip", "link", "add", link, "mtu", strconv.Itoa(m.underlay.mtu), "type", "veth",
		"peer", "name", link, "mtu", strconv.Itoa(m.underlay.mtu), "netns", b); err != nil {
		return err
	}
	var ends [2]netip.Addr
	for i, ns := range []string{a, b} {
		err := netns.Do(netns.Path(ns), func() (err error) {
			ends[i], err = addressOf("eth0", m.underlay.six)
			return err
		})
		if err != nil {
			return fmt.Errorf("namespace %s: %w", ns, err)
		}
		if m.underlay.bare {
			if err := bareLink(ctx, ns, link); err != nil {
				return err
			}
		}
	}
	for i, ns := range []string{a, b} {
		own, peer := ends[i].String(), ends[1-i].String()
		bits := "/" + strconv.Itoa(ends[i].BitLen())
		for _, argv := range [][]string{
			{"ip", "address", "add", own + bits, "dev", link, "nodad"}, {"ip", "link", "set", link, "up"},
			{"ip", "route", "add", peer + bits, "dev", link, "src", own},
		} {
			if _, err := output(ctx, ns, argv...); err != nil {
				return err
			}
		}
	}
	return nil
}

// addressOf a link of this namespace, of one family, and not a link-local one.
func addressOf(link string, six bool) (netip.Addr, error) {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return netip.Addr{}, err
	}
	addresses, err := i.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addresses {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is6() == six && !p.Addr().IsLinkLocalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no address of the family asked for", link)
}

func (m *mesh) workload(ctx context.Context, c *client.Client, name, host string) error {
	eni, err := c.CreateENI(ctx, api.CreateENIRequest{Subnet: "main", Name: name, Node: host})
	if err != nil {
		return err
	}
	_, err = m.lab.AddWorkload(ctx, c, dev.Workload{Name: m.prefix + "-" + name, Host: host, ENI: eni.ID})
	return err
}

// connect offers a target as a service and returns the address at which the consumer reaches it.
func (m *mesh) connect(ctx context.Context, shop, pay *client.Client, name string) (netip.Addr, error) {
	none := netip.Addr{}
	if _, err := pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: name, Subnets: []string{"main"}}); err != nil {
		return none, err
	}
	for _, l := range []struct {
		protocol api.Protocol
		port     uint16
	}{{api.TCP, iperfPort}, {api.TCP, echoPort}, {api.UDP, echoPort}} {
		group, err := pay.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: "main", Protocol: l.protocol, Port: l.port,
			Name: strings.ToLower(fmt.Sprintf("%s-%s-%d", name, l.protocol, l.port)), Targets: []api.TargetRequest{{ENI: name}}})
		if err != nil {
			return none, err
		}
		if _, err := pay.CreateListener(ctx, name, api.ListenerRequest{Protocol: l.protocol, Port: l.port,
			TargetGroup: group.ID}); err != nil {
			return none, err
		}
	}
	if name == services[0].name {
		for _, protocol := range []api.Protocol{api.TCP, api.UDP} {
			if _, err := pay.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: protocol, FromPort: iperfPort,
				ToPort: echoPort, CIDR: subnet}}); err != nil {
				return none, err
			}
		}
	}
	if _, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: name, LoadBalancers: []string{name},
		AllowedPrincipals: []string{"shop"}}); err != nil {
		return none, err
	}
	endpoint, err := shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "main", Name: name, Service: "pay/" + name})
	if err != nil {
		return none, err
	}
	eni, err := shop.GetENI(ctx, endpoint.ENIs[0])
	if err != nil {
		return none, err
	}
	return eni.Address, nil
}

// processes are the ids of the processes of a role on all hosts.
func (m *mesh) processes(role string) ([]int, error) {
	status, err := m.lab.Status()
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, p := range status.Processes {
		if p.Process == role {
			ids = append(ids, p.PID)
		}
	}
	return ids, nil
}
