package dev

import (
	"slices"
	"testing"
)

// TestLogging: every process of the mesh is told how to log, and where nothing was said its own defaults hold.
func TestLogging(t *testing.T) {
	l, err := New(Config{Prefix: "logging"})
	if err != nil {
		t.Fatal(err)
	}
	for _, kernel := range []bool{false, true} {
		r := &Record{Kernel: kernel, Hosts: []Host{hostNumber(0)}, LogLevel: "debug", LogFormat: "json"}
		for _, p := range l.processes(r) {
			i := slices.Index(p.args, "--log-level")
			if i < 0 || !slices.Equal(p.args[i:i+4], []string{"--log-level", "debug", "--log-format", "json"}) {
				t.Errorf("%s: %q", p, p.args)
			}
		}
		r.LogLevel, r.LogFormat = "", ""
		for _, p := range l.processes(r) {
			if slices.Contains(p.args, "--log-level") || slices.Contains(p.args, "--log-format") {
				t.Errorf("%s: %q", p, p.args)
			}
		}
	}
}
