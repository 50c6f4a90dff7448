// Package badinput is the shape of every table of bad input: what is handed in, and how it must be refused. For tests.
package badinput

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/culvert-net/culvert/api"
)

// Row is one bad input of a surface, whose inputs are of type In.
type Row[In any] struct {
	Name   string
	In     In
	Code   api.ErrorCode // "": the surface has no codes
	Field  string        // as it must be named
	Remedy string        // a part of what must be said to do; never ""
}

// slow is how long a refusal may take on a machine that is busy with other tests.
const slow = 5 * time.Second

// Table hands each row's input in by do, which returns the refusal, and looks that the state is the same before and after.
func Table[In any](t *testing.T, rows []Row[In], state func() any, do func(*testing.T, In) error) {
	t.Helper()
	names := map[string]bool{}
	for _, r := range rows {
		if names[r.Name] {
			t.Errorf("the name %q is given to two rows", r.Name)
		}
		names[r.Name] = true
		t.Run(r.Name, func(t *testing.T) {
			before, start := state(), time.Now()
			err := do(t, r.In)
			if took := time.Since(start); took > slow {
				t.Errorf("the refusal took %v", took)
			}
			if after := state(); !reflect.DeepEqual(before, after) {
				t.Errorf("something changed: %s", difference(before, after))
			}
			Check(t, err, r.Code, r.Field, r.Remedy)
		})
	}
}

// difference tells where two states part, in a line.
func difference(before, after any) string {
	b, a := fmt.Sprintf("%q", before), fmt.Sprintf("%q", after)
	at := 0
	for at < min(len(b), len(a)) && b[at] == a[at] {
		at++
	}
	const around = 100
	from := max(0, at-around)
	return fmt.Sprintf("%.200s… became %.200s…", b[min(from, len(b)):], a[min(from, len(a)):])
}

// maxRefusal bounds a refusal, in bytes: it does not send the input back.
const maxRefusal = 2000

// Check looks at one refusal: an *api.Error of that code and field whose remedy has that part or, where the surface has no
// codes, a sentence that has both.
func Check(t *testing.T, err error, code api.ErrorCode, field, remedy string) {
	t.Helper()
	if err == nil {
		t.Error("it was accepted")
		return
	}
	text := err.Error()
	if len(text) > maxRefusal || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("no sentence of one line (%d bytes): %.300q", len(text), text)
	}
	var e *api.Error
	if code == "" {
		if !strings.Contains(text, field) || !strings.Contains(text, remedy) {
			t.Errorf("got %q\nwant the field %q and the remedy %q", text, field, remedy)
		}
		return
	}
	switch {
	case !errors.As(err, &e):
		t.Errorf("not an error of ours: %v", err)
	case e.Code != code, e.Field != field:
		t.Errorf("got %v\nwant the code %s and the field %q", e, code, field)
	case e.Message == "", remedy == "", !strings.Contains(e.Remedy, remedy):
		t.Errorf("got %v\nwith the remedy %q, want %q in it", e, e.Remedy, remedy)
	}
}
