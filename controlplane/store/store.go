package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/culvert-net/culvert/api"
)

// Store keeps resources. All methods are safe for concurrent use.
type Store interface {
	// Run opens the store, calls ready once Snapshot is true, and returns when ctx ended and all is closed.
	Run(ctx context.Context, ready func()) error
	// Snapshot is the newest picture; nobody may change it. Empty before ready.
	Snapshot() *api.Resources
	// At is the picture of an earlier revision, or of one that changed no resource. ErrRevisionGone: there is none any more, or not
	// yet. Nobody may change it.
	At(revision int64) (*api.Resources, error)
	// Txn runs f until its changes commit on exactly the state that f saw, and returns the commit's revision. When f
	// returns an error nothing changes and Txn returns that error. f may run several times. After Txn returned nil,
	// Snapshot shows the commit, and the resources put have their Revision set.
	Txn(ctx context.Context, f func(*Tx) error) (int64, error)
	// Watch sends the newest revision of the resources after each change; revisions in between may be left out.
	Watch(ctx context.Context) <-chan int64
	// Audited is the sequence number of the newest audit event that is committed, and what is closed at the next commit.
	Audited() (seq uint64, next <-chan struct{})
	// Get returns the value of a side key, nil when absent.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put writes a side key outside any transaction: for what changes often and grants nothing.
	Put(ctx context.Context, key string, value []byte) error
	// Delete removes a side key outside any transaction.
	Delete(ctx context.Context, key string) error
	// List returns at most limit side keys that begin with prefix and sort behind after, in order.
	List(ctx context.Context, prefix, after string, limit int) ([]KV, error)
	// Fill is how much of its room the store takes, from 0 to 1. When it is full it refuses every write.
	Fill(ctx context.Context) (float64, error)
	// MakeRoom gives back what is taken by replaced and deleted values. Everything else may wait for seconds meanwhile.
	MakeRoom(ctx context.Context) error
}

// KV is a side key.
type KV struct {
	Key   string
	Value []byte
}

// Side keys, relative to the store's root.
const (
	PrefixAudit       = "audit/"       // + 20 digits: an api.AuditEvent; the newest sorts first
	prefixAuditOf     = "audit-of/"    // + account, "/" and 20 digits: that the event is the account's, or changed something of it
	prefixAuditOn     = "audit-on/"    // + resource id, "/" and 20 digits: that the event is about the resource, or changed it
	PrefixIdempotency = "idempotency/" // + scope: an answer to repeat
	PrefixSecret      = "secret/"      // + name: keys of the CA, of views, of gossip
	PrefixStatus      = "status/"      // + node id: an api.NodeStatus
	PrefixLogKey      = "log-key/"     // + node id, "/" and the key's id: what the node's log is sealed with
	PrefixRetention   = "retention/"   // + class: how long it is kept
	PrefixCounted     = "counted/"     // + run, "/" and a number: an api.AuditEvent that counts refusals, and is not in the audit log yet
	PrefixLegalHold   = "legal-hold/"  // + id: an api.LegalHold
	PrefixFlowNote    = "flow-note/"   // + flow log id, "/" and 20 digits: a delivery.Note
)

// ErrNotReady is returned before Run called ready, and after it ended.
var ErrNotReady = errors.New("store: not open")

// ErrDiskFull refuses a write while the file system of the store is nearly full. Nothing was changed; reads go on, and so do writes
// once there is room.
var ErrDiskFull = errors.New("store: the disk is full")

const (
	prefixResource = "r/"
	keyHead        = "head"
	keyMesh        = "mesh"
)

// Head is what every commit writes: the counters.
type Head struct {
	Audit   uint64            `json:"audit"`             // sequence number of the last audit event
	Numbers map[string]uint32 `json:"numbers,omitempty"` // by kind: the last number given
	Tags    map[string]uint16 `json:"tags,omitempty"`    // by consumer VPC id: the last tag number given
}

func (h *Head) clone() Head {
	return Head{Audit: h.Audit, Numbers: maps.Clone(h.Numbers), Tags: maps.Clone(h.Tags)}
}

