package wire_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent/wire"
)

// passing is a device and what has packets pass through it.
type passing struct {
	wire.Passer
	pass func(key wire.PublicKey, given, came uint64)
}

func memPassing(t *testing.T, keys []wire.PublicKey) passing {
	m := new(wire.Mem)
	var c wire.Change
	for _, key := range keys {
		c.Add = append(c.Add, wire.Peer{PublicKey: key})
	}
	apply(t, m, c)
	return passing{m, m.Pass}
}

func filePassing(t *testing.T, keys []wire.PublicKey) passing {
	socket := filepath.Join(t.TempDir(), "sock")
	f := countPassages(t, socket, "boot-1")
	slots := f.Assign(keys)
	return passing{wire.NewUAPI(socket), func(key wire.PublicKey, given, came uint64) {
		s := slots[slices.Index(keys, key)]
		s.Give(given)
		s.Come(came)
	}}
}

func countPassages(t *testing.T, socket, boot string) *wire.PassageFile {
	t.Helper()
	f, err := wire.CountPassages(socket, boot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func keyOf(n int) (k wire.PublicKey) {
	binary.BigEndian.PutUint32(k[:], uint32(n))
	return k
}

// Both devices count alike, and tell what is not written down yet.
func TestPassages(t *testing.T) {
	for name, open := range map[string]func(*testing.T, []wire.PublicKey) passing{"memory": memPassing, "file": filePassing} {
		t.Run(name, func(t *testing.T) {
			a, b := keyOf(1), keyOf(2)
			d := open(t, []wire.PublicKey{a, b})
			names := map[wire.PublicKey]string{a: "node-a", b: "node-b"}
			read := func() []wire.Passage {
				t.Helper()
				out, err := d.Passages(t.Context(), func(k wire.PublicKey) string { return names[k] })
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range out {
					if p.Epoch == (wire.Epoch{}) || len(p.Epoch.String()) != 32 {
						t.Errorf("epoch %s", p.Epoch)
					}
				}
				return out
			}
			d.pass(b, 7, 0)
			d.pass(a, 3, 2)
			d.pass(a, 1, 0)
			first := read()
			if len(first) != 2 || first[0].Epoch == first[1].Epoch {
				t.Fatalf("%+v", first)
			}
			if p := first[0]; p.Key != a || p.Node != "node-a" || p.Given != 4 || p.Came != 2 || !p.Changed {
				t.Errorf("%+v", p)
			}
			if err := d.Settle(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			delete(names, a)
			d.pass(b, 0, 1)
			for _, p := range read() {
				if p.Changed != (p.Key == b) || p.Node == "" {
					t.Errorf("after settling: %+v", p)
				}
			}
			if err := d.Settle(t.Context(), first); err != nil { // what was counted meanwhile is not written down by that
				t.Fatal(err)
			}
			if p := read()[1]; !p.Changed || p.Epoch != first[1].Epoch || p.Came != 1 {
				t.Errorf("%+v", p)
			}
		})
	}
}

// What was counted is there for whoever counts next, until the host boots; a file that is none is replaced.
func TestPassagesOutliveWhoCounts(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "sock")
	u := wire.NewUAPI(socket)
	none := func(wire.PublicKey) string { return "" }
	if _, err := u.Passages(t.Context(), none); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before anybody counted: %v", err)
	}
	given := func(n uint64) {
		t.Helper()
		out, err := u.Passages(t.Context(), none)
		if err != nil || len(out) != 1 || out[0].Given != n {
			t.Errorf("%+v, %v: want one with %d given", out, err, n)
		}
	}
	key := []wire.PublicKey{keyOf(1)}
	countPassages(t, socket, "boot-1").Assign(key)[0].Give(5)
	given(5)
	for _, boot := range []string{"boot-1", ""} { // who may not know the boot goes on
		countPassages(t, socket, boot).Assign(key)[0].Give(1)
	}
	given(7)
	path := socket + ".passages"
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	countPassages(t, socket, "boot-2").Assign(key)[0].Give(1)
	given(1)
	for name, damage := range map[string]func() error{
		"short": func() error { return os.WriteFile(path, []byte("culvert-passages 1\n"), 0o600) },
		"other": func() error {
			b, err := os.ReadFile(path)
			if err == nil {
				b[0]++
				err = os.WriteFile(path, b, 0o600)
			}
			return err
		},
		"link": func() error {
			return errors.Join(os.Rename(path, path+".other"), os.Symlink(path+".other", path))
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Passages(t.Context(), none); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: read: %v", name, err)
		}
		if err := u.Settle(t.Context(), nil); err == nil {
			t.Errorf("%s: settled", name)
		}
		countPassages(t, socket, "boot-2").Assign(key)[0].Give(2)
		given(2)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(socket), ".passages-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := wire.CountPassages(filepath.Join(t.TempDir(), "none", "sock"), ""); err == nil ||
		!strings.Contains(err.Error(), "count packets by peer") {
		t.Errorf("without a directory: %v", err)
	}
}

// A full file gives to others what is written down, of peers that are gone, and nothing else.
func TestPassagesAreBounded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "sock")
	f, u := countPassages(t, socket, "boot-1"), wire.NewUAPI(socket)
	const most = 8192
	var keys []wire.PublicKey
	for i := range most {
		keys = append(keys, keyOf(i+1))
	}
	for i, s := range f.Assign(keys) {
		if s == nil {
			t.Fatalf("key %d has no slot", i)
		}
		s.Give(uint64(i + 1))
	}
	fresh := []wire.PublicKey{keyOf(most + 1), keyOf(most + 2), keyOf(most + 3)}
	if s := f.Assign(fresh); s[0] != nil || s[1] != nil || s[2] != nil {
		t.Fatal("what is not written down was given away")
	}
	var nilSlot *wire.PassageSlot
	nilSlot.Give(1) // nobody counts
	nilSlot.Come(1)
	all, err := u.Passages(t.Context(), func(wire.PublicKey) string { return strings.Repeat("n", 33) })
	if err != nil || len(all) != most || all[0].Node != "" {
		t.Fatalf("%d, %v", len(all), err)
	}
	if err := u.Settle(t.Context(), all[:2]); err != nil {
		t.Fatal(err)
	}
	f.Assign(keysOf(all[1:2]))[0].Come(1) // and again it is not
	slots := f.Assign(append(slices.Clone(fresh), all[0].Key))
	if slots[0] != nil || slots[3] == nil {
		t.Error("a peer that is there lost its slot")
	}
	slots = f.Assign(fresh)
	if slots[0] == nil || slots[1] != nil {
		t.Fatalf("%v: want one slot for three", slots)
	}
	again, err := u.Passages(t.Context(), func(wire.PublicKey) string { return "" })
	if err != nil || len(again) != most {
		t.Fatalf("%d, %v", len(again), err)
	}
	i := slices.IndexFunc(again, func(p wire.Passage) bool { return p.Key == fresh[0] })
	if i < 0 || again[i].Given != 0 || again[i].Came != 0 || !again[i].Changed || again[i].Epoch == all[0].Epoch {
		t.Errorf("the slot that was given away: %d, %+v", i, again[max(i, 0)])
	}
	if slices.ContainsFunc(again, func(p wire.Passage) bool { return p.Epoch == all[0].Epoch }) {
		t.Error("its count is still there")
	}
}

func keysOf(all []wire.Passage) (keys []wire.PublicKey) {
	for _, p := range all {
		keys = append(keys, p.Key)
	}
	return keys
}
