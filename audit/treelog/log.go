package treelog

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/internal/logkey"
)

// Config of a [Log]. Zero values are replaced by the defaults.
type Config struct {
	Dir       string      // for the log's files; made when it is missing
	Signer    note.Signer // its name is the log's origin
	Witnesses []Witness
	// WitnessRoots are the CAs of witnesses at https://; nil: the machine's.
	WitnessRoots *x509.CertPool
	Version      string // of the server, for its start and stop
	// Refusals is what its starts say: that it says which lines of segments the server did not take.
	Refusals bool
	Now      func() time.Time
	// Interval between checkpoints while leaves come. Default 1 s, with witnesses 5 s.
	Interval time.Duration
	// Tick is the time between the leaves that show that the log lives. Default 20 s.
	Tick   time.Duration
	Logger *slog.Logger
}

// Witness cosigns checkpoints.
type Witness struct {
	URL string // of its API, C2SP tlog-witness
	Key string // verifier key, cosignature/v1
}

const (
	defaultInterval          = time.Second
	defaultWitnessedInterval = 5 * time.Second
	defaultTick              = 20 * time.Second

	batchSize      = 1024
	batchAge       = 20 * time.Millisecond
	witnessTimeout = 3 * time.Second
	// How long a stop waits for its checkpoint beyond the interval. Without it the last leaves are signed for at the next start.
	closeGrace = 5 * time.Second
	poll       = 25 * time.Millisecond
)

// Log is a log on a disk: Tessera's POSIX driver, which writes each file whole and synced before the next that needs it, and last of all
// the size of the tree. So a kill or a full disk leaves a tree that was there before, and files that the next append writes again.
type Log struct {
	cfg      Config
	run      string // id of this run
	appender *tessera.Appender
	reader   tessera.LogReader
	cancel   context.CancelFunc // of what the library runs
	rest     context.CancelFunc // of ticking, which ends first
	ticking  sync.WaitGroup

	starting sync.Mutex // guards started
	started  bool       // the start of this run is in the log

	mu     sync.Mutex // guards what follows
	recent *leaf.Recent
	waits  time.Time // since when the oldest leaf of this run waits for a checkpoint; zero: none does
	newest uint64    // size that a checkpoint must have for that
	status Status
}

var _ Tree = (*Log)(nil)

// Status is a log in figures.
type Status struct {
	Size        uint64        // leaves, as far as this run knows
	Published   uint64        // leaves under the newest checkpoint
	Waiting     time.Duration // how long the oldest leaf that is under no checkpoint has been in the log
	Cosignature time.Time     // when the newest checkpoint with signatures of all witnesses was seen
	Error       string        // of the newest append, if it failed
}

// quiet hands what Tessera logs to the first log's logger: it writes to klog, which is one for the process.
var quiet sync.Once

// Open opens the log and says so in it, on a full disk as soon as that takes something.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg.Now = orNow(cfg.Now)
	cfg.Tick = cmp.Or(cfg.Tick, defaultTick)
	if len(cfg.Witnesses) > 0 {
		cfg.Interval = cmp.Or(cfg.Interval, defaultWitnessedInterval)
	}
	cfg.Interval = cmp.Or(cfg.Interval, defaultInterval)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Dir == "" || cfg.Signer == nil {
		return nil, errors.New("open the Merkle log: directory and signer are required")
	}
	quiet.Do(func() { klog.SetSlogLogger(cfg.Logger) })
	l := &Log{cfg: cfg, run: rand.Text(), recent: leaf.NewRecent(remembered)}
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	if err := l.open(own); err != nil {
		cancel()
		return nil, fmt.Errorf("open the Merkle log in %s: %w", cfg.Dir, err)
	}
	if err := l.begin(ctx); err != nil {
		cancel()
		l.settle()
		return nil, fmt.Errorf("open the Merkle log in %s: %w", cfg.Dir, err)
	}
	ticks, rest := context.WithCancel(own)
	l.rest = rest
	l.ticking.Go(func() { l.tick(ticks) })
	return l, nil
}

func orNow(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}

