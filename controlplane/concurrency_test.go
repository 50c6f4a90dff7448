package controlplane

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// TestManyAtOnce: who asks at the same time gets different addresses and numbers, or is refused.
func TestManyAtOnce(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	must(shop.CreateSubnet(l.ctx(), api.CreateSubnetRequest{VPC: "shop", Name: "small", Zone: "c", CIDR: prefix("10.0.3.0/28")}))(t)
	chosen := netip.MustParseAddr("10.0.2.99")
	var mu sync.Mutex
	outcome := map[string]int{}
	var wg sync.WaitGroup
	run := func(what string, n int, f func(i int) error) {
		for i := range n {
			wg.Go(func() {
				err := f(i)
				var e *api.Error
				if err != nil && !errors.As(err, &e) {
					t.Errorf("%s: %v", what, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if e != nil {
					what := what + " " + string(e.Code)
					outcome[what]++
				} else {
					outcome[what]++
				}
			})
		}
	}
	run("bound", 40, func(i int) error {
		_, err := shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Node: []string{"host-a", "host-b"}[i%2]})
		return err
	})
	run("small", 20, func(int) error {
		_, err := shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "small"})
		return err
	})
	run("chosen", 10, func(int) error {
		_, err := shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-b", Address: chosen})
		return err
	})
	run("endpoint", 10, func(i int) error {
		_, err := shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Subnets: []string{"shop-a", "shop-b"},
			PrivateDNSEnabled: true})
		return err
	})
	run("plain endpoint", 10, func(i int) error {
		_, err := shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Subnets: []string{"shop-b"}})
		return err
	})
	run("listener", 10, func(i int) error {
		_, err := pay.CreateListener(l.ctx(), "ledger", api.ListenerRequest{Protocol: api.TCP, Port: uint16(8000 + i/2), TargetGroup: "ledger"})
		return err
	})
	run("named", 10, func(i int) error {
		_, err := shop.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "same", CIDR: prefix("10.0.0.0/16")})
		return err
	})
	wg.Wait()
	want := map[string]int{
		"bound": 40, "small": 11, "small InsufficientFreeAddressesInSubnet": 9, "chosen": 1, "chosen InvalidIPAddress.InUse": 9,
		"endpoint": 1, "endpoint ConflictingDomainExists": 9, "plain endpoint": 10, "listener": 5, "listener ResourceAlreadyExists": 5,
		"named": 1, "named ResourceAlreadyExists": 9,
	}
	if fmt.Sprint(outcome) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", outcome, want)
	}
	l.check()
}
