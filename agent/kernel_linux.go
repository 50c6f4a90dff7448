package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/plan"
)

// programs is the BPF side as the loop's Datapath.
type programs struct{ *datapath.Datapath }

var _ Datapath = programs{}

var places = map[Place]datapath.Place{
	AtWorkload: datapath.AtWorkload, AtTunnel: datapath.AtTunnel, AtHost: datapath.AtHost,
}

// Secure implements Datapath.
func (p programs) Secure(ifindex int, place Place) error {
	at, ok := places[place]
	if !ok {
		return fmt.Errorf("secure interface %d: unknown place %d", ifindex, place)
	}
	return p.Datapath.Secure(ifindex, at)
}

// Apply implements Datapath. It also lets go of what was attached to interfaces that are gone: their numbers come again.
func (p programs) Apply(ctx context.Context, rows *plan.Plan) (changed bool, err error) {
	if _, err := p.Attached(); err != nil {
		return false, err
	}
	return p.Datapath.Apply(ctx, rows)
}

// Counters implements Datapath.
func (p programs) Counters() ([]Count, error) {
	counters, err := p.Datapath.Counters()
	if err != nil {
		return nil, err
	}
	out := make([]Count, len(counters))
	for i, c := range counters {
		out[i] = Count{ENI: c.ENI, Hook: flow.Hook(c.Hook).String(), Reason: c.Reason.String(), Packets: c.Packets, Bytes: c.Bytes}
	}
	return out, nil
}

// Flows implements Datapath.
func (p programs) Flows() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	flows, err := p.Datapath.Flows(ctx)
	return len(flows), err
}
