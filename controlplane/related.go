package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/ownfile"
)

// A node may write flow records about what it has or had to do with, and the server says whose they are. Records come late: a node
// that hears nothing goes on with its last view for a while, and ships when it is heard again. So what left a node's view is
// remembered as long as flow records are kept, and admits records of the time when the node could still have had it.

const (
	// maxFormer bounds what is remembered of one account and node, of each sort: the newest. That is four times what an account can
	// have there at once.
	maxFormer = 4 * api.MaxENIsPerNodeAndAccount

	sideConsumer, sideProvider = "consumer", "provider"
)

// related is what a node's views concern.
type related struct {
	Revision    int64                `json:"revision"` // of the newest view
	Accounts    map[string]*relation `json:"accounts"`
	VPCs        map[string]*relation `json:"vpcs"`        // that it hosts interfaces of
	ENIs        map[string]*relation `json:"enis"`        // that it hosts
	Connections map[string]*relation `json:"connections"` // by onSide: it may be the node of one side, or of both
	dirty       bool
}

// relation is one thing of it, with what the records about it must say.
type relation struct {
	Left    time.Time `json:"left,omitzero"` // when it left the view; zero: it is there
	Account string    `json:"account"`       // owner; of a connection the provider
	VPC     string    `json:"vpc,omitempty"` // of a connection the provider's
	Subnet  string    `json:"subnet,omitempty"`

	Consumer    string `json:"consumer,omitempty"` // account, as below of a connection
	ConsumerVPC string `json:"consumerVpc,omitempty"`
	Endpoint    string `json:"endpoint,omitempty"`
	Service     string `json:"service,omitempty"`
	ServiceName string `json:"serviceName,omitempty"`
	Approver    string `json:"approver,omitempty"`
}

// onSide is the key of a connection, seen from a side's node.
func onSide(side, connection string) string { return side + "/" + connection }

func newRelated() *related {
	return &related{Accounts: map[string]*relation{}, VPCs: map[string]*relation{}, ENIs: map[string]*relation{},
		Connections: map[string]*relation{}}
}

// take brings in a view that was computed from r. What is older than forget is forgotten.
func (x *related) take(v *api.View, r *api.Resources, now, forget time.Time) {
	if v.Revision < x.Revision {
		return // computed before, late
	}
	x.Revision = v.Revision
	there := newRelated()
	for _, p := range v.VPCs {
		there.Accounts[p.Account] = &relation{Account: p.Account}
	}
	for _, e := range v.ENIs {
		there.ENIs[e.ID] = &relation{Account: e.Account, VPC: e.VPCID, Subnet: e.Subnet}
		there.VPCs[e.VPCID] = &relation{Account: e.Account}
	}
	add := func(side, id, serviceName string) {
		con := r.Connections[id]
		if con == nil || r.LoadBalancers[con.LoadBalancer] == nil {
			return
		}
		there.Connections[onSide(side, id)] = &relation{Account: con.Account, VPC: r.LoadBalancers[con.LoadBalancer].VPC, Consumer: con.EndpointAccount,
			ConsumerVPC: con.EndpointVPC, Endpoint: con.Endpoint, Service: con.Service, ServiceName: serviceName, Approver: con.Approver}
	}
	for _, e := range v.Endpoints {
		add(sideConsumer, e.Connection, e.ServiceName)
	}
	for _, g := range v.Grants {
		add(sideProvider, g.Connection, g.ServiceName)
	}
	inside := func(id string) {
		lb := r.LoadBalancers[id]
		if lb == nil {
			return
		}
		// Both sides are of one VPC, and which of them a refused packet was on its way to a record may not say.
		for _, side := range []string{sideConsumer, sideProvider} {
			there.Connections[onSide(side, id)] = &relation{Account: lb.Account, VPC: lb.VPC, Consumer: lb.Account, ConsumerVPC: lb.VPC}
		}
	}
	for _, b := range v.LoadBalancers {
		inside(b.Connection)
	}
	for _, g := range v.LoadBalancerGrants {
		inside(g.Connection)
	}
	for _, part := range []struct{ have, there map[string]*relation }{
		{x.Accounts, there.Accounts}, {x.VPCs, there.VPCs}, {x.ENIs, there.ENIs}, {x.Connections, there.Connections},
	} {
		if refresh(part.have, part.there, now, forget) {
			x.dirty = true
		}
	}
}

