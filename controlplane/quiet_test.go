package controlplane

import (
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// TestOnlyWhoListsReportsIsWoken: what a node says wakes the watches of lists that have it in them, and no others.
func TestOnlyWhoListsReportsIsWoken(t *testing.T) {
	l := startLab(t, nil)
	h := l.host("host-a")
	eni := api.KindENI.Prefix() + strings.Repeat("0", 16) + "1"
	vpcs := (&watch[api.VPC]{s: l.s}).listen(l.ctx())
	enis := (&watch[api.ENI]{s: l.s}).listen(l.ctx())
	nodes := (&watch[api.NodeReport]{s: l.s}).listen(l.ctx())
	woken := func(q *quiet) bool {
		select {
		case <-q.reported:
			q.look()
			return true
		default:
			return false
		}
	}
	for _, row := range []struct {
		says  string
		st    api.NodeStatus
		moved bool
	}{
		{"something", api.NodeStatus{Errors: []string{"a problem"}}, false},
		{"that an interface is attached", api.NodeStatus{Attached: []string{eni}}, true},
		{"that it still is", api.NodeStatus{Attached: []string{eni}, Revision: 9}, false},
		{"that it is no more", api.NodeStatus{}, true},
	} {
		row.st.Node = h.id
		if err := h.ReportStatus(l.ctx(), row.st); err != nil {
			t.Fatal(err)
		}
		if !woken(nodes) || woken(enis) != row.moved || woken(vpcs) {
			t.Errorf("a node says %s: a list of nodes, and interfaces %v, and nothing else should be looked at", row.says, row.moved)
		}
	}
	for q, byTime := range map[*quiet]bool{vpcs: false, enis: false, nodes: true} { // a node's silence is no word, but counts
		q.alive.Reset(time.Millisecond)
		look, alive, ended := q.next(l.ctx(), l.s.stopping)
		if look != byTime || !alive || ended {
			t.Errorf("after a while: look %v, want %v; alive %v, ended %v", look, byTime, alive, ended)
		}
		q.end()
	}
}

// TestWatchPauses: many changes in a short time are one look, and it is after all of them.
func TestWatchPauses(t *testing.T) {
	l := startLab(t, func(c *Config) { c.watchPause = 2 * time.Second })
	shop := l.as("shop")
	q := (&watch[api.VPC]{s: l.s}).listen(l.ctx())
	defer q.end()
	began := q.looked
	for range 5 {
		must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
	}
	look, _, ended := q.next(l.ctx(), l.s.stopping)
	if paused := q.looked.Sub(began); !look || ended || paused < 2*time.Second {
		t.Errorf("look %v, ended %v, after %s", look, ended, paused)
	}
	select {
	case rev := <-q.changes:
		t.Errorf("revision %d is to be looked at once more", rev)
	default:
	}
}

// TestWatchTellsWhatIsAttached: an interface that a node attaches, or does not have any more, is told.
func TestWatchTellsWhatIsAttached(t *testing.T) {
	l := startLab(t, nil)
	h, shop := l.host("host-a"), l.as("shop")
	l.network(shop, "shop")
	e := must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Name: "cart", Node: "host-a"}))(t)
	say := func(attached ...string) {
		if err := h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id, Attached: attached}); err != nil {
			t.Fatal(err)
		}
	}
	want := true
	for event, err := range shop.WatchENIs(l.ctx()) {
		switch {
		case err != nil:
			t.Fatal(err)
		case event.Type == api.WatchSynced:
			say(e.ID)
		case event.Type != api.WatchModified:
		case event.Item.ID != e.ID || event.Item.Attached != want:
			t.Fatalf("%+v, attached should be %v", event.Item, want)
		case !want:
			return
		default:
			want = false
			say()
		}
	}
}