// Tx is a transaction under way. It is used by one goroutine.
type Tx struct {
	cur    api.Resources
	own    map[api.Kind]bool
	head   Head
	puts   map[string]api.Resource // by key; nil: deleted
	side   map[string][]byte       // nil: deleted
	mesh   *api.Mesh
	events []*api.AuditEvent
	// touched are the resources that were put or removed since the last event, as they were; nil: they were not there.
	touched   map[string]api.Resource
	documents int // bytes of resources in events
	// mostDocuments is how many of those there may be; cut: there were more, and they are told by hash alone.
	mostDocuments int
	cut           bool
	eventBytes    int   // of all events, as they are stored
	failed        error // why there is no event, and so no commit
	get           func(key string) ([]byte, error)
}

func newTx(snap *api.Resources, head *Head, get func(string) ([]byte, error)) *Tx {
	return &Tx{cur: *snap, own: map[api.Kind]bool{}, head: head.clone(), puts: map[string]api.Resource{},
		side: map[string][]byte{}, get: get, mostDocuments: MaxDocuments}
}

// Tell bounds what the transaction's events tell of resources as they were and are, in bytes; what is beyond is told by hash alone.
func (tx *Tx) Tell(most int) { tx.mostDocuments = min(max(most, 0), MaxDocuments) }

// Told is how many bytes the events of a committed transaction have, how many of them tell of resources, and whether some of those are
// told by hash alone because there were more than there may be.
func (tx *Tx) Told() (events, documents int, cut bool) { return tx.eventBytes, tx.documents, tx.cut }

func resourceKey(k api.Kind, id string) string { return prefixResource + string(k) + "/" + id }

// resourceOf is the reverse of resourceKey.
func resourceOf(key string) (k api.Kind, id string, ok bool) {
	rest, ok := strings.CutPrefix(key, prefixResource)
	kind, id, slash := strings.Cut(rest, "/")
	return api.Kind(kind), id, ok && slash
}

// Resources is the state with the transaction's own changes. What it holds may be read, not changed: put a copy instead.
func (tx *Tx) Resources() *api.Resources { return &tx.cur }

// Put writes a resource. The caller no longer changes it.
func (tx *Tx) Put(res api.Resource) {
	k := res.Kind()
	tx.touch(k, res.GetMeta().ID)
	tx.ownKind(k)
	tx.cur.Put(res)
	tx.puts[resourceKey(k, res.GetMeta().ID)] = res
}

// Remove deletes a resource.
func (tx *Tx) Remove(res api.Resource) {
	k, id := res.Kind(), res.GetMeta().ID
	tx.touch(k, id)
	tx.ownKind(k)
	tx.cur.Remove(k, id)
	tx.puts[resourceKey(k, id)] = nil
}

func (tx *Tx) ownKind(k api.Kind) {
	if !tx.own[k] {
		tx.cur.CloneKind(k)
		tx.own[k] = true
	}
}

// SetMesh writes what the mesh shares.
func (tx *Tx) SetMesh(m api.Mesh) {
	tx.cur.Mesh = m
	tx.mesh = &m
}

// Number gives the next number of a kind, from 1 on; a number is never given twice.
func (tx *Tx) Number(k api.Kind) (uint32, error) {
	last := tx.head.Numbers[string(k)]
	if last == 1<<32-1 {
		return 0, api.Errorf(api.CodeOutOfNumbers, "", "start a new mesh", "all numbers for %s were given", k)
	}
	if tx.head.Numbers == nil {
		tx.head.Numbers = map[string]uint32{}
	}
	tx.head.Numbers[string(k)] = last + 1
	return last + 1, nil
}

// LastTag is the tag number given last in a consumer's VPC, 0 when none was.
func (tx *Tx) LastTag(vpc string) uint16 { return tx.head.Tags[vpc] }

// SetLastTag keeps it; 0 forgets the VPC.
func (tx *Tx) SetLastTag(vpc string, n uint16) {
	if n == 0 {
		delete(tx.head.Tags, vpc)
		return
	}
	if tx.head.Tags == nil {
		tx.head.Tags = map[string]uint16{}
	}
	tx.head.Tags[vpc] = n
}

// Side returns a side key's value, the transaction's own write included; nil when absent.
func (tx *Tx) Side(key string) ([]byte, error) {
	if v, ok := tx.side[key]; ok {
		return v, nil
	}
	return tx.get(key)
}

