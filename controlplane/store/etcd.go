package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	root = "/culvert/"
	// maxTxnOps and maxRequestBytes bound one transaction: an account's whole network fits, with the keys by which its audit events
	// are found.
	maxTxnOps       = 16384
	maxRequestBytes = 16 << 20
	// maxAttempts bounds how often a transaction runs again after it lost a race with another server.
	maxAttempts = 32
	dialTimeout = 10 * time.Second
	// defaultQuota is how large the file of an embedded etcd may get, in bytes; etcdQuota is an external one's, unless it says so.
	defaultQuota = 4 << 30
	etcdQuota    = 2 << 30
	// keepVersions is how long an embedded etcd keeps what was replaced or deleted. Nobody reads it; it takes room all the same.
	keepVersions = "5m"
)

// EtcdConfig says which etcd. Exactly one of Dir and Endpoints is given.
type EtcdConfig struct {
	// Dir is the data directory of an embedded, single-member etcd without any listener: nobody but this process reaches it.
	Dir string
	// Endpoints of an external etcd, such as https://192.0.2.1:2379.
	Endpoints []string
	TLS       *tls.Config
	// NoSync leaves out fsync. For tests only: a crash of the machine loses data.
	NoSync bool
	Log    *slog.Logger

	quota int64 // bytes of an embedded one; tests have less
	// reserve is what the file system must have free for a write, in bytes; tests have another.
	reserve int64
}

// Etcd is the store on etcd.
type Etcd struct {
	state
	cfg    EtcdConfig
	txn    sync.Mutex // transactions of this process do not race each other
	client atomic.Pointer[clientv3.Client]
	file   backend.Backend // of an embedded etcd; written before client
}

// NewEtcd prepares a store; Run opens it.
func NewEtcd(cfg EtcdConfig) *Etcd {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	e := &Etcd{cfg: cfg}
	e.init()
	return e
}

// Run implements Store.
func (e *Etcd) Run(ctx context.Context, ready func()) error {
	client, closeAll, err := e.open(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	rev, err := e.load(ctx, client)
	if err != nil {
		return err
	}
	if e.file != nil {
		e.begin(ctx, client)
	}
	e.client.Store(client)
	defer e.client.Store(nil)
	ready()
	for ctx.Err() == nil {
		if err := e.follow(ctx, client, rev+1); err != nil && ctx.Err() == nil {
			e.cfg.Log.Warn("store watch ended, loading again", logkey.Error, err)
		}
		if rev, err = e.loadAgain(ctx, client); err != nil {
			return err
		}
	}
	return nil
}

// open starts the embedded etcd or connects to the external one.
func (e *Etcd) open(ctx context.Context) (*clientv3.Client, func(), error) {
	if e.cfg.Dir == "" {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: e.cfg.Endpoints, TLS: e.cfg.TLS, DialTimeout: dialTimeout, Logger: zap.NewNop(), Context: ctx,
			MaxCallRecvMsgSize: 1 << 30, MaxCallSendMsgSize: 2 * maxRequestBytes,
		})
		if err != nil {
			return nil, nil, fmt.Errorf("store: connect to etcd %s: %w", strings.Join(e.cfg.Endpoints, ","), err)
		}
		return c, func() { _ = c.Close() }, nil
	}
	if err := os.MkdirAll(e.cfg.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("store: make data directory: %w", err)
	}
	if err := check(e.cfg.Dir); err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	server, err := start(embedConfig(e.cfg))
	if err != nil {
		return nil, nil, fmt.Errorf("store: start etcd in %s: %w", e.cfg.Dir, err)
	}
	stop := func() {
		server.Close()
		<-server.Server.StopNotify()
	}
	if err := e.awaitReady(ctx, server); err != nil {
		stop()
		return nil, nil, err
	}
	e.file = server.Server.Backend()
	c := v3client.New(server.Server)
	return c, func() { _ = c.Close(); stop() }, nil
}

// start returns etcd's panics as errors: it has no other way to say that it cannot read its files.
func start(cfg *embed.Config) (server *embed.Etcd, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = damaged(cfg.Dir, fmt.Errorf("%v", p))
		}
	}()
	return embed.StartEtcd(cfg)
}

// slowStart is after how long a start that is not through is worth a word: it reads the whole store.
const slowStart = 15 * time.Second

