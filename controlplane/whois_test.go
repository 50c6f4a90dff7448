package controlplane

import (
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// The consumer, its provider and administrators learn whose an address is, each what it may; others, and whoever asks about what
// does not exist, get one answer.
func TestWhois(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{e.ID}))(t)
	must(shop.CreateTargetGroup(l.ctx(), api.CreateTargetGroupRequest{VPC: "shop", Name: "own", Protocol: api.TCP, Port: 1}))(t)
	b := must(shop.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: "shop",
		Listeners: []api.ListenerRequest{{Protocol: api.TCP, Port: 80, TargetGroup: "own"}}}))(t)
	waits := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger"}))(t)
	r := l.s.Resources()
	con, cart, vpc := r.Connections[e.Connection], find1(r.ENIs, "cart"), find1(r.VPCs, "shop")
	o := api.Overlay{Mesh: r.Mesh.Number, VPC: vpc.Number, Host: api.AddrHost(cart.Address),
		Tag: api.TagFamilyIPv4 | con.TagNumbers[0].Number}
	inside := o
	inside.Tag = 0
	whole := api.Whois{Account: l.account("shop"), AccountName: "shop", VPC: vpc.ID, VPCAddress: cart.Address, ENI: cart.ID,
		ENIName: "cart", PacketFamily: "ipv4", Address: o.Addr(), Connection: con.ID, Endpoint: e.ID, Service: con.Service,
		ServiceName: "pay/ledger", DialedAddress: r.ENIs[con.TagNumbers[0].ENI].Address, DialedPort: 443, Protocol: api.TCP}
	provider := whole
	provider.ENIName = ""
	within := api.Whois{Account: whole.Account, AccountName: "shop", VPC: vpc.ID, VPCAddress: cart.Address, ENI: cart.ID,
		ENIName: "cart", PacketFamily: "ipv6", Address: inside.Addr()}
	node := api.Overlay{Mesh: o.Mesh, Host: r.Nodes[cart.Node].Number}
	no := api.Whois{}
	gone, far, empty := o, o, o
	gone.Tag, far.VPC, empty.Host = api.TagFamilyIPv4|4000, 4000, api.AddrHost(netip.MustParseAddr("10.0.1.77"))
	balanced, asking := o, o
	balanced.Tag, asking.Tag = b.TagNumbers[0].Number, r.Connections[waits.Connection].TagNumbers[0].Number
	atBalancer := within
	atBalancer.Address, atBalancer.LoadBalancer, atBalancer.DialedPort, atBalancer.Protocol = balanced.Addr(), b.ID, 80, api.TCP
	atBalancer.DialedAddress = r.ENIs[b.TagNumbers[0].ENI].Address
	nobody := provider
	nobody.Address, nobody.VPCAddress, nobody.ENI = empty.Addr(), empty.HostAddr(), ""
	for _, c := range []struct {
		who  string
		of   api.Overlay
		want api.Whois
	}{
		{"shop", o, whole}, {"pay", o, provider}, {"", o, whole}, {"stranger", o, no}, {"pay", empty, nobody},
		{"shop", inside, within}, {"pay", inside, no}, {"", inside, within}, {"stranger", inside, no},
		{"shop", balanced, atBalancer}, {"pay", balanced, no}, {"stranger", balanced, no}, {"pay", asking, no}, // not accepted yet
		{"shop", gone, no}, {"pay", gone, no}, {"", gone, no}, {"shop", far, no}, {"", far, no},
		{"", node, api.Whois{Address: node.Addr(), Node: cart.Node}}, {"shop", node, no}, {"pay", node, no},
	} {
		as := l.admin()
		if c.who != "" {
			as = l.as(c.who)
		}
		got, err := as.Whois(l.ctx(), c.of.Addr().String())
		switch {
		case c.want == no:
			wantCode(t, err, api.CodeAddressNotFound)
		case err != nil || *got != c.want:
			t.Errorf("%s asks about %+v:\n%+v, %v; want\n%+v", c.who, c.of, got, err, c.want)
		}
	}
	other := o
	other.Mesh ^= 1
	for _, text := range []string{"", "x", "10.0.1.5", "fd00::1", other.Addr().String(), o.Addr().Next().String()} {
		if _, err := shop.Whois(l.ctx(), text); text != "" {
			if e := wantCode(t, err, api.CodeAddressInvalid); e.Field != "address" || e.Remedy == "" {
				t.Errorf("%v", e)
			}
		} else if err == nil {
			t.Error("no address is taken")
		}
	}
}
