package controlplane

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
)

func TestPublicAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"9.9.9.9": true, "1.1.1.1": true, "2620:fe::fe": true, "2001:4860:4860::8888": true, "::ffff:9.9.9.9": true, "172.32.0.1": true,
		"100.128.0.1": true, "192.0.1.1": true,
		"0.0.0.0": false, "0.1.2.3": false, "10.99.0.10": false, "127.0.0.53": false, "100.64.0.1": false, "100.127.255.255": false,
		"169.254.169.254": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "192.0.0.8": false, "192.0.2.1": false,
		"192.88.99.1": false, "198.18.0.1": false, "198.19.255.255": false, "198.51.100.1": false, "203.0.113.9": false, "224.0.0.1": false,
		"239.1.2.3": false, "240.0.0.1": false, "255.255.255.255": false, "::": false, "::1": false, "::ffff:10.0.0.1": false,
		"::10.0.0.1": false, "64:ff9b::a63:a": false, "64:ff9b:1::1": false, "100::1": false, "fc00::1": false, "fd12:3456::1": false,
		"fe80::1": false, "fec0::1": false, "ff02::1": false, "2001::1": false, "2001:2::1": false, "2001:db8::1": false,
		"2002:a63:a::1": false, "3fff::1": false, "4000::1": false, "2606:4700::1111%eth0": false,
	} {
		if got := public(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: public %v", text, got)
		}
	}
}

func TestForwardersOfTenants(t *testing.T) {
	l := startLab(t, nil)
	shop, admin := l.as("shop"), l.client(l.adminKey, "shop")
	l.network(shop, "shop")
	modify := func(list []string, plain ...bool) (r api.ModifyVPCRequest) {
		r.Forwarders = &list
		for i := range plain {
			r.PlainForwarders = &plain[i]
		}
		return r
	}
	for _, c := range []struct {
		list  []string
		plain bool
		field string
	}{
		{[]string{"10.99.0.10:9999"}, true, "plainForwarders"}, {nil, true, "plainForwarders"}, {[]string{"9.9.9.9"}, true, "plainForwarders"},
		{[]string{"tls://10.99.0.10"}, false, "forwarders"}, {[]string{"tls://10.99.0.10:853"}, false, "forwarders"},
		{[]string{"tls://9.9.9.9:443"}, false, "forwarders"}, {[]string{"tls://9.9.9.9", "tls://127.0.0.1"}, false, "forwarders"},
		{[]string{"tls://[::1]:853"}, false, "forwarders"}, {[]string{"tls://::ffff:10.99.0.10"}, false, "forwarders"},
		{[]string{"tls://10.0.1.5"}, false, "forwarders"}, // also in the VPC's own range: on the node it is somebody else's
	} {
		before := l.s.Resources()
		_, err := shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16"), Forwarders: c.list, PlainForwarders: c.plain})
		if e := wantCode(t, err, api.CodeUnauthorized); e.Field != c.field || e.Remedy == "" {
			t.Errorf("%v: %v", c, e)
		}
		_, err = shop.ModifyVPC(l.ctx(), "shop", modify(c.list, c.plain))
		if e := wantCode(t, err, api.CodeUnauthorized); e.Field != c.field {
			t.Errorf("%v: %v", c, e)
		}
		if l.s.Resources() != before {
			t.Errorf("%v: something changed", c)
		}
	}
	open := []string{"tls://9.9.9.9", "tls://[2620:fe::fe]:853", "tls://1.1.1.1:853"}
	if v := must(shop.ModifyVPC(l.ctx(), "shop", modify(open)))(t); !slices.Equal(v.Forwarders, open) {
		t.Errorf("%+v", v)
	}
	// What an administrator set stays while the account changes the rest; it cannot bring it back.
	own := []string{"10.99.0.10", "tls://10.99.0.11:443"}
	must(admin.ModifyVPC(l.ctx(), "shop", modify(own, true)))(t)
	must(admin.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16"), Forwarders: own, PlainForwarders: true}))(t)
	must(shop.ModifyVPC(l.ctx(), "shop", modify([]string{"tls://9.9.9.9", own[0]}, true)))(t)
	_, err := shop.ModifyVPC(l.ctx(), "shop", modify(own))
	wantCode(t, err, api.CodeUnauthorized)
	must(shop.ModifyVPC(l.ctx(), "shop", modify(open, false)))(t)
	_, err = shop.ModifyVPC(l.ctx(), "shop", modify(open, true))
	wantCode(t, err, api.CodeUnauthorized)
}