// SetSide writes a side key with the transaction; a nil value deletes it.
func (tx *Tx) SetSide(key string, value []byte) { tx.side[key] = value }

// Audit adds an event to the transaction and gives it its sequence number. The event has what the transaction did to resources since
// the one before; what it has no room for is in events that continue it.
func (tx *Tx) Audit(e api.AuditEvent) {
	all, err := tx.changes(e.Resource)
	tx.failed = errors.Join(tx.failed, err)
	all = append(slices.Clone(e.Changes), all...) // of what is no resource the caller says it
	for i, changes := range append(parts(all), nil) {
		if i > 0 && changes == nil {
			break
		}
		part := e
		tx.head.Audit++
		part.Seq, part.Changes = tx.head.Audit, changes
		if i > 0 {
			part.Continues = part.Seq - uint64(i)
		}
		tx.events = append(tx.events, &part)
	}
}

// ForgetAudit removes an event that was read.
func (tx *Tx) ForgetAudit(e *api.AuditEvent) {
	tx.SetSide(AuditKey(PrefixAudit, e.Seq), nil)
	for _, key := range auditIndex(e) {
		tx.SetSide(key, nil)
	}
}

// write is one key of a commit; a nil value deletes it.
type write struct {
	key   string
	value []byte
}

// writes encodes the commit, in a fixed order; nil when there is nothing to commit.
func (tx *Tx) writes() ([]write, error) {
	var out []write
	add := func(key string, v any) error {
		value, err := json.Marshal(v)
		out = append(out, write{key, value})
		return err
	}
	errs := []error{tx.failed}
	for key, res := range tx.puts {
		if res == nil {
			out = append(out, write{key: key})
			continue
		}
		errs = append(errs, add(key, res))
	}
	for key, value := range tx.side {
		out = append(out, write{key, value})
	}
	tx.eventBytes = 0
	for _, e := range tx.events {
		errs = append(errs, add(AuditKey(PrefixAudit, e.Seq), e))
		tx.eventBytes += len(out[len(out)-1].value)
		for _, key := range auditIndex(e) {
			out = append(out, write{key, []byte(indexed)})
		}
	}
	if tx.mesh != nil {
		errs = append(errs, add(keyMesh, tx.mesh))
	}
	if len(out) == 0 {
		return nil, nil
	}
	errs = append(errs, add(keyHead, &tx.head))
	sort.Slice(out, func(i, j int) bool { return out[i].key < out[j].key })
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("store: encode: %w", err)
	}
	return out, nil
}

// AuditPrefixOf is where the numbers of an account's audit events are, and of those that changed something of it, and AuditPrefixOn
// those of the events about a resource, or that changed it. The events themselves stand under PrefixAudit: so neither are looked for among others.
func AuditPrefixOf(account string) string { return prefixAuditOf + account + "/" }

// AuditPrefixOn is described with AuditPrefixOf.
func AuditPrefixOn(resource string) string { return prefixAuditOn + resource + "/" }

// AuditSeq is the number in a key that AuditKey made.
func AuditSeq(key string) (uint64, error) {
	n, err := strconv.ParseUint(key[strings.LastIndexByte(key, '/')+1:], 10, 64)
	return math.MaxUint64 - n, err
}

// AuditKey is the side key of an audit event under PrefixAudit or AuditPrefixOf. Numbers count down, so that lists begin with the
// newest.
func AuditKey(prefix string, seq uint64) string {
	return fmt.Sprintf("%s%020d", prefix, math.MaxUint64-seq)
}

// indexed is what stands where a key alone tells all. Records of before have the event there once more.
const indexed = "{}"

// auditIndex are the keys by which an event is found.
func auditIndex(e *api.AuditEvent) (keys []string) {
	accounts := []string{e.Account}
	for _, c := range e.Changes {
		accounts = append(accounts, c.Owner())
	}
	slices.Sort(accounts)
	for _, account := range slices.Compact(accounts) {
		if account != "" {
			keys = append(keys, AuditKey(AuditPrefixOf(account), e.Seq))
		}
	}
	about := false
	for _, c := range e.Changes {
		keys = append(keys, AuditKey(AuditPrefixOn(c.ID), e.Seq))
		about = about || c.ID == e.Resource
	}
	if e.Resource != "" && !about {
		keys = append(keys, AuditKey(AuditPrefixOn(e.Resource), e.Seq))
	}
	return keys
}

