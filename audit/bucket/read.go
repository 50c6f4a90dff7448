package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
)

const (
	// leastRead is what is asked for at least, in bytes: an answer of a store takes as long as some ten KiB.
	leastRead = 16 << 10
	// mostAhead bounds what is read before it is asked for, of an object that is read from end to end.
	mostAhead = 4 << 20
	// readWait is for how long one range may come: 4 MiB at 140 KiB a second.
	readWait = 30 * time.Second
	// readTries is how often a range is asked for, of a store that is overloaded or whose answer breaks off.
	readTries = 3
	// tryAgain is the wait before the second try; it doubles.
	tryAgain = 200 * time.Millisecond
)

// Info is what a store says of an object.
type Info struct {
	Key  string
	Size int64
	etag string
}

// List gives the objects whose keys begin with a prefix, by key.
func (b *Bucket) List(ctx context.Context, prefix string) ([]Info, error) {
	var out []Info
	for o := range b.client.ListObjectsIter(ctx, b.s.Name, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, fmt.Errorf("bucket %s at %s: %w", b.s.Name, b.host, told(o.Err))
		}
		out = append(out, Info{o.Key, o.Size, o.ETag})
	}
	return out, nil
}

// Reader reads an object by ranges: few bytes where few are asked for, more and more ahead where it is read from end to end. An object
// that was overwritten since it was listed is an error. It may be used by several goroutines, one after the other.
type Reader struct {
	ctx  context.Context
	b    *Bucket
	info Info

	mu    sync.Mutex
	held  []byte // from at on
	at    int64
	ahead int64 // what the last read asked for
}

// Open makes a reader of an object, which asks for nothing yet. Reads fail when ctx ends.
func (b *Bucket) Open(ctx context.Context, o Info) *Reader { return &Reader{ctx: ctx, b: b, info: o} }

// Close lets go of what is held.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = nil
	return nil
}

// ReadAt is io.ReaderAt's.
func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("read before the begin of an object")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	need := min(int64(len(p)), r.info.Size-off)
	if need <= 0 {
		return 0, io.EOF
	}
	if end := r.at + int64(len(r.held)); off < r.at || off+need > end {
		if err := r.fetch(off, need, off == end && end > 0); err != nil {
			return 0, fmt.Errorf("bucket %s at %s: %w", r.b.s.Name, r.b.host, told(err))
		}
	}
	n = copy(p[:need], r.held[off-r.at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// fetch holds what is needed at a place; more where reading goes on.
func (r *Reader) fetch(off, need int64, goesOn bool) error {
	if goesOn {
		r.ahead = min(2*r.ahead, mostAhead)
	} else {
		r.ahead = leastRead
	}
	n := min(max(need, r.ahead), r.info.Size-off)
	r.ahead = max(n, leastRead)
	for try := 1; ; try++ {
		data, err := r.get(off, n)
		if err == nil {
			r.held, r.at = data, off
			return nil
		}
		if try == readTries || !passing(err) || r.ctx.Err() != nil {
			return err
		}
		wait := time.NewTimer(tryAgain << (try - 1))
		select {
		case <-wait.C:
		case <-r.ctx.Done():
			wait.Stop()
			return r.ctx.Err()
		}
	}
}

// get asks for a range.
func (r *Reader) get(off, n int64) (data []byte, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, readWait)
	defer cancel()
	opts := minio.GetObjectOptions{}
	if err := errors.Join(opts.SetRange(off, off+n-1), opts.SetMatchETag(r.info.etag)); err != nil {
		return nil, err
	}
	body, _, header, err := minio.Core{Client: r.b.client}.GetObject(ctx, r.b.s.Name, r.info.Key, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if got := header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", off)) && n < r.info.Size {
		return nil, &notTheRange{off, got} // the whole object from its begin, of what knows no ranges
	}
	data = make([]byte, n)
	_, err = io.ReadFull(body, data)
	return data, err
}

// notTheRange is an answer of other bytes than were asked for.
type notTheRange struct {
	off int64
	got string
}

func (e *notTheRange) Error() string {
	return fmt.Sprintf("it was asked for bytes from %d on, and answers with the range %q: ask a store that serves ranges", e.off, e.got)
}

// passing tells whether an error may be gone when one asks again: all but what a store answers for good.
func passing(err error) bool {
	var e minio.ErrorResponse
	var other *notTheRange
	if errors.As(err, &other) {
		return false
	}
	if !errors.As(err, &e) || e.StatusCode == 0 {
		return true
	}
	return e.StatusCode >= http.StatusInternalServerError || e.StatusCode == http.StatusTooManyRequests
}
