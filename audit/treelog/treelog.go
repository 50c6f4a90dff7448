package treelog

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
)

// Appender is what most need of a log.
type Appender interface {
	// Append adds a leaf and returns when it is in the tree and on the disk, with its index. What is in the log already, apart from its
	// time, is not added again if it came lately. After an error the leaf may be in the log all the same: append it again.
	Append(context.Context, leaf.Leaf) (index uint64, err error)
	// AppendAll adds leaves in this order, others' possibly between them, and returns the index of the first.
	AppendAll(context.Context, []leaf.Leaf) (first uint64, err error)
}

// Reader reads a log.
type Reader interface {
	// Leaves calls yield for each leaf from an index on, until the end or an error of yield's, which it returns. A leaf of a type that
	// this version does not know has only its type.
	Leaves(ctx context.Context, from uint64, yield func(index uint64, l leaf.Leaf) error) error
	// Size is the number of leaves that are in the tree, under a checkpoint or not yet.
	Size(context.Context) (uint64, error)
	// Checkpoint is the newest one that was published.
	Checkpoint(context.Context) ([]byte, error)
}

// Tree is a log.
type Tree interface {
	Appender
	Reader
	// Published waits until a checkpoint over the leaf with this index was published, and returns it.
	Published(ctx context.Context, index uint64) ([]byte, error)
	Close() error
}

// remembered is how many of the newest leaves are known by their keys: what is appended again is expected within that.
const remembered = 1 << 16

// encoded is a leaf on its way into the log.
type encoded struct {
	key  string
	same [sha256.Size]byte
	data []byte
}

func encode(l *leaf.Leaf, now time.Time) (encoded, error) {
	if l.At.IsZero() {
		l.At = now
	}
	data, err := l.Encode()
	if err != nil {
		return encoded{}, fmt.Errorf("append to the Merkle log: %w", err)
	}
	same, err := l.Same()
	if err != nil {
		return encoded{}, fmt.Errorf("append to the Merkle log: %w", err)
	}
	return encoded{l.Key(), same, data}, nil
}

func decode(data []byte) (leaf.Leaf, error) {
	l, err := leaf.Decode(data)
	if errors.Is(err, leaf.ErrUnknown) {
		return leaf.Leaf{Type: l.Type, At: l.At}, nil
	}
	return l, err
}

// VerifierKey writes a log's public key: a line of the file that verifying takes.
func VerifierKey(origin string, key ed25519.PublicKey) string { return tiles.LogKey(origin, key) }

// NewSigner makes what signs a log's checkpoints.
func NewSigner(origin string, key ed25519.PrivateKey) (note.Signer, error) {
	s, err := note.NewSigner(tiles.SignerKey(origin, key))
	if err != nil {
		return nil, fmt.Errorf("key of the log %q: %w", origin, err)
	}
	return s, nil
}
