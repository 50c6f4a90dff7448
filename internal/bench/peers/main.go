// Peers holds the versions of the systems that package bench measures Culvert against, as the dependencies of a module of
// its own: none of them is one of Culvert's. The program is the control server that Tailscale's nodes ask, made of
// Tailscale's own test code: it admits every node and every route that one offers.
//
//	peers ADDRESS PORT
//
// answers control requests at PORT, relays (DERP) at the next port, and STUN at 3478, until it is ended.
package main

import (
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
)

const stunPort = 3478 // RFC 8489

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: peers ADDRESS PORT")
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func serve(address, port string) error {
	control, err := strconv.Atoi(port)
	if err != nil || control < 1 || control > 65534 {
		return fmt.Errorf("port %q: want 1 to 65534", port)
	}
	if err := relay(net.JoinHostPort(address, strconv.Itoa(control+1))); err != nil {
		return err
	}
	if err := answerSTUN(net.JoinHostPort(address, strconv.Itoa(stunPort))); err != nil {
		return err
	}
	node := &tailcfg.DERPNode{
		Name: "relay", RegionID: 1, HostName: address, IPv4: address, IPv6: "none", STUNPort: stunPort, STUNTestIP: address,
		DERPPort: control + 1, InsecureForTests: true,
	}
	s := &testcontrol.Server{
		Logf: func(string, ...any) {}, AllNodesSameUser: true, AllOnline: true,
		ExplicitBaseURL: "http://" + net.JoinHostPort(address, port),
		DERPMap: &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{
			1: {RegionID: 1, RegionCode: "bench", Nodes: []*tailcfg.DERPNode{node}},
		}},
	}
	go admitRoutes(s)
	return http.ListenAndServe(net.JoinHostPort(address, port), s)
}

// relay serves DERP, which the nodes need to be online; packets take the direct way.
func relay(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s := httptest.NewUnstartedServer(derpserver.Handler(derpserver.New(key.NewNode(), func(string, ...any) {})))
	if err := s.Listener.Close(); err != nil {
		return err
	}
	s.Listener = l
	s.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // no HTTP/2: it cannot be upgraded
	s.StartTLS()
	return nil
}

func answerSTUN(address string) error {
	c, err := net.ListenPacket("udp4", address)
	if err != nil {
		return err
	}
	go func() {
		for buf := make([]byte, 1500); ; {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if id, err := stun.ParseBindingRequest(buf[:n]); err == nil {
				_, _ = c.WriteTo(stun.Response(id, from.(*net.UDPAddr).AddrPort()), from)
			}
		}
	}()
	return nil
}

// admitRoutes turns on what nodes offer.
func admitRoutes(s *testcontrol.Server) {
	offered := map[key.NodePublic]int{}
	for range time.Tick(300 * time.Millisecond) {
		for _, n := range s.AllNodes() {
			routes := n.Hostinfo.RoutableIPs().AsSlice()
			if len(routes) != offered[n.Key] {
				offered[n.Key] = len(routes)
				s.SetSubnetRoutes(n.Key, routes)
			}
		}
	}
}
