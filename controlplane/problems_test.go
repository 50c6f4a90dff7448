package controlplane

import (
	"errors"
	"slices"
	"testing"
)

// Administrators see what is wrong with the server, and for as long as it is.
func TestProblemsOfTheServer(t *testing.T) {
	l := startLab(t, nil)
	shown := func(key string) []string { return must(l.client(key, "").Status(l.ctx()))(t).Problems }
	before := shown(l.adminKey)
	l.as("shop")
	l.s.trouble("b", "keeping the second", errors.New("no room\n"))
	l.s.trouble("a", "keeping the first", errors.New("no room"))
	l.s.trouble("a", "keeping the first", errors.New("no disk"))
	want := append([]string{"keeping the first fails: no disk", `keeping the second fails: no room\n`}, before...)
	got := shown(l.adminKey)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := shown(l.keys["shop"]); got != nil {
		t.Errorf("an account sees %q", got)
	}
	l.s.trouble("a", "keeping the first", nil)
	l.s.trouble("b", "keeping the second", nil)
	if got := shown(l.adminKey); !slices.Equal(got, before) {
		t.Errorf("%q, want %q", got, before)
	}
}
