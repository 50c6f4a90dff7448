package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
)

// prefix of the namespaces of a run.
const prefix = "cvbench"

// mesh is a development mesh with a consumer on host-a and targets behind endpoint services on both hosts.
type mesh struct {
	lab     *dev.Lab
	program string
}

func newMesh(program string) (*mesh, error) {
	lab, err := dev.New(dev.Config{Prefix: prefix, Program: program})
	return &mesh{lab: lab, program: program}, err
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

const consumer = prefix + "-from"

// services and the hosts of their targets.
var services = []struct{ name, system, host string }{
	{"far", "endpoint, other node", "host-b"},
	{"near", "endpoint, same node", "host-a"},
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
	for _, name := range []string{"shop", "pay"} {
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
		systems = append(systems, &system{name: s.system, client: consumer, server: prefix + "-" + s.name, dial: address})
	}
	status, err := admin.Status(ctx)
	if err != nil {
		return nil, err
	}
	return systems, admin.WaitConverged(ctx, status.Revision)
}

func (m *mesh) workload(ctx context.Context, c *client.Client, name, host string) error {
	eni, err := c.CreateENI(ctx, api.CreateENIRequest{Subnet: "main", Name: name, Node: host})
	if err != nil {
		return err
	}
	_, err = m.lab.AddWorkload(ctx, c, dev.Workload{Name: prefix + "-" + name, Host: host, ENI: eni.ID})
	return err
}

// connect offers a target as a service and returns the address at which the consumer reaches it.
func (m *mesh) connect(ctx context.Context, shop, pay *client.Client, name string) (netip.Addr, error) {
	none := netip.Addr{}
	if _, err := pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: name, Subnets: []string{"main"}}); err != nil {
		return none, err
	}
	for _, port := range []uint16{iperfPort, echoPort} {
		group, err := pay.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: "main", Name: fmt.Sprintf("%s-%d", name, port),
			Protocol: api.TCP, Port: port, Targets: []api.TargetRequest{{ENI: name}}})
		if err != nil {
			return none, err
		}
		if _, err := pay.CreateListener(ctx, name, api.ListenerRequest{Protocol: api.TCP, Port: port,
			TargetGroup: group.ID}); err != nil {
			return none, err
		}
	}
	if name == services[0].name {
		if _, err := pay.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: api.TCP, FromPort: iperfPort,
			ToPort: echoPort, CIDR: subnet}}); err != nil {
			return none, err
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