// refresh makes have what is there now and what has left, and reports whether anything changed.
func refresh(have, there map[string]*relation, now, forget time.Time) (changed bool) {
	for id, o := range have {
		switch {
		case there[id] == nil && o.Left.IsZero():
			o.Left, changed = now.UTC(), true
		case there[id] == nil && o.Left.Before(forget):
			delete(have, id)
			changed = true
		}
	}
	for id, n := range there {
		if o := have[id]; o == nil || *o != *n {
			have[id], changed = n, true
		}
	}
	if changed {
		forgetFormer(have)
	}
	return changed
}

// forgetFormer drops, account by account, the oldest beyond maxFormer. Of a connection it is the consumer whose making and
// deleting fills the memory.
func forgetFormer(have map[string]*relation) {
	former := map[string][]string{}
	for id, o := range have {
		if !o.Left.IsZero() {
			owner := cmp.Or(o.Consumer, o.Account)
			former[owner] = append(former[owner], id)
		}
	}
	for _, ids := range former {
		if len(ids) <= maxFormer {
			continue
		}
		slices.SortFunc(ids, func(a, b string) int { return cmp.Or(have[b].Left.Compare(have[a].Left), cmp.Compare(a, b)) })
		for _, id := range ids[maxFormer:] {
			delete(have, id)
		}
	}
}

// knownAt is what the node had to do with at a time, or not longer than late before.
func knownAt(m map[string]*relation, id string, at time.Time, late time.Duration) *relation {
	if o := m[id]; o != nil && (o.Left.IsZero() || !at.After(o.Left.Add(late))) {
		return o
	}
	return nil
}

// accountsOf tells whose a record is, or why the node may not write it. late is how long after something left its view the node
// may have gone on with it. What the record says of a service's name and of who accepted becomes what the server knows.
func (x *related) accountsOf(r *api.FlowRecord, late time.Duration) (accounts []string, why string) {
	known := func(m map[string]*relation, id string) *relation { return knownAt(m, id, r.End, late) }
	switch {
	case r.Interface != "":
		e := known(x.ENIs, r.Interface)
		if e == nil || r.Account != e.Account || r.VPC != e.VPC || r.Subnet != "" && r.Subnet != e.Subnet {
			return nil, "the interface is not the node's, or another account's"
		}
	case r.Subnet != "":
		return nil, "a subnet without an interface"
	case r.Account == "" && r.VPC != "":
		return nil, "a VPC without its account"
	case r.Account != "" && known(x.Accounts, r.Account) == nil:
		return nil, "the node has nothing to do with the account"
	case r.Action != api.ActionReject && r.Account+r.Connection != "":
		// What is refused may be for an interface that is not there. What passed had one; a node that has forgotten which, after a
		// restart, still knows of its VPC.
		if p := known(x.VPCs, r.VPC); p == nil || p.Account != r.Account {
			return nil, "traffic without an interface, where the node has none"
		}
	}
	accounts = []string{r.Account}
	if r.Connection == "" {
		if r.ConsumerAccount+r.ProviderAccount+r.ConsumerVPC+r.ProviderVPC+r.Endpoint+r.Service+r.ServiceName+r.Approver != "" {
			return nil, "parts of a connection without its id"
		}
	} else {
		con := known(x.Connections, onSide(r.Side, r.Connection))
		if con == nil || !con.fits(r) {
			return nil, "the connection is not the node's, or another, or the node is on its other side"
		}
		r.ServiceName = con.ServiceName
		if r.Approver != con.Approver {
			r.Approver = "" // or of before it was accepted again, by another: nobody's word
		}
		accounts = append(accounts, con.Consumer, con.Account)
	}
	accounts = slices.DeleteFunc(accounts, func(a string) bool { return a == "" })
	slices.Sort(accounts)
	return slices.Compact(accounts), ""
}

