package controlplane

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

// fullStore has a disk that can be full.
type fullStore struct {
	store.Store
	full atomic.Bool
}

// Txn runs f first, as a store does.
func (s *fullStore) Txn(ctx context.Context, f func(*store.Tx) error) (int64, error) {
	if !s.full.Load() {
		return s.Store.Txn(ctx, f)
	}
	return 0, store.ErrDiskFull
}

func (s *fullStore) Put(ctx context.Context, key string, value []byte) error {
	if s.full.Load() {
		return store.ErrDiskFull
	}
	return s.Store.Put(ctx, key, value)
}

func TestFullDiskRefusesWritesWithASentence(t *testing.T) {
	disk := &fullStore{Store: store.NewMem()}
	l := startLab(t, func(c *Config) { c.Store = disk })
	shop := l.as("shop")
	vpc := api.CreateVPCRequest{Name: "shop", CIDR: prefix("10.0.0.0/16")}
	h := l.host("host-a")
	disk.full.Store(true)
	for range 3 {
		_, err := shop.CreateVPC(l.ctx(), vpc)
		if e := wantCode(t, err, api.CodeUnavailable); !strings.Contains(e.Message, "disk is full") || !strings.Contains(e.Remedy, "make room") {
			t.Errorf("%v", e)
		}
	}
	if got := must(shop.ListVPCs(l.ctx()))(t); len(got) != 0 {
		t.Errorf("%v", got)
	}
	views, _ := h.views(t)
	until(t, views, "a view", anyView)
	if err := h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id}); err != nil {
		t.Errorf("a report, which is no write: %v", err)
	}
	disk.full.Store(false)
	must(shop.CreateVPC(l.ctx(), vpc))(t)
	l.check()
}
