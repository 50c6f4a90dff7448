package evidence

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
)

const (
	hourFormat = "2006-01-02T15"
	suffix     = ".ndjson"
	packed     = ".gz"

	// maxBoot bounds a boot id, in bytes.
	maxBoot = 64
)

// Log is the Merkle log. AppendAll returns when the leaves are integrated, in this order, and on the disk; the same leaf twice is one.
type Log interface {
	AppendAll(ctx context.Context, leaves []leaf.Leaf) (first uint64, err error)
}

// Config says where evidence is, and whom it is told to.
type Config struct {
	// Dir has segments/, as auditors get it; Work what is under way: open/, state/ and aside/.
	Dir, Work string
	Log       Log
	// Key is a key of a node, by the seal's word for it; nil: the node has told no such key.
	Key func(node, key string) ed25519.PublicKey
	// Found is told of what is not as it should be, after it was kept. The store's locks are held.
	Found  func(Finding)
	Now    func() time.Time // default time.Now
	Logger *slog.Logger
	// step is called between writes; tests die there.
	step func(string)
}

// Finding is a segment that does not check, or does not follow the one before.
type Finding struct {
	Node   string    `json:"node"`
	Boot   string    `json:"boot"`
	Number uint64    `json:"number,omitempty"` // 0: it says none
	Reason string    `json:"reason"`
	Kept   bool      `json:"kept"` // among the evidence; else aside
	At     time.Time `json:"at"`
}

// Store is the evidence of all nodes. It is safe for concurrent use.
type Store struct {
	cfg Config

	mu    sync.Mutex
	books map[string]*book

	segments, refused atomic.Uint64
}

// book is one node's.
type book struct {
	s    *Store
	node string

	taken atomic.Int64 // when the newest segment was, in nanoseconds since 1970; 0: never

	mu     sync.Mutex
	state  state
	spools map[string]*spool // by boot
	ready  []*segment        // with their seals, in the order in which they came

	hours   map[string]hourSums // of files that were looked into lately, by BOOT/HOUR.ndjson
	lookups int                 // of this batch
}

func (s *Store) segmentsDir() string { return filepath.Join(s.cfg.Dir, "segments") }
func (s *Store) work(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Work}, parts...)...)
}
func (b *book) segmentsDir() string { return filepath.Join(b.s.segmentsDir(), b.node) }
func (b *book) statePath() string   { return b.s.work("state", b.node+stateSuffix) }

// book is a node's, with what is known of it.
func (s *Store) book(node string) (*book, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.books == nil {
		return nil, errors.New("evidence: closed")
	}
	b := s.books[node]
	if b == nil {
		if !goodName(node) {
			return nil, fmt.Errorf("evidence: %q is no node", node)
		}
		b = &book{s: s, node: node, spools: map[string]*spool{}}
		if err := b.load(); err != nil {
			return nil, err
		}
		s.books[node] = b
	}
	return b, nil
}

func goodName(name string) bool {
	return name != "" && len(name) <= maxBoot && name[0] != '.' && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}
