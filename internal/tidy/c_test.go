package tidy

import (
	"strings"
	"testing"
)

// function is one of a C file, with its first and last line.
type function struct {
	name        string
	first, last int
}

// functions finds those of a file in kernel style: the body's braces stand alone at the beginning of their lines, and the
// head begins after an empty line, a directive, a comment or the end of another body.
func functions(src string) []function {
	var fs []function
	head, name := 0, ""
	inBody := false
	for i, l := range strings.Split(src, "\n") {
		switch {
		case l == "{" && head > 0:
			inBody = true
		case l == "}" && inBody:
			fs = append(fs, function{name, head, i + 1})
			head, inBody = 0, false
		case inBody:
		case l == "" || strings.ContainsAny(l[:1], "#/* }"):
			head = 0
		case head == 0:
			head = i + 1
			name = l
		}
	}
	return fs
}

func TestFunctionsInC(t *testing.T) {
	found := 0
	for _, f := range sources(t, "*.c", "*.h") {
		for _, fn := range functions(read(t, f)) {
			found++
			if n := fn.last - fn.first + 1; n > maxFunction {
				t.Errorf("%s:%d has %d lines, more than %d: %s", f, fn.first, n, maxFunction, fn.name)
			}
		}
	}
	if found < 50 {
		t.Errorf("%d functions found in C; is this no longer kernel style?", found)
	}
}

func TestFindsFunctionsInC(t *testing.T) {
	src := "#define X\nstatic int a(int x,\n\t     int y)\n{\n\tif (x) {\n\t}\n}\n\nstruct s {\n\tint m;\n};\n" +
		"SEC(\"tc\")\nint b(void)\n{\n}\n"
	fs := functions(src)
	if len(fs) != 2 || fs[0] != (function{"static int a(int x,", 2, 7}) || fs[1].first != 12 || fs[1].last != 15 {
		t.Errorf("found %+v", fs)
	}
}
