package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Of a bbolt page (bbolt's page.go): a header, then count elements, then the keys and values that these point to. Where an element's
// fields are is counted from its own beginning.
const (
	pageHeader  = 16 // bytes: id uint64, flags uint16, count uint16, overflow uint32
	pageElement = 16 // bytes: of a branch pos, key size uint32, page uint64; of a leaf flags, pos, key size, value size uint32

	pageBranch, pageLeaf, pageFreelist = 0x01, 0x02, 0x10

	leafBucket   = 0x01 // flag of an element whose value is a bucket
	bucketHeader = 16   // bytes: root page uint64, sequence uint64; root 0: the only page follows

	// maxDepth bounds a tree: with two keys a page it would hold more than any disk.
	maxDepth = 64
)

// tree is what a database holds at its newest transaction, read without mapping the file: a page that is damaged may point anywhere,
// and bbolt, which follows it in a goroutine of its own, would end the process.
type tree struct {
	file io.ReaderAt
	page int64 // bytes
	used []bool
}

// checkTree reads all pages that are in use. It finds a page that is not where it should be, not what it should be, used twice, or
// that points outside; not a changed value, which has no checksum.
func checkTree(file io.ReaderAt, m *meta) error {
	t := &tree{file: file, page: int64(m.page), used: make([]bool, m.pages)}
	if m.freelist != noFreelist {
		if _, flags, err := t.read(m.freelist); err != nil {
			return err
		} else if flags != pageFreelist {
			return fmt.Errorf("page %d is no list of free pages", m.freelist)
		}
	}
	return t.walk(m.root, span{}, 0)
}

// span is the range of a subtree's keys, of which the first is in it and the end is not; nil is no bound.
type span struct{ first, end []byte }

// read returns a whole page with what flows over into the next, once.
func (t *tree) read(id uint64) (data []byte, flags uint16, err error) {
	const metaPages = 2
	if id < metaPages || id >= uint64(len(t.used)) {
		return nil, 0, fmt.Errorf("something points to page %d of %d", id, len(t.used))
	}
	data = make([]byte, t.page)
	if _, err := t.file.ReadAt(data, int64(id)*t.page); err != nil {
		return nil, 0, fmt.Errorf("page %d: %w", id, err)
	}
	over := uint64(binary.NativeEndian.Uint32(data[12:]))
	if own := binary.NativeEndian.Uint64(data); own != id || over >= uint64(len(t.used))-id {
		return nil, 0, fmt.Errorf("page %d is damaged: it says that it is page %d and %d more", id, own, over)
	}
	for i := id; i <= id+over; i++ {
		if t.used[i] {
			return nil, 0, fmt.Errorf("page %d is used twice", i)
		}
		t.used[i] = true
	}
	if over > 0 {
		data = append(data, make([]byte, int64(over)*t.page)...)
		if _, err := t.file.ReadAt(data[t.page:], int64(id+1)*t.page); err != nil {
			return nil, 0, fmt.Errorf("page %d: %w", id, err)
		}
	}
	return data, binary.NativeEndian.Uint16(data[8:]), nil
}

func (t *tree) walk(id uint64, in span, depth int) error {
	if depth > maxDepth {
		return errors.New("its pages go deeper than they can")
	}
	data, flags, err := t.read(id)
	if err != nil {
		return err
	}
	switch flags {
	case pageBranch:
		err = t.branch(data, in, depth)
	case pageLeaf:
		err = t.leaf(data, in, depth)
	default:
		err = fmt.Errorf("it is of no kind that holds keys (%#x)", flags)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// cut is a part of a page behind its elements.
func cut(data []byte, at, length uint64) ([]byte, error) {
	elements := pageHeader + uint64(binary.NativeEndian.Uint16(data[10:]))*pageElement
	if at < elements || at+length > uint64(len(data)) {
		return nil, errors.New("a key or value is outside")
	}
	return data[at : at+length], nil
}

// elements calls each with the beginning of every element.
func elements(data []byte, each func(i int, at uint64) error) error {
	n := int(binary.NativeEndian.Uint16(data[10:]))
	if pageHeader+n*pageElement > len(data) {
		return fmt.Errorf("it cannot have %d keys", n)
	}
	for i := range n {
		if err := each(i, uint64(pageHeader+i*pageElement)); err != nil {
			return err
		}
	}
	return nil
}

// next checks that a key follows the one before and is within its parent's.
func (s span) next(key, before []byte) error {
	if before != nil && bytes.Compare(before, key) >= 0 || s.first != nil && bytes.Compare(key, s.first) < 0 ||
		s.end != nil && bytes.Compare(key, s.end) >= 0 {
		return errors.New("its keys are not in order")
	}
	return nil
}

func (t *tree) branch(data []byte, in span, depth int) error {
	type child struct {
		key  []byte
		page uint64
	}
	var children []child
	var before []byte
	err := elements(data, func(_ int, at uint64) error {
		e := data[at:]
		key, err := cut(data, at+uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:])))
		if err == nil {
			err = in.next(key, before)
		}
		before = key
		children = append(children, child{key, binary.NativeEndian.Uint64(e[8:])})
		return err
	})
	if err != nil {
		return err
	}
	if len(children) == 0 {
		return errors.New("it has no keys")
	}
	for i, c := range children {
		below := span{first: c.key, end: in.end}
		if i+1 < len(children) {
			below.end = children[i+1].key
		}
		if err := t.walk(c.page, below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) leaf(data []byte, in span, depth int) error {
	var before []byte
	return elements(data, func(_ int, at uint64) error {
		e := data[at:]
		flags, keySize := binary.NativeEndian.Uint32(e), uint64(binary.NativeEndian.Uint32(e[8:]))
		keyAt := at + uint64(binary.NativeEndian.Uint32(e[4:]))
		key, err := cut(data, keyAt, keySize)
		if err != nil {
			return err
		}
		value, err := cut(data, keyAt+keySize, uint64(binary.NativeEndian.Uint32(e[12:])))
		if err != nil {
			return err
		}
		if err := in.next(key, before); err != nil {
			return err
		}
		before = key
		switch flags {
		case 0:
			return nil
		case leafBucket:
			return t.bucket(value, depth)
		}
		return fmt.Errorf("a value is of no known kind (%#x)", flags)
	})
}

func (t *tree) bucket(value []byte, depth int) error {
	if len(value) < bucketHeader {
		return errors.New("a bucket is cut off")
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return t.walk(root, span{}, depth+1)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != pageLeaf || depth > maxDepth {
		return errors.New("a small bucket is damaged")
	}
	return t.leaf(inline, span{}, depth+1)
}
