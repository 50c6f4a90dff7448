package controlplane

import (
	"testing"

	"github.com/culvert-net/culvert/api"
)

// A join whose answer was lost is repeated with the same keys and gets the same node. Nobody else can use the token again.
func TestJoinIsRepeatedByWhoJoined(t *testing.T) {
	l := startLab(t, nil)
	_, r := l.joinRequest("n1")
	joiner := l.joiner(r.Token)
	first := must(joiner.Join(l.ctx(), r))(t)
	again := must(joiner.Join(l.ctx(), r))(t)
	if again.Node != first.Node || again.Number != first.Number {
		t.Errorf("asked again: %s, number %d; first %s, number %d", again.Node, again.Number, first.Node, first.Number)
	}
	refused := func(what string, r api.JoinRequest) {
		t.Helper()
		_, err := joiner.Join(l.ctx(), r)
		if e := wantCode(t, err, api.CodeTokenInvalid); e.Field != "token" {
			t.Errorf("%s: %v", what, e)
		}
	}
	other := r
	_, other.CSR = testCSR(t)
	refused("another key", other)
	other = r
	other.Name = "n2"
	refused("another name", other)
	other = r
	other.PublicKey = wireKey()
	refused("another WireGuard key", other)
	if _, err := l.admin().RevokeNode(l.ctx(), first.Node); err != nil {
		t.Fatal(err)
	}
	refused("a node that was revoked", r)
}
