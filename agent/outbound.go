package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/plan"
)

// A forwarder inside a VPC is reached as anything else there: from a network interface of the VPC, by the rules of its groups. Which one
// on this node that is says who attaches it (Attachment.Outbound); AWS calls it an outbound endpoint.

// Bounds of the connections into VPCs that are made at once: each takes a thread until it is made, for two seconds where nobody answers.
// An account's wait for each other, never for another account's.
const (
	maxOutboundOfAccount = 16
	maxOutbound          = 512 // of the node: far fewer than the 10,000 threads that end a Go program
)

var errNoOutbound = errors.New("the address lies in the VPC, and no interface here is attached with --outbound")

var errManyOutbound = fmt.Errorf("the node makes %d connections into VPCs already", maxOutbound)

// dials are the connections into VPCs that are being made.
type dials struct {
	mu       sync.Mutex
	all      int
	accounts map[string]*accountDials
}

type accountDials struct {
	places chan struct{}
	users  int // that hold a place or wait for one
}

// enter waits for a place among the account's; leave gives it back.
func (d *dials) enter(ctx context.Context, account string) (leave func(), err error) {
	d.mu.Lock()
	if d.accounts == nil {
		d.accounts = map[string]*accountDials{}
	}
	of := d.accounts[account]
	if of == nil {
		of = &accountDials{places: make(chan struct{}, maxOutboundOfAccount)}
		d.accounts[account] = of
	}
	of.users++
	d.mu.Unlock()
	forget := func(dialed int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.all -= dialed
		if of.users--; of.users == 0 {
			delete(d.accounts, account)
		}
	}
	select {
	case of.places <- struct{}{}:
	case <-ctx.Done():
		forget(0)
		return nil, ctx.Err()
	}
	d.mu.Lock()
	full := d.all >= maxOutbound
	if !full {
		d.all++
	}
	d.mu.Unlock()
	if full {
		<-of.places
		forget(0)
		return nil, errManyOutbound
	}
	return func() { <-of.places; forget(1) }, nil
}

// dialVPC connects to an address in a VPC.
func (a *Agent) dialVPC(ctx context.Context, vpc uint32, network string, to netip.AddrPort) (net.Conn, error) {
	p := a.lastPlan()
	ns := a.outbound(p, vpc)
	if ns == nil {
		return nil, errNoOutbound
	}
	account := ""
	if i := slices.IndexFunc(p.Zones, func(z plan.Zone) bool { return z.VPC == vpc }); i >= 0 {
		account = p.Zones[i].Account
	}
	leave, err := a.dials.enter(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("dial in the VPC: %w", err)
	}
	defer leave()
	return ns.Dial(ctx, network, to)
}

// reaches says why the resolver may not ask inside a VPC now.
func (a *Agent) reaches(vpc uint32) error {
	if a.outbound(a.lastPlan(), vpc) == nil {
		return errNoOutbound
	}
	return nil
}

// outbound is the namespace of the first interface of a VPC that is attached for the resolver, and in a plan; nil: there is none.
func (a *Agent) outbound(p *plan.Plan, vpc uint32) *Namespace {
	if p == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, att := range a.attachments {
		if att.Outbound && a.held[att.ENI] != nil && slices.ContainsFunc(p.ENIs, func(e plan.ENI) bool {
			return e.ID == att.ENI && e.VPC == vpc && e.Families&plan.FamilyIPv4 != 0
		}) {
			return a.held[att.ENI]
		}
	}
	return nil
}

// outOfReach names the forwarders inside VPCs that this node has no interface for.
func (t *turn) outOfReach(z *zone.Zone) {
	for _, v := range z.VPCs() {
		list := slices.Clone(z.Forwarders(v.Number))
		for _, r := range z.Rules(v.Number) {
			list = append(list, r.Forwarders...)
		}
		i := slices.IndexFunc(list, func(f zone.Forwarder) bool { return f.Inside })
		if i >= 0 && t.outbound(t.plan, v.Number) == nil {
			t.fail("names", fmt.Errorf("%s: forwarder %s lies in the VPC, and is not reached: attach an interface here with "+
				"culvert eni attach ENI --netns NAME --outbound", v.ID, list[i]))
		}
	}
}
