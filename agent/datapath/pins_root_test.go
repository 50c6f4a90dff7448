package datapath

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Pins that somebody removed come back with the next Apply, and hold everything: the next agent takes it up, and a flow
// that was open before does not notice.
func TestPinsComeBack(t *testing.T) {
	for name, noTCX := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, func(c *Config) { c.noTCX = noTCX })
			near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
			for _, h := range []*meshHost{m.a, m.b} {
				before := pins(t, h)
				if err := os.RemoveAll(h.dp.dir); err != nil {
					t.Fatal(err)
				}
				m.applyPlan(h, m.plan(h))
				if after := pins(t, h); len(before) == 0 || len(after) != len(before) {
					t.Fatalf("pins before %v, after %v", before, after)
				}
				old := h.dp
				if err := h.Do(func() (err error) {
					if err := old.Close(); err != nil {
						return err
					}
					h.dp, err = Open(h.cfg)
					return err
				}); err != nil {
					t.Fatalf("open again: %+v", err)
				}
			}
			want := []byte("still here")
			if err := errors.Join(send(near, want), receive(far, want), send(far, want), receive(near, want)); err != nil {
				t.Errorf("a flow that was open: %v", err)
			}
		})
	}
}

// pins are the files under a host's pin path.
func pins(t *testing.T, h *meshHost) (files []string) {
	t.Helper()
	if err := filepath.WalkDir(h.dp.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

// A bpffs that is unmounted under a running agent is mounted again and holds the same, and forwarding goes on meanwhile.
func TestPinsComeBackAfterAnUnmount(t *testing.T) {
	m := newMesh(t)
	near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	h, want := m.a, []byte("still here")
	before := pins(t, h)
	if err := unix.Unmount(h.cfg.PinPath, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(send(near, want), receive(far, want)); err != nil {
		t.Errorf("with the bpffs gone: %v", err)
	}
	m.applyPlan(h, m.plan(h))
	if after := pins(t, h); len(before) == 0 || len(after) != len(before) {
		t.Errorf("pins before %v, after %v", before, after)
	}
	if err := errors.Join(send(far, want), receive(near, want)); err != nil {
		t.Errorf("with the bpffs back: %v", err)
	}
}
