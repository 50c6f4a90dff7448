// Package names joins flows to the DNS questions that they followed. It is pure.
package names

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
)

const (
	// grace is how long after its time to live an address counts as known from an answer: programs ask, and connect a little later.
	grace = 5 * time.Second
	// apart is by how much the times of a question and of the flow that followed may be wrong against each other: the node takes them
	// from two clocks.
	apart = 10 * time.Millisecond
)

// Index finds the question that a flow followed. It does not change, and may be used by several goroutines.
type Index struct{ by map[key][]answer }

// key is who asked, and got which address.
type key struct {
	vpc     string
	client  netip.Addr
	address netip.Addr
}

type answer struct {
	at, until time.Time
	name      string
}

// New makes an index of records, in any order; those without addresses lead to no flow.
func New(records []api.QueryRecord) *Index {
	b := NewBuilder()
	for i := range records {
		b.Add(&records[i])
	}
	return b.Index()
}

// Builder makes an index of records that come one by one, and keeps of them what is needed to find names. Not for concurrent use.
type Builder struct {
	by   map[key][]answer
	said map[string]string // names and VPCs, once each
	held int
}

// NewBuilder has no records yet.
func NewBuilder() *Builder { return &Builder{by: map[key][]answer{}, said: map[string]string{}} }

func (b *Builder) once(s string) string {
	if have, ok := b.said[s]; ok {
		return have
	}
	s = strings.Clone(s)
	b.said[s] = s
	return s
}

// Add takes a record; one without addresses leads to no flow.
func (b *Builder) Add(r *api.QueryRecord) {
	client, err := netip.ParseAddr(r.Client)
	if err != nil {
		return
	}
	a := answer{at: r.Start, until: r.End.Add(time.Duration(r.TTLSeconds)*time.Second + grace)}
	for _, text := range r.Addresses {
		if address, err := netip.ParseAddr(text); err == nil {
			a.name = b.once(strings.ToLower(r.Name)) // names have no case, and clients may make one up for each question
			k := key{b.once(r.VPC), plain(client), address.Unmap()}
			b.by[k] = append(b.by[k], a)
			b.held++
		}
	}
}

// Len is how many answers are held, some hundred bytes each.
func (b *Builder) Len() int { return b.held }

// Index is what was added; the builder is of no use afterwards.
func (b *Builder) Index() *Index {
	for _, list := range b.by {
		slices.SortStableFunc(list, func(x, y answer) int { return x.at.Compare(y.at) })
	}
	return &Index{by: b.by}
}

// Of is the name, with trailing dot and in lower case, that the client of a flow asked for last before it and was answered with the address that the flow
// goes to: of a flow that began in the record's interval within the answer's time to live, of one that goes on whenever that was. Only
// the record of the client's own side names its VPC and address, so of others nothing is found.
func (x *Index) Of(r *api.FlowRecord) (name string, ok bool) {
	client, err := netip.ParseAddr(r.Tuple.SrcAddr)
	if err != nil {
		return "", false
	}
	address, err := netip.ParseAddr(r.Tuple.DstAddr)
	if err != nil {
		return "", false
	}
	list := x.by[key{r.VPC, plain(client), address.Unmap()}]
	n, _ := slices.BinarySearchFunc(list, r.Start.Add(apart), func(a answer, at time.Time) int {
		if a.at.After(at) {
			return 1
		}
		return -1
	})
	if n == 0 {
		return "", false
	}
	last := list[n-1]
	if goesOn := r.State == api.FlowActive || r.State == api.FlowLate; !goesOn && r.Start.After(last.until) {
		return "", false
	}
	return last.name, true
}

// plain is a client's IPv4 form, which stands in records of questions.
func plain(a netip.Addr) netip.Addr {
	if _, _, form, ok := api.IPv4Form(a); ok {
		return form
	}
	return a.Unmap()
}
