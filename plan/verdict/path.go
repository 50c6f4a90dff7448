package verdict

import (
	"net/netip"

	"github.com/culvert-net/culvert/api"
)

// pathMTU is what the path to an address carries, 0 when it is the tunnel's.
func (d *decision) pathMTU(vpc uint32, a netip.Addr) (mtu uint16) {
	to, bits := api.Overlay{Mesh: d.plan.Config.Mesh, VPC: vpc, Host: api.AddrHost(a)}.Addr(), 0
	for _, p := range d.plan.Paths {
		if p.Prefix.Contains(to) && p.Prefix.Bits() > bits {
			mtu, bits = p.MTU, p.Prefix.Bits()
		}
	}
	return mtu
}

// flowPath is the path MTU of a flow by its opening entry: that of the way to its other node, 0 where its packets do not
// leave this one.
func (d *decision) flowPath(opening FlowKey, f Flow) uint16 {
	switch {
	case opening.View == ViewWorkload && f.Next == NextTunnel:
		return d.pathMTU(f.DestVPC, f.Dest)
	case opening.View != ViewWorkload && f.Hook == HookTunnel:
		return d.pathMTU(f.SourceVPC, opening.Source)
	}
	return 0
}

// mtu is the largest overlay packet of a flow.
func (d *decision) mtu(f Flow) uint16 {
	if f.MTU != 0 {
		return min(f.MTU, d.plan.Config.TunnelMTU)
	}
	return d.plan.Config.TunnelMTU
}
