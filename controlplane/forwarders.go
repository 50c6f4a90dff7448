package controlplane

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// dnsOverTLS is the port of DNS over TLS (RFC 7858).
const dnsOverTLS = 853

// forwarding is whom a VPC or resolver rule asks.
type forwarding struct {
	list  []string
	plain bool
}

// within reports whether a valid forwarder lies in each of some VPCs, so that nodes ask it there and not in their own network.
func within(f string, vpcs []*api.VPC) bool {
	a, ok := forwarderAddress(f)
	return ok && len(vpcs) > 0 && !slices.ContainsFunc(vpcs, func(v *api.VPC) bool { return !v.CIDR.Contains(a) })
}

// forwarderAddress is the address of a valid forwarder.
func forwarderAddress(f string) (netip.Addr, bool) {
	rest, tls := strings.CutPrefix(f, "tls://")
	if !tls {
		rest = strings.TrimPrefix(f, "tcp://")
	}
	if a, err := netip.ParseAddr(rest); err == nil {
		return a.Unmap(), true
	}
	a, err := netip.ParseAddrPort(rest)
	return a.Addr().Unmap(), err == nil
}

// notTheResolver refuses forwarders that are the resolver itself, at its addresses in VPCs: the base of the VPC or of a subnet + 2.
func (c *call) notTheResolver(list []string, vpcs []*api.VPC) error {
	for _, f := range list {
		a, ok := forwarderAddress(f)
		for _, v := range vpcs {
			own := ok && a == v.CIDR.Addr().Next().Next()
			for _, s := range c.r.Subnets {
				own = own || ok && s.VPC == v.ID && a == s.CIDR.Addr().Next().Next()
			}
			if own {
				return api.Errorf(api.CodeInvalidParameter, "forwarders", "name a server of your own", "%s is the resolver of the VPC %s itself", f, v.ID)
			}
		}
	}
	return nil
}

// checkForwarders: nodes ask forwarders from their own network. Whose key is no administrator's may name only resolvers
// that anybody on the Internet reaches, with TLS on its own port, and those inside the VPCs that it is for; else it could probe that
// network, or read its names. What old, before the change, has may stay.
func (c *call) checkForwarders(old, now forwarding, vpcs []*api.VPC) error {
	if err := c.notTheResolver(now.list, vpcs); err != nil || c.who.admin() {
		return err
	}
	outside := func(f string) bool { return !strings.HasPrefix(f, "tls://") && !within(f, vpcs) }
	plain := func(f string) bool { return !strings.HasPrefix(f, "tls://") }
	if now.plain && !old.plain && (slices.ContainsFunc(now.list, outside) || !slices.ContainsFunc(now.list, plain)) {
		return api.Errorf(api.CodeUnauthorized, "plainForwarders", "leave it out, or ask an administrator to set it for the account",
			"only an administrator may allow DNS without TLS to servers outside the VPC")
	}
	for _, f := range now.list {
		if !slices.Contains(old.list, f) && !publicResolver(f) && !within(f, vpcs) {
			return api.Errorf(api.CodeUnauthorized, "forwarders",
				"name a public resolver as tls://ADDRESS, or one inside the VPC, or ask an administrator to set this one for the account",
				"only an administrator may set %s: it is not DNS over TLS at port 853 of a public address, nor inside the VPC", f)
		}
	}
	return nil
}

// publicResolver reports whether a valid forwarder is one that anybody may use.
func publicResolver(f string) bool {
	rest, tls := strings.CutPrefix(f, "tls://")
	if !tls {
		return false
	}
	if a, err := netip.ParseAddr(rest); err == nil {
		return api.PublicAddress(a)
	}
	a, err := netip.ParseAddrPort(rest)
	return err == nil && a.Port() == dnsOverTLS && api.PublicAddress(a.Addr())
}
