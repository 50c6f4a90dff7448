package controlplane

import (
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/controlplane/view"
)

// joinFrom is a join whose connection comes from an address; those of tests come from a Unix socket.
func (l *lab) joinFrom(source string, r api.JoinRequest) (answer *api.JoinResponse) {
	l.t.Helper()
	must(l.s.store.Txn(l.ctx(), func(tx *store.Tx) (err error) {
		c := &call{s: l.s, ctx: l.ctx(), who: &caller{source: source}, r: tx.Resources(), tx: tx, now: time.Now()}
		answer, err = join(c, &fromNode[api.JoinRequest]{Body: r})
		return err
	}))(l.t)
	return answer
}

// A node that nobody gave an address for, and whose requests come from an address that is not its own, is behind NAT; its
// peers are told, and a renewal may tell otherwise.
func TestNodesBehindNAT(t *testing.T) {
	l := startLab(t, nil)
	const source = "192.0.2.9"
	for _, c := range []struct {
		name     string
		underlay []string
		local    string
		want     bool
	}{
		{"own", nil, source, false},
		{"nat", nil, "10.1.2.3", true},
		{"given", []string{"192.0.2.7:6000"}, "10.1.2.3", false},
		{"silent", nil, "", false},
	} {
		key, r := l.joinRequest(c.name)
		r.Underlay, r.LocalAddress = c.underlay, c.local
		answer := l.joinFrom(source, r)
		if got := l.s.Resources().Nodes[answer.Node].BehindNAT; got != c.want {
			t.Errorf("%s: behind NAT: %t", c.name, got)
		}
		if c.name != "nat" {
			continue
		}
		h := l.hostWith(answer, key)
		_, csr := testCSR(t)
		_, err := h.Renew(l.ctx(), api.RenewRequest{CSR: csr, LocalAddress: "somewhere"})
		if e := wantCode(t, err, api.CodeInvalidParameter); e.Field != "localAddress" || e.Remedy == "" {
			t.Error(e)
		}
		must(h.Renew(l.ctx(), api.RenewRequest{CSR: csr}))(t)
		if !l.s.Resources().Nodes[h.id].BehindNAT {
			t.Error("a renewal that says nothing changed it")
		}
		if v := view.Compute(l.s.Resources(), h.id); !v.Node.BehindNAT {
			t.Error("its view does not say so")
		}
	}
}
