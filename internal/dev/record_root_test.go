package dev

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestDamagedRecord(t *testing.T) {
	l, err := New(Config{Prefix: "cvrec"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.StateDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(l.StateDir()) })
	if _, err := l.Load(); !errors.Is(err, ErrNoMesh) {
		t.Fatalf("no record: %v", err)
	}
	want := &Record{Hosts: []Host{{Name: "host-a", Netns: "cvrec-host-a", Address: netip.MustParseAddr("10.99.0.10")}}}
	if err := l.save(want); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(l.StateDir("mesh.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range [][]byte{nil, whole[:len(whole)/2], []byte("\x00\x01")} {
		if err := os.WriteFile(l.StateDir("mesh.json"), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := l.Load(); err != nil || len(r.Hosts) != 1 || r.Hosts[0].Name != "host-a" {
			t.Errorf("%q: %+v, %v", damaged, r, err)
		}
	}
	if err := os.WriteFile(l.StateDir(recordCopy), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Load(); err == nil || !strings.Contains(err.Error(), "ip netns list") || !strings.Contains(err.Error(), l.StateDir("mesh.json")) {
		t.Errorf("both damaged: %v", err)
	}
}