// state is what both stores share: the newest snapshot and who waits for it.
type state struct {
	snap atomic.Pointer[api.Resources]

	mu       sync.Mutex
	head     Head
	headRev  int64         // revision that wrote head; 0: never written
	observed int64         // every change up to this revision is in snap and head
	changed  chan struct{} // closed and replaced when observed grows
	watchers map[chan int64]struct{}
	history  history
}

func (s *state) init() {
	s.snap.Store(api.NewResources())
	s.changed = make(chan struct{})
	s.watchers = map[chan int64]struct{}{}
}

// Snapshot implements Store.
func (s *state) Snapshot() *api.Resources { return s.snap.Load() }

// current returns a consistent triple.
func (s *state) current() (*api.Resources, Head, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snap.Load(), s.head.clone(), s.headRev
}

// apply brings the writes of one revision into the picture and wakes who waits.
func (s *state) apply(rev int64, writes []write) error {
	next := *s.snap.Load()
	own, resources := map[api.Kind]bool{}, false
	var head *Head
	for _, w := range writes {
		switch {
		case w.key == keyHead:
			head = new(Head)
			if err := json.Unmarshal(w.value, head); err != nil {
				return fmt.Errorf("store: decode head: %w", err)
			}
		case w.key == keyMesh:
			resources = true
			if err := json.Unmarshal(w.value, &next.Mesh); err != nil {
				return fmt.Errorf("store: decode mesh: %w", err)
			}
		case strings.HasPrefix(w.key, prefixResource):
			resources = true
			if err := applyResource(&next, own, rev, w); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if head != nil {
		s.head, s.headRev = *head, rev
	}
	if resources {
		next.Revision = rev
		undone, size := replaced(s.snap.Load(), writes)
		s.history.add(&historyEntry{revision: rev, undo: undone, bytes: size})
		s.snap.Store(&next)
	}
	s.observedLocked(rev, resources)
	return nil
}

func (s *state) observedLocked(rev int64, resources bool) {
	s.observed = max(s.observed, rev)
	close(s.changed)
	s.changed = make(chan struct{})
	if !resources {
		return
	}
	for ch := range s.watchers {
		select {
		case <-ch: // an older revision that nobody took yet
		default:
		}
		ch <- rev // room for one, and only this goroutine sends
	}
}

func applyResource(r *api.Resources, own map[api.Kind]bool, rev int64, w write) error {
	kind, id, ok := resourceOf(w.key)
	res := api.NewResource(kind)
	if !ok || res == nil {
		return fmt.Errorf("store: key %q: unknown kind; was this data written by a newer version?", w.key)
	}
	if !own[res.Kind()] {
		r.CloneKind(res.Kind())
		own[res.Kind()] = true
	}
	if w.value == nil {
		r.Remove(res.Kind(), id)
		return nil
	}
	if err := json.Unmarshal(w.value, res); err != nil {
		return fmt.Errorf("store: key %q: decode: %w", w.key, err)
	}
	if res.GetMeta().ID != id {
		return fmt.Errorf("store: key %q holds %q", w.key, res.GetMeta().ID)
	}
	res.GetMeta().Revision = rev
	r.Put(res)
	return nil
}

// wait returns when every change up to rev is in the picture.
func (s *state) wait(ctx context.Context, rev int64) error {
	for {
		s.mu.Lock()
		done, changed := s.observed >= rev, s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Watch implements Store.
func (s *state) Watch(ctx context.Context) <-chan int64 {
	ch := make(chan int64, 1)
	s.mu.Lock()
	s.watchers[ch] = struct{}{}
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		delete(s.watchers, ch)
		s.mu.Unlock()
	})
	return ch
}

// Audited implements Store.
func (s *state) Audited() (seq uint64, next <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head.Audit, s.changed
}

// committed sets the revision on what was put.
func (tx *Tx) committed(rev int64) {
	for _, res := range tx.puts {
		if res != nil {
			res.GetMeta().Revision = rev
		}
	}
}
