package api

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ReservedDomain is where regional and zonal endpoint names live; no account may own it or anything above or below it.
const ReservedDomain = "vpce.culvert.internal"

var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
}

func invalid(field, remedy, format string, args ...any) *Error {
	return Errorf(CodeInvalidParameter, field, remedy, format, args...)
}

// firstError returns the first that is not nil, as an error.
func firstError(errs ...*Error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// ValidateName checks a resource's name: one DNS label, that cannot be taken for an id.
func ValidateName(field, name string) *Error {
	if !isLabel(name) {
		return invalid(field, "use 1 to 63 lower-case letters, digits and hyphens, such as \"ledger\"",
			"%q is not a name", Shortened(name))
	}
	if looksLikeID(name) {
		return invalid(field, "choose a name that is not an id", "%q looks like an id", name)
	}
	return nil
}

func optionalName(name string) *Error {
	if name == "" {
		return nil
	}
	return ValidateName("name", name)
}

// isLabel reports whether s is a lower-case DNS label of letters, digits and inner hyphens.
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > MaxNameLen || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// maxDomainLen is what 255 bytes in a message hold as text without the last dot, RFC 1035 section 2.3.4. "*." counts.
const maxDomainLen = 253

func tooLongDomain(field, name string) *Error {
	return invalid(field, "choose a shorter one", "the DNS name has %d bytes, at most %d are allowed", len(name), maxDomainLen)
}

// ValidateDomain checks a DNS name: lower case, no trailing dot, at most 253 bytes, labels of letters, digits and inner
// hyphens, the last one not all digits. Internationalised names come as their xn-- form. minLabels is the least number of labels.
func ValidateDomain(field, name string, minLabels int) *Error {
	if name != strings.ToLower(name) {
		return invalid(field, "write it in lower case", "the DNS name %q is not lower case",
			Shortened(name))
	}
	if strings.HasSuffix(name, ".") {
		return invalid(field, "leave the last dot out", "the DNS name %q ends in a dot", Shortened(name))
	}
	for _, c := range name {
		if c > unicode.MaxASCII {
			return invalid(field, "write its ASCII form, with labels that begin with xn--",
				"the DNS name %q has letters outside ASCII", Shortened(name))
		}
	}
	if len(name) > maxDomainLen {
		return tooLongDomain(field, name)
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if !isLabel(l) {
			return invalid(field, "use labels of 1 to 63 letters, digits and inner hyphens, separated by dots",
				"%q is not a DNS name: the label %q is malformed", Shortened(name), Shortened(l))
		}
	}
	if len(labels) < minLabels {
		return invalid(field, fmt.Sprintf("give at least %d labels, such as \"ledger.pay.internal\"", minLabels),
			"the DNS name %q is too short", name)
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return invalid(field, "give a name, not an address", "the last label of the DNS name %q is a number", name)
	}
	return nil
}

// ValidatePrivateDNSName checks a service's private name: a DNS name of two labels or more, or "*." and such a name.
func ValidatePrivateDNSName(field, name string) *Error {
	if e := ValidateDomain(field, strings.TrimPrefix(name, "*."), 2); e != nil {
		return e
	}
	if len(name) > maxDomainLen {
		return tooLongDomain(field, name)
	}
	return outsideReserved(field, name)
}

func outsideReserved(field, name string) *Error {
	base := strings.TrimPrefix(name, "*.")
	if WithinDomain(base, ReservedDomain) || WithinDomain(ReservedDomain, base) {
		return invalid(field, "choose another domain", "%q meets %s, which is reserved for endpoint names",
			name, ReservedDomain)
	}
	return nil
}

// WithinDomain reports whether name equals domain or lies below it; a leading "*." of name is ignored.
func WithinDomain(name, domain string) bool {
	name = strings.TrimPrefix(name, "*.")
	return name == domain || strings.HasSuffix(name, "."+domain)
}

func validateTags(tags map[string]string) *Error {
	if len(tags) > MaxResourceTags {
		return Errorf(CodeLimitExceeded, "tags", "remove some", "%d tags, at most %d are allowed", len(tags), MaxResourceTags)
	}
	keys := make([]string, 0, len(tags))
	for k := range tags {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if k == "" || utf8.RuneCountInString(k) > MaxTagKeyLen || !printable(k) {
			return invalid("tags", fmt.Sprintf("use 1 to %d printable characters", MaxTagKeyLen), "the tag key %q is malformed", Shortened(k))
		}
		if v := tags[k]; utf8.RuneCountInString(v) > MaxTagValueLen || !printable(v) {
			return invalid("tags", fmt.Sprintf("use at most %d printable characters", MaxTagValueLen),
				"the value of the tag %q is malformed", Shortened(k))
		}
	}
	return nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// validateNet checks a VPC's or subnet's prefix: IPv4, canonical, /16 to /28, private.
func validateNet(code ErrorCode, field string, p netip.Prefix) *Error {
	switch {
	case !p.IsValid():
		return Errorf(CodeMissingParameter, field, "give an IPv4 prefix such as 10.0.0.0/16", "a CIDR is needed")
	case !p.Addr().Is4():
		return Errorf(code, field, "give an IPv4 prefix such as 10.0.0.0/16", "%s is not IPv4", p)
	case p != p.Masked():
		return Errorf(code, field, fmt.Sprintf("write %s", p.Masked()), "%s has bits set behind the prefix", p)
	case p.Bits() < MinPrefixBits || p.Bits() > MaxPrefixBits:
		return Errorf(code, field, "choose a size within these bounds", "%s is outside /%d to /%d", p, MinPrefixBits, MaxPrefixBits)
	}
	for _, r := range privateRanges {
		if r.Contains(p.Addr()) && r.Bits() <= p.Bits() {
			return nil
		}
	}
	return Errorf(code, field, "use 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10",
		"%s is not within a private range", p)
}

func validatePort(field string, port uint16) *Error {
	if port == 0 {
		return invalid(field, "give 1 to 65535", "a port is needed")
	}
	return nil
}

func validateTransport(field string, p Protocol) *Error {
	if p != TCP && p != UDP {
		return invalid(field, "give tcp or udp", "the protocol %q is not known here", Shortened(string(p)))
	}
	return nil
}

func validateRefs(kind Kind, field string, ids []string, least, most int) *Error {
	if len(ids) < least {
		return Errorf(CodeMissingParameter, field, "name them by id or name", "at least %d %s needed", least, plural(least, kind))
	}
	if len(ids) > most {
		return Errorf(CodeLimitExceeded, field, "remove some", "%d given, at most %d allowed", len(ids), most)
	}
	seen := map[string]bool{}
	for _, id := range ids {
		if e := validateRef(kind, field, id); e != nil {
			return e
		}
		if seen[id] {
			return invalid(field, "give it once", "%s is given twice", id)
		}
		seen[id] = true
	}
	return nil
}

func plural(n int, kind Kind) string {
	if n == 1 {
		return kind.Noun() + " is"
	}
	return kind.Noun() + "s are"
}

func validateRef(kind Kind, field, id string) *Error {
	if id == "" {
		return Errorf(CodeMissingParameter, field, "give its id", "a %s is needed", kind.Noun())
	}
	if got, err := ParseID(id); err != nil || got != kind {
		return invalid(field, fmt.Sprintf("give an id that begins with %q", kind.Prefix()),
			"%q is not the id of a %s", Shortened(id), kind.Noun())
	}
	return nil
}

func optionalRef(kind Kind, field, id string) *Error {
	if id == "" {
		return nil
	}
	return validateRef(kind, field, id)
}

// validateMeta checks id, account and tags. Mesh-wide kinds have no account.
func validateMeta(kind Kind, m *Meta, meshWide bool) *Error {
	if e := validateRef(kind, "id", m.ID); e != nil {
		return e
	}
	if !meshWide || m.Account != "" {
		if e := validateRef(KindAccount, "account", m.Account); e != nil {
			return e
		}
	}
	return validateTags(m.Tags)
}

// ValidateForwarder checks one DNS forwarder: tls://ADDRESS[:PORT], or ADDRESS[:PORT] and tcp://ADDRESS[:PORT] where plain is
// allowed.
func ValidateForwarder(s string, plain bool) *Error {
	rest, tls := strings.CutPrefix(s, "tls://")
	if !tls {
		rest = strings.TrimPrefix(s, "tcp://")
	}
	if !tls && !plain {
		return invalid("forwarders", "write tls://ADDRESS, or set plainForwarders if clear DNS on the underlay is acceptable",
			"the forwarder %q is plain DNS", Shortened(s))
	}
	if a, err := netip.ParseAddr(rest); err == nil && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() {
		return nil
	}
	if a, err := netip.ParseAddrPort(rest); err == nil && a.Port() != 0 && a.Addr().Zone() == "" &&
		!a.Addr().IsUnspecified() && !a.Addr().IsMulticast() {
		return nil
	}
	return invalid("forwarders", "write tls://ADDRESS[:853], ADDRESS[:53] or tcp://ADDRESS[:53]", "%q is not a forwarder", Shortened(s))
}

// ValidateUnderlay checks an underlay address, ADDRESS:PORT: one that another node can send to.
func ValidateUnderlay(field, s string) *Error {
	ap, err := netip.ParseAddrPort(s)
	a := ap.Addr()
	if err != nil || ap.Port() == 0 || a.Zone() != "" {
		return invalid(field, "give ADDRESS:PORT, such as 192.0.2.7:51820", "%q is not an underlay address", Shortened(s))
	}
	var what string
	switch {
	case a.Is4In6():
		return invalid(field, fmt.Sprintf("write %s", netip.AddrPortFrom(a.Unmap(), ap.Port())), "%s is IPv4 written as IPv6", s)
	case a.IsUnspecified(), a.Is4() && a.As4()[0] == 0:
		what = "no host's address"
	case a.IsLoopback():
		what = "a loopback address, where no other node is reached"
	case a.IsMulticast():
		what = "a multicast address"
	case a.IsLinkLocalUnicast():
		what = "a link-local address, which means something on one link only"
	case a.Is4() && a.As4()[0] >= 240:
		what = "in a range that no host has"
	default:
		return nil
	}
	return invalid(field, "give the host's own address that the other nodes reach, such as 192.0.2.7:51820", "%s is %s", s, what)
}

// ValidatePublicKey checks a WireGuard public key: 32 bytes, base64, and none of those with which every secret comes to zero.
func ValidatePublicKey(field, key string) *Error {
	b, err := base64.StdEncoding.Strict().DecodeString(key)
	if err != nil || len(b) != 32 || lowOrder(b) {
		return invalid(field, "give the base64 of 32 bytes, as `wg pubkey` prints it", "%q is not a WireGuard public key", Shortened(key))
	}
	return nil
}

// lowOrder reports whether a point of Curve25519 is of low order: multiplied by any secret key it is zero.
func lowOrder(point []byte) bool {
	any, err1 := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{1}, 32))
	pub, err2 := ecdh.X25519().NewPublicKey(point)
	if err1 != nil || err2 != nil {
		return true
	}
	_, err := any.ECDH(pub) // refuses a shared secret of zeros
	return err != nil
}
