package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/culvert-net/culvert/api"
)

// run opens a store for the length of a test; the returned function closes it earlier.
func run(t *testing.T, s Store) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("run: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("store does not open")
	}
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// both runs one contract against both stores; reopen gives the same store after a restart.
func both(t *testing.T, contract func(t *testing.T, s Store, reopen func() Store)) {
	t.Run("mem", func(t *testing.T) {
		s := NewMem()
		stop := run(t, s)
		contract(t, s, func() Store {
			stop()
			run(t, s)
			return s
		})
	})
	t.Run("etcd", func(t *testing.T) {
		cfg := EtcdConfig{Dir: t.TempDir(), NoSync: true}
		s := NewEtcd(cfg)
		stop := run(t, s)
		contract(t, s, func() Store {
			stop()
			again := NewEtcd(cfg)
			run(t, again)
			return again
		})
	})
}

func account(id string) *api.Account { return &api.Account{Meta: api.Meta{ID: id, Name: "n" + id}} }

func put(t *testing.T, s Store, resources ...api.Resource) int64 {
	t.Helper()
	rev, err := s.Txn(t.Context(), func(tx *Tx) error {
		for _, r := range resources {
			tx.Put(r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestCommitShowsAtOnceAndSurvives(t *testing.T) {
	both(t, func(t *testing.T, s Store, reopen func() Store) {
		before := s.Snapshot()
		a := account("1")
		first := put(t, s, a)
		if a.Revision != first || s.Snapshot().Revision != first {
			t.Errorf("revisions: resource %d, snapshot %d, commit %d", a.Revision, s.Snapshot().Revision, first)
		}
		if len(before.Accounts) != 0 || s.Snapshot().Accounts["1"].Name != "n1" {
			t.Error("the old snapshot changed, or the new one did not")
		}
		second := put(t, s, account("2"))
		if second <= first || s.Snapshot().Accounts["1"].Revision != first {
			t.Errorf("commits %d, %d; untouched resource at %d", first, second, s.Snapshot().Accounts["1"].Revision)
		}
		third, err := s.Txn(t.Context(), func(tx *Tx) error {
			tx.Remove(tx.Resources().Accounts["1"])
			tx.SetMesh(api.Mesh{Number: 7, Region: "r"})
			tx.SetSide("side", []byte("x"))
			return nil
		})
		if err != nil || s.Snapshot().Revision != third {
			t.Fatalf("remove: %v, snapshot at %d, commit %d", err, s.Snapshot().Revision, third)
		}
		want := s.Snapshot()
		s = reopen()
		if got := s.Snapshot(); !reflect.DeepEqual(got, want) {
			t.Errorf("after a restart: %+v, want %+v", got, want)
		}
		if v, err := s.Get(t.Context(), "side"); err != nil || string(v) != "x" {
			t.Errorf("side key: %q, %v", v, err)
		}
		if fourth := put(t, s, account("3")); fourth <= third {
			t.Errorf("revision %d after a restart, %d before", fourth, third)
		}
	})
}

func TestRefusedTransactionChangesNothing(t *testing.T) {
	both(t, func(t *testing.T, s Store, _ func() Store) {
		put(t, s, account("1"))
		before := s.Snapshot()
		want := errors.New("no")
		_, err := s.Txn(t.Context(), func(tx *Tx) error {
			tx.Remove(tx.Resources().Accounts["1"])
			tx.Put(account("2"))
			tx.SetSide("side", []byte("x"))
			if _, err := tx.Number(api.KindVPC); err != nil {
				return err
			}
			if len(tx.Resources().Accounts) != 1 {
				t.Error("the transaction does not see its own changes")
			}
			return want
		})
		if !errors.Is(err, want) || !reflect.DeepEqual(s.Snapshot(), before) {
			t.Errorf("error %v, snapshot %+v", err, s.Snapshot())
		}
		if v, _ := s.Get(t.Context(), "side"); v != nil {
			t.Error("a side key was written")
		}
		if _, err := s.Txn(t.Context(), func(tx *Tx) error {
			n, err := tx.Number(api.KindVPC)
			if n != 1 {
				t.Errorf("number %d", n)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestConcurrentCommitsAreSerial(t *testing.T) {
	const workers, each = 8, 10
	both(t, func(t *testing.T, s Store, reopen func() Store) {
		put(t, s, account("1"))
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range each {
					_, err := s.Txn(t.Context(), func(tx *Tx) error {
						n, err := tx.Number(api.KindENI)
						if err != nil {
							return err
						}
						a := *tx.Resources().Accounts["1"]
						a.Domains = append(a.Domains[:len(a.Domains):len(a.Domains)], fmt.Sprint(n))
						tx.Put(&a)
						tx.Audit(api.AuditEvent{Action: "add"})
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		s = reopen()
		got := s.Snapshot().Accounts["1"].Domains
		if len(got) != workers*each {
			t.Fatalf("%d additions, want %d", len(got), workers*each)
		}
		for i, d := range got {
			if d != fmt.Sprint(i+1) {
				t.Fatalf("addition %d is %s", i, d)
			}
		}
		events, err := s.List(t.Context(), PrefixAudit, "", 1000)
		if err != nil || len(events) != workers*each {
			t.Fatalf("%d audit events, %v", len(events), err)
		}
		for i, kv := range events {
			var e api.AuditEvent
			if err := json.Unmarshal(kv.Value, &e); err != nil || e.Seq != uint64(workers*each-i) { // newest first
				t.Fatalf("event %d: %s, %v", i, kv.Value, err)
			}
		}
	})
}

func TestAuditEventsOfAnAccount(t *testing.T) {
	both(t, func(t *testing.T, s Store, _ func() Store) {
		const n = 12
		for i := range n {
			if _, err := s.Txn(t.Context(), func(tx *Tx) error {
				tx.Audit(api.AuditEvent{Account: []string{"", "1", "10"}[i%3], Action: fmt.Sprint(i)})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		seqs := func(prefix, after string, limit int) (out []uint64) {
			t.Helper()
			page, err := s.List(t.Context(), prefix, after, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range page {
				var e api.AuditEvent
				seq, err := AuditSeq(kv.Key)
				if err != nil || kv.Key != AuditKey(prefix, seq) {
					t.Fatalf("%s: %v", kv.Key, err)
				}
				if err := json.Unmarshal(kv.Value, &e); err != nil || prefix == PrefixAudit && e.Seq != seq {
					t.Fatalf("%s: %s, %v", kv.Key, kv.Value, err)
				}
				out = append(out, seq)
			}
			return out
		}
		of1 := AuditPrefixOf("1")
		if got := seqs(of1, "", 100); !slices.Equal(got, []uint64{11, 8, 5, 2}) {
			t.Errorf("of 1: %v", got)
		}
		if got := seqs(of1, AuditKey(of1, 11), 2); !slices.Equal(got, []uint64{8, 5}) {
			t.Errorf("of 1, before 11: %v", got)
		}
		if got := seqs(PrefixAudit, AuditKey(PrefixAudit, 4), 100); !slices.Equal(got, []uint64{3, 2, 1}) {
			t.Errorf("before 4: %v", got)
		}
		if _, err := s.Txn(t.Context(), func(tx *Tx) error {
			tx.ForgetAudit(&api.AuditEvent{Seq: 8, Account: "1"})
			tx.ForgetAudit(&api.AuditEvent{Seq: 1})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := seqs(of1, "", 100); !slices.Equal(got, []uint64{11, 5, 2}) {
			t.Errorf("of 1: %v", got)
		}
		if got := seqs(PrefixAudit, "", 100); !slices.Equal(got, []uint64{12, 11, 10, 9, 7, 6, 5, 4, 3, 2}) {
			t.Errorf("all: %v", got)
		}
	})
}

func TestWatchAndSideKeys(t *testing.T) {
	both(t, func(t *testing.T, s Store, _ func() Store) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w := s.Watch(ctx)
		for i := range 3 {
			put(t, s, account(fmt.Sprint(i)))
		}
		last := s.Snapshot().Revision
		for got := int64(0); got != last; {
			select {
			case got = <-w:
			case <-ctx.Done():
				t.Fatalf("watch does not reach %d", last)
			}
		}
		for _, k := range []string{"p/1", "p/2", "p/3", "q/1"} {
			if err := s.Put(ctx, k, []byte(k)); err != nil {
				t.Fatal(err)
			}
		}
		kvs, err := s.List(ctx, "p/", "p/1", 5)
		if err != nil || len(kvs) != 2 || kvs[0].Key != "p/2" || string(kvs[1].Value) != "p/3" {
			t.Errorf("list: %v, %v", kvs, err)
		}
		if kvs, _ := s.List(ctx, "p/", "", 1); len(kvs) != 1 || kvs[0].Key != "p/1" {
			t.Errorf("list: %v", kvs)
		}
		if err := s.Delete(ctx, "p/1"); err != nil {
			t.Error(err)
		}
		if v, err := s.Get(ctx, "p/1"); v != nil || err != nil {
			t.Errorf("deleted key: %q, %v", v, err)
		}
		select {
		case rev := <-w:
			t.Errorf("side keys woke the watcher: %d", rev)
		default:
		}
		if s.Snapshot().Revision != last {
			t.Error("side keys moved the snapshot's revision")
		}
	})
}

// Two servers on one etcd race; every commit still sees all that came before it.
func TestTwoServersOnOneEtcd(t *testing.T) {
	a := NewEtcd(EtcdConfig{Dir: t.TempDir(), NoSync: true})
	run(t, a)
	b := NewEtcd(EtcdConfig{})
	c := a.client.Load()
	rev, err := b.load(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	b.client.Store(c)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.follow(ctx, c, rev+1) })
	defer wg.Wait()
	defer cancel()
	var work sync.WaitGroup
	for _, s := range []*Etcd{a, b} {
		work.Go(func() {
			for range 20 {
				if _, err := s.Txn(ctx, func(tx *Tx) error {
					n, err := tx.Number(api.KindAccount)
					tx.Put(account(fmt.Sprint(n)))
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if err := a.wait(ctx, b.Snapshot().Revision); err != nil {
		t.Fatal(err)
	}
	if n := len(a.Snapshot().Accounts); n != 40 {
		t.Errorf("%d accounts, want 40", n)
	}
}

func TestClosedStoreRefuses(t *testing.T) {
	s := NewEtcd(EtcdConfig{Dir: t.TempDir(), NoSync: true})
	nothing := func(*Tx) error { return nil }
	if _, err := s.Txn(t.Context(), nothing); !errors.Is(err, ErrNotReady) {
		t.Errorf("before Run: %v", err)
	}
	run(t, s)()
	if _, err := s.Txn(t.Context(), nothing); !errors.Is(err, ErrNotReady) {
		t.Errorf("after Run: %v", err)
	}
}

// A file that has grown is reported, and is smaller after the next start when little of it is used.
func TestFillAndShrink(t *testing.T) {
	cfg := EtcdConfig{Dir: t.TempDir(), NoSync: true, quota: 64 << 20}
	s := NewEtcd(cfg)
	stop := run(t, s)
	fill := func() float64 {
		t.Helper()
		f, err := s.Fill(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if f := fill(); f <= 0 || f > 0.1 {
		t.Errorf("new: %.3f", f)
	}
	writes := 0
	for ; fill() < 0.8; writes++ { // the file grows a moment later; a start waits for what is forgotten from there on
		if err := s.Put(t.Context(), "big", bytes.Repeat([]byte{byte(writes)}, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	full := fill()
	stop()
	s = NewEtcd(cfg)
	run(t, s)
	if f := fill(); f > full/2 {
		t.Errorf("%.3f, and after a start %.3f", full, f)
	}
	if v, err := s.Get(t.Context(), "big"); err != nil || len(v) != 1<<20 || v[0] != byte(writes-1) {
		t.Errorf("%d bytes, %v", len(v), err)
	}
	closed := NewEtcd(cfg)
	if _, err := closed.Fill(t.Context()); !errors.Is(err, ErrNotReady) {
		t.Errorf("not open: %v", err)
	}
	if err := closed.MakeRoom(t.Context()); !errors.Is(err, ErrNotReady) {
		t.Errorf("not open: %v", err)
	}
}

// fillUp writes until the store refuses for want of room.
func fillUp(t *testing.T, s Store) {
	t.Helper()
	for i := range 1000 {
		if err := s.Put(t.Context(), "big", bytes.Repeat([]byte{byte(i)}, 1<<20)); err != nil {
			if !errors.Is(err, rpctypes.ErrNoSpace) {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("the store is never full")
}

// A store that was full takes writes again after a start, or once room was made; followers go on meanwhile.
func TestFullStoreRecovers(t *testing.T) {
	for name, recovers := range map[string]func(t *testing.T, s *Etcd, stop func()) *Etcd{
		"start": func(t *testing.T, s *Etcd, stop func()) *Etcd {
			stop()
			again := NewEtcd(s.cfg)
			run(t, again)
			return again
		},
		"make room": func(t *testing.T, s *Etcd, _ func()) *Etcd {
			for range 2 { // also when there is nothing to do
				if err := s.MakeRoom(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			s := NewEtcd(EtcdConfig{Dir: t.TempDir(), NoSync: true, quota: 32 << 20, Log: slog.New(slog.NewTextHandler(&said, nil))})
			stop := run(t, s)
			put(t, s, account("1"))
			fillUp(t, s)
			if _, err := s.Txn(t.Context(), func(tx *Tx) error { tx.Put(account("2")); return nil }); err == nil {
				t.Fatal("it is full, and takes a small write")
			}
			s = recovers(t, s, stop)
			put(t, s, account("2"))
			if len(s.Snapshot().Accounts) != 2 {
				t.Errorf("%d accounts", len(s.Snapshot().Accounts))
			}
			if f, err := s.Fill(t.Context()); err != nil || f > 0.2 {
				t.Errorf("filled %.3f, %v", f, err)
			}
			if text := said.String(); strings.Contains(text, "level=WARN") {
				t.Error(text)
			}
		})
	}
}
