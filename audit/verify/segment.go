package verify

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// segment is what was read of one: all that follows from its bytes.
type segment struct {
	line    int // of its first line, in the file
	records int
	queries int
	hash    string
	seal    *seal.Seal // nil: the file ends before one came
	sealed  string     // hash of the seal line
	bad     error      // of the seal line
	worst   int        // line that is no record, or none of this node, boot and sequence; 0: none
	why     string

	owner
	first, last uint64 // sequences
	holesWithin []hole
	same        [sha256.Size]byte // of the leaf that the seal has to have
	sums        map[seal.Row]seal.Sum
	units       map[unit]*packets // of connections
	host        uint64            // packets of workloads that went to the host
}

// owner is whose segments a file has, by its path.
type owner struct {
	node, boot string
	claims     []leaf.Range // sequences of the boot that the server did not take as the node's word, sorted
}

func (v *verifier) ownerOf(file string) owner {
	parts := strings.Split(file, "/")
	o := owner{node: parts[1], boot: parts[2]}
	if b := v.node(o.node).seals[o.boot]; b != nil {
		o.claims = b.claims
	}
	return o
}

// claimed tells whether a line is a claim.
func (o *owner) claimed(sequence uint64) bool {
	i, found := slices.BinarySearchFunc(o.claims, sequence, func(x leaf.Range, sequence uint64) int { return cmp.Compare(x.First, sequence) })
	return found || i > 0 && o.claims[i-1].Last >= sequence
}

// hole is sequences that no line has, before a line.
type hole struct {
	line        int
	first, last uint64
}

// head is what a line says of itself.
type head struct {
	Node     string `json:"node"`
	Boot     string `json:"boot"`
	Sequence uint64 `json:"sequence"`
}

// reading is a segment that is being read.
type reading struct {
	*segment
	sum   hash.Hash
	tally seal.Tally
}

func (o owner) begin(line int) *reading {
	return &reading{segment: &segment{line: line, owner: o, units: map[unit]*packets{}}, sum: sha256.New()}
}

// add takes a line, which has its newline, and returns true when it closes the segment.
func (r *reading) add(at int, line []byte) bool {
	s, is, err := seal.Parse(line)
	if is {
		r.seal, r.bad, r.sealed = s, err, seal.HashLine(line)
		r.hash = hex.EncodeToString(r.sum.Sum(nil))
		r.sums = r.tally.Sums()
		if err == nil {
			l := leaf.OfSeal(time.Time{}, s, line)
			r.same, r.bad = l.Same()
		}
		return true
	}
	r.sum.Write(line)
	r.records++
	h, err := r.read(line)
	switch {
	case err != nil:
		r.blame(at, "is no record: %s", err)
		return false
	case h.Node != r.node || h.Boot != r.boot:
		r.blame(at, "is no record of node %s, boot %s", r.node, r.boot)
		return false
	case r.first == 0:
		r.first = h.Sequence
	case h.Sequence <= r.last:
		r.blame(at, "has the sequence %d, the line before has %d", h.Sequence, r.last)
	case h.Sequence > r.last+1:
		r.holesWithin = append(r.holesWithin, hole{at, r.last + 1, h.Sequence - 1})
	}
	r.last = max(r.last, h.Sequence)
	return false
}

// blame notes the first line that is wrong.
func (r *reading) blame(at int, format string, args ...any) {
	if r.worst == 0 {
		r.worst, r.why = at, fmt.Sprintf(format, args...)
	}
}

// read adds up what a line tells.
func (r *reading) read(line []byte) (head, error) {
	if seal.IsQuery(line) {
		var q struct {
			Query head `json:"query"`
		}
		err := json.Unmarshal(line, &q)
		r.queries++
		return q.Query, err
	}
	var f api.FlowRecord
	if err := json.Unmarshal(line, &f); err != nil {
		return head{}, err
	}
	r.tally.Record(&f)
	if f.Action == api.ActionAccept && f.Stage == hookWorkload && f.ReplyStage == hookHost {
		r.host += f.Packets
	}
	if u, p, ok := unitOf(&f); ok {
		u.claim = r.claimed(f.Sequence)
		if r.units[u] == nil {
			r.units[u] = &packets{}
		}
		r.units[u].add(p)
	}
	return head{f.Node, f.Boot, f.Sequence}, nil
}

// scan reads the segments of a file. What is behind the last seal comes as a segment without one.
func (v *verifier) scan(path string, fn func(*segment)) error {
	if v.o.memo == nil {
		r, err := v.open(path)
		if err != nil {
			return err
		}
		defer r.Close()
		return split(r, v.ownerOf(path), fn)
	}
	data, err := fs.ReadFile(v.fsys, path)
	if err != nil {
		return err
	}
	type scanned struct {
		segments []*segment
		err      error
	}
	s := remember(v.o.memo, func() (s scanned) {
		r, err := v.open(path)
		if err == nil {
			defer r.Close()
			err = split(r, v.ownerOf(path), func(seg *segment) { s.segments = append(s.segments, seg) })
		}
		s.err = err
		return s
	}, []byte("scan"), []byte(fmt.Sprint(v.ownerOf(path), path[strings.LastIndexByte(path, '.'):])), data)
	for _, seg := range s.segments {
		fn(seg)
	}
	return s.err
}

// split reads lines until the end.
func split(from io.Reader, o owner, fn func(*segment)) error {
	b := bufio.NewReaderSize(from, 1<<16)
	r, at := o.begin(1), 0
	for {
		line, err := readLine(b)
		if errors.Is(err, io.EOF) && len(line) == 0 {
			break
		}
		at++
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("line %d: %w", at, err)
		}
		if err != nil {
			r.blame(at, "is cut off")
			r.records++
			break
		}
		if r.add(at, line) {
			fn(r.segment)
			r = o.begin(at + 1)
		}
	}
	if r.records > 0 {
		fn(r.segment)
	}
	return nil
}

// readLine reads a line with its newline, of [seal.MaxLine] bytes at most.
func readLine(b *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := b.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > seal.MaxLine {
			return nil, fmt.Errorf("is longer than %d bytes", seal.MaxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// gzipHead are the first bytes of a file of segments that is compressed: nothing in a gzip header is covered by its checksum.
var gzipHead = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// packed reads what is compressed to its very end.
type packed struct {
	*gzip.Reader
	rest *bufio.Reader
	file io.Closer
}

func (p *packed) Close() error { return p.file.Close() }

func (p *packed) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		if _, more := p.rest.ReadByte(); !errors.Is(more, io.EOF) {
			return n, errors.New("has bytes behind its compressed content")
		}
	}
	return n, err
}

// open reads a file of segments, compressed or not.
func (v *verifier) open(path string) (io.ReadCloser, error) {
	if err := v.regular(path); err != nil {
		return nil, err
	}
	f, err := v.fsys.Open(path)
	if err != nil || !strings.HasSuffix(path, packedSuffix) {
		return f, err
	}
	b := bufio.NewReader(f)
	have, err := b.Peek(len(gzipHead))
	if err != nil || !bytes.Equal(have, gzipHead) {
		f.Close()
		return nil, errors.New("does not begin as compressed segments do")
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		f.Close()
		return nil, err
	}
	z.Multistream(false)
	return &packed{z, b, f}, nil
}