func (e *Etcd) awaitReady(ctx context.Context, server *embed.Etcd) error {
	slow := time.NewTicker(slowStart)
	defer slow.Stop()
	for {
		select {
		case <-server.Server.ReadyNotify():
			return nil
		case err := <-server.Err():
			return fmt.Errorf("store: etcd in %s: %w", e.cfg.Dir, err)
		case <-slow.C:
			e.cfg.Log.Warn("the store is still being opened; if that does not end, restore the data directory from a backup",
				logkey.Path, e.cfg.Dir)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin makes room in a large file, and lets an etcd take writes again that was full. Without it the store can be read at least.
func (e *Etcd) begin(ctx context.Context, c *clientv3.Client) {
	step := e.disarm
	if e.file.Size() >= e.quota()/4 {
		step = e.makeRoom
	}
	if err := step(ctx, c); err != nil {
		e.cfg.Log.Warn("no room made in the store", logkey.Error, err)
	}
}

// MakeRoom implements Store. For an external etcd it does nothing: that is up to who runs it.
func (e *Etcd) MakeRoom(ctx context.Context) error {
	c := e.client.Load()
	switch {
	case c == nil:
		return ErrNotReady
	case e.file == nil:
		return nil
	}
	return e.makeRoom(ctx, c)
}

// makeRoom forgets old versions, and rewrites the file if a good part of it is free then: it never gets smaller by itself, and it
// is the file that must not outgrow the quota.
func (e *Etcd) makeRoom(ctx context.Context, c *clientv3.Client) error {
	e.mu.Lock()
	seen := e.observed // follow needs what comes later
	e.mu.Unlock()
	_, err := c.Compact(ctx, seen, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("store: forget old versions: %w", err)
	}
	if e.hasHoles(ctx) {
		if err := e.file.Defrag(); err != nil {
			return fmt.Errorf("store: rewrite the file: %w", err)
		}
	}
	return e.disarm(ctx, c)
}

// hasHoles reports whether a good part of the file is free. What was forgotten becomes free some time later (an earlier
// compaction may be under way, and what one commit frees counts after the next), so a file that is tight is given a while.
func (e *Etcd) hasHoles(ctx context.Context) bool {
	const tries, pause = 60, 50 * time.Millisecond
	for range tries {
		e.file.ForceCommit()
		if e.file.SizeInUse() < e.file.Size()/10*9 {
			return true
		}
		if e.file.Size() < e.quota()/10*8 {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
	return false
}

// disarm lets an embedded etcd take writes again that was full once: it remembers that, also when it has room again.
func (e *Etcd) disarm(ctx context.Context, c *clientv3.Client) error {
	if e.file.Size() >= e.quota() {
		return nil
	}
	alarms, err := c.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("store: list alarms: %w", err)
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		if _, err := c.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return fmt.Errorf("store: disarm alarm %s: %w", a.Alarm, err)
		}
		e.cfg.Log.Info("the store was full and has room again")
	}
	return nil
}

// withRoom writes, and once more if the store only believes that it is full: etcd raises its alarm some time after the write that
// found no room, which may be after room was made. A write that was refused for want of room changed nothing.
func (e *Etcd) withRoom(ctx context.Context, c *clientv3.Client, write func() error) error {
	if err := e.hasDisk(); err != nil {
		return err
	}
	err := write()
	if !errors.Is(err, rpctypes.ErrNoSpace) || e.file == nil || e.file.Size() >= e.quota() {
		return err
	}
	if errAlarm := e.disarm(ctx, c); errAlarm != nil {
		return errors.Join(err, errAlarm)
	}
	return write()
}

// defaultReserve is a segment of etcd's log (64 MB), which it makes before it needs it, and one step by which its file grows (16 MB).
const defaultReserve = 80 << 20

// hasDisk refuses a write while the disk is nearly full. etcd itself ends its process when it finds no room for its log.
func (e *Etcd) hasDisk() error {
	if e.file == nil {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(e.cfg.Dir, &fs); err != nil {
		return fmt.Errorf("store: room in %s: %w", e.cfg.Dir, err)
	}
	free, reserve := int64(fs.Bavail)*fs.Bsize, cmp.Or(e.cfg.reserve, defaultReserve)
	if free < reserve {
		return fmt.Errorf("%w: %s has %d MiB left, and needs %d", ErrDiskFull, e.cfg.Dir, free>>20, reserve>>20)
	}
	return nil
}

// Fill implements Store.
func (e *Etcd) Fill(ctx context.Context) (float64, error) {
	c := e.client.Load()
	if c == nil {
		return 0, ErrNotReady
	}
	endpoint := ""
	if len(e.cfg.Endpoints) > 0 {
		endpoint = e.cfg.Endpoints[0]
	}
	st, err := c.Status(ctx, endpoint)
	if err != nil {
		return 0, fmt.Errorf("store: size: %w", err)
	}
	return float64(st.DbSize) / float64(cmp.Or(st.DbSizeQuota, etcdQuota)), nil
}

func (e *Etcd) quota() int64 { return cmp.Or(e.cfg.quota, defaultQuota) }

// embedConfig is a single member that listens nowhere. Its URLs are labels that etcd demands and nobody dials.
func embedConfig(cfg EtcdConfig) *embed.Config {
	c := embed.NewConfig()
	label := url.URL{Scheme: "http", Host: "localhost:0"}
	c.Name = "culvert"
	c.Dir = filepath.Join(cfg.Dir, "etcd")
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = []url.URL{label}, []url.URL{label}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// With one member an election has one voter: no reason to wait for it.
	c.TickMs, c.ElectionMs = 10, 100
	c.MaxTxnOps, c.MaxRequestBytes = maxTxnOps, maxRequestBytes
	c.QuotaBackendBytes = cmp.Or(cfg.quota, defaultQuota)
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, keepVersions
	c.UnsafeNoFsync = cfg.NoSync
	c.EnableGRPCGateway = false
	// What etcd takes for fatal would end the process without a word, since its logger is silent.
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop().WithOptions(zap.WithFatalHook(zapcore.WriteThenPanic)))
	return c
}

// load reads everything at one revision.
func (e *Etcd) load(ctx context.Context, c *clientv3.Client) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	resp, err := c.Txn(ctx).Then(
		clientv3.OpGet(root+prefixResource, clientv3.WithPrefix()),
		clientv3.OpGet(root+keyHead), clientv3.OpGet(root+keyMesh),
	).Commit()
	if err != nil {
		return 0, fmt.Errorf("store: load: %w", err)
	}
	fresh := new(state)
	fresh.init()
	var headRev, resRev int64
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			key := strings.TrimPrefix(string(kv.Key), root)
			if key == keyHead {
				headRev = kv.ModRevision
			} else {
				resRev = max(resRev, kv.ModRevision)
			}
			if err := fresh.apply(kv.ModRevision, []write{{key, kv.Value}}); err != nil {
				return 0, err
			}
		}
	}
	rev := resp.Header.Revision
	e.mu.Lock()
	defer e.mu.Unlock()
	next := *fresh.snap.Load()
	// A deletion leaves no key behind that would carry its revision: then the newest commit's stands for it.
	next.Revision = max(resRev, headRev)
	e.snap.Store(&next)
	e.head, e.headRev = fresh.head, headRev
	e.history.begin(next.Revision)
	e.observedLocked(rev, true)
	return rev, nil
}

