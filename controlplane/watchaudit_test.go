package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
)

// TestAuditIsWatched: while many write, one who watches and connects again and again hears of every event that it may see, in order
// and once, and of no other account's.
func TestAuditIsWatched(t *testing.T) {
	l := mesh(t, nil)
	const writers, each = 4, 25
	account := map[string]string{}
	for _, a := range l.s.Resources().Accounts {
		account[a.Name] = a.ID
	}
	var begin int64
	for _, e := range l.audited() {
		begin = int64(e.Seq)
	}
	done := make(chan int64, 1)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				name := []string{"shop", "pay"}[(w+i)%2]
				e := api.AuditEvent{Account: account[name], Actor: "key-test", Action: fmt.Sprintf("test-%d-%d", w, i)}
				if _, err := l.s.store.Txn(l.ctx(), func(tx *store.Tx) error { tx.Audit(e); return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		wg.Wait()
		seq, _ := l.s.store.Audited()
		done <- int64(seq)
	}()
	watched := map[string][]uint64{}
	for _, who := range []struct {
		name string
		c    *client.Client
	}{{"pay", l.as("pay")}, {"", l.admin()}} {
		from, connections, most := begin, 0, writers*each
		if who.name != "" {
			most /= 2
		}
		for ctx := l.ctx(); len(watched[who.name]) < most; {
			connections++
			groups := 0
			for e, err := range who.c.WatchAudit(ctx, client.WithSinceRevision(from)) {
				if err != nil {
					t.Fatalf("%q: %v", who.name, err)
				}
				if e.Item == nil {
					from = e.Revision
					if groups++; groups == 2 || len(watched[who.name]) >= most {
						break // the connection is made again
					}
					continue
				}
				if e.Item.Actor != "key-test" {
					continue // that the log is read
				}
				if e.Type != api.WatchAdded || e.Revision != int64(e.Item.Seq) ||
					who.name != "" && e.Item.Account != account[who.name] {
					t.Fatalf("%q is told %+v of %+v", who.name, e, e.Item)
				}
				watched[who.name] = append(watched[who.name], e.Item.Seq)
			}
		}
		t.Logf("%q: %d connections", who.name, connections)
	}
	end := <-done
	for name, c := range map[string]*client.Client{"pay": l.as("pay"), "": l.admin()} {
		var want []uint64
		for _, e := range must(c.ListAudit(l.ctx()))(t) {
			if int64(e.Seq) > begin && int64(e.Seq) <= end && e.Actor == "key-test" {
				want = append(want, e.Seq)
			}
		}
		if got := watched[name]; !slices.Equal(got, want) {
			t.Errorf("%q was told\n%v\nbut the list has\n%v", name, got, want)
		}
	}
}

// TestAuditWatchRefusals: what does not go together, and where some events would be missing.
func TestAuditWatchRefusals(t *testing.T) {
	l := mesh(t, nil)
	raw := l.rawClient(nil)
	for query, status := range map[string]int{
		"sinceRevision=1": http.StatusBadRequest, "watch=true&before=3": http.StatusBadRequest,
		"watch=true&sinceRevision=1&limit=3": http.StatusBadRequest, "watch=true&sinceRevision=1000000": http.StatusGone,
	} {
		if a := raw.do("GET", "/v1/audit?"+query, l.adminKey, ""); a.status != status {
			t.Errorf("%s: status %d: %s", query, a.status, a.body)
		}
	}
	if _, err := l.s.store.Txn(l.ctx(), func(tx *store.Tx) error {
		for range maxAudit + 1 {
			tx.Audit(api.AuditEvent{Actor: "key-test", Action: "test"})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.ctx())
	defer cancel()
	var refused *api.Error
	for _, err := range l.admin().WatchAudit(ctx, client.WithSinceRevision(1)) {
		if err == nil {
			t.Fatal("it was told from event 1 on")
		}
		if !errors.As(err, &refused) || refused.Code != api.CodeRevisionExpired {
			t.Fatal(err)
		}
	}
	l.s.watches.mu.Lock()
	defer l.s.watches.mu.Unlock()
	if n := l.s.watches.all; n != 0 {
		t.Errorf("%d places are taken", n)
	}
}
