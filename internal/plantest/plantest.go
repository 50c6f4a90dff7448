// Package plantest is a small mesh as views and facts, for tests of what is computed from them: two VPCs of equal addresses on
// two nodes, one endpoint between them, whose workloads can be placed on either node.
package plantest

import (
	"encoding/base64"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// Numbers of the mesh, for tests that look at rows and packets.
const (
	Mesh       = 0x706c01
	Shop       = 1 // VPC, the consumer's
	Pay        = 2 // VPC, the provider's
	Connection = 7
	TagTCP     = 5 // tcp 443 → 8443
	TagUDP     = 6 // udp 53 → 5353
	TunnelMTU  = 1420
)

// Workload is one of the mesh's workload ENIs.
type Workload struct {
	ID      string
	VPC     uint32
	Number  uint32
	Address netip.Addr
	Group   string
	Node    uint32 // 1 or 2
}

// Workloads of the mesh, on the nodes they are on by default. cart and ledger-1 have the same address.
func Workloads() []Workload {
	a := netip.MustParseAddr
	return []Workload{
		{"eni-cart", Shop, 11, a("10.0.1.5"), "sg-shop", 1},
		{"eni-till", Shop, 12, a("10.0.1.7"), "sg-shop", 1},
		{"eni-stock", Shop, 13, a("10.0.1.8"), "sg-shop", 2},
		{"eni-ledger-1", Pay, 21, a("10.0.1.5"), "sg-ledger", 2},
		{"eni-ledger-2", Pay, 22, a("10.0.1.6"), "sg-ledger", 2},
	}
}

// Addresses of the endpoint, of the load balancer and of the resolver.
var (
	Endpoint     = netip.MustParseAddr("10.0.1.200")
	LoadBalancer = netip.MustParseAddr("10.0.1.9")
	Resolver     = netip.MustParseAddr("10.0.0.2")
)

// OnNode returns the workloads with all of them on one node.
func OnNode(node uint32) []Workload {
	list := Workloads()
	for i := range list {
		list[i].Node = node
	}
	return list
}

// Key is the WireGuard public key of a node.
func Key(node uint32) string {
	return base64.StdEncoding.EncodeToString(slices.Repeat([]byte{byte(node)}, 32))
}

var nodeIDs = map[uint32]string{1: "node-1", 2: "node-2"}

// View is what a node knows of the mesh.
func View(node uint32, workloads []Workload) api.View {
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	subnet := netip.MustParsePrefix("10.0.1.0/24")
	v := api.View{
		Revision: 42, MaxAgeSeconds: 3 * 24 * 3600, Mesh: api.Mesh{Number: Mesh, Region: "local"},
		Node: api.ViewNode{ID: nodeIDs[node], Number: node, State: api.NodeReady},
	}
	peer := api.ViewPeer{Node: nodeIDs[3-node], Number: 3 - node, PublicKey: Key(3 - node), Underlay: []string{"192.0.2.1:51820"}}
	peer.AllowedIPs = append(peer.AllowedIPs, netip.PrefixFrom(api.NodeAddr(Mesh, 3-node), 128))
	local := map[uint32]bool{}
	targets := []api.ViewTarget{}
	for _, w := range workloads {
		if w.VPC == Pay {
			targets = append(targets, api.ViewTarget{Address: w.Address, Port: 8443, Zone: "a"})
		}
		if w.Node != node {
			peer.AllowedIPs = append(peer.AllowedIPs, api.OverlayPrefix(Mesh, w.VPC, netip.PrefixFrom(w.Address, 32)))
			continue
		}
		local[w.VPC] = true
		v.ENIs = append(v.ENIs, api.ViewENI{
			ID: w.ID, Number: w.Number, VPC: w.VPC, VPCID: vpcID(w.VPC), Subnet: "subnet-1", CIDR: subnet,
			Address: w.Address, Groups: []string{w.Group},
		})
	}
	v.Peers = append(v.Peers, peer)
	for _, n := range []uint32{Shop, Pay} {
		x := api.ViewVPC{ID: vpcID(n), Number: n, Local: local[n]}
		if x.Local {
			x.CIDR = cidr
			x.Subnets = []api.ViewSubnet{{ID: "subnet-1", CIDR: subnet, Zone: "a"}}
			v.Addresses = append(v.Addresses, addresses(n, workloads)...)
			v.Groups = append(v.Groups, groups(n)...)
		}
		v.VPCs = append(v.VPCs, x)
	}
	if local[Shop] {
		v.Endpoints = append(v.Endpoints, endpoint(targets))
		v.Names = append(v.Names, api.ViewName{VPC: Shop, Name: "ledger.pay.internal", Address: Endpoint, Endpoint: "vpce-1"})
	}
	if local[Pay] {
		v.Grants = grants(node, workloads)
		v.HealthChecks = healthChecks(node, workloads)
		v.Admitted = []api.ViewAdmitted{{Endpoint: "vpce-1", Rules: admitted(workloads)}}
	}
	return v
}

func vpcID(n uint32) string { return map[uint32]string{Shop: "vpc-shop", Pay: "vpc-pay"}[n] }

func addresses(vpc uint32, workloads []Workload) []api.ViewAddress {
	var list []api.ViewAddress
	for _, w := range workloads {
		if w.VPC == vpc {
			list = append(list, api.ViewAddress{
				VPC: vpc, Address: w.Address, Type: api.ENIWorkload, ENI: w.ID, Number: w.Number, Groups: []string{w.Group},
			})
		}
	}
	if vpc == Shop {
		return append(list, api.ViewAddress{
			VPC: vpc, Address: Endpoint, Type: api.ENIEndpoint, ENI: "eni-vpce", Number: 31, Groups: []string{"sg-vpce"},
		})
	}
	return append(list, api.ViewAddress{
		VPC: vpc, Address: LoadBalancer, Type: api.ENILoadBalancer, ENI: "eni-lb", Number: 41, Groups: []string{"sg-lb"},
	})
}

func groups(vpc uint32) []api.ViewGroup {
	all := netip.MustParsePrefix("0.0.0.0/0")
	out := []api.Rule{{ID: "sgr-out", Protocol: api.All, CIDR: all}}
	if vpc == Shop {
		return []api.ViewGroup{
			{ID: "sg-shop", Number: 101, Egress: out, Ingress: []api.Rule{{ID: "sgr-shop", Protocol: api.All, Group: "sg-shop"}}},
			{ID: "sg-vpce", Number: 102, Egress: out, Ingress: []api.Rule{
				{ID: "sgr-https", Protocol: api.TCP, FromPort: 443, ToPort: 443, Group: "sg-shop"},
				{ID: "sgr-dns", Protocol: api.UDP, FromPort: 53, ToPort: 53, CIDR: netip.MustParsePrefix("10.0.0.0/16")},
			}},
		}
	}
	return []api.ViewGroup{
		{ID: "sg-ledger", Number: 201, Egress: out, Ingress: []api.Rule{
			{ID: "sgr-from-lb", Protocol: api.TCP, FromPort: 8443, ToPort: 8443, Group: "sg-lb"},
			{ID: "sgr-from-lb-udp", Protocol: api.UDP, FromPort: 8443, ToPort: 8443, CIDR: netip.MustParsePrefix("10.0.1.9/32")},
		}},
		{ID: "sg-lb", Number: 202, Egress: out, Ingress: []api.Rule{
			{ID: "sgr-lb", Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: all},
			{ID: "sgr-lb-udp", Protocol: api.UDP, FromPort: 53, ToPort: 53, CIDR: all},
		}},
	}
}

func endpoint(targets []api.ViewTarget) api.ViewEndpoint {
	tag := func(listener string, n uint16) []api.TagNumber {
		return []api.TagNumber{{ENI: "eni-vpce", Listener: listener, Number: n}}
	}
	return api.ViewEndpoint{
		ID: "vpce-1", Connection: "vpce-con-1", ConnectionNumber: Connection, Service: "vpce-svc-1", ServiceName: "222222222222/ledger",
		VPC: Shop, ProviderVPC: Pay, Groups: []string{"sg-vpce"},
		ENIs: []api.ViewEndpointENI{{ENI: "eni-vpce", Number: 31, Address: Endpoint, Zone: "a"}},
		Listeners: []api.ViewListenerPool{
			{Listener: "listener-tcp", Protocol: api.TCP, Port: 443, IdleTimeoutSeconds: 350, TargetGroup: 301,
				Targets: targets, TagNumbers: tag("listener-tcp", TagTCP)},
			{Listener: "listener-udp", Protocol: api.UDP, Port: 53, IdleTimeoutSeconds: 120, TargetGroup: 302,
				Targets: targets, TagNumbers: tag("listener-udp", TagUDP)},
		},
	}
}

func grants(node uint32, workloads []Workload) []api.ViewGrant {
	g := api.ViewGrant{
		ConsumerVPC: Shop, Connection: "vpce-con-1", ConnectionNumber: Connection, Endpoint: "vpce-1", Service: "vpce-svc-1",
		ServiceName: "222222222222/ledger", ProviderVPC: Pay, DialedAddress: Endpoint, LoadBalancerGroups: []string{"sg-lb"},
	}
	for _, w := range workloads {
		if w.VPC == Pay && w.Node == node {
			g.Targets = append(g.Targets, api.ViewGrantTarget{
				ENI: w.ID, Address: w.Address, Port: 8443, Source: LoadBalancer, SNATENI: "eni-lb",
			})
		}
	}
	tcp, udp := g, g
	tcp.Tag, tcp.Protocol, tcp.Port, tcp.IdleTimeoutSeconds = TagTCP, api.TCP, 443, 350
	udp.Tag, udp.Protocol, udp.Port, udp.IdleTimeoutSeconds = TagUDP, api.UDP, 53, 120
	return []api.ViewGrant{tcp, udp}
}

// healthChecks are of the TCP listener's target group.
func healthChecks(node uint32, workloads []Workload) []api.ViewHealthCheck {
	h := api.ViewHealthCheck{TargetGroup: 301, ID: "tg-1", VPC: Pay, Check: api.DefaultHealthCheck(api.TCP)}
	for _, w := range workloads {
		if w.VPC == Pay && w.Node == node {
			h.Targets = append(h.Targets, api.ViewHealthTarget{ENI: w.ID, Address: w.Address, Port: 8443, Source: LoadBalancer})
		}
	}
	return []api.ViewHealthCheck{h}
}

func admitted(workloads []Workload) []api.Rule {
	list := []api.Rule{{ID: "sgr-dns", Protocol: api.UDP, FromPort: 53, ToPort: 53, CIDR: netip.MustParsePrefix("10.0.0.0/16")}}
	for _, w := range workloads {
		if w.VPC == Shop {
			list = append(list, api.Rule{
				ID: "sgr-https", Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: netip.PrefixFrom(w.Address, 32),
			})
		}
	}
	return list
}

// Facts are what is observed on a node when everything of its view is attached and ready. Interfaces have index 100 + ENI number.
func Facts(v api.View) plan.Facts {
	f := plan.Facts{Generation: 1, Config: plan.Config{
		TunnelIfindex: 3, TunnelMTU: TunnelMTU, HostIfindex: 4,
		HostMAC: [6]byte{2, 0, 0, 0, 1, 1}, DPMAC: [6]byte{2, 0, 0, 0, 1, 2},
	}}
	for _, e := range v.ENIs {
		f.Attachments = append(f.Attachments, plan.Attachment{ENI: e.ID, Netns: "/run/netns/" + e.ID, Interface: "eth0", DefaultRoute: true})
		f.Ready = append(f.Ready, plan.ReadyLink{
			ENI: e.ID, Ifindex: 100 + e.Number, MAC: MAC(e.Number), GatewayMAC: GatewayMAC,
		})
	}
	return f
}

// GatewayMAC is the host side's on every link.
var GatewayMAC = [6]byte{2, 0, 0, 0, 0, 1}

// MAC is a workload's, made of its ENI's number.
func MAC(number uint32) [6]byte {
	return [6]byte{2, 1, byte(number >> 24), byte(number >> 16), byte(number >> 8), byte(number)}
}
