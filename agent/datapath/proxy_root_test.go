package datapath

import (
	"net"
	"testing"
)

// listen opens the port of a target.
func (w *workload) listen(t *testing.T) net.Listener {
	t.Helper()
	var ln net.Listener
	if err := w.Do(func() (err error) { ln, err = net.Listen("tcp", ":8443"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// reopenHost makes a new agent's datapath of what is there.
func (m *mesh) reopenHost(h *meshHost) {
	m.t.Helper()
	old := h.dp
	if err := h.Do(func() (err error) { h.dp, err = Open(h.cfg); return err }); err != nil {
		m.t.Fatalf("open again: %+v", err)
	}
	if err := old.Close(); err != nil {
		m.t.Fatal(err)
	}
}
