package controlplane

import (
	"net/http"
	"net/netip"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerWhois() {
	reading(s, operation{http.MethodGet, "/v1/whois", "get-whois", "Whose an overlay address is", aUser}, whois)
}

type whoisInput struct {
	Address string `query:"address" required:"true" doc:"Overlay address, as a target of a service sees it or a packet in the tunnel has it"`
}

// whois takes an overlay address apart. The owner of the VPC and administrators are told all; the provider of the service that
// the address is on its way to is told who comes to it. Everybody else gets the answer for what does not exist.
func whois(c *call, in *whoisInput) (*api.Whois, error) {
	a, err := netip.ParseAddr(in.Address)
	if err != nil {
		return nil, notOverlay(in.Address)
	}
	o, ok := api.ParseOverlay(a.WithZone(""))
	if !ok || o.Mesh != c.r.Mesh.Number {
		return nil, notOverlay(in.Address)
	}
	w := &api.Whois{Address: o.Addr()}
	if o.VPC == 0 {
		return c.whoisNode(w, o)
	}
	var vpc *api.VPC
	for _, v := range c.r.VPCs {
		if v.Number == o.VPC {
			vpc = v
		}
	}
	if vpc == nil {
		return nil, noSuchAddress(a)
	}
	own := c.visible(vpc)
	provider := c.whoisConnection(w, vpc, o)
	switch {
	case o.Number() != 0 && w.Connection == "" && w.LoadBalancer == "", !own && !provider:
		return nil, noSuchAddress(a)
	}
	w.Account, w.VPC, w.VPCAddress = vpc.Account, vpc.ID, o.HostAddr()
	if account := c.r.Accounts[vpc.Account]; account != nil {
		w.AccountName = account.Name
	}
	w.PacketFamily = "ipv6"
	if o.Tag&api.TagFamilyIPv4 != 0 {
		w.PacketFamily = "ipv4"
	}
	for _, e := range c.r.ENIs {
		if e.VPC == vpc.ID && e.Address == w.VPCAddress {
			if w.ENI = e.ID; own {
				w.ENIName = e.Name
			}
		}
	}
	return w, nil
}

// whoisConnection fills in what the tag's number stands for, and reports whether the caller offers that service to whom the
// address is of: without an Available connection nobody comes to it.
func (c *call) whoisConnection(w *api.Whois, vpc *api.VPC, o api.Overlay) (provider bool) {
	if o.Number() == 0 {
		return false
	}
	for _, con := range c.r.Connections {
		if con.EndpointVPC != vpc.ID {
			continue
		}
		for _, n := range con.TagNumbers {
			if n.Number != o.Number() {
				continue
			}
			w.Connection, w.Endpoint, w.Service = con.ID, con.Endpoint, con.Service
			if p := c.r.Endpoints[con.Endpoint]; p != nil {
				w.ServiceName = p.ServiceName
			}
			c.whoisDialed(w, n, c.r.LoadBalancers[con.LoadBalancer])
			return c.visible(con) && con.State == api.Available
		}
	}
	for _, b := range c.r.LoadBalancers {
		if b.VPC != vpc.ID {
			continue
		}
		for _, n := range b.TagNumbers {
			if n.Number == o.Number() {
				w.LoadBalancer = b.ID
				c.whoisDialed(w, n, b)
			}
		}
	}
	return false
}

// whoisDialed fills in which address and listener of a load balancer a number stands for.
func (c *call) whoisDialed(w *api.Whois, n api.TagNumber, b *api.LoadBalancer) {
	if e := c.r.ENIs[n.ENI]; e != nil {
		w.DialedAddress = e.Address
	}
	if b == nil {
		return
	}
	for _, l := range b.Listeners {
		if l.ID == n.Listener {
			w.DialedPort, w.Protocol = l.Port, l.Protocol
		}
	}
}

func (c *call) whoisNode(w *api.Whois, o api.Overlay) (*api.Whois, error) {
	for _, n := range c.r.Nodes {
		if n.Number == o.Host && o.Tag == 0 && c.account == "" && c.who.admin() {
			w.Node = n.ID
			return w, nil
		}
	}
	return nil, noSuchAddress(w.Address)
}

func notOverlay(text string) error {
	return api.Errorf(api.CodeAddressInvalid, "address", "give an IPv6 address as a target or a packet capture shows it",
		"%q is no overlay address of this mesh", api.Shortened(text))
}

func noSuchAddress(a netip.Addr) error {
	return api.Errorf(api.CodeAddressNotFound, "address",
		"ask about addresses of your own VPCs, and about those of consumers on their way to your services",
		"nothing that the caller may know has the address %s", a)
}