func (l *Log) open(ctx context.Context) error {
	client := &http.Client{Timeout: witnessTimeout}
	if l.cfg.WitnessRoots != nil {
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: l.cfg.WitnessRoots}}
	}
	driver, err := posix.New(ctx, posix.Config{Path: l.cfg.Dir, HTTPClient: client})
	if err != nil {
		return err
	}
	o := tessera.NewAppendOptions().WithCheckpointSigner(l.cfg.Signer).WithBatching(batchSize, batchAge).
		WithCheckpointInterval(l.cfg.Interval).WithCheckpointRepublishInterval(0)
	if len(l.cfg.Witnesses) > 0 {
		group, err := witnesses(l.cfg.Witnesses)
		if err != nil {
			return err
		}
		// A witness that is away must not keep the log from signing: who verifies with its key sees what it has not signed.
		o = o.WithWitnesses(group, &tessera.WitnessOptions{Timeout: witnessTimeout, FailOpen: true})
	}
	l.appender, _, l.reader, err = tessera.NewAppender(ctx, driver, o)
	return err
}

func witnesses(all []Witness) (tessera.WitnessGroup, error) {
	var group tessera.WitnessGroup
	for _, w := range all {
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return group, fmt.Errorf("witness %q: write http://HOST:PORT or https://HOST", w.URL)
		}
		one, err := tessera.NewWitness(w.Key, u)
		if err != nil {
			return group, fmt.Errorf("witness %s: its key is no verifier key of a witness: %w", w.URL, err)
		}
		group.Components = append(group.Components, one)
	}
	group.N = len(group.Components)
	return group, nil
}