// loadAgain loads until it succeeds or ctx ends; it then returns nil.
func (e *Etcd) loadAgain(ctx context.Context, c *clientv3.Client) (int64, error) {
	for {
		rev, err := e.load(ctx, c)
		if err == nil || ctx.Err() != nil {
			return rev, nil
		}
		e.cfg.Log.Warn("store load failed, trying again", logkey.Error, err)
		select {
		case <-ctx.Done():
			return 0, nil
		case <-time.After(time.Second):
		}
	}
}

// follow applies every change from a revision on, until the watch breaks.
func (e *Etcd) follow(ctx context.Context, c *clientv3.Client, from int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for resp := range c.Watch(clientv3.WithRequireLeader(ctx), root, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if err := resp.Err(); err != nil {
			return err
		}
		// One response may hold several revisions, but never a part of one.
		var batch []write
		for i, ev := range resp.Events {
			w := write{key: strings.TrimPrefix(string(ev.Kv.Key), root)}
			if ev.Type == clientv3.EventTypePut {
				w.value = ev.Kv.Value
			}
			batch = append(batch, w)
			if i+1 < len(resp.Events) && resp.Events[i+1].Kv.ModRevision == ev.Kv.ModRevision {
				continue
			}
			if err := e.apply(ev.Kv.ModRevision, batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	return errors.New("watch channel closed")
}

// Txn implements Store.
func (e *Etcd) Txn(ctx context.Context, f func(*Tx) error) (int64, error) {
	c := e.client.Load()
	if c == nil {
		return 0, ErrNotReady
	}
	e.txn.Lock()
	defer e.txn.Unlock()
	for range maxAttempts {
		snap, head, headRev := e.current()
		tx := newTx(snap, &head, func(key string) ([]byte, error) { return e.Get(ctx, key) })
		if err := f(tx); err != nil {
			return 0, err
		}
		writes, err := tx.writes()
		if err != nil || writes == nil {
			return snap.Revision, err
		}
		failpoint.Here("store.before")
		rev, ok, err := e.commit(ctx, c, headRev, writes)
		if err != nil {
			return 0, fmt.Errorf("store: commit: %w", err)
		}
		failpoint.Here("store.committed")
		if err := e.wait(ctx, rev); err != nil {
			return 0, fmt.Errorf("store: wait for revision %d: %w", rev, err)
		}
		if ok {
			tx.committed(rev)
			return rev, nil
		}
	}
	return 0, fmt.Errorf("store: commit: lost %d races with other servers; try again", maxAttempts)
}

// commit writes everything if nobody committed since headRev. It returns the revision to wait for before going on.
func (e *Etcd) commit(ctx context.Context, c *clientv3.Client, headRev int64, writes []write) (int64, bool, error) {
	ops := make([]clientv3.Op, 0, len(writes))
	for _, w := range writes {
		if w.value == nil {
			ops = append(ops, clientv3.OpDelete(root+w.key))
		} else {
			ops = append(ops, clientv3.OpPut(root+w.key, string(w.value)))
		}
	}
	var resp *clientv3.TxnResponse
	err := e.withRoom(ctx, c, func() (err error) {
		resp, err = c.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(root+keyHead), "=", headRev)).
			Then(ops...).
			Else(clientv3.OpGet(root + keyHead)).
			Commit()
		return err
	})
	if err != nil {
		return 0, false, err
	}
	if resp.Succeeded {
		return resp.Header.Revision, true, nil
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return 0, false, errors.New("the head key is gone; restore a backup")
	}
	return kvs[0].ModRevision, false, nil
}

// Get implements Store.
func (e *Etcd) Get(ctx context.Context, key string) ([]byte, error) {
	c := e.client.Load()
	if c == nil {
		return nil, ErrNotReady
	}
	resp, err := c.Get(ctx, root+key)
	if err != nil {
		return nil, fmt.Errorf("store: get %s: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, nil
	}
	return resp.Kvs[0].Value, nil
}

// Put implements Store.
func (e *Etcd) Put(ctx context.Context, key string, value []byte) error {
	c := e.client.Load()
	if c == nil {
		return ErrNotReady
	}
	if err := e.withRoom(ctx, c, func() error {
		_, err := c.Put(ctx, root+key, string(value))
		return err
	}); err != nil {
		return fmt.Errorf("store: put %s: %w", key, err)
	}
	return nil
}

// Delete implements Store.
func (e *Etcd) Delete(ctx context.Context, key string) error {
	c := e.client.Load()
	if c == nil {
		return ErrNotReady
	}
	if _, err := c.Delete(ctx, root+key); err != nil {
		return fmt.Errorf("store: delete %s: %w", key, err)
	}
	return nil
}

// List implements Store.
func (e *Etcd) List(ctx context.Context, prefix, after string, limit int) ([]KV, error) {
	c := e.client.Load()
	if c == nil {
		return nil, ErrNotReady
	}
	from := root + max(prefix, after+"\x00")
	resp, err := c.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(root+prefix)),
		clientv3.WithLimit(int64(limit)))
	if err != nil {
		return nil, fmt.Errorf("store: list %s: %w", prefix, err)
	}
	out := make([]KV, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		out = append(out, KV{strings.TrimPrefix(string(kv.Key), root), kv.Value})
	}
	return out, nil
}

var _ Store = (*Etcd)(nil)
