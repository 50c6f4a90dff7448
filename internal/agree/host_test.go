package agree

import (
	"fmt"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan/verdict"
)

// answerFromHost lets the resolver answer a query as its socket would: swapped addresses and ports.
func (m *mesh) answerFromHost(c cell, sent plantest.IP, got arrival) error {
	want := api.Overlay{Mesh: m.r.Mesh.Number, VPC: m.r.VPCs[c.src.VPC].Number, Host: api.AddrHost(c.src.Address)}
	if c.dest.Is4() {
		want.Tag = api.TagFamilyIPv4
	}
	if got.toHost.id != c.src.Node || got.overlay[0] != want {
		return fmt.Errorf("the query came to %s from %+v", got.toHost.id, got.overlay[0])
	}
	r := plantest.IP{
		Protocol: sent.Protocol, SourcePort: got.packet.DestPort, DestPort: got.packet.SourcePort, Flags: plantest.SYN | plantest.ACK,
	}
	n := got.toHost
	v := verdict.Decide(n.plan, n.state, verdict.Packet{
		Hook: verdict.HookHost, Bytes: plantest.Frame([6]byte{}, [6]byte{}, 0x86dd, r.Overlay(got.overlay[1], got.overlay[0])),
	})
	a, err := m.follow(n, v)
	if err != nil {
		return err
	}
	if a.eni != c.src.ID || a.packet.Source != sent.Dest || a.packet.SourcePort != 53 || a.packet.DestPort != sent.SourcePort {
		return fmt.Errorf("the resolver's answer: %+v", a)
	}
	return nil
}
