package zone

import (
	"net/netip"
	"strconv"
	"strings"
)

// Record types that the Zone tells apart; numbers of RFC 1035 and RFC 3596.
const (
	TypeA    uint16 = 1
	TypePTR  uint16 = 12
	TypeAAAA uint16 = 28
)

// Times to live in seconds. A new endpoint's name must not stay unknown for long, hence the short one.
const (
	TTL         uint32 = 60
	NegativeTTL uint32 = 10
)

// Kind is what a question gets.
type Kind uint8

const (
	Refused  Kind = iota // the VPC is not served here
	Found                // Addresses, Pointers or Records
	NoData               // the name exists, this type of it does not
	NXDomain             // the name does not exist
	Forward              // ask the VPC's forwarders
)

// String is the kind's name.
func (k Kind) String() string {
	return [...]string{"REFUSED", "FOUND", "NODATA", "NXDOMAIN", "FORWARD"}[k]
}

// Answer is what a question gets. The caller does not change the slices.
type Answer struct {
	Kind      Kind
	Addresses []netip.Addr // for A and AAAA
	Pointers  []string     // for PTR, without trailing dot
	Records   []Record     // of a hosted zone; of one owner
	Alias     string       // with Records that are a CNAME alone, of a question for another type: where to go on, without trailing dot
	Private   bool         // the name is private: the answer is authoritative
	Ancestor  bool         // with Forward: private names exist below, so "no such name" from a forwarder means "no data"
	Apex      string       // owner of the SOA record, without trailing dot; "" is the root
	TTL       uint32       // seconds, of the records; of the SOA for NoData and NXDomain
	Endpoint  string       // whose name it is, if any
	Hosted    string       // id of the hosted zone that answers, if any
	Rule      int          // with Forward: index into the VPC's Rules; -1: its own forwarders
}

// reserved are names that never leave a node: RFC 6761, 7686, 9462, and of 6303 the reverse names of all meshes' IPv6 addresses.
var reserved = map[string]*domain{
	"localhost":     {apex: "localhost", exact: loopback, wild: loopback},
	"invalid":       {apex: "invalid"},
	"onion":         {apex: "onion"},
	"resolver.arpa": {apex: "resolver.arpa"},
	meshReverse:     {apex: meshReverse},
}

var loopback = &set{v4: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, v6: []netip.Addr{netip.IPv6Loopback()}}

// Lookup answers a question of class IN. The name is in presentation format, any case, with or without trailing dot; a
// type that means several (ANY) or none is the caller's business: it gets what an absent type gets.
func (z *Zone) Lookup(vpc uint32, qname string, qtype uint16) Answer {
	s := z.vpcs[vpc]
	if s == nil {
		return Answer{}
	}
	name := canonical(qname)
	d, off, rule := s.find(name)
	if d != nil {
		return s.private(d, name, off, qtype)
	}
	if a, ok := s.reverse(name, qtype); ok {
		return a
	}
	_, ancestor := s.ancestors[name]
	switch {
	case rule >= 0 || len(s.forwarders) > 0:
		return Answer{Kind: Forward, Ancestor: ancestor, Rule: rule}
	case ancestor:
		return Answer{Kind: NoData, TTL: NegativeTTL}
	}
	return Answer{Kind: NXDomain, TTL: NegativeTTL}
}

// private is what a name at or below a domain gets; off is where the domain begins in it.
func (s *space) private(d *domain, name string, off int, qtype uint16) (a Answer) {
	if d.hosted != nil {
		a = d.hosted.answer(name, qtype)
	} else {
		a = d.answer(off == 0, qtype)
	}
	if a.Kind == NXDomain {
		if _, ancestor := s.ancestors[name]; ancestor {
			a.Kind = NoData // it exists, as a name of another domain below it does, RFC 8020
		}
	}
	return a
}

// Private reports whether a name is at or below a private one of the VPC, so that no forwarder may be asked or believed
// about it.
func (z *Zone) Private(vpc uint32, qname string) bool {
	return z.Lookup(vpc, qname, TypeA).Private
}

// find returns the most specific domain that a name is at or below, and where in the name it begins; or no domain, and the rule
// (-1: none) of one that is more specific. A private domain goes before a rule for the same one.
func (s *space) find(name string) (d *domain, off, rule int) {
	for off := 0; off < len(name); off = nextLabel(name, off) {
		if d := s.domains[name[off:]]; d != nil {
			return d, off, -1
		}
		if d := reserved[name[off:]]; d != nil {
			return d, off, -1
		}
		if rule, ok := s.ruleOf[name[off:]]; ok {
			return nil, 0, rule
		}
	}
	return nil, 0, -1
}

// answer is what the apex itself, or a name below it, gets.
func (d *domain) answer(atApex bool, qtype uint16) Answer {
	a := Answer{Kind: NoData, Private: true, Apex: d.apex, TTL: NegativeTTL}
	t := d.wild
	if atApex {
		t = d.exact
	}
	if t == nil {
		if !atApex {
			a.Kind = NXDomain
		}
		return a
	}
	a.Endpoint = t.endpoint
	switch qtype {
	case TypeA:
		a.Addresses = t.v4
	case TypeAAAA:
		a.Addresses = t.v6
	}
	if len(a.Addresses) > 0 {
		a.Kind, a.TTL = Found, TTL
	}
	return a
}

// Domains of reverse names: of IPv4, of IPv6, and of all meshes' IPv6 addresses.
const (
	reverseTop  = "in-addr.arpa"
	reverse6Top = "ip6.arpa"
	meshReverse = "d.f.ip6.arpa"
)

// reverse answers for the reverse names of the VPC's own addresses. The apex is the octet boundary at or below the
// prefix length.
func (s *space) reverse(name string, qtype uint16) (Answer, bool) {
	head, ok := strings.CutSuffix(name, "."+reverseTop)
	if !ok {
		return Answer{}, false
	}
	address, octets, below := parseReverse(head)
	zoneOctets := min((s.cidr.Bits()+7)/8, 3)
	if octets < zoneOctets || !s.cidr.Contains(address) {
		return Answer{}, false
	}
	a := Answer{Kind: NoData, Private: true, Apex: reverseApex(address, zoneOctets), TTL: NegativeTTL}
	switch names := s.pointers[address]; {
	case below || octets == 4 && len(names) == 0:
		a.Kind = NXDomain
	case octets == 4 && qtype == TypePTR:
		a.Kind, a.Pointers, a.TTL = Found, names, TTL
	}
	return a, true
}

// parseReverse reads up to four octets, last first ("5.1.0.10"); missing ones are 0. below: labels that are no part of
// an address precede.
func parseReverse(head string) (address netip.Addr, octets int, below bool) {
	var b [4]byte
	for head != "" {
		cut := strings.LastIndexByte(head, '.') + 1
		text := head[cut:]
		n, err := strconv.ParseUint(text, 10, 8)
		if octets == len(b) || err != nil || len(text) > 1 && text[0] == '0' {
			return netip.AddrFrom4(b), octets, true
		}
		b[octets] = byte(n)
		octets++
		head = head[:max(cut-1, 0)]
	}
	return netip.AddrFrom4(b), octets, false
}

func reverseApex(address netip.Addr, octets int) string {
	apex := reverseTop
	for _, o := range address.AsSlice()[:octets] {
		apex = strconv.Itoa(int(o)) + "." + apex
	}
	return apex
}
