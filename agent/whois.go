package agent

import (
	"context"
	"net/netip"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
)

// Whois says whose an overlay address is, as far as the view in force tells: of VPCs and interfaces that this node has to do with.
// It asks nobody, so it answers while no server does.
func (a *Agent) Whois(_ context.Context, address string) (local.Whois, error) {
	a.mu.Lock()
	view := a.appliedView
	a.mu.Unlock()
	if view == nil {
		return local.Whois{}, api.Errorf(api.CodeUnavailable, "", "see culvert status on this node", "no view has been applied yet")
	}
	addr, err := netip.ParseAddr(address)
	o, ok := api.ParseOverlay(addr.WithZone(""))
	if err != nil || !ok || o.Mesh != view.Mesh.Number {
		return local.Whois{}, api.Errorf(api.CodeAddressInvalid, "address", "give an IPv6 address as a target or a packet capture shows it",
			"%q is no overlay address of this mesh", api.Shortened(address))
	}
	w := local.Whois{Whois: api.Whois{Address: o.Addr()}, AskedNode: view.Node.ID, Revision: view.Revision, AsOf: view.IssuedAt}
	x := whoisIn{view: view, o: o, out: &w.Whois}
	if o.VPC == 0 && x.node() || o.VPC != 0 && x.vpc() && (o.Number() == 0 || x.connection()) {
		return w, nil
	}
	return local.Whois{}, api.Errorf(api.CodeAddressNotFound, "address",
		"ask on a node that hosts the workload or a target of it, or ask a server: culvert whois ADDRESS",
		"nothing that this node knows, as of revision %d of %s, has the address %s", view.Revision,
		view.IssuedAt.UTC().Format("2006-01-02 15:04:05 MST"), o.Addr())
}

// whoisIn looks an overlay address up in a view.
type whoisIn struct {
	view *api.View
	o    api.Overlay
	out  *api.Whois
}

// node is a node's own address.
func (x *whoisIn) node() bool {
	if x.o.Tag != 0 {
		return false
	}
	if x.view.Node.Number == x.o.Host {
		x.out.Node = x.view.Node.ID
		return true
	}
	for _, p := range x.view.Peers {
		if p.Number == x.o.Host {
			x.out.Node = p.Node
			return true
		}
	}
	return false
}

// vpc fills in whose VPC it is, and the interface if the node knows it.
func (x *whoisIn) vpc() bool {
	known := false
	for i := range x.view.VPCs {
		if v := &x.view.VPCs[i]; v.Number == x.o.VPC {
			x.out.Account, x.out.VPC, known = v.Account, v.ID, true
		}
	}
	if !known {
		return false
	}
	x.out.VPCAddress, x.out.PacketFamily = x.o.HostAddr(), "ipv6"
	if x.o.Tag&api.TagFamilyIPv4 != 0 {
		x.out.PacketFamily = "ipv4"
	}
	for i := range x.view.Addresses {
		if a := &x.view.Addresses[i]; a.VPC == x.o.VPC && a.Address == x.out.VPCAddress {
			x.out.ENI = a.ENI
		}
	}
	for i := range x.view.ENIs {
		if e := &x.view.ENIs[i]; e.ID == x.out.ENI && e.VPC == x.o.VPC {
			x.out.ENIName, x.out.Node = e.Name, x.view.Node.ID
		}
	}
	return true
}

// connection fills in what the tag's number stands for: at the provider's node from grants, at the consumer's from endpoints.
func (x *whoisIn) connection() bool {
	for i := range x.view.Grants {
		if g := &x.view.Grants[i]; g.ConsumerVPC == x.o.VPC && g.Tag == x.o.Number() {
			x.out.Connection, x.out.Endpoint, x.out.Service, x.out.ServiceName = g.Connection, g.Endpoint, g.Service, g.ServiceName
			x.out.DialedAddress, x.out.DialedPort, x.out.Protocol = g.DialedAddress, g.Port, g.Protocol
			return true
		}
	}
	for i := range x.view.Endpoints {
		if e := &x.view.Endpoints[i]; e.VPC == x.o.VPC && x.endpoint(e) {
			return true
		}
	}
	return x.inside()
}

func (x *whoisIn) endpoint(e *api.ViewEndpoint) bool {
	for i := range e.Listeners {
		l := &e.Listeners[i]
		for _, n := range l.TagNumbers {
			if n.Number != x.o.Number() {
				continue
			}
			x.out.Connection, x.out.Endpoint, x.out.Service, x.out.ServiceName = e.Connection, e.ID, e.Service, e.ServiceName
			x.out.DialedPort, x.out.Protocol = l.Port, l.Protocol
			for _, eni := range e.ENIs {
				if eni.ENI == n.ENI {
					x.out.DialedAddress = eni.Address
				}
			}
			return true
		}
	}
	return false
}

// inside is a client on its way to a load balancer of its own VPC: there is no endpoint, and no service.
func (x *whoisIn) inside() bool {
	for i := range x.view.LoadBalancers {
		if b := &x.view.LoadBalancers[i]; b.VPC == x.o.VPC && x.endpoint(b) {
			x.out.Connection, x.out.Endpoint, x.out.LoadBalancer = "", "", b.ID
			return true
		}
	}
	for i := range x.view.LoadBalancerGrants {
		if g := &x.view.LoadBalancerGrants[i]; g.ConsumerVPC == x.o.VPC && g.Tag == x.o.Number() {
			x.out.DialedAddress, x.out.DialedPort, x.out.Protocol, x.out.LoadBalancer = g.DialedAddress, g.Port, g.Protocol, g.Endpoint
			return true
		}
	}
	return false
}
