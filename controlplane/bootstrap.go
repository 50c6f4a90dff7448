package controlplane

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/ca"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
)

// Secrets in the store, made once by whichever server starts first.
const (
	secretCAKey      = store.PrefixSecret + "ca-key"
	secretCACert     = store.PrefixSecret + "ca-cert"
	secretViewKey    = store.PrefixSecret + "view-key"
	secretGossipKeys = store.PrefixSecret + "gossip-keys"
	// secretFirstKey is the first administrator's key, until it was told: a server that dies before that tells it later.
	secretFirstKey = store.PrefixSecret + "first-admin-key"
)

// bootstrap makes what a new store lacks, loads what it has, and writes ca.pem.
func (s *Server) bootstrap(ctx context.Context) error {
	secrets := map[string][]byte{}
	_, err := s.store.Txn(ctx, func(tx *store.Tx) error {
		fresh, err := newSecrets(s)
		if err != nil {
			return err
		}
		for key, value := range fresh {
			have, err := tx.Side(key)
			if err != nil {
				return err
			}
			// Key and certificate of the CA are made together: one of them decides for both.
			if have == nil {
				have = value
				tx.SetSide(key, value)
			}
			secrets[key] = have
		}
		if tx.Resources().Mesh.Number != 0 {
			return nil
		}
		tx.SetMesh(api.Mesh{Number: randomMesh(), Region: s.cfg.Region})
		key, secret := newKey(s.cfg.Now())
		key.Admin, key.Name = true, "first-admin"
		tx.SetSide(secretFirstKey, []byte(secret))
		tx.Put(key)
		e := systemEvent(s.cfg.Now(), "bootstrap")
		e.Resource = key.ID
		tx.Audit(e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("server: bootstrap: %w", err)
	}
	failpoint.Here("bootstrap.stored")
	if s.ca, err = ca.Load(secrets[secretCAKey], secrets[secretCACert]); err != nil {
		return err
	}
	s.viewKey = ed25519.NewKeyFromSeed(secrets[secretViewKey])
	if err := s.showCA(); err != nil {
		return fmt.Errorf("server: write ca.pem: %w", err)
	}
	if err := s.tellFirstKey(ctx); err != nil {
		return err
	}
	if err := s.checkClock(ctx); err != nil {
		return err
	}
	return errors.Join(s.loadStatuses(ctx), s.loadHealth(ctx))
}

// showCA puts the CA's certificate where clients find it, unless it is there: a server must be able to start on a full disk. What
// is there instead, or could have been written by others, is replaced.
func (s *Server) showCA() error {
	path := filepath.Join(s.cfg.DataDir, "ca.pem")
	info, err := os.Lstat(path)
	if err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory, and not of the server's: remove it", path)
	}
	if err == nil && info.Mode() == 0o644 && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid() {
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, s.ca.PEM()) {
			return nil
		}
	}
	return writeFile(path, s.ca.PEM(), 0o644)
}

// tellFirstKey hands out the first administrator's key and forgets it. Who dies in between tells it twice.
func (s *Server) tellFirstKey(ctx context.Context) error {
	secret, err := s.store.Get(ctx, secretFirstKey)
	if err != nil || secret == nil {
		return err
	}
	if s.cfg.AdminKey != nil {
		s.cfg.AdminKey(string(secret))
	}
	failpoint.Here("bootstrap.told")
	return s.store.Delete(ctx, secretFirstKey)
}

const (
	// clockSlack is how far the clock may be behind the store's last write without a word.
	clockSlack = time.Minute
	// clockTrust is how far it may be behind without being believed: a node's certificate can be renewed for as long after its end.
	clockTrust = ca.RenewalGrace
)

// checkClock notes when the store was last written, by its newest audit event. A clock that is behind is said, and does not go
// into certificates: those that it dates would have ended when the clock is right again, and with them the nodes' way back.
func (s *Server) checkClock(ctx context.Context) error {
	newest, err := s.store.List(ctx, store.PrefixAudit, "", auditPage)
	if err != nil {
		return err
	}
	var e api.AuditEvent
	for _, kv := range newest {
		e = api.AuditEvent{}
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			return fmt.Errorf("server: the audit event %s cannot be read: restore a backup of the data directory: %w", kv.Key, err)
		}
		if e.Action != api.ActionStartServer && e.Action != api.ActionStopServer { // those are dated by whatever clock a start has
			break
		}
	}
	if e.At.IsZero() {
		return nil
	}
	now := s.cfg.Now()
	s.floor = datingFloor(now, e.At, s.ca)
	switch {
	case s.floor.IsZero():
		s.log.Error("what was written is dated far ahead of this machine's clock, which is believed: if it is wrong, set it and restart",
			logkey.Clock, now.UTC(), logkey.Written, e.At.UTC())
	case now.Before(e.At.Add(-clockSlack)):
		s.log.Error("this machine's clock is behind what the server has written already: set it, and keep it by NTP", logkey.Clock, now.UTC(),
			logkey.Written, e.At.UTC())
	}
	return nil
}

// datingFloor is the time before which no certificate is dated; zero: there is none. A clock far behind what was written may be right,
// and the one that wrote was ahead: certificates of then would be good for years, or beyond the CA's end for nobody. Only a clock
// that is behind the CA's beginning is surely wrong.
func datingFloor(now, written time.Time, authority *ca.Authority) time.Time {
	switch {
	case now.Before(authority.NotBefore()):
		if written.After(authority.NotAfter()) {
			return authority.NotBefore()
		}
	case written.Sub(now) > clockTrust:
		return time.Time{}
	}
	return written
}

// certifying is the time that certificates are dated by.
func (s *Server) certifying(now time.Time) time.Time {
	if now.Before(s.floor) {
		return s.floor
	}
	return now
}

func newSecrets(s *Server) (map[string][]byte, error) {
	keyPEM, certPEM, err := ca.Create(s.cfg.Now())
	if err != nil {
		return nil, err
	}
	gossip, err := firstGossipKeys()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		secretCAKey: keyPEM, secretCACert: certPEM,
		secretViewKey: randomBytes(ed25519.SeedSize), secretGossipKeys: gossip,
	}, nil
}

// randomMesh draws the 24 bits that tell meshes apart; 0 stands for none.
func randomMesh() uint32 {
	for {
		if n := binary.BigEndian.Uint32(randomBytes(4)) & 0xffffff; n != 0 {
			return n
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, crypto/rand says
	return b
}

func newID(prefix string) string { return api.MakeID(prefix, [9]byte(randomBytes(9))) }

func newAccountID() string { return api.MakeAccountID(binary.BigEndian.Uint64(randomBytes(8))) }

// writeFile replaces a file as a whole or not at all.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	failpoint.Here("server.file-written")
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// loadStatuses brings back what nodes reported before the server stopped.
func (s *Server) loadStatuses(ctx context.Context) error {
	return s.eachSide(ctx, store.PrefixStatus, func(kv store.KV) error {
		var st api.NodeStatus
		if err := json.Unmarshal(kv.Value, &st); err == nil {
			s.hub.restore(st)
		}
		return nil
	})
}

// saveStatuses writes the statuses that changed since the last time.
func (s *Server) saveStatuses(ctx context.Context) {
	for _, st := range s.hub.takeDirty() {
		data, err := json.Marshal(st)
		if err == nil {
			err = s.store.Put(ctx, store.PrefixStatus+st.Node, data)
		}
		if err != nil {
			s.log.Warn("node status not saved", logkey.Node, st.Node, logkey.Error, err)
		}
	}
}