// accountsOfQuery tells whose the record of a question is, as accountsOf does of a flow's.
func (x *related) accountsOfQuery(r *api.QueryRecord, late time.Duration) (accounts []string, why string) {
	if p := knownAt(x.VPCs, r.VPC, r.End, late); p == nil || p.Account != r.Account {
		return nil, "a question of a VPC that the node has no part of, or of another account's"
	}
	if e := knownAt(x.ENIs, r.Interface, r.End, late); r.Interface != "" && (e == nil || e.Account != r.Account || e.VPC != r.VPC) {
		return nil, "the interface is not the node's, or another account's"
	}
	return []string{r.Account}, ""
}

// fits reports whether a record says of a connection what the server knows of it, and is of the side that it says.
func (con *relation) fits(r *api.FlowRecord) bool {
	says := func(what, is string) bool { return what == "" || what == is }
	if r.ConsumerAccount != con.Consumer || r.ProviderAccount != con.Account || !says(r.ConsumerVPC, con.ConsumerVPC) ||
		!says(r.ProviderVPC, con.VPC) || !says(r.Endpoint, con.Endpoint) || !says(r.Service, con.Service) {
		return false
	}
	return r.Side == sideConsumer && says(r.Account, con.Consumer) || r.Side == sideProvider && says(r.Account, con.Account)
}

// relate remembers what a node's view concerns.
func (h *hub) relate(node string, v *api.View, r *api.Resources, now, forget time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.life(node).related.take(v, r, now, forget)
}

func (h *hub) accountsOf(node string, r *api.FlowRecord, late time.Duration) (accounts []string, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.life(node).related.accountsOf(r, late)
}

func (h *hub) accountsOfQuery(node string, r *api.QueryRecord, late time.Duration) (accounts []string, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.life(node).related.accountsOfQuery(r, late)
}

// maxRelatedFile bounds such a file, in bytes.
const maxRelatedFile = 256 << 20

// relatedFile is where a node's relations are kept: on the server's disk, as flow records are.
func (s *Server) relatedFile(node string) string {
	return filepath.Join(s.cfg.DataDir, "related", node+".json")
}

// saveRelated writes what changed. A crash loses what came into a view and left it again since the last time.
func (s *Server) saveRelated(context.Context) error {
	s.hub.mu.Lock()
	files, dirty := map[string][]byte{}, map[string]*related{}
	var errs []error
	for node, l := range s.hub.nodes {
		if !l.related.dirty {
			continue
		}
		data, err := json.Marshal(l.related)
		if err == nil {
			files[node], dirty[node], l.related.dirty = data, l.related, false
		}
		errs = append(errs, err)
	}
	s.hub.mu.Unlock()
	for node, data := range files {
		if err := writeFile(s.relatedFile(node), data, 0o600); err != nil {
			errs = append(errs, err)
			s.hub.mu.Lock()
			dirty[node].dirty = true
			s.hub.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// loadRelated brings back what was known before the server stopped.
func (s *Server) loadRelated() error {
	dir := filepath.Dir(s.relatedFile(""))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("server: make directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("server: read relations: %w", err)
	}
	for _, e := range entries {
		node, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !api.IsID(api.KindNode.Prefix(), node) {
			continue
		}
		data, err := ownfile.Read(s.relatedFile(node), maxRelatedFile)
		x := newRelated()
		if err == nil {
			err = json.Unmarshal(data, x)
		}
		if err != nil {
			return fmt.Errorf("server: what the node %s had to do with, %s (remove the file, and late flow records are refused): %w", node,
				s.relatedFile(node), err)
		}
		x.Revision = 0 // a store that was restored from a backup counts on from there
		s.hub.mu.Lock()
		s.hub.life(node).related = x
		s.hub.mu.Unlock()
	}
	return nil
}

// forgetRelated removes a node's file.
func (s *Server) forgetRelated(node string) error {
	if err := os.Remove(s.relatedFile(node)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
