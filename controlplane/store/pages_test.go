package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// bolt is the file of a small database with all that there is: branches, values longer than a page, buckets with pages and without.
func bolt(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 1024, NoSync: true, NoFreelistSync: true, NoGrowSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 { // later ones leave free pages behind
		if err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("many"))
			if err != nil {
				return err
			}
			small, err := tx.CreateBucketIfNotExists([]byte("small"))
			if err != nil {
				return err
			}
			for i := range 60 {
				if err := b.Put(fmt.Appendf(nil, "key-%03d", i), bytes.Repeat([]byte{'x'}, 40+round)); err != nil {
					return err
				}
			}
			if err := b.Put([]byte("long"), make([]byte, 3000)); err != nil {
				return err
			}
			return small.Put([]byte("one"), []byte("value"))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// checkBytes checks a database as appliedIndex does.
func checkBytes(data []byte) (*meta, error) {
	m, err := newestMeta(bytes.NewReader(data), int64(len(data)))
	if err == nil {
		err = checkTree(bytes.NewReader(data), m)
	}
	return m, err
}

// Every page that is in use and gone is noticed; one that is not in use is nobody's concern.
func TestEveryPageCounts(t *testing.T) {
	good := bolt(t)
	m, err := checkBytes(good)
	if err != nil {
		t.Fatal(err)
	}
	tree := &tree{file: bytes.NewReader(good), page: int64(m.page), used: make([]bool, m.pages)}
	if err := tree.walk(m.root, span{}, 0); err != nil {
		t.Fatal(err)
	}
	inUse, free := 0, 0
	for id := 2; id < int(m.pages); id++ {
		data := bytes.Clone(good)
		page := data[id*int(m.page) : (id+1)*int(m.page)]
		continues := tree.used[id] && !bytes.Equal(page[:8], []byte{byte(id), 0, 0, 0, 0, 0, 0, 0}) // of a long value: no structure
		for i := range page {
			page[i] ^= 0x55
		}
		_, err := checkBytes(data)
		switch {
		case tree.used[id] && !continues:
			if inUse++; err == nil {
				t.Errorf("page %d is in use, and its damage goes unnoticed", id)
			}
		case err != nil:
			t.Errorf("page %d: %v", id, err)
		default:
			free++
		}
	}
	if inUse < 5 || free < 2 {
		t.Errorf("%d pages in use, %d free: not much of a test", inUse, free)
	}
}

// What bbolt writes passes, whatever was put and deleted: a good database that is refused would be the worse fault.
func TestGoodDatabasesPass(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 1024, NoSync: true, NoFreelistSync: true, NoGrowSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	random := rand.New(rand.NewPCG(5, 6))
	for round := range 300 {
		if err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte{byte('a' + random.IntN(3))})
			for range random.IntN(60) {
				key := fmt.Appendf(nil, "%0*d", 1+random.IntN(60), random.IntN(500))
				if round%40 >= 30 || random.IntN(3) == 0 { // phases in which it gets small
					err = errors.Join(err, b.Delete(key))
				} else {
					err = errors.Join(err, b.Put(key, make([]byte, random.IntN(1500)/(1+random.IntN(20)))))
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := checkBytes(data); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// What points in a circle, outside or to two places ends in a sentence.
func TestPagesThatPointWrongly(t *testing.T) {
	good := bolt(t)
	m, err := checkBytes(good)
	if err != nil {
		t.Fatal(err)
	}
	for want, root := range map[string]uint64{"something points to page": m.pages + 7, "says that it is page": 2, "points to page 0": 0} {
		bad := *m
		bad.root = root
		if root == 2 {
			bad.root = m.pages - 1
			data := bytes.Clone(good)
			data[bad.root*uint64(m.page)] ^= 1
			err = checkTree(bytes.NewReader(data), &bad)
		} else {
			err = checkTree(bytes.NewReader(good), &bad)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("root %d: %v, want %q", bad.root, err, want)
		}
	}
	circle := &tree{file: bytes.NewReader(good), page: int64(m.page), used: make([]bool, m.pages)}
	if err := circle.walk(m.root, span{}, 0); err != nil {
		t.Fatal(err)
	}
	if err := circle.walk(m.root, span{}, 0); err == nil || !strings.Contains(err.Error(), "used twice") {
		t.Errorf("a second time: %v", err)
	}
	if err := circle.walk(m.root, span{}, maxDepth+1); err == nil || !strings.Contains(err.Error(), "deeper") {
		t.Errorf("too deep: %v", err)
	}
}

// Whatever is in the file, checking it returns, and what it lets pass bbolt reads to the end.
func FuzzCheckTree(f *testing.F) {
	good := bolt(f)
	f.Add(uint32(0), []byte{})
	for at := 0; at < len(good); at += 509 {
		f.Add(uint32(at), []byte{0xff, 0, 0x55})
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		data := bytes.Clone(good)
		copy(data[int(at)%len(data):], patch)
		if _, err := checkBytes(data); err != nil {
			return
		}
		path := filepath.Join(dir, "db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
		if err != nil {
			return
		}
		defer db.Close()
		if err := db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
				return b.ForEach(func(_, _ []byte) error { return nil })
			})
		}); err != nil {
			t.Fatal(err)
		}
	})
}
