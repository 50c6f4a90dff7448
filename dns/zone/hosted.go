package zone

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// TypeCNAME is the number of alias records, RFC 1035.
const TypeCNAME uint16 = 5

// Hosted is a private hosted zone. It may be given to several VPCs, and is built once.
type Hosted struct {
	ID     string // for errors and the query log
	Domain string
	Sets   []Set
}

// Set is all records of one name and type.
type Set struct {
	Name   string // absolute, in the domain; the first label may be "*"
	Type   string // one of api.RecordTypes
	TTL    uint32 // seconds
	Values []string
}

// Record is a record as DNS carries it, without owner and class.
type Record struct {
	Type uint16
	TTL  uint32 // seconds
	Data []byte // RDATA, names in it uncompressed; the caller does not change it
}

// hosted is a zone that was built.
type hosted struct {
	id    string
	apex  string
	nodes map[string]*node // by name; also those that have no record and names below them
}

// node is a name of a hosted zone.
type node struct {
	sets   map[uint16][]Record
	alias  string // target of its CNAME
	beyond *node  // "*" below it: what names that do not exist get, RFC 4592
}

// build makes a zone of what is right in it, and names what is not.
func (h *Hosted) build() (*hosted, []error) {
	apex, wild, err := parseName(h.Domain)
	if err == nil && wild {
		err = errors.New("a domain has no wildcard")
	}
	if err != nil {
		return nil, []error{fmt.Errorf("hosted zone %s: domain %q: %w", h.ID, h.Domain, err)}
	}
	z := &hosted{id: h.ID, apex: apex, nodes: map[string]*node{apex: {}}}
	var problems []error
	for i := range h.Sets {
		if err := z.add(&h.Sets[i]); err != nil {
			problems = append(problems, fmt.Errorf("hosted zone %s: %s %s: %w", h.ID, h.Sets[i].Name, h.Sets[i].Type, err))
		}
	}
	return z, problems
}

func (z *hosted) add(s *Set) error {
	name := lower(strings.TrimSuffix(s.Name, "."))
	if !api.ValidRecordName(name) || !api.WithinDomain(name, z.apex) {
		return errors.New("is no name in the domain")
	}
	number := api.RecordTypes[s.Type]
	var records []Record
	for _, v := range s.Values {
		data, err := api.PackRecord(s.Type, v)
		if err != nil {
			return err
		}
		records = append(records, Record{Type: number, TTL: s.TTL, Data: data})
	}
	n := z.node(name)
	switch alias := n.sets[TypeCNAME] != nil; {
	case len(records) == 0:
		return errors.New("has no record")
	case n.sets[number] != nil:
		return errors.New("given twice")
	case alias, number == TypeCNAME && (len(n.sets) > 0 || len(records) > 1 || name == z.apex):
		return errors.New("an alias is the only record of a name below the domain")
	}
	if n.sets == nil {
		n.sets = map[uint16][]Record{}
	}
	n.sets[number] = records
	if number == TypeCNAME {
		n.alias = target(records[0].Data)
	}
	return nil
}

// target is the name that an alias leads to as api.PackRecord understood it: of letters, digits, '-' and '_'.
func target(data []byte) string {
	var labels []string
	for off := 0; data[off] != 0; off += 1 + int(data[off]) {
		labels = append(labels, string(data[off+1:off+1+int(data[off])]))
	}
	return strings.Join(labels, ".")
}

// node returns the node of a name, making it and those between it and the apex if need be.
func (z *hosted) node(name string) *node {
	if n := z.nodes[name]; n != nil {
		return n
	}
	n := &node{}
	z.nodes[name] = n
	label, parent, _ := strings.Cut(name, ".")
	above := z.node(parent)
	if label == "*" {
		above.beyond = n
	}
	return n
}

// find is the node that answers for a name at or below the apex, nil when the name does not exist.
func (z *hosted) find(name string) *node {
	for off := 0; off < len(name); off = nextLabel(name, off) {
		n := z.nodes[name[off:]]
		switch {
		case n == nil:
			continue
		case off == 0:
			return n
		}
		return n.beyond
	}
	return nil
}

// answer is what a name at or below the apex gets.
func (z *hosted) answer(name string, qtype uint16) Answer {
	a := Answer{Kind: NoData, Private: true, Apex: z.apex, TTL: NegativeTTL, Hosted: z.id}
	n := z.find(name)
	if n == nil {
		a.Kind = NXDomain
		return a
	}
	records := n.sets[qtype]
	if records == nil && n.alias != "" {
		records, a.Alias = n.sets[TypeCNAME], n.alias
	}
	if records != nil {
		a.Kind, a.Records, a.TTL = Found, records, records[0].TTL
	}
	return a
}

// builder builds each hosted zone once, however many VPCs have it.
type builder struct {
	hosted    map[*Hosted]built
	firewalls map[*FirewallRule]builtFirewall // by the first rule
}

type built struct {
	zone     *hosted
	problems []error
}

func (b builder) build(h *Hosted) built {
	done, ok := b.hosted[h]
	if !ok {
		done.zone, done.problems = h.build()
		b.hosted[h] = done
	}
	return done
}

// addHosted gives a VPC its hosted zones.
func (s *space) addHosted(b builder, list []*Hosted) (problems []error) {
	list = slices.SortedFunc(slices.Values(list), func(x, y *Hosted) int { return strings.Compare(x.ID, y.ID) })
	for _, h := range list {
		done := b.build(h)
		problems = append(problems, done.problems...)
		if done.zone == nil {
			continue
		}
		d := s.domain(done.zone.apex)
		if d.hosted != nil {
			problems = append(problems, fmt.Errorf("hosted zone %s: %s has %s already", h.ID, d.hosted.id, d.apex))
			continue
		}
		d.hosted = done.zone
	}
	return problems
}
