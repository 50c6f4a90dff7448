package controlplane

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

func TestARevokedNodesGossipKeyIsReplaced(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	l := startLab(t, func(c *Config) { c.Tick, c.Now = 20*time.Millisecond, func() time.Time { return *now.Load() } })
	h := l.host("host-a")
	l.host("host-b")
	l.host("host-c")
	views, _ := h.views(t)
	first := until(t, views, "a view", anyView).GossipKeys
	must(l.admin().DrainNode(l.ctx(), "host-b"))(t)
	if v := until(t, views, "the view", func(v *api.View) bool { return v.Revision == l.s.Resources().Revision }); len(v.GossipKeys) != 1 ||
		!bytes.Equal(v.GossipKeys[0], first[0]) {
		t.Errorf("keys changed without a reason: %d", len(v.GossipKeys))
	}
	must(l.admin().RevokeNode(l.ctx(), "host-b"))(t)
	both := until(t, views, "two keys", func(v *api.View) bool { return len(v.GossipKeys) == 2 }).GossipKeys
	if bytes.Equal(both[0], first[0]) || !bytes.Equal(both[1], first[0]) || len(both[0]) != gossipKeyLen {
		t.Error("the new key is to come first, then the old one")
	}
	later := at.Add(gossipOverlap)
	now.Store(&later)
	one := until(t, views, "one key", func(v *api.View) bool { return len(v.GossipKeys) == 1 }).GossipKeys
	if !bytes.Equal(one[0], both[0]) {
		t.Error("it is not the new key that stays")
	}
	// Who is revoked already makes no new one; many revocations leave few keys.
	must(l.admin().RevokeNode(l.ctx(), "host-b"))(t)
	if again := must(l.s.gossipKeys(l.ctx(), l.s.Resources()))(t); len(again) != 1 || !bytes.Equal(again[0], one[0]) {
		t.Errorf("%d keys", len(again))
	}
	must(l.admin().RevokeNode(l.ctx(), "host-c"))(t)
	for i := range maxGossipKeys {
		name := fmt.Sprintf("more-%d", i)
		l.host(name)
		must(l.admin().RevokeNode(l.ctx(), name))(t)
	}
	keys := must(l.s.gossipKeys(l.ctx(), l.s.Resources()))(t)
	if len(keys) != maxGossipKeys || bytes.Equal(keys[0], one[0]) {
		t.Errorf("%d keys", len(keys))
	}
	until(t, views, "the newest", func(v *api.View) bool {
		return len(v.GossipKeys) == maxGossipKeys && bytes.Equal(v.GossipKeys[0], keys[0])
	})
}
