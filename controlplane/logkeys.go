package controlplane

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/internal/ownfile"
)

const (
	// maxLogKeyFile bounds DATA/log.key, in bytes.
	maxLogKeyFile = 1 << 10
	// maxLogKeys bounds the keys of one node: it makes another one only where it has lost its own.
	maxLogKeys = 64
)

func (s *Server) registerLogKeys() {
	writing(s, operation{http.MethodPost, "/v1/node/log-key", "report-log-key", "Tell what the node's log is sealed with", aNode}, reportLogKey)
	reading(s, operation{http.MethodGet, "/v1/log-key", "get-log-key", "The key that checkpoints of the Merkle log are checked with", aUser},
		func(c *call, _ *none) (*api.LogKey, error) { return &c.s.logKey, nil })
}

// nodeKeys are what nodes' seals are checked with: keys that stand in the Merkle log.
type nodeKeys struct {
	mu      sync.Mutex
	by      map[string]map[string]ed25519.PublicKey // by node and the key's id
	waiting map[string]bool                         // nodes with a key that is stored and not in the Merkle log
}

func (k *nodeKeys) get(node, id string) ed25519.PublicKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.by[node][id]
}

func (k *nodeKeys) set(node, id string, key ed25519.PublicKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by == nil {
		k.by = map[string]map[string]ed25519.PublicKey{}
	}
	if k.by[node] == nil {
		k.by[node] = map[string]ed25519.PublicKey{}
	}
	k.by[node][id] = key
	delete(k.waiting, node)
}

// wait notes that a node's key is not in the Merkle log yet. One that stands there, too, may be its newer one.
func (k *nodeKeys) wait(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting == nil {
		k.waiting = map[string]bool{}
	}
	k.waiting[node] = true
}

func (k *nodeKeys) waits(node string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.waiting[node]
}

func (k *nodeKeys) count(node string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.by[node])
}

func (k *nodeKeys) forget(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.by, node)
	delete(k.waiting, node)
}

// keptKey is a node's key in the store.
type keptKey struct {
	Key  []byte    `json:"key"`
	From time.Time `json:"from"`
	Told bool      `json:"told"` // it stands in the Merkle log
	// Proof is the certificate's word for it; nil: an older agent told it.
	Proof *seal.Proof `json:"proof,omitempty"`
	// Later: the proof came when the key stood in the Merkle log without one, and is not there yet.
	Later bool `json:"later,omitempty"`
}

// prove takes a proof that a node told now, where the Merkle log has none yet, and reports whether it did: certificates last a day, and the
// log has to get one that is good then.
func (k *keptKey) prove(p *seal.Proof) bool {
	switch {
	case p == nil, k.Told && !k.Later && k.Proof != nil:
		return false
	}
	k.Proof, k.Later = p, k.Told
	return true
}

func logKeyOf(node, id string) string { return store.PrefixLogKey + node + "/" + id }

// reportLogKey takes a key. Keys that a node had before stay good for what they signed. The key goes into the Merkle log once it is
// stored, and only then are seals taken that it signed. A proof that comes later goes there, too.
func reportLogKey(c *call, in *fromNode[api.LogKeyRequest]) (*api.Result, error) {
	n := c.r.Nodes[c.who.node.ID]
	if e := notAdmitted(n, c.who.node.ID); e != nil {
		return nil, e
	}
	c.subject = n.ID
	if len(in.Body.PublicKey) != ed25519.PublicKeySize {
		return nil, api.Errorf(api.CodeInvalidParameter, "publicKey", "give the 32 bytes of an Ed25519 public key", "it has %d bytes",
			len(in.Body.PublicKey))
	}
	proof, err := c.proofOf(n.ID, &in.Body)
	if err != nil {
		return nil, err
	}
	id := seal.KeyID(in.Body.PublicKey)
	side := logKeyOf(n.ID, id)
	have, err := c.tx.Side(side)
	if err != nil {
		return nil, err
	}
	if err := c.keepKey(n.ID, id, have, keptKey{Key: in.Body.PublicKey, From: c.now, Proof: proof}); err != nil {
		return nil, err
	}
	ctx := c.ctx
	c.then = func() {
		c.s.trouble("log-key-"+n.ID, "telling the Merkle log of a key of the node "+n.Name, c.s.tellKey(ctx, n.ID, id))
	}
	return &api.Result{}, nil
}

// keepKey stores a key that is new, or has its proof now; have is what the store has of it.
func (c *call) keepKey(node, id string, have []byte, k keptKey) error {
	var before any
	if have == nil {
		if n := c.s.nodeKeys.count(node); n >= maxLogKeys {
			return api.Errorf(api.CodeLimitExceeded, "publicKey", "keep flow-log.key of the agent's data directory, or join the node anew",
				"the node has had %d keys, at most %d are kept", n, maxLogKeys)
		}
	} else {
		proof := k.Proof
		k = keptKey{}
		if err := json.Unmarshal(have, &k); err != nil {
			return fmt.Errorf("key %s of the node %s: %w", id, node, err)
		}
		before = k
		if !k.prove(proof) {
			return nil
		}
	}
	if err := c.changes("log-keys", id, before, k); err != nil {
		return err
	}
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	c.tx.SetSide(logKeyOf(node, id), data)
	return nil
}

