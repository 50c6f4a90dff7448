package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Limits of a file and a function, in lines; of a line, in characters.
const (
	maxFile     = 800
	maxFunction = 70
	maxLine     = 160
)

// root is the top of the module.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sources are the files under version control, and new ones that are not ignored.
func sources(t *testing.T, patterns ...string) []string {
	t.Helper()
	args := append([]string{"-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"}, patterns...)
	cmd := exec.Command("git", args...)
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	var files []string
	for f := range strings.SplitSeq(string(out), "\x00") {
		if _, err := os.Stat(filepath.Join(root(t), f)); f != "" && err == nil {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		t.Fatalf("no files match %v", patterns)
	}
	return files
}

func generated(src string) bool {
	head, _, _ := strings.Cut(src, "\npackage ")
	return strings.Contains(head, "Code generated") && strings.Contains(head, "DO NOT EDIT")
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// text reports whether a file is written by people: neither an object nor generated nor data.
func text(file, src string) bool {
	return !strings.Contains(file, "testdata/") && !strings.ContainsRune(src, 0) && !generated(src)
}

func TestSizes(t *testing.T) {
	for _, f := range sources(t, "*.go", "*.c", "*.h", "scripts/*", ".ci/*", "Makefile", "Vagrantfile") {
		src := read(t, f)
		if !text(f, src) {
			continue
		}
		lines := strings.Split(src, "\n")
		if len(lines) > maxFile {
			t.Errorf("%s has %d lines, more than %d: split it by noun", f, len(lines), maxFile)
		}
		for i, l := range lines {
			if n := len([]rune(strings.ReplaceAll(l, "\t", "    "))); n > maxLine && !strings.Contains(l, `json:"`) {
				t.Errorf("%s:%d has %d characters, more than %d", f, i+1, n, maxLine)
			}
		}
	}
}

func TestFunctions(t *testing.T) {
	for _, f := range sources(t, "*.go") {
		src := read(t, f)
		if generated(src) {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, f, src, parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			if n > maxFunction && !strings.HasSuffix(f, "_test.go") {
				t.Errorf("%s: %s has %d lines, more than %d: its parts have names", f, fn.Name.Name, n, maxFunction)
			}
		}
	}
}

// source is a Go file.
type source struct{ file, text string }

func (s source) test() bool    { return strings.HasSuffix(s.file, "_test.go") || s.testOnly() }
func (s source) command() bool { return strings.Contains(s.text, "\npackage main\n") }
func (s source) testOnly() bool {
	return testOnly[filepath.Dir(s.file)] != ""
}
func (s source) pure() bool {
	return slices.Contains(pure, filepath.Dir(s.file)) && !strings.HasSuffix(s.file, "_test.go")
}

// banned calls, with where the ban holds.
var banned = []struct {
	re    *regexp.Regexp
	holds func(s source, line string) bool
	why   string
}{
	{regexp.MustCompile(`\btime\.Sleep\(`), func(source, string) bool { return true },
		"wait for a condition, a timer or a context; in tests poll with a deadline or use testing/synctest"},
	{regexp.MustCompile(`\b(os\.Exit|log\.Fatal\w*)\(`), func(s source, _ string) bool { return !s.command() && !s.test() },
		"only commands end the process"},
	{regexp.MustCompile(`\bfmt\.Print(f|ln)?\(`), func(s source, _ string) bool { return !s.test() },
		"output goes to a writer that is handed in, or to the log"},
	{regexp.MustCompile(`\b[tbf]\.Skip`), func(s source, line string) bool {
		return !strings.Contains(line, "needs root") || !strings.HasSuffix(s.file, "_root_test.go") && !s.testOnly()
	}, "a skip must justify itself: only \"needs root\" does, in a file named *_root_test.go"},
	{regexp.MustCompile(`\bnetlab\.New\(`), func(s source, _ string) bool {
		return !strings.HasSuffix(s.file, "_root_test.go") && !s.testOnly()
	}, "what needs root is in a file named *_root_test.go"},
	{regexp.MustCompile(`\bcontext\.TODO\(`), func(source, string) bool { return true },
		"hand the caller's context in"},
	{regexp.MustCompile(`\bhttp\.(DefaultClient|Get|Post|Head)\b`), func(source, string) bool { return true },
		"the default client waits for ever"},
	{regexp.MustCompile(`time\.Now\(\)`), func(s source, _ string) bool { return s.pure() },
		"pure packages do not read the clock"},
}

func TestBannedCalls(t *testing.T) {
	for _, f := range sources(t, "*.go") {
		s := source{f, read(t, f)}
		if strings.HasPrefix(f, "internal/tidy/") {
			continue
		}
		for i, l := range strings.Split(s.text, "\n") {
			if strings.HasPrefix(strings.TrimSpace(l), "//") {
				continue
			}
			for _, b := range banned {
				if b.re.MatchString(l) && b.holds(s, l) {
					t.Errorf("%s:%d: %s: %s", f, i+1, b.re, b.why)
				}
			}
		}
	}
}

var promise = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)

func TestNothingIsPutOff(t *testing.T) {
	for _, f := range sources(t) {
		src := read(t, f)
		if !text(f, src) || strings.HasPrefix(f, "internal/tidy/") {
			continue
		}
		for i, l := range strings.Split(src, "\n") {
			if m := promise.FindString(l); m != "" {
				t.Errorf("%s:%d: %s: do it, or write down in docs what is missing", f, i+1, m)
			}
		}
	}
}

func TestGofmt(t *testing.T) {
	files := sources(t, "*.go")
	cmd := exec.Command("gofmt", append([]string{"-l"}, files...)...)
	cmd.Dir = root(t)
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("not gofmt-ed: %s %v", out, err)
	}
}