// begin learns the newest leaves and appends the start.
func (l *Log) begin(ctx context.Context) error {
	size, err := l.reader.IntegratedSize(ctx)
	if err != nil {
		return err
	}
	err = l.Leaves(ctx, size-min(size, remembered), func(i uint64, lf leaf.Leaf) error {
		if same, err := lf.Same(); err == nil {
			l.recent.Add(lf.Key(), leaf.Seen{Index: i, Same: same})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := l.start(ctx); err != nil {
		// A disk that is full keeps nobody from reading: what is appended next brings the start with it.
		l.cfg.Logger.Warn("merkle log", logkey.Step, "start", logkey.Error, err)
	}
	return ctx.Err()
}

// start notes this run's start before its first other leaf.
func (l *Log) start(ctx context.Context) error {
	l.starting.Lock()
	defer l.starting.Unlock()
	if l.started {
		return nil
	}
	_, err := l.appendSome(ctx, []leaf.Leaf{{Type: leaf.TypeStart, Server: &leaf.Server{ID: l.run, Version: l.cfg.Version,
		Refusals: l.cfg.Refusals}}})
	l.started = err == nil
	l.failed(err)
	return err
}

// failed keeps the error of the newest append.
func (l *Log) failed(err error) {
	if err != nil {
		l.mu.Lock()
		l.status.Error = err.Error()
		l.mu.Unlock()
	}
}

// Append is [Appender.Append].
func (l *Log) Append(ctx context.Context, lf leaf.Leaf) (uint64, error) {
	return l.AppendAll(ctx, []leaf.Leaf{lf})
}

// AppendAll is [Appender.AppendAll]. After an error the first of them may be in the log, and none of the others.
func (l *Log) AppendAll(ctx context.Context, all []leaf.Leaf) (first uint64, err error) {
	defer func() { l.failed(err) }()
	if err := l.start(ctx); err != nil {
		return 0, err
	}
	for from := 0; from < len(all); from += batchSize {
		part := all[from:min(from+batchSize, len(all))]
		at, err := l.appendSome(ctx, part)
		if err != nil {
			return 0, err
		}
		if from == 0 {
			first = at
		}
	}
	return first, nil
}

// pending is a leaf that was handed to the library.
type pending struct {
	encoded
	index uint64
	wait  tessera.IndexFuture // nil: the leaf is in the log already
}

func (l *Log) appendSome(ctx context.Context, part []leaf.Leaf) (first uint64, err error) {
	now := l.cfg.Now()
	work := make([]pending, len(part))
	for i := range part {
		lf := part[i]
		if work[i].encoded, err = encode(&lf, now); err != nil {
			return 0, err
		}
	}
	for i := range work {
		w := &work[i]
		l.mu.Lock()
		was, known := l.recent.Find(w.key)
		l.mu.Unlock()
		if known && was.Same == w.same {
			w.index = was.Index
			continue
		}
		w.wait = l.appender.Add(ctx, tessera.NewEntry(w.data))
	}
	for i := range work {
		w := &work[i]
		if w.wait == nil {
			continue
		}
		at, errWait := w.wait()
		if errWait != nil {
			err = cmp.Or(err, fmt.Errorf("append to the Merkle log: %w", errWait))
			continue
		}
		w.index = at.Index
		l.appended(w, now)
	}
	if err != nil {
		return 0, err
	}
	return work[0].index, nil
}

func (l *Log) appended(w *pending, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent.Add(w.key, leaf.Seen{Index: w.index, Same: w.same})
	l.status.Error = ""
	l.status.Size = max(l.status.Size, w.index+1)
	if l.waits.IsZero() {
		l.waits, l.newest = now, w.index+1
	}
}

// Leaves is [Reader.Leaves].
func (l *Log) Leaves(ctx context.Context, from uint64, yield func(uint64, leaf.Leaf) error) error {
	size, err := l.reader.IntegratedSize(ctx)
	if err != nil {
		return fmt.Errorf("read the Merkle log: %w", err)
	}
	for from < size {
		bundle, skip := from/tiles.Width, int(from%tiles.Width)
		n := int(min(size-bundle*tiles.Width, tiles.Width))
		data, err := l.reader.ReadEntryBundle(ctx, bundle, uint8(n%tiles.Width))
		if err != nil {
			return fmt.Errorf("read the Merkle log: %w", err)
		}
		entries, err := tiles.ParseBundle(data, n)
		if len(entries) < n {
			return fmt.Errorf("read the Merkle log: bundle %d %w", bundle, err)
		}
		for _, e := range entries[skip:] {
			lf, err := decode(e)
			if err != nil {
				return fmt.Errorf("leaf %d: %w", from, err)
			}
			if err := yield(from, lf); err != nil {
				return err
			}
			from++
		}
	}
	return ctx.Err()
}

// Size is [Reader.Size].
func (l *Log) Size(ctx context.Context) (uint64, error) { return l.reader.IntegratedSize(ctx) }

// Checkpoint is [Reader.Checkpoint].
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) { return l.reader.ReadCheckpoint(ctx) }

// Published is [Tree.Published].
func (l *Log) Published(ctx context.Context, index uint64) ([]byte, error) {
	t := time.NewTicker(poll)
	defer t.Stop()
	for {
		data, err := l.Checkpoint(ctx)
		if err == nil {
			if c, err := tiles.ParseSigned(data); err == nil && c.Size > index {
				return data, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a checkpoint over leaf %d: %w", index, ctx.Err())
		case <-t.C:
		}
	}
}

// Status are the figures of now.
func (l *Log) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	if !l.waits.IsZero() {
		s.Waiting = max(l.cfg.Now().Sub(l.waits), 0)
	}
	return s
}

// Close says in the log that the server stops, waits for a checkpoint over that, and returns when nothing is written any more.
func (l *Log) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), l.cfg.Interval+closeGrace)
	defer cancel()
	l.rest()
	l.ticking.Wait()
	at, err := l.Append(ctx, leaf.Leaf{Type: leaf.TypeStop, Server: &leaf.Server{ID: l.run, Version: l.cfg.Version}})
	if err == nil {
		_, err = l.Published(ctx, at)
	}
	l.cancel()
	l.settle()
	if err != nil {
		return fmt.Errorf("close the Merkle log: %w", err)
	}
	return nil
}

// settle waits until what the library had begun is done: it says nothing of that, but holds these locks meanwhile.
func (l *Log) settle() {
	for _, name := range []string{"treeState.lock", "publish.lock", "gcState.lock"} {
		f, err := os.Open(filepath.Join(l.cfg.Dir, ".state", name))
		if err != nil {
			continue // never taken
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			l.cfg.Logger.Warn("merkle log", logkey.Step, "settle", logkey.Error, err)
		}
		f.Close()
	}
}
