package controlplane

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// dnsOverTLS is the port of DNS over TLS (RFC 7858).
const dnsOverTLS = 853

// checkForwarders: nodes ask a VPC's forwarders from their own network. Whose key is no administrator's may name only resolvers
// that anybody on the Internet reaches, with TLS on its own port; else it could probe that network, or read its names. What old,
// the VPC before the change, has may stay.
func (c *call) checkForwarders(old, v *api.VPC) error {
	if c.who.admin() {
		return nil
	}
	if v.PlainForwarders && !old.PlainForwarders {
		return api.Errorf(api.CodeUnauthorized, "plainForwarders", "leave it out, or ask an administrator to set it for the account",
			"only an administrator may allow DNS without TLS")
	}
	for _, f := range v.Forwarders {
		if !slices.Contains(old.Forwarders, f) && !publicResolver(f) {
			return api.Errorf(api.CodeUnauthorized, "forwarders",
				"name a public resolver as tls://ADDRESS, or ask an administrator to set this one for the account",
				"only an administrator may set %s: it is not DNS over TLS at port 853 of a public address", f)
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
