package treelog

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
)

const origin = "mesh.example/log"

var logKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

func signer(t *testing.T) note.Signer {
	t.Helper()
	s, err := NewSigner(origin, logKey)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func event(seq uint64) leaf.Leaf {
	return leaf.Leaf{Type: leaf.TypeAudit, Event: &api.AuditEvent{Seq: seq, Action: "create-vpc"}}
}

// read returns the sequences of a log's events, and how many other leaves it has.
func read(t *testing.T, r Reader) (events []uint64, others int) {
	t.Helper()
	next := uint64(0)
	err := r.Leaves(t.Context(), 0, func(i uint64, l leaf.Leaf) error {
		if i != next {
			t.Errorf("leaf %d comes as %d", next, i)
		}
		next++
		if l.Type == leaf.TypeAudit {
			events = append(events, l.Event.Seq)
		} else {
			others++
		}
		return nil
	})
	if size, errSize := r.Size(t.Context()); err != nil || errSize != nil || size != next {
		t.Fatalf("%d leaves of %d, %v, %v", next, size, err, errSize)
	}
	return events, others
}

func TestMemIsALog(t *testing.T) {
	m := NewMem(origin, nil, signer(t))
	if first, err := m.AppendAll(t.Context(), []leaf.Leaf{event(1), event(2)}); err != nil || first != 0 {
		t.Fatal(first, err)
	}
	for range 2 { // the second time it is the same
		if at, err := m.Append(t.Context(), event(3)); err != nil || at != 2 {
			t.Error(at, err)
		}
	}
	other := event(3)
	other.Event.Action = "delete-vpc"
	if at, err := m.Append(t.Context(), other); err != nil || at != 3 {
		t.Error("what says something else is another leaf:", at, err)
	}
	broken := errors.New("broken")
	m.Fail(broken)
	if _, err := m.Append(t.Context(), event(4)); !errors.Is(err, broken) {
		t.Error(err)
	}
	if events, _ := read(t, m); len(events) != 4 {
		t.Error(events)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Append(ctx, event(5)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	data, err := m.Published(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(VerifierKey(origin, logKey.Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := tiles.ParseSigned(data)
	if err != nil || c.Size != 4 {
		t.Fatal(c, err)
	}
	if has, valid := c.SignedBy(v); !has || !valid {
		t.Errorf("%s", data)
	}
	if _, err := m.Published(t.Context(), 4); err == nil {
		t.Error("a checkpoint over a leaf that is none")
	}
}
