package datapath

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
