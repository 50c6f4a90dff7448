package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent/local"
)

// A forwarder inside a VPC is reached through an interface of the VPC that is attached for that, and is a problem of the node without one.
func TestForwardersInsideAVPC(t *testing.T) {
	const vpc = 5
	b := newBench(t)
	v := testView(1)
	v.VPCs[0].Forwarders, v.VPCs[0].PlainForwarders = []string{"10.0.1.9"}, true
	b.hear(v)
	b.attach()
	complains := func() bool {
		t.Helper()
		_, errs := b.round()
		if len(errs) > 1 {
			t.Fatal(errs)
		}
		return len(errs) == 1 && strings.Contains(errs[0].Error(), "10.0.1.9") && strings.Contains(errs[0].Error(), "--outbound")
	}
	to := netip.MustParseAddrPort("10.0.1.9:53")
	if !complains() {
		t.Error("an interface that is attached otherwise will do")
	}
	if _, err := b.agent.dialVPC(t.Context(), vpc, "udp", to); !errors.Is(err, errNoOutbound) {
		t.Errorf("dial: %v", err)
	}
	if err := b.agent.reaches(vpc); !errors.Is(err, errNoOutbound) {
		t.Errorf("kept connections: %v", err)
	}
	if err := b.agent.dropAttachment(eni); err != nil {
		t.Fatal(err)
	}
	att, err := attachment(local.AttachRequest{ENI: eni, Netns: "/run/netns/cart", Outbound: true})
	if err != nil {
		t.Fatal(err)
	}
	ns, err := b.spaces.Open(att.Netns)
	if err != nil {
		t.Fatal(err)
	}
	att.Namespace = ns.Namespace
	var dialed []string
	ns.Dial = func(_ context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		dialed = append(dialed, network+" "+to.String())
		return nil, nil
	}
	if _, _, err := b.agent.setAttachment(att, ns); err != nil {
		t.Fatal(err)
	}
	b.round() // the interface goes from one wish to the other
	if complains() {
		t.Error("an interface that is attached for it is none")
	}
	for _, c := range []struct {
		vpc uint32
		ok  bool
	}{{vpc, true}, {6, false}} {
		_, err := b.agent.dialVPC(t.Context(), c.vpc, "tcp", to)
		if (err == nil) != c.ok || (b.agent.reaches(c.vpc) == nil) != c.ok {
			t.Errorf("VPC %d: %v", c.vpc, err)
		}
	}
	if len(dialed) != 1 || dialed[0] != "tcp 10.0.1.9:53" {
		t.Errorf("dialed %v", dialed)
	}
	account := b.agent.lastPlan().Zones[0].Account
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range maxOutboundOfAccount {
		if _, err := b.agent.dials.enter(t.Context(), account); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.agent.dialVPC(ctx, vpc, "udp", to); !errors.Is(err, context.Canceled) || len(dialed) != 1 {
		t.Errorf("while %d of %q are on their way: %v", maxOutboundOfAccount, account, err)
	}
}

// One account's connections that nobody answers take its own places only; the node as a whole makes so many and refuses the rest.
func TestOutboundPlaces(t *testing.T) {
	var d dials
	done, cancel := context.WithCancel(t.Context())
	cancel()
	var leave []func()
	enter := func(account string) {
		t.Helper()
		f, err := d.enter(t.Context(), account)
		if err != nil {
			t.Fatalf("%s: %v", account, err)
		}
		leave = append(leave, f)
	}
	for range maxOutboundOfAccount {
		enter("dead")
	}
	if _, err := d.enter(done, "dead"); !errors.Is(err, context.Canceled) {
		t.Errorf("an account with all its places has more: %v", err)
	}
	enter("other")
	waits := make(chan error, 1)
	go func() {
		f, err := d.enter(t.Context(), "dead")
		if err == nil {
			f()
		}
		waits <- err
	}()
	leave[0]()
	leave = leave[1:]
	if err := <-waits; err != nil {
		t.Errorf("a place that was given back: %v", err)
	}
	for i := 0; len(leave) < maxOutbound; i++ {
		enter(fmt.Sprintf("account-%d", i/maxOutboundOfAccount))
	}
	if _, err := d.enter(t.Context(), "one more"); !errors.Is(err, errManyOutbound) {
		t.Errorf("the node makes %d at once: %v", maxOutbound+1, err)
	}
	for _, f := range leave {
		f()
	}
	if len(d.accounts) != 0 || d.all != 0 {
		t.Errorf("%d accounts and %d places are left", len(d.accounts), d.all)
	}
}
