package zone

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Name is one address of a private name.
type Name struct {
	VPC      uint32
	Name     string     // any case, trailing dot allowed; the first label may be "*"
	Address  netip.Addr // IPv4 within the VPC's CIDR, or IPv6
	Endpoint string     // whose name it is, for the query log
}

// VPC is a VPC that asks this node.
type VPC struct {
	Number     uint32       // 1..2^32-1
	ID         string       // for errors; "": its number is
	Account    string       // whose it is, for limits; those of "" count as one account's
	CIDR       netip.Prefix // IPv4; its reverse names are answered here
	Forwarders []string     // see ParseForwarder; at most MaxForwarders
	Plain      bool         // plain DNS over the underlay is allowed
	// Private lists domains that are never forwarded even while they hold no name.
	Private  []string
	Hosted   []*Hosted
	Rules    []Rule
	Firewall []FirewallRule // in the order in which they are looked at; one slice may be given to many VPCs
	QueryLog bool
}

// MaxForwarders bounds a VPC's forwarders, so that a question is answered or given up within a resolver's usual
// patience of 5 s.
const MaxForwarders = 4

// Zone answers for all VPCs. The zero value knows none.
type Zone struct {
	vpcs  map[uint32]*space
	rows  []VPC
	names []Name
	reach Reach
}

// space is one VPC's names.
type space struct {
	label      string // names it in errors
	account    string
	cidr       netip.Prefix
	forwarders []Forwarder
	rules      []CompiledRule
	ruleOf     map[string]int // by domain: index in rules
	firewall   *firewall      // nil: lets everything pass
	queryLog   bool
	domains    map[string]*domain      // by apex
	ancestors  map[string]struct{}     // names above an apex
	pointers   map[netip.Addr][]string // reverse: address to names
}

// domain is what lives at one apex. A nil set: there is no such name.
type domain struct {
	apex  string
	exact *set
	wild  *set
	// hosted answers in place of both.
	hosted *hosted
	// own is what exact leads to, and alone its address when it has one of IPv4: with 100,000 names what a question touches is in no
	// cache, so it lies together.
	own   set
	alone [1]netip.Addr
}

// set is what one name resolves to.
type set struct {
	endpoint string
	v4, v6   []netip.Addr
}

// New builds a Zone. Rows that are wrong are left out and named in err; the Zone is usable even then, so that one
// tenant's bad row does not hold up the others. err joins one error, of one line, for each such row and for each forwarder
// and private domain that is left out.
func New(names []Name, vpcs []VPC, reach Reach) (*Zone, error) {
	z := &Zone{vpcs: make(map[uint32]*space, len(vpcs)), reach: reach}
	var problems []error
	b := builder{hosted: map[*Hosted]built{}, firewalls: map[*FirewallRule]builtFirewall{}}
	byNumber := func(a, b VPC) int { return cmp.Compare(a.Number, b.Number) }
	for _, v := range slices.SortedFunc(slices.Values(vpcs), byNumber) {
		for _, err := range z.addVPC(v, b) {
			problems = append(problems, fmt.Errorf("%s: %w", v.label(), err))
		}
	}
	for _, n := range slices.SortedFunc(slices.Values(names), compareNames) {
		if err := z.addName(n); err != nil {
			problems = append(problems, fmt.Errorf("name %q in %s: %w", n.Name, z.label(n.VPC), err))
		}
	}
	return z, errors.Join(problems...)
}

func compareNames(a, b Name) int {
	return cmp.Or(cmp.Compare(a.VPC, b.VPC), strings.Compare(lower(a.Name), lower(b.Name)),
		strings.Compare(a.Endpoint, b.Endpoint), a.Address.Compare(b.Address))
}

// label names a VPC in errors.
func (v *VPC) label() string { return cmp.Or(v.ID, fmt.Sprintf("vpc %d", v.Number)) }

func (z *Zone) label(vpc uint32) string {
	if s := z.vpcs[vpc]; s != nil {
		return s.label
	}
	return (&VPC{Number: vpc}).label()
}

