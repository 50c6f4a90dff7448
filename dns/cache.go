package dns

import (
	"container/list"
	"sync"
	"time"
)

// Bounds of the cache. It is divided evenly among the accounts that forward, so that none can push out another's answers.
const (
	maxCache      = 10_000 // answers in all
	maxCacheEntry = 2048   // bytes; longer answers are asked for each time
	maxAtOnce     = 1024   // bytes without compression, which is what reading costs; longer answers that are kept take turns, too
	maxTTL        = 3600   // seconds
	maxNegative   = 300    // seconds, for "no such name" and "no data"
	staleTTL      = 30     // seconds, of an expired answer, RFC 8767
	maxStale      = time.Hour
)

// question is a key of the cache. The flags change what a forwarder answers.
type question struct {
	name   string // lower case
	qtype  uint16
	do, cd bool
}

// entry is a forwarder's answer; it never changes.
type entry struct {
	wire   []byte // packed without compression to other messages; id 0
	stored time.Time
	ttl    time.Duration
	from   string // the forwarder whose answer it is
	long   bool   // more than maxAtOnce
}

func (e *entry) fresh(now time.Time) bool { return now.Sub(e.stored) < e.ttl }

// usable reports whether the entry may be given when no forwarder answers.
func (e *entry) usable(now time.Time) bool { return now.Sub(e.stored) < e.ttl+maxStale }

// cache is one VPC's answers, the least recently used leaves first.
type cache struct {
	mu      sync.Mutex
	max     int
	recent  *list.List // of cached, most recently used in front
	entries map[question]*list.Element
}

type cached struct {
	key   question
	entry *entry
}

func newCache(limit int) *cache {
	return &cache{max: limit, recent: list.New(), entries: map[question]*list.Element{}}
}

// get returns an entry, fresh or not, or nil.
func (c *cache) get(k question) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[k]
	if e == nil {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(cached).entry
}

// put keeps an answer, unless it is too long or must not be kept.
func (c *cache) put(k question, e *entry) {
	if e.ttl <= 0 || len(e.wire) > maxCacheEntry {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.entries[k]; old != nil {
		c.recent.Remove(old)
	}
	c.entries[k] = c.recent.PushFront(cached{k, e})
	c.trim()
}

func (c *cache) resize(limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.max = limit
	c.trim()
}

func (c *cache) trim() {
	for c.recent.Len() > c.max {
		last := c.recent.Back()
		c.recent.Remove(last)
		delete(c.entries, last.Value.(cached).key)
	}
}

func (c *cache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recent.Len()
}
