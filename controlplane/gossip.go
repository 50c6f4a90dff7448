package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
)

const (
	gossipKeyLen = 32 // AES-256
	// gossipOverlap is how long the key before is still understood: nodes get the new one with their next view, within seconds
	// of each other. A node that hears of it later is without gossip until then, which costs it hints only.
	gossipOverlap = 5 * time.Minute
	// maxGossipKeys bounds the keys that a node has to try, when several nodes are revoked at once.
	maxGossipKeys = 4
)

// gossipKey is a key of the mesh's gossip; the store holds a list of them, newest first.
type gossipKey struct {
	Key []byte `json:"key"`
	// Until is when a key that was replaced is forgotten; zero: it is the newest.
	Until time.Time `json:"until,omitzero"`
}

// firstGossipKeys is what a new store begins with.
func firstGossipKeys() ([]byte, error) {
	return json.Marshal([]gossipKey{{Key: randomBytes(gossipKeyLen)}})
}

func decodeGossipKeys(data []byte) (keys []gossipKey, err error) {
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	if len(keys) == 0 {
		return nil, errors.New("gossip keys: the store has none")
	}
	return keys, nil
}

// rotateGossip makes a new gossip key: a node that is shut out knows the one there is.
func (c *call) rotateGossip() error {
	data, err := c.tx.Side(secretGossipKeys)
	if err != nil {
		return err
	}
	old, err := decodeGossipKeys(data)
	if err != nil {
		return err
	}
	keys := []gossipKey{{Key: randomBytes(gossipKeyLen)}}
	for _, k := range old {
		if k.Until.IsZero() {
			k.Until = c.now.Add(gossipOverlap)
		}
		if c.now.Before(k.Until) && len(keys) < maxGossipKeys {
			keys = append(keys, k)
		}
	}
	if data, err = json.Marshal(keys); err != nil {
		return err
	}
	c.tx.SetSide(secretGossipKeys, data)
	return nil
}

// gossipRing holds the keys as of a picture: they change only with a transaction that changes that too.
type gossipRing struct {
	mu   sync.Mutex
	of   *api.Resources
	keys []gossipKey
}

// gossipKeys are the keys that nodes are to know now, the one to speak with first.
func (s *Server) gossipKeys(ctx context.Context, r *api.Resources) ([][]byte, error) {
	g := &s.gossip
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of != r {
		data, err := s.store.Get(ctx, secretGossipKeys)
		if err != nil {
			return nil, err
		}
		keys, err := decodeGossipKeys(data)
		if err != nil {
			return nil, err
		}
		g.of, g.keys = r, keys
	}
	var out [][]byte
	for _, k := range g.keys {
		if k.Until.IsZero() || s.cfg.Now().Before(k.Until) {
			out = append(out, k.Key)
		}
	}
	return out, nil
}
