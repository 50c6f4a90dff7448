package tiles

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"strings"
)

// Width is how many hashes a full tile has, and entries a full bundle.
const Width = 256

// Hash of a leaf or an inner node.
type Hash [sha256.Size]byte

// LeafHash is the hash of an entry.
func LeafHash(entry []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(entry)
	return Hash(h.Sum(nil))
}

// NodeHash is the hash of two hashes side by side.
func NodeHash(left, right Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// Range is a tree that only grows: the roots of its perfect subtrees, largest first. The zero value is the empty tree.
type Range struct {
	Size  uint64
	roots []Hash
}

// Append adds a leaf.
func (r *Range) Append(leaf Hash) {
	r.roots = append(r.roots, leaf)
	r.Size++
	for n := r.Size; n%2 == 0; n /= 2 {
		last := len(r.roots) - 1
		r.roots[last-1] = NodeHash(r.roots[last-1], r.roots[last])
		r.roots = r.roots[:last]
	}
}

// Root is the tree's hash.
func (r *Range) Root() Hash {
	if r.Size == 0 {
		return sha256.Sum256(nil)
	}
	last := len(r.roots) - 1
	root := r.roots[last]
	for i := last - 1; i >= 0; i-- {
		root = NodeHash(r.roots[i], root)
	}
	return root
}

// Tile is a file of hashes.
type Tile struct {
	Level, Index uint64
	Hashes       []Hash // 1 to Width
}

// Path of the tile below the log's directory.
func (t Tile) Path() string { return TilePath(t.Level, t.Index, len(t.Hashes)) }

// Bytes is the content of the file.
func (t Tile) Bytes() []byte {
	b := make([]byte, 0, len(t.Hashes)*sha256.Size)
	for _, h := range t.Hashes {
		b = append(b, h[:]...)
	}
	return b
}

// Tiles makes the tiles of a growing tree. The zero value is the empty tree.
type Tiles struct {
	levels []level
}

type level struct {
	full   uint64 // tiles that are full
	hashes []Hash // of the one that is not
}

// Append adds a leaf and calls full for each tile that it fills.
func (t *Tiles) Append(leaf Hash, full func(Tile)) {
	h := leaf
	for l := 0; ; l++ {
		if l == len(t.levels) {
			t.levels = append(t.levels, level{})
		}
		at := &t.levels[l]
		at.hashes = append(at.hashes, h)
		if len(at.hashes) < Width {
			return
		}
		full(Tile{uint64(l), at.full, at.hashes})
		var r Range
		for _, h := range at.hashes {
			r.Append(h)
		}
		h = r.Root()
		at.full++
		at.hashes = nil
	}
}

// Partial are the tiles at the right edge that are not full.
func (t *Tiles) Partial() []Tile {
	var tiles []Tile
	for l, at := range t.levels {
		if len(at.hashes) > 0 {
			tiles = append(tiles, Tile{uint64(l), at.full, at.hashes})
		}
	}
	return tiles
}

// Checkpoint is the name of the file with the newest one.
const Checkpoint = "checkpoint"

// TilePath is where a tile of n hashes is, below the log's directory.
func TilePath(level, index uint64, n int) string {
	return fmt.Sprintf("tile/%d/%s", level, numbered(index, n))
}

// BundlePath is where a bundle of n entries is.
func BundlePath(index uint64, n int) string { return "tile/entries/" + numbered(index, n) }

// numbered writes an index in groups of three digits, all but the last behind an x, and the width of what is not full.
func numbered(index uint64, n int) string {
	name := fmt.Sprintf("%03d", index%1000)
	for index /= 1000; index > 0; index /= 1000 {
		name = fmt.Sprintf("x%03d/%s", index%1000, name)
	}
	if n < Width {
		name += fmt.Sprintf(".p/%d", n)
	}
	return name
}

// Bundles yields the paths of the bundles of a tree, in order, with the number of entries of each.
func Bundles(size uint64) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for i := uint64(0); size > 0 && i <= (size-1)/Width; i++ {
			n := int(min(size-i*Width, Width))
			if !yield(BundlePath(i, n), n) {
				return
			}
		}
	}
}

// AppendEntry adds an entry to a bundle's bytes. Entries have 65535 bytes at most.
func AppendEntry(bundle, entry []byte) []byte {
	bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(entry)))
	return append(bundle, entry...)
}

// ParseBundle splits a bundle into its n entries. Nothing may be left over.
func ParseBundle(b []byte, n int) ([][]byte, error) {
	entries := make([][]byte, 0, n)
	for i := range n {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return entries, fmt.Errorf("ends within entry %d of %d", i, n)
		}
		size := int(binary.BigEndian.Uint16(b))
		entries = append(entries, b[2:2+size])
		b = b[2+size:]
	}
	if len(b) > 0 {
		return entries, fmt.Errorf("has %d bytes behind its %d entries", len(b), n)
	}
	return entries, nil
}

// IsPath tells whether a path below the log's directory is one of the tiles' layout, of whatever tree.
func IsPath(path string) bool {
	return path == Checkpoint || strings.HasPrefix(path, "tile/")
}
