package controlplane

import (
	"cmp"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/alloc"
)

// tagger gives tag numbers within one transaction.
type tagger struct {
	c    *call
	used map[string]map[uint16]bool // by consumer VPC
}

func newTagger(c *call) *tagger { return &tagger{c: c, used: map[string]map[uint16]bool{}} }

func (t *tagger) usedIn(vpc string) map[uint16]bool {
	if t.used[vpc] == nil {
		used := map[uint16]bool{}
		for _, con := range t.c.r.Connections {
			if con.EndpointVPC != vpc {
				continue
			}
			for _, n := range con.TagNumbers {
				used[n.Number] = true
			}
		}
		for _, b := range t.c.r.LoadBalancers {
			if b.VPC != vpc {
				continue
			}
			for _, n := range b.TagNumbers {
				used[n.Number] = true
			}
		}
		t.used[vpc] = used
	}
	return t.used[vpc]
}

// numbers returns a connection's tag numbers as they should be: one for each endpoint ENI and listener, those that it has
// kept. The error tells that the consumer's VPC had too few; what could be given is returned all the same.
func (t *tagger) numbers(con *api.Connection, enis []string, listeners []api.Listener) ([]api.TagNumber, error) {
	return t.of(con.EndpointVPC, con.TagNumbers, enis, listeners)
}

// retagBalancer brings the numbers of a load balancer, by which its own VPC uses it, up to its listeners. What the VPC has too
// few for is completed later.
func (t *tagger) retagBalancer(b *api.LoadBalancer) {
	b.TagNumbers, _ = t.of(b.VPC, b.TagNumbers, b.ENIs, b.Listeners)
}

// of are the numbers in a VPC for each ENI and listener, given those there are.
func (t *tagger) of(vpc string, there []api.TagNumber, enis []string, listeners []api.Listener) ([]api.TagNumber, error) {
	type pair struct{ eni, listener string }
	have := map[pair]uint16{}
	for _, n := range there {
		have[pair{n.ENI, n.Listener}] = n.Number
	}
	used := t.usedIn(vpc)
	out := []api.TagNumber{}
	var missing []pair
	for _, eni := range enis {
		for _, l := range listeners {
			p := pair{eni, l.ID}
			if n, ok := have[p]; ok {
				out = append(out, api.TagNumber{ENI: eni, Listener: l.ID, Number: n})
				delete(have, p)
			} else {
				missing = append(missing, p)
			}
		}
	}
	for _, n := range have {
		delete(used, n)
	}
	var err error
	for _, p := range missing {
		var n uint16
		if n, err = alloc.NextTag(used, t.c.tx.LastTag(vpc)); err != nil {
			break
		}
		used[n] = true
		t.c.tx.SetLastTag(vpc, n)
		out = append(out, api.TagNumber{ENI: p.eni, Listener: p.listener, Number: n})
	}
	slices.SortFunc(out, func(a, b api.TagNumber) int {
		return cmp.Or(cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.Listener, b.Listener))
	})
	return out, err
}

// tooFewNumbers is an endpoint's message while some of its listeners have no tag number.
const tooFewNumbers = "its VPC has no free connection number for some of the service's listeners, which it does not answer; " +
	"delete endpoints that are not needed"

// retag brings the numbers of an existing connection up to its listeners. Where the consumer's VPC has too few, its endpoint
// does without the listener and says so: a provider's change must not fail by a consumer's doing.
func (t *tagger) retag(con *api.Connection, b *api.LoadBalancer) error {
	e := t.c.r.Endpoints[con.Endpoint]
	if e == nil {
		return nil
	}
	n, endpoint := *con, *e
	var shortage error
	n.TagNumbers, shortage = t.numbers(con, e.ENIs, b.Listeners)
	endpoint.Message = ""
	if shortage != nil {
		endpoint.Message = tooFewNumbers
	}
	if !slices.Equal(n.TagNumbers, con.TagNumbers) {
		if err := put(t.c, &n, nil, nil); err != nil {
			return err
		}
	}
	if endpoint.Message != e.Message {
		return put(t.c, &endpoint, nil, nil)
	}
	return nil
}

// retagAll does so for every connection that a load balancer serves.
func (c *call) retagAll(b *api.LoadBalancer) error {
	t := newTagger(c)
	for _, id := range slices.Sorted(maps.Keys(c.r.Connections)) {
		if con := c.r.Connections[id]; con.LoadBalancer == b.ID {
			if err := t.retag(con, b); err != nil {
				return err
			}
		}
	}
	return nil
}
