package tiles

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// stored is what the Go project's own library keeps of a tree.
type stored []tlog.Hash

func (s stored) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, n := range at {
		out[i] = s[n]
	}
	return out, nil
}

// Roots and tiles are those of another implementation, at every size up to more than two levels of tiles need.
func TestTreeIsTheOneOfOthers(t *testing.T) {
	const size = Width*Width + 2*Width + 3
	var have stored
	var r Range
	var all Tiles
	tiles := map[string][]byte{}
	for i := range int64(size) {
		data := fmt.Appendf(nil, "entry %d", i)
		hashes, err := tlog.StoredHashes(i, data, have)
		if err != nil {
			t.Fatal(err)
		}
		have = append(have, hashes...)
		r.Append(LeafHash(data))
		all.Append(LeafHash(data), func(t Tile) { tiles[t.Path()] = t.Bytes() })
		if i > 600 && i%997 != 0 && i != size-1 {
			continue
		}
		want, err := tlog.TreeHash(i+1, have)
		if err != nil {
			t.Fatal(err)
		}
		if Hash(want) != r.Root() {
			t.Fatalf("root of %d leaves", i+1)
		}
	}
	for _, p := range all.Partial() {
		tiles[p.Path()] = p.Bytes()
	}
	n := 0
	for _, want := range tlog.NewTiles(8, 0, size) {
		data, err := tlog.ReadTileData(want, have)
		if err != nil {
			t.Fatal(err)
		}
		path := strings.Replace(want.Path(), "tile/8/", "tile/", 1)
		if !bytes.Equal(tiles[path], data) {
			t.Errorf("%s is another one", path)
		}
		n++
	}
	if n != len(tiles) {
		t.Errorf("%d tiles instead of %d", len(tiles), n)
	}
}

func TestEmptyTree(t *testing.T) {
	want, err := tlog.TreeHash(0, nil)
	if got := new(Range).Root(); err != nil || got != Hash(want) {
		t.Errorf("%x, %x, %v", got, want, err)
	}
}

func TestPaths(t *testing.T) {
	for want, got := range map[string]string{
		"tile/0/x001/x234/067":           TilePath(0, 1234067, Width),
		"tile/2/005.p/7":                 TilePath(2, 5, 7),
		"tile/entries/x001/000.p/255":    BundlePath(1000, 255),
		"tile/entries/999":               BundlePath(999, Width),
		"tile/entries/x001/x000/000.p/1": BundlePath(1000000, 1),
	} {
		if got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
	var sum int
	for _, n := range []int{0, 1, 256, 257, 1000} {
		sum = 0
		for path, k := range Bundles(uint64(n)) {
			if strings.Contains(path, ".p/") != (k < Width) {
				t.Errorf("%s has %d entries", path, k)
			}
			sum += k
		}
		if sum != n {
			t.Errorf("bundles of %d have %d", n, sum)
		}
	}
}

func TestBundles(t *testing.T) {
	entries := [][]byte{[]byte("a"), {}, bytes.Repeat([]byte("b"), 65535)}
	var b []byte
	for _, e := range entries {
		b = AppendEntry(b, e)
	}
	got, err := ParseBundle(b, 3)
	if err != nil || len(got) != 3 || !bytes.Equal(got[2], entries[2]) {
		t.Errorf("%d entries, %v", len(got), err)
	}
	for name, bad := range map[string][]byte{"short": b[:len(b)-1], "long": append(bytes.Clone(b), 0), "empty": nil} {
		if _, err := ParseBundle(bad, 3); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// No byte of a checkpoint can be another one, though base64 and notes alone would let some.
func TestEveryByteOfACheckpointCounts(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	signer, err := note.NewSigner(SignerKey("log.example", key))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(LogKey("log.example", key.Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	good, err := Sign("log.example", 17, LeafHash([]byte("x")), signer)
	if err != nil {
		t.Fatal(err)
	}
	judge := func(b []byte) bool {
		c, err := ParseSigned(b)
		if err != nil || len(c.By) != 1 || c.Origin != "log.example" {
			return false
		}
		has, valid := c.SignedBy(v)
		return has && valid
	}
	if !judge(good) {
		t.Fatalf("%s", good)
	}
	for i := range good {
		for x := 1; x < 256; x++ {
			b := bytes.Clone(good)
			b[i] ^= byte(x)
			if judge(b) {
				t.Fatalf("byte %d may be %q as well: %s", i, b[i], b)
			}
		}
		if judge(append(bytes.Clone(good[:i]), good[i+1:]...)) {
			t.Fatalf("byte %d may be absent", i)
		}
	}
	if judge(append(bytes.Clone(good), '\n')) {
		t.Error("a line may be added")
	}
}

func FuzzParseSigned(f *testing.F) {
	f.Add([]byte("log\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— log AAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseSigned(b)
		if err == nil && !bytes.Equal(c.Bytes(), b) {
			t.Errorf("%q is written as %q", b, c.Bytes())
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 0}, 2)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > Width {
			return
		}
		entries, err := ParseBundle(b, n)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			again = AppendEntry(again, e)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%q is written as %q", b, again)
		}
	})
}
