package wire

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
)

// Passer is a Device that counts what passes, by peer.
type Passer interface {
	// Passages returns what was counted, in the order of keys. A peer that is gone stays until its last count was settled. name gives the
	// node that a key is of, "" where it is not known; the answer is kept beside the counts, of which it has no more than 32 bytes.
	Passages(ctx context.Context, name func(PublicKey) string) ([]Passage, error)

	// Settle notes that these counts are written down: until they are others they are not Changed.
	Settle(ctx context.Context, done []Passage) error
}

// Passage is how many packets of tenants passed through the device to one peer and from it, since an epoch began: IPv6 packets inside the
// tunnel, joined ones as those that they are on the wire. Those of nodes themselves, and the tunnel's own, are not counted.
type Passage struct {
	Key   PublicKey
	Node  string // as it was named last; "": never
	Epoch Epoch
	Given uint64 // to the device for the peer, before anything that may drop it
	Came  uint64 // authentic, from an address that the peer may use, and handed to the kernel

	Changed bool // since these counts were settled, or they never were
}

// Epoch names one count, which began at 0. It is random.
type Epoch [16]byte

// String is the epoch in hexadecimal.
func (e Epoch) String() string { return hex.EncodeToString(e[:]) }

func comparePassages(a, b Passage) int {
	return cmp.Or(a.Key.Compare(b.Key), slices.Compare(a.Epoch[:], b.Epoch[:]))
}

var (
	_ Passer = (*UAPI)(nil)
	_ Passer = (*Mem)(nil)
)

// Passages implements [Passer], from the file that Culvert's own tunnel process keeps beside its socket, also when that is not running.
// Where there never was one it is fs.ErrNotExist.
func (u *UAPI) Passages(ctx context.Context, name func(PublicKey) string) ([]Passage, error) {
	_, _ = u.exchange(ctx, "passages=1\n\n") // has the file brought up to what the kernel has counted, if it does
	f, err := openPassages(u.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.read(name), nil
}

// Settle implements [Passer].
func (u *UAPI) Settle(_ context.Context, done []Passage) error {
	f, err := openPassages(u.path)
	if err != nil {
		return err
	}
	defer f.Close()
	f.settle(done)
	return nil
}

// Pass has packets pass to a peer that the device has, and from it.
func (m *Mem) Pass(key PublicKey, given, came uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.peers[key] == nil {
		return
	}
	p := m.passages[key]
	if p == nil {
		if m.passages == nil {
			m.passages = make(map[PublicKey]*Passage)
		}
		p = &Passage{Key: key, Epoch: newEpoch()}
		m.passages[key] = p
	}
	p.Given, p.Came, p.Changed = p.Given+given, p.Came+came, true
}

// Passages implements [Passer].
func (m *Mem) Passages(ctx context.Context, name func(PublicKey) string) (out []Passage, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.fail, ctx.Err()); err != nil {
		return nil, err
	}
	for _, p := range m.passages {
		p.Node = cmp.Or(name(p.Key), p.Node)
		out = append(out, *p)
	}
	slices.SortFunc(out, comparePassages)
	return out, nil
}

// Settle implements [Passer].
func (m *Mem) Settle(ctx context.Context, done []Passage) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.fail, ctx.Err()); err != nil {
		return err
	}
	for _, d := range done {
		p := m.passages[d.Key]
		if p == nil || p.Epoch != d.Epoch || p.Given != d.Given || p.Came != d.Came {
			continue
		}
		if p.Changed = false; m.peers[d.Key] == nil {
			delete(m.passages, d.Key)
		}
	}
	return nil
}