// addVPC adds a VPC and tells what it left out; an error other than of a forwarder or domain means the VPC as a whole.
func (z *Zone) addVPC(v VPC, b builder) []error {
	switch {
	case v.Number == 0:
		return []error{errors.New("number 0 means a node: give the VPC's own number")}
	case z.vpcs[v.Number] != nil:
		return []error{errors.New("given twice")}
	case !v.CIDR.IsValid() || !v.CIDR.Addr().Is4():
		return []error{fmt.Errorf("cidr %v: must be an IPv4 prefix", v.CIDR)}
	}
	s := &space{
		label:     v.label(),
		account:   v.Account,
		cidr:      v.CIDR.Masked(),
		domains:   map[string]*domain{},
		ancestors: map[string]struct{}{},
		pointers:  map[netip.Addr][]string{},
		ruleOf:    map[string]int{},
		queryLog:  v.QueryLog,
	}
	z.vpcs[v.Number] = s
	z.rows = append(z.rows, v)
	var problems []error
	s.forwarders, problems = z.forwarders(v.Forwarders, v.Plain, s.cidr)
	problems = append(problems, s.addHosted(b, v.Hosted)...)
	problems = append(problems, z.addRules(s, v.Rules)...)
	wall, errs := b.firewall(v.Firewall)
	s.firewall, problems = wall, append(problems, errs...)
	for _, text := range v.Private {
		apex, wild, err := parseName(text)
		if err == nil && wild {
			err = errors.New("a domain has no wildcard")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("private domain %q: %w", text, err))
			continue
		}
		s.domain(apex)
	}
	return problems
}

// domain returns the domain at an apex, making it if need be.
func (s *space) domain(apex string) *domain {
	d := s.domains[apex]
	if d == nil {
		d = &domain{apex: apex}
		s.domains[apex] = d
		for off := nextLabel(apex, 0); off < len(apex); off = nextLabel(apex, off) {
			s.ancestors[apex[off:]] = struct{}{}
		}
	}
	return d
}

func (z *Zone) addName(n Name) error {
	s := z.vpcs[n.VPC]
	if s == nil {
		return errors.New("the VPC is unknown")
	}
	apex, wild, err := parseName(n.Name)
	if err != nil {
		return err
	}
	if !n.Address.IsValid() || n.Address.Is4In6() || n.Address.Is4() && !s.cidr.Contains(n.Address) {
		return fmt.Errorf("address %v: must lie in the VPC's %v", n.Address, s.cidr)
	}
	d := s.domain(apex)
	if d.hosted != nil {
		return fmt.Errorf("belongs to endpoint %s and to the hosted zone %s, which keeps it", n.Endpoint, d.hosted.id)
	}
	slot := &d.exact
	if wild {
		slot = &d.wild
	}
	if *slot == nil {
		*slot = &set{}
		if !wild {
			*slot = &d.own
			d.own.v4 = d.alone[:0]
		}
		(*slot).endpoint = n.Endpoint
	}
	if (*slot).endpoint != n.Endpoint {
		return fmt.Errorf("belongs to endpoint %s and %s: the first one keeps it", (*slot).endpoint, n.Endpoint)
	}
	if (*slot).add(n.Address) {
		z.names = append(z.names, n)
		if !wild {
			s.pointers[n.Address] = append(s.pointers[n.Address], apex)
		}
	}
	return nil
}

// add reports whether the address is new.
func (t *set) add(a netip.Addr) bool {
	list := &t.v4
	if a.Is6() {
		list = &t.v6
	}
	if slices.Contains(*list, a) {
		return false
	}
	*list = append(*list, a)
	return true
}

// Names returns the rows that the Zone answers from, sorted by VPC and name, without duplicates.
func (z *Zone) Names() []Name { return slices.Clone(z.names) }

// VPCs returns the VPCs that the Zone answers for, sorted by number, as they were given.
func (z *Zone) VPCs() []VPC { return slices.Clone(z.rows) }

// Account is whose a VPC is.
func (z *Zone) Account(vpc uint32) string {
	if s := z.vpcs[vpc]; s != nil {
		return s.account
	}
	return ""
}

// CheckForwarder tells why a forwarder may not be asked; own are the node's addresses as they are now.
func (z *Zone) CheckForwarder(f Forwarder, own []netip.Addr) error {
	if err := z.reach.Check(f, own); err != nil {
		return fmt.Errorf("forwarder %q: %w", f, err)
	}
	return nil
}

// Forwarders returns the usable forwarders of a VPC, in the order to try them. The caller does not change the slice.
func (z *Zone) Forwarders(vpc uint32) []Forwarder {
	if s := z.vpcs[vpc]; s != nil {
		return s.forwarders
	}
	return nil
}

// Serves reports whether an address is one of a VPC that the Zone answers for.
func (z *Zone) Serves(vpc uint32, client netip.Addr) bool {
	s := z.vpcs[vpc]
	return s != nil && s.cidr.Contains(client)
}
