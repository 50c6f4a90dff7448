package controlplane

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
)

// A view that is too large is not sent; the stream stays, the node's report says so, and when it fits again it is sent.
func TestAViewThatIsTooLarge(t *testing.T) {
	const limit = 32 << 10
	l := mesh(t, func(c *Config) { c.maxView, c.Tick = limit, 50*time.Millisecond })
	h := l.host("host-c")
	views, ended := h.views(t)
	until(t, views, "the first", anyView)
	shop := l.as("shop")
	e := must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Node: "host-c"}))(t)
	last := until(t, views, "the interface", func(v *api.View) bool { return len(v.ENIs) == 1 })
	problems := func() []string {
		if st := must(l.admin().GetNode(l.ctx(), "host-c"))(t).Status; st != nil {
			return st.Errors
		}
		return nil
	}
	if got := problems(); len(got) != 0 {
		t.Errorf("all is well, but %q", got)
	}
	l.crowd("shop", "", api.ENIWorkload, limit/100)
	l.eventually("the problem is reported", func() bool {
		return len(problems()) == 1 && strings.HasPrefix(problems()[0], "the server sends no view: ")
	})
	if st := must(shop.GetNode(l.ctx(), "host-c"))(t).Status; st != nil {
		t.Errorf("a tenant learns %+v", st)
	}
	must(shop.DeleteENI(l.ctx(), e.ID))(t)
	v := until(t, views, "the view that fits again", func(v *api.View) bool { return len(v.ENIs) == 0 })
	if v.Revision <= last.Revision || len(problems()) != 0 {
		t.Errorf("revision %d after %d, problems %q", v.Revision, last.Revision, problems())
	}
	select {
	case err := <-ended:
		t.Errorf("the stream ended: %v", err)
	default:
	}
}

// records makes a hosted zone of the VPC with so many TXT records of a text, and returns it.
func (l *lab) records(vpc, text string, n int) *api.HostedZone {
	l.t.Helper()
	c := l.as(vpc)
	z := must(c.CreateHostedZone(l.ctx(), api.CreateHostedZoneRequest{Domain: newID("z") + ".internal", VPCs: []string{vpc}}))(l.t)
	var sets []api.RecordSetRequest
	for i := range n {
		sets = append(sets, api.RecordSetRequest{Name: fmt.Sprintf("n%d.%s", i, z.Name), Type: "TXT", Values: []string{text}})
	}
	return must(c.ChangeRecords(l.ctx(), z.ID, api.ChangeRecordsRequest{Put: sets}))(l.t)
}

// leastSize is never more than what a view has, and not much less.
func TestLeastSize(t *testing.T) {
	l := mesh(t, nil)
	must(l.as("shop").CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	l.crowd("shop", "host-a", api.ENIWorkload, 100)
	l.records("shop", strings.Repeat(`<"&ü`, 500), 20)
	r := l.s.Resources()
	for id, n := range r.Nodes {
		v := view.Compute(r, id)
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if least := leastSize(v); least > len(text) || 4*least < len(text) {
			t.Errorf("%s: at least %d bytes, has %d", n.Name, least, len(text))
		}
	}
}
