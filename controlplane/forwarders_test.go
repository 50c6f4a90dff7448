package controlplane

import (
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

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
	// What lies in the VPC is asked there, with or without TLS; not the resolver itself.
	inside := []string{"10.0.1.5", "tcp://10.0.1.5", "tls://10.0.1.5", "tls://9.9.9.9"}
	if v := must(shop.ModifyVPC(l.ctx(), "shop", modify(inside, true)))(t); !slices.Equal(v.Forwarders, inside) {
		t.Errorf("%+v", v)
	}
	for _, f := range []string{"10.0.0.2", "tls://10.0.1.2"} { // of the VPC, of a subnet
		for _, c := range []*client.Client{shop, admin} {
			_, err := c.ModifyVPC(l.ctx(), "shop", modify([]string{f}, true))
			if e := wantCode(t, err, api.CodeInvalidParameter); e.Field != "forwarders" {
				t.Errorf("%s: %v", f, e)
			}
		}
	}
	must(shop.ModifyVPC(l.ctx(), "shop", modify([]string{}, false)))(t)
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
