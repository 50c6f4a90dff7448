package flow

import (
	"maps"

	"github.com/culvert-net/culvert/api"
)

// TrafficKey is what traffic is summed up by: one endpoint and its service, from one side. All empty: inside a VPC.
type TrafficKey struct {
	Side        string // SideConsumer, SideProvider
	Endpoint    string
	Service     string
	ServiceName string
	VPC         string // of the consumer
}

// Traffic of one key on this node. All but Active only grow while the collector lives.
type Traffic struct {
	Active  int    // flows that have not ended
	New     uint64 // flows that were opened
	Bytes   uint64 // of both directions, as workloads have them
	Packets uint64
	Dropped uint64 // packets refused
	Resets  uint64 // flows that the service's side ended with a RST
}

// Flags of TCP, RFC 9293.
const (
	tcpSYN = 0x02
	tcpRST = 0x04
)

// maxTraffic bounds the keys; what comes later is summed up without names.
const maxTraffic = 10_000

// traffic sums up what records say.
type traffic map[TrafficKey]*Traffic

func (t traffic) of(r *api.FlowRecord) *Traffic {
	k := TrafficKey{r.Side, r.Endpoint, r.Service, r.ServiceName, r.ConsumerVPC}
	if t[k] == nil && len(t) >= maxTraffic {
		k = TrafficKey{Side: r.Side}
	}
	if t[k] == nil {
		t[k] = &Traffic{}
	}
	return t[k]
}

// Traffic returns the sums of now.
func (c *Collector) Traffic() map[TrafficKey]Traffic {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agg == nil {
		return nil
	}
	out := make(map[TrafficKey]Traffic, len(c.agg.traffic))
	for k, v := range maps.All(c.agg.traffic) {
		out[k] = *v
	}
	return out
}

// count notes a record of a flow before it is emitted.
func (a *Aggregator) count(t *track, r *api.FlowRecord, delta Counts) {
	if t.live.sum == nil { // stays, should the names change while the flow lives
		t.live.sum = a.traffic.of(r)
	}
	s := t.live.sum
	s.Bytes += delta.Bytes + delta.ReplyBytes
	s.Packets += delta.Packets + delta.ReplyPackets
	if !t.open() {
		s.New++
	}
	closed := t.closed() || r.State == api.FlowClosed
	switch {
	case closed && t.live.active:
		t.live.active = false
		s.Active--
	case !closed && !t.live.active:
		t.live.active = true
		s.Active++
	}
	if r.State == api.FlowClosed && t.live.flow.ReplyTCPFlags&tcpRST != 0 {
		s.Resets++
	}
}
