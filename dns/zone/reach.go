package zone

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// Reach says at which addresses a node asks forwarders for its tenants. The node sends from its own network, so a
// forwarder must not lead to what only that network reaches. The zero value is the Internet, at the ports of DNS.
type Reach struct {
	// Allow are further addresses, at any port; it also frees the ports of addresses of the Internet.
	Allow []netip.Prefix
	// Refuse are never asked, whatever Allow says: where the mesh itself is.
	Refuse []netip.Prefix
}

// Check refuses a forwarder that this node does not ask. own are the node's addresses as they are now.
func (r Reach) Check(f Forwarder, own []netip.Addr) error {
	a := f.Address.Addr().Unmap()
	switch {
	case !a.IsGlobalUnicast(): // unspecified, loopback, link-local, multicast, broadcast
		return errors.New("address is not one of another host")
	case f.Inside: // is never looked for on the node's network
		return nil
	case contains(r.Refuse, a), slices.ContainsFunc(own, func(o netip.Addr) bool { return o.Unmap().WithZone("") == a }):
		return errors.New("address is one of this node or of the mesh")
	case contains(r.Allow, a):
		return nil
	case !api.PublicAddress(a):
		return errors.New("address is not of the Internet; who runs the node may allow it: culvert agent --allow-forwarder")
	case f.Address.Port() != f.defaultPort():
		return fmt.Errorf("port is not %d; who runs the node may allow it: culvert agent --allow-forwarder", f.defaultPort())
	}
	return nil
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (f Forwarder) defaultPort() uint16 {
	if f.TLS {
		return portTLS
	}
	return portPlain
}
