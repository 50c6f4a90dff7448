package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFlowsOfAnArchive: a small archive is written and asked, and the answers are what is in it.
func TestFlowsOfAnArchive(t *testing.T) {
	r := &flowsResult{o: flowsOptions{rounds: 1}, where: "here"}
	if err := r.measureArchive(t.Context(), filepath.Join(t.TempDir(), "a"), 7200); err != nil {
		t.Fatal(err)
	}
	a := r.archives[0]
	if all := a.questions[3].work; all.Rows != 7200 || all.Matched != 7200 || all.Files != archiveHours || all.Again != 0 {
		t.Errorf("all of it: %v", all)
	}
	if hour := a.questions[1].work; hour.Files > 30 || hour.Rows > 400 {
		t.Errorf("one hour: %v", hour)
	}
	if a.bytes < 7200*20 || a.cpu <= 0 {
		t.Errorf("%d bytes, %.3f s", a.bytes, a.cpu)
	}
	text := r.markdown()
	for _, q := range questions {
		if !strings.Contains(text, "| "+q.name+" | ") {
			t.Errorf("%q is not in the result:\n%s", q.name, text)
		}
	}
}

// TestArchivesAreKept: an archive is written once, goes on where it was left, and is not taken where half of it may be there.
func TestArchivesAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	first := archive{lines: 1440}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := first.write(ended, dir); !errors.Is(err, context.Canceled) {
		t.Fatalf("a run that is ended: %v", err)
	}
	if err := first.write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	made, err := os.Stat(hourFile(dir, 5))
	if err != nil {
		t.Fatal(err)
	}
	again := archive{lines: 1440}
	if err := again.write(t.Context(), dir); err != nil || again.cpu != first.cpu || again.bytes != first.bytes {
		t.Errorf("taken again: %+v, %v; was %+v", again, err, first)
	}
	if kept, err := os.Stat(hourFile(dir, 5)); err != nil || !os.SameFile(made, kept) {
		t.Errorf("an hour is written anew: %v", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, wroteFile)), os.WriteFile(hourFile(dir, 5), []byte("half"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := again.write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(hourFile(dir, 5)); err != nil || info.Size() != made.Size() {
		t.Errorf("half an hour stays: %v", err)
	}
}

func TestFlowsOptions(t *testing.T) {
	for _, args := range [][]string{{"-sizes", "0"}, {"-sizes", "x"}, {"-rounds", "0", "-files-only"}, {"-keep"}, {"-build", "-dir", "x"}} {
		if err := benchFlows(args, nil); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
