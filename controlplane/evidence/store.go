package evidence

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	hourFormat = "2006-01-02T15"
	suffix     = ".ndjson"
	packed     = ".gz"

	// maxBoot bounds a boot id, in bytes.
	maxBoot = 64
	// maxUnsealed bounds the lines of a node that have no seal yet, in bytes. More is not kept, and the seal does not check then.
	maxUnsealed = 1 << 30
	// maxAside bounds what is kept aside of a node, in segments, and maxAsideBytes in bytes; of more only the findings are.
	maxAside      = 100
	maxAsideBytes = 1 << 30
)

// ErrUnknownKey refuses a batch with a seal whose key the node has not told.
var ErrUnknownKey = errors.New("evidence: a seal is signed by a key that the node has not told")

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

// Line is one line of a node's log.
type Line struct {
	Boot string
	Seq  uint64 // of a record or query
	Seal bool
	Data []byte // without newline
	// Refused: the server does not take it as the node's word, and the Merkle log says so.
	Refused bool
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

// Taken is what became of lines.
type Taken struct {
	Segments int // that are whole and kept
	Refused  int // segments that do not check
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

// Open makes what is missing, and finishes what a crash left half done.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Found == nil {
		cfg.Found = func(Finding) {}
	}
	if cfg.step == nil {
		cfg.step = func(string) {}
	}
	s := &Store{cfg: cfg, books: map[string]*book{}}
	for _, dir := range []string{s.segmentsDir(), s.work("open"), s.work("state"), s.work("aside")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
	}
	known, err := os.ReadDir(s.work("open"))
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	states, err := os.ReadDir(s.work("state"))
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	nodes := map[string]bool{}
	for _, e := range append(known, states...) {
		nodes[strings.TrimSuffix(e.Name(), stateSuffix)] = true
	}
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		if strings.HasPrefix(node, ".") { // a file that a crash left
			continue
		}
		if err := s.recover(ctx, node); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

func (s *Store) segmentsDir() string { return filepath.Join(s.cfg.Dir, "segments") }
func (s *Store) work(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Work}, parts...)...)
}
func (b *book) segmentsDir() string          { return filepath.Join(b.s.segmentsDir(), b.node) }
func (b *book) spoolPath(boot string) string { return b.s.work("open", b.node, boot+suffix) }
func (b *book) statePath() string            { return b.s.work("state", b.node+stateSuffix) }
func (b *book) asideDir() string             { return b.s.work("aside", b.node) }
func hourFile(boot string, t time.Time) string {
	return boot + "/" + t.UTC().Format(hourFormat) + suffix
}

// Close closes the files.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, b := range s.books {
		b.mu.Lock()
		for _, sp := range b.spools {
			errs = append(errs, sp.close())
		}
		b.spools = nil
		b.mu.Unlock()
	}
	s.books = nil
	return errors.Join(errs...)
}

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

// GoodBoot reports whether a boot id can be a file's name, which it becomes.
func GoodBoot(boot string) bool { return goodName(boot) }

func goodName(name string) bool {
	return name != "" && len(name) <= maxBoot && name[0] != '.' && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// Take keeps lines of a node, in the order of its log, on the disk before it returns. A seal closes the lines before it. After an
// error all can be sent again, and what comes twice is one.
func (s *Store) Take(ctx context.Context, node string, lines []Line) (Taken, error) {
	b, err := s.book(node)
	if err != nil {
		return Taken{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spools == nil {
		return Taken{}, errors.New("evidence: closed")
	}
	b.lookups = 0
	taken, err := b.settle(ctx) // what waits, before more is taken
	for err == nil && len(lines) > 0 {
		boots, n := map[string]bool{}, 0
		for n < len(lines) && (boots[lines[n].Boot] || len(boots) < maxSpools) {
			boots[lines[n].Boot] = true
			n++
		}
		if err = b.makeRoom(boots); err != nil {
			break
		}
		if err = b.spool(lines[:n]); err != nil {
			break
		}
		s.cfg.step("spooled")
		var t Taken
		t, err = b.settle(ctx)
		taken.Segments, taken.Refused = taken.Segments+t.Segments, taken.Refused+t.Refused
		lines = lines[n:]
	}
	return taken, err
}

// recover reads what a crash left of a node, and finishes it.
func (s *Store) recover(ctx context.Context, node string) error {
	b, err := s.book(node)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	boots, err := os.ReadDir(s.work("open", node))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("evidence: %w", err)
	}
	for _, e := range boots {
		boot, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || !goodName(boot) {
			continue
		}
		if _, err := b.open(boot); err != nil {
			return err
		}
	}
	b.inOrder()
	if err := b.tidyFiles(); err != nil {
		return err
	}
	if _, err := b.settle(ctx); err != nil { // what waits is tried again with the next that comes, and says so then
		s.cfg.Logger.Error("what a node sealed before the server started is not settled", logkey.Node, node, logkey.Error, err)
		return ctx.Err()
	}
	return b.makeRoom(nil)
}

// inOrder puts segments that wait one behind the other where each says which it follows.
func (b *book) inOrder() {
	head, rest := b.state.Head, b.ready
	b.ready = nil
	for len(rest) > 0 {
		next := max(0, slices.IndexFunc(rest, func(g *segment) bool { return g.seal != nil && g.seal.Previous == head }))
		g := rest[next]
		rest = slices.Delete(rest, next, next+1)
		b.ready = append(b.ready, g)
		head = seal.HashLine(g.line)
	}
}

// Sealed is when the newest segment of a node was taken; zero: never.
func (s *Store) Sealed(node string) time.Time {
	b, err := s.book(node)
	if err != nil {
		return time.Time{}
	}
	if at := b.taken.Load(); at != 0 {
		return time.Unix(0, at).UTC()
	}
	return time.Time{}
}

// Figures are counts since the store was opened.
func (s *Store) Figures() (segments, refused uint64) { return s.segments.Load(), s.refused.Load() }

// Aside lists the nodes of which something is kept aside or was found, with the newest finding. Removing or moving the files
// of work/aside/NODE ends it.
func (s *Store) Aside() (map[string]Finding, error) {
	nodes, err := os.ReadDir(s.work("aside"))
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	out := map[string]Finding{}
	for _, n := range nodes {
		f, err := newestFinding(s.work("aside", n.Name()))
		if err != nil {
			return nil, err
		}
		if f != nil {
			out[n.Name()] = *f
		}
	}
	return out, nil
}

// found keeps a finding and tells of it.
func (b *book) found(f Finding) {
	b.s.cfg.Logger.Error("what a node wrote of flows does not check", logkey.Node, b.node, logkey.Reason, f.Reason)
	b.s.cfg.Found(f)
}
