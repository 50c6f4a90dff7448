package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
)

// A node says whose an address is by its own view: of its workloads, of consumers on their way to its targets and of its own
// consumers on their way, of nodes; and as of when. Nothing else, and no server is asked.
func TestWhoisOfTheNode(t *testing.T) {
	b := newBench(t)
	at := netip.MustParseAddr
	v := testView(7)
	v.IssuedAt = v.IssuedAt.Truncate(time.Second)
	v.ENIs[0].Name = "cart"
	v.VPCs = append(v.VPCs, api.ViewVPC{ID: "vpc-2", Account: "2", Number: 6, CIDR: netip.MustParsePrefix("10.0.0.0/16")})
	v.Addresses = append(v.Addresses, api.ViewAddress{VPC: 5, Address: at("10.0.1.200"), Type: api.ENIEndpoint, ENI: "eni-e", Number: 12})
	v.Endpoints = []api.ViewEndpoint{{ID: "vpce-1", Connection: "vpce-con-1", ConnectionNumber: 9, Service: "vpce-svc-1",
		ServiceName: "pay/ledger", VPC: 5, ProviderVPC: 6,
		ENIs: []api.ViewEndpointENI{{ENI: "eni-e", Number: 12, Address: at("10.0.1.200"), Zone: "z"}},
		Listeners: []api.ViewListenerPool{{Listener: "listener-1", Protocol: api.TCP, Port: 443, IdleTimeoutSeconds: 350, TargetGroup: 301,
			TagNumbers: []api.TagNumber{{ENI: "eni-e", Listener: "listener-1", Number: 4}}}}}}
	v.Grants = []api.ViewGrant{{ConsumerVPC: 6, Tag: 8, Connection: "vpce-con-2", ConnectionNumber: 10, Endpoint: "vpce-2",
		Service: "vpce-svc-2", ServiceName: "shop/stock", ConsumerAccount: "2", ProviderVPC: 5, DialedAddress: at("10.0.9.9"),
		Protocol: api.UDP, Port: 53, IdleTimeoutSeconds: 120}}
	v.LoadBalancers = []api.ViewEndpoint{{ID: "lb-1", Connection: "lb-1", ConnectionNumber: 11, VPC: 5, ProviderVPC: 5,
		ENIs: []api.ViewEndpointENI{{ENI: "eni-lb", Number: 14, Address: at("10.0.1.9"), Zone: "z"}},
		Listeners: []api.ViewListenerPool{{Listener: "listener-2", Protocol: api.TCP, Port: 80, IdleTimeoutSeconds: 350, TargetGroup: 302,
			TagNumbers: []api.TagNumber{{ENI: "eni-lb", Listener: "listener-2", Number: 12}}}}}}
	v.Addresses = append(v.Addresses, api.ViewAddress{VPC: 5, Address: at("10.0.1.9"), Type: api.ENILoadBalancer, ENI: "eni-lb", Number: 14})
	v.Admitted = []api.ViewAdmitted{{Endpoint: "vpce-2"}}
	if _, err := b.agent.Whois(t.Context(), "fd00::1"); !isCode(err, api.CodeUnavailable) {
		t.Errorf("before any view: %v", err)
	}
	b.hear(v)
	b.attach()
	b.mustRound()
	own := api.Whois{Account: "1", VPC: "vpc-1", VPCAddress: at("10.0.1.5"), ENI: eni, ENIName: "cart", Node: "node-1", PacketFamily: "ipv4"}
	out := own
	out.Connection, out.Endpoint, out.Service, out.ServiceName = "vpce-con-1", "vpce-1", "vpce-svc-1", "pay/ledger"
	out.DialedAddress, out.DialedPort, out.Protocol, out.PacketFamily = at("10.0.1.200"), 443, api.TCP, "ipv6"
	in := api.Whois{Account: "2", VPC: "vpc-2", VPCAddress: at("10.0.1.5"), PacketFamily: "ipv4", Connection: "vpce-con-2",
		Endpoint: "vpce-2", Service: "vpce-svc-2", ServiceName: "shop/stock", DialedAddress: at("10.0.9.9"), DialedPort: 53, Protocol: api.UDP}
	inside := own
	inside.LoadBalancer, inside.DialedAddress, inside.DialedPort, inside.Protocol = "lb-1", at("10.0.1.9"), 80, api.TCP
	host := api.AddrHost(at("10.0.1.5"))
	for _, c := range []struct {
		of   api.Overlay
		want api.Whois
	}{
		{api.Overlay{Mesh: 7, VPC: 5, Host: host, Tag: api.TagFamilyIPv4}, own},
		{api.Overlay{Mesh: 7, VPC: 5, Host: host, Tag: 4}, out},
		{api.Overlay{Mesh: 7, VPC: 6, Host: host, Tag: 8 | api.TagFamilyIPv4}, in},
		{api.Overlay{Mesh: 7, VPC: 5, Host: host, Tag: 12 | api.TagFamilyIPv4}, inside},
		{api.Overlay{Mesh: 7, Host: 1}, api.Whois{Node: "node-1"}},
	} {
		w, err := b.agent.Whois(t.Context(), c.of.Addr().String())
		c.want.Address = c.of.Addr()
		want := local.Whois{Whois: c.want, AskedNode: "node-1", Revision: 7, AsOf: v.IssuedAt}
		if w.AsOf = w.AsOf.Truncate(time.Second); err != nil || !w.AsOf.Equal(want.AsOf) {
			t.Errorf("%+v: as of %s, want %s; %v", c.of, w.AsOf, want.AsOf, err)
		}
		if want.AsOf = w.AsOf; w != want {
			t.Errorf("%+v:\n%+v, want\n%+v", c.of, w, want)
		}
	}
	for _, o := range []api.Overlay{
		{Mesh: 7, VPC: 77, Host: host}, {Mesh: 7, VPC: 5, Host: host, Tag: 9}, {Mesh: 7, VPC: 6, Host: host, Tag: 4}, {Mesh: 7, Host: 99},
	} {
		if _, err := b.agent.Whois(t.Context(), o.Addr().String()); !isCode(err, api.CodeAddressNotFound) ||
			!strings.Contains(err.Error(), "as of revision 7") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, text := range []string{"", "x", "10.0.1.5", "fd00::1", api.Overlay{Mesh: 8, VPC: 5, Host: host}.Addr().String()} {
		if _, err := b.agent.Whois(t.Context(), text); !isCode(err, api.CodeAddressInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func isCode(err error, code api.ErrorCode) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == code && e.Remedy != ""
}
