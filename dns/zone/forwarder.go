package zone

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Ports of DNS (RFC 1035) and DNS over TLS (RFC 7858).
const (
	portPlain = 53
	portTLS   = 853
)

// Forwarder is a resolver that a VPC's owner chose for names that are not private.
type Forwarder struct {
	Address    netip.AddrPort
	TLS        bool
	TCP        bool   // plain DNS over TCP only; without it UDP comes first
	ServerName string // whom the certificate must name; with TLS never empty: the address when nothing was given
	Inside     bool   // the address lies in the VPC, so it is reached through the VPC and never over the underlay
}

// String is the forwarder as ParseForwarder reads it.
func (f Forwarder) String() string {
	switch {
	case f.TCP:
		return "tcp://" + f.Address.String()
	case !f.TLS:
		return f.Address.String()
	case f.ServerName == f.Address.Addr().String():
		return "tls://" + f.Address.String()
	}
	return "tls://" + f.Address.String() + "#" + f.ServerName
}

// ParseForwarder reads "tls://ADDRESS[:853][#SERVERNAME]", "ADDRESS[:53]" or "tcp://ADDRESS[:53]". The latter two need plain,
// unless the address lies in the VPC. An IPv6 address with a port is written in brackets. Whether a node asks there is Reach's business.
func ParseForwarder(text string, plain bool, cidr netip.Prefix) (Forwarder, error) {
	rest, tls := strings.CutPrefix(text, "tls://")
	tcp := false
	if !tls {
		rest, tcp = strings.CutPrefix(text, "tcp://")
	}
	rest, server, named := strings.Cut(rest, "#")
	port := uint16(portPlain)
	if tls {
		port = portTLS
	}
	address, err := parseAddress(rest, port)
	if err != nil {
		return Forwarder{}, fmt.Errorf("forwarder %q: %w", text, err)
	}
	f := Forwarder{Address: address, TLS: tls, TCP: tcp, Inside: cidr.IsValid() && cidr.Contains(address.Addr())}
	if err := f.check(plain, server, named); err != nil {
		return Forwarder{}, fmt.Errorf("forwarder %q: %w", text, err)
	}
	if tls {
		f.ServerName = address.Addr().String()
		if named {
			f.ServerName = server
		}
	}
	return f, nil
}

func (f Forwarder) check(plain bool, server string, named bool) error {
	switch {
	case f.Address.Port() == 0:
		return errors.New("port must be 1 to 65535")
	case !f.TLS && named:
		return errors.New("a server name needs tls://")
	case !f.TLS && !plain && !f.Inside:
		return errors.New("plain DNS over the underlay must be allowed for the VPC; better use tls://")
	case named:
		if _, wild, err := parseName(server); err != nil || wild {
			return fmt.Errorf("server name %q is not a host name", server)
		}
	}
	return nil
}

// parseAddress reads an address with or without a port.
func parseAddress(text string, port uint16) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return checkZone(netip.AddrPortFrom(a.Unmap(), port))
	}
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		if a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]")); err == nil {
			return checkZone(netip.AddrPortFrom(a.Unmap(), port))
		}
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}, errors.New("want ADDRESS[:" + strconv.Itoa(int(port)) + "], an address and not a name")
	}
	return checkZone(netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
}

func checkZone(a netip.AddrPort) (netip.AddrPort, error) {
	if a.Addr().Zone() != "" {
		return netip.AddrPort{}, errors.New("address must not have an IPv6 zone")
	}
	return a, nil
}
