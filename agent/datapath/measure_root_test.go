package datapath

import (
	"errors"
	"testing"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/internal/netlab"
)

// Both ends' records of a connection have how long its handshake and its round trips took, the consumer's with the way to the provider,
// and the packet that was lost between the two was sent again at the one and came once to the other.
func TestFlowsRemember(t *testing.T) {
	m := newMesh(t)
	near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	block := payload(1000, 3)
	if err := errors.Join(send(near, block), receive(far, block), send(far, block), receive(near, block)); err != nil {
		t.Fatal(err)
	}
	read := func(h *meshHost) flow.Flow {
		t.Helper()
		var found []flow.Flow
		if err := NewSource(h.dp).Flows(t.Context(), func(f flow.Flow) bool {
			if f.Protocol == 6 && f.Connection != 0 {
				found = append(found, f)
			}
			return true
		}); err != nil || len(found) != 1 {
			t.Fatalf("%d flows at %s: %v", len(found), h.Name, err)
		}
		return found[0]
	}
	consumer, provider := read(m.a), read(m.b)
	if provider.Handshake == 0 || provider.RTT == 0 || consumer.Handshake <= 0 || consumer.RTT <= 0 || consumer.RTT > patience*netlab.Slowness() {
		t.Errorf("the consumer's: handshake %v, round trip %v; the provider's: %v, %v", consumer.Handshake, consumer.RTT, provider.Handshake,
			provider.RTT)
	}
	before := [2]uint64{consumer.Retransmits, provider.Retransmits}
	m.losing.Store(1)
	if err := errors.Join(send(near, block), receive(far, block)); err != nil {
		t.Fatal(err)
	}
	consumer, provider = read(m.a), read(m.b)
	again, twice := consumer.Retransmits-before[0], provider.Retransmits-before[1]
	if m.losing.Load() != 0 || again == 0 || twice >= again {
		t.Errorf("after a loss the consumer sent %d packets again, and %d came twice", again, twice)
	}
}