// proofOf is the certificate's word for a key, which must be good where there is one.
func (c *call) proofOf(node string, r *api.LogKeyRequest) (*seal.Proof, error) {
	if len(r.Certificate) == 0 && len(r.Signature) == 0 {
		return nil, nil
	}
	p := &seal.Proof{Certificate: r.Certificate, Signature: r.Signature}
	cert, err := p.Check(node, r.PublicKey)
	if err == nil {
		_, err = c.s.ca.Node(cert, c.now, 0)
	}
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "signature", "sign with the key of the node's certificate, as docs/EVIDENCE.md says",
			"the certificate does not vouch for the key: %s", api.Shortened(oneLine(err.Error())))
	}
	return p, nil
}

// tellKey puts a stored key into the Merkle log, once, and takes its seals from then on. One whose proof is not good any more waits for
// another: the node is asked for it when it sends next.
func (s *Server) tellKey(ctx context.Context, node, id string) error {
	data, err := s.store.Get(ctx, logKeyOf(node, id))
	if err != nil || data == nil {
		return err
	}
	var k keptKey
	if err := json.Unmarshal(data, &k); err != nil {
		return fmt.Errorf("key %s of the node %s: %w", id, node, err)
	}
	if !k.Told {
		s.nodeKeys.wait(node)
	}
	if now := s.cfg.Now().UTC(); (!k.Told || k.Later) && s.goodProof(&k, node, now) {
		l := leaf.OfNodeKey(now, node, k.Key)
		l.NodeKey.Proof = k.Proof
		if _, err := s.tree.Append(ctx, l); err != nil {
			return err
		}
		k.Told, k.Later = true, false
		if data, err = json.Marshal(k); err != nil {
			return err
		}
		if err := s.store.Put(ctx, logKeyOf(node, id), data); err != nil {
			return err
		}
	}
	if k.Told {
		s.nodeKeys.set(node, id, k.Key)
	}
	return nil
}

// goodProof tells whether the Merkle log may get what vouches for a key: nothing, where an older agent told it, or a certificate that is good now.
func (s *Server) goodProof(k *keptKey, node string, now time.Time) bool {
	if k.Proof == nil {
		return true
	}
	cert, err := k.Proof.Check(node, k.Key)
	if err == nil {
		_, err = s.ca.Node(cert, now, 0)
	}
	if err != nil {
		s.log.Warn("what vouches for a node's log key is not good any more, the node is asked again", logkey.Node, node, logkey.Error, err)
	}
	return err == nil
}

// loadNodeKeys brings back the keys that nodes have told.
func (s *Server) loadNodeKeys(ctx context.Context) error {
	return s.eachSide(ctx, store.PrefixLogKey, func(kv store.KV) error {
		node, id, ok := strings.Cut(strings.TrimPrefix(kv.Key, store.PrefixLogKey), "/")
		if !ok {
			return nil
		}
		return s.tellKey(ctx, node, id)
	})
}

// forgetNodeKeys drops the keys of a node that is deleted. The Merkle log keeps them.
func (s *Server) forgetNodeKeys(ctx context.Context, node string) error {
	s.nodeKeys.forget(node)
	return s.eachSide(ctx, store.PrefixLogKey+node+"/", func(kv store.KV) error { return s.store.Delete(ctx, kv.Key) })
}

// loadLogKey reads the key that signs the Merkle log, or makes it at the first start. A log without its key is not begun anew: nobody
// could tell whether the server was replaced.
func (s *Server) loadLogKey() (note.Signer, error) {
	path := filepath.Join(s.cfg.DataDir, "log.key")
	data, err := ownfile.Read(path, maxLogKeyFile)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(s.evidenceDir(), "log", "checkpoint")); err == nil {
			return nil, fmt.Errorf("server: %s is missing, and %s is signed by it: restore it from a backup", path, s.evidenceDir())
		}
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, fmt.Errorf("server: make a key for the Merkle log: %w", err)
		}
		origin := fmt.Sprintf("culvert.internal/%06x", s.store.Snapshot().Mesh.Number)
		data = []byte(tiles.SignerKey(origin, key) + "\n")
		if err := writeFile(path, data, 0o600); err != nil {
			return nil, fmt.Errorf("server: write %s: %w", path, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("server: key of the Merkle log: %w", err)
	}
	signer, key, err := readLogKey(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("server: %s is no key (restore it from a backup): %w", path, err)
	}
	s.logKey = api.LogKey{Origin: signer.Name(), VerifierKey: tiles.LogKey(signer.Name(), key)}
	return signer, nil
}

// readLogKey reads a private key as signed notes have it: PRIVATE+KEY+NAME+HASH+BASE64, the base64 of an algorithm and a seed.
func readLogKey(text string) (note.Signer, ed25519.PublicKey, error) {
	signer, err := note.NewSigner(text)
	if err != nil {
		return nil, nil, err
	}
	parts := strings.SplitN(text, "+", 5) // base64 has that sign, too
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, nil, errors.New("it has no seed of an Ed25519 key")
	}
	return signer, ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey), nil
}
