package host

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// Limits of linux/if.h, without the closing NUL.
const (
	maxInterfaceName = 15  // IFNAMSIZ - 1
	maxAlias         = 255 // IFALIASZ - 1
)

const (
	vethPrefix  = "cv"
	vethHash    = 11 // characters
	aliasPrefix = "culvert:"
	aliasHost   = aliasPrefix + "host"
	aliasDP     = aliasPrefix + "dp"
	aliasTunnel = aliasPrefix + "tunnel"
	maxENI      = 64
)

// VethName is the host-side name of an ENI's veth: "cv" and 11 characters (55 bits) of a hash of the ENI's id.
func VethName(eni string) string {
	sum := sha256.Sum256([]byte(eni))
	return vethPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:8]))[:vethHash]
}

// isVethName tells whether a name can be one of VethName's.
func isVethName(name string) bool {
	hash, ok := strings.CutPrefix(name, vethPrefix)
	return ok && len(hash) == vethHash
}

// errOther is the error of an attachment whose namespace is no longer the one that is meant.
func errOther(s WorkloadSpec) error {
	return fmt.Errorf("open namespace %s: %w as the one that is meant: another is there", s.Netns, ErrNoNamespace)
}

// WorkloadMAC is the MAC of a workload's interface: 02 and 40 bits of a hash of VPC number and address, so that it is
// the same wherever the ENI is attached. It is never one of the fixed addresses 02:c0:00:00:00:XX.
func WorkloadMAC(vpc uint32, address netip.Addr) MAC {
	b := binary.BigEndian.AppendUint32([]byte("culvert workload mac"), vpc)
	b = append(b, address.Unmap().AsSlice()...)
	sum := sha256.Sum256(b)
	m := MAC{0x02}
	copy(m[1:], sum[:5])
	if [5]byte(m[:5]) == [5]byte(GatewayMAC[:5]) {
		m[1] ^= 0x80
	}
	return m
}

// alias is what a workload's host-side link says about itself: which ENI, and where its other end is.
func alias(eni, ifname, netns string) string {
	return aliasPrefix + eni + " " + ifname + " " + netns
}

// parseAlias reads a workload link's alias back. ok is false for anything that is not one.
func parseAlias(s string) (eni, ifname, netns string, ok bool) {
	rest, ok := strings.CutPrefix(s, aliasPrefix)
	if !ok {
		return "", "", "", false
	}
	f := strings.SplitN(rest, " ", 3)
	if len(f) != 3 || f[0] == "" || f[1] == "" || f[2] == "" {
		return "", "", "", false
	}
	return f[0], f[1], f[2], true
}

// Normal returns the specification with defaults filled in, or an error that is ErrSpec and names the field.
func (s WorkloadSpec) Normal() (WorkloadSpec, error) {
	if s.Interface == "" {
		s.Interface = DefaultInterface
	}
	if s.MTU == 0 {
		s.MTU = DefaultMTU
	}
	s.Address, s.Gateway, s.Resolver = s.Address.Unmap(), s.Gateway.Unmap(), s.Resolver.Unmap()
	s.Subnet, s.VPC, s.IPv6Block = s.Subnet.Masked(), s.VPC.Masked(), s.IPv6Block.Masked()
	ipv6 := s.checkIPv6()
	for _, c := range []struct {
		bad  bool
		what string
	}{
		{!plainWord(s.ENI, maxENI), "ENI: 1 to 64 printable characters without space"},
		{s.Netns == "" || strings.ContainsAny(s.Netns, "\x00\n") || s.Netns[0] != '/',
			"Netns: the absolute path of a namespace, such as /run/netns/NAME"},
		{!interfaceName(s.Interface), "Interface: 1 to 15 characters without space, slash or colon, not lo, . or .."},
		{!s.Address.Is4(), "Address: an IPv4 address"},
		{!s.VPC.IsValid() || !s.VPC.Addr().Is4(), "VPC: an IPv4 prefix"},
		{!s.Subnet.IsValid() || s.Subnet.Bits() < s.VPC.Bits() || !s.VPC.Contains(s.Subnet.Addr()), "Subnet: a prefix inside VPC"},
		{!s.Subnet.Contains(s.Address), "Address: must be inside Subnet"},
		{!s.Gateway.Is4() || s.Gateway != s.Subnet.Addr().Next(), "Gateway: must be the subnet's base + 1"},
		{s.Address == s.Gateway, "Address: must not be the gateway's"},
		{s.MTU < minMTU || s.MTU > maxMTU, "MTU: 1280 to 65535"},
		{s.MAC[0]&3 != 2, "MAC: a locally administered unicast address; see WorkloadMAC"},
		{s.MAC == GatewayMAC, "MAC: must not be the gateway's"},
		{ipv6 != "", ipv6},
		{s.Resolver.IsValid() && s.Resolver.Is4() == s.IPv6Only, "Resolver: an address of a family that the ENI has; IPv4 if it has both"},
		{strings.ContainsAny(s.Search, "\n\r\x00#;"), "Search: domain names separated by spaces"},
		{len(alias(s.ENI, s.Interface, s.Netns)) > maxAlias, "Netns: path too long; name it under /run/netns"},
	} {
		if c.bad {
			return s, fmt.Errorf("attach %q: %w: %s", s.ENI, ErrSpec, c.what)
		}
	}
	return s, nil
}

// MTUs: the least that IPv6 allows, and the most that an IP packet can be.
const (
	minMTU = 1280
	maxMTU = 65535
)

func (s HostSpec) check() error {
	switch {
	case !s.Mesh.IsValid() || !s.Mesh.Addr().Is6() || s.Mesh.Bits() != 32:
		return fmt.Errorf("host link: %w: Mesh: an IPv6 prefix of 32 bits", ErrSpec)
	case !s.Address.Is6() || !s.Mesh.Contains(s.Address):
		return fmt.Errorf("host link: %w: Address: an IPv6 address inside Mesh", ErrSpec)
	case s.MTU < minMTU || s.MTU > maxMTU:
		return fmt.Errorf("host link: %w: MTU: 1280 to 65535", ErrSpec)
	}
	return nil
}

// TunnelMTU is what a tunnel on an underlay of so many bytes has, which is not less than DefaultTunnelMTU: a path that
// carries less is found, and its flows are held to it.
func TunnelMTU(underlay int) int { return max(DefaultTunnelMTU, min(underlay, jumbo)-tunnelOverhead) }

func (s TunnelSpec) normal() (TunnelSpec, error) {
	if s.Name == "" {
		s.Name = DefaultTunnel
	}
	switch {
	case !interfaceName(s.Name):
		return s, fmt.Errorf("tunnel link: %w: Name: 1 to 15 characters without space, slash or colon", ErrSpec)
	case s.MTU < minMTU || s.MTU > maxMTU:
		return s, fmt.Errorf("tunnel link: %w: MTU: 1280 to 65535", ErrSpec)
	case s.TxQueueLen < 0:
		return s, fmt.Errorf("tunnel link: %w: TxQueueLen: 0 or more", ErrSpec)
	}
	return s, nil
}

func plainWord(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return false
		}
	}
	return true
}

// interfaceName accepts what the kernel's dev_valid_name accepts, and leaves out what nobody should use.
func interfaceName(s string) bool {
	return plainWord(s, maxInterfaceName) && !strings.ContainsAny(s, "/:%") && s != "." && s != ".." && s != "lo"
}
