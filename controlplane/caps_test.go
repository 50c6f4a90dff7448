package controlplane

import (
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
)

// A service's caps are every connection's; one may have its own, from its acceptance on, and give them back.
func TestCaps(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	for _, name := range []string{"one", "two"} {
		must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: name}))(t)
	}
	flows, rate, bits := uint32(1000), uint32(50), uint64(1_000_000)
	s := must(pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{Caps: &api.CapsRequest{MaxFlows: &flows}}))(t)
	if want := (api.Caps{MaxFlows: 1000}); s.Caps != want {
		t.Errorf("service: %+v, want %+v", s.Caps, want)
	}
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"one"}))(t)
	own := must(pay.AcceptCapped(l.ctx(), "ledger",
		api.EndpointsRequest{Endpoints: []string{"two"}, Caps: &api.CapsRequest{MaxConnectionsPerSecond: &rate}}))(t)
	if want := (api.Caps{MaxFlows: 1000, MaxConnectionsPerSecond: 50}); own[0].Caps == nil || *own[0].Caps != want {
		t.Errorf("accepted with %+v, want %+v", own[0].Caps, want)
	}
	inForce := func(name string, want api.Caps) {
		t.Helper()
		r, seen := l.s.Resources(), 0
		for id := range r.Nodes {
			v := view.Compute(r, id)
			for _, e := range v.Endpoints {
				if r.Endpoints[e.ID].Name == name {
					seen++
					if e.Caps != want {
						t.Errorf("%s at its consumer's node: %+v, want %+v", name, e.Caps, want)
					}
				}
			}
			for _, g := range v.Grants {
				if r.Endpoints[g.Endpoint].Name == name {
					seen++
					if g.Caps != want {
						t.Errorf("%s at its provider's node: %+v, want %+v", name, g.Caps, want)
					}
				}
			}
		}
		if seen < 2 {
			t.Errorf("%s stands in %d views", name, seen)
		}
	}
	inForce("one", api.Caps{MaxFlows: 1000})
	inForce("two", api.Caps{MaxFlows: 1000, MaxConnectionsPerSecond: 50})

	must(pay.ModifyConnections(l.ctx(), "ledger",
		api.ModifyConnectionsRequest{Endpoints: []string{"one", "one"}, Caps: &api.CapsRequest{MaxBitsPerSecond: &bits}}))(t)
	inForce("one", api.Caps{MaxFlows: 1000, MaxBitsPerSecond: bits})
	must(pay.ModifyConnections(l.ctx(), "ledger", api.ModifyConnectionsRequest{Endpoints: []string{"one", "two"}}))(t)
	inForce("one", api.Caps{MaxFlows: 1000})
	inForce("two", api.Caps{MaxFlows: 1000})
	l.check()
}

func TestCapsRefused(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	before, few, many := l.s.Resources(), uint64(1), uint32(api.MaxCapFlows+1)
	_, err := pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{Caps: &api.CapsRequest{MaxBitsPerSecond: &few}})
	wantField(t, err, api.CodeInvalidParameter, "maxBitsPerSecond")
	_, err = pay.AcceptCapped(l.ctx(), "ledger",
		api.EndpointsRequest{Endpoints: []string{"ledger"}, Caps: &api.CapsRequest{MaxFlows: &many}})
	wantField(t, err, api.CodeInvalidParameter, "maxFlows")
	_, err = shop.ModifyConnections(l.ctx(), "ledger", api.ModifyConnectionsRequest{Endpoints: []string{"ledger"}})
	wantCode(t, err, api.CodeServiceNotFound)
	_, err = pay.ModifyConnections(l.ctx(), "ledger", api.ModifyConnectionsRequest{Endpoints: []string{"ledger", "other"}})
	wantField(t, err, api.CodeConnectionNotFound, "endpointIds")
	if l.s.Resources() != before {
		t.Error("something changed")
	}
}

func wantField(t *testing.T, err error, code api.ErrorCode, field string) {
	t.Helper()
	wantCode(t, err, code)
	if e, ok := err.(*api.Error); !ok || e.Field != field || e.Remedy == "" { //nolint:errorlint // the client makes it
		t.Errorf("%+v, want the field %s and a remedy", err, field)
	}
}
