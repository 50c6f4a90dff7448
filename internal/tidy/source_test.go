package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	args := append([]string{"ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"}, patterns...)
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

func TestSizes(t *testing.T) {
	for _, f := range sources(t, "*.go", "*.c", "*.h", "*.sh") {
		src := read(t, f)
		if generated(src) {
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

// banned calls, with where they are allowed.
var banned = []struct {
	re    *regexp.Regexp
	files func(string) bool // where the ban holds
	why   string
}{
	{regexp.MustCompile(`\btime\.Sleep\(`), func(f string) bool { return true },
		"wait for a condition, a timer or a context; in tests poll with a deadline or use testing/synctest"},
	{regexp.MustCompile(`\bos\.Exit\(`), func(f string) bool {
		return !strings.HasPrefix(f, "cmd/") && !strings.HasSuffix(f, "_test.go")
	}, "only commands end the process"},
	{regexp.MustCompile(`\bt\.Skip`), func(f string) bool { return !strings.HasPrefix(f, "internal/tidy/") },
		"a skip must justify itself: only \"needs root\" does"},
	{regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`), func(f string) bool { return !strings.HasPrefix(f, "internal/tidy/") },
		"do it, or write down in docs what is missing"},
	{regexp.MustCompile(`time\.Now\(\)`), func(f string) bool {
		for _, p := range pure {
			if filepath.Dir(f) == p && !strings.HasSuffix(f, "_test.go") {
				return true
			}
		}
		return false
	}, "pure packages do not read the clock"},
}

func TestBannedCalls(t *testing.T) {
	for _, f := range sources(t, "*.go") {
		for i, l := range strings.Split(read(t, f), "\n") {
			for _, b := range banned {
				if !b.re.MatchString(l) || !b.files(f) {
					continue
				}
				if strings.Contains(b.re.String(), "Skip") && strings.Contains(l, "needs root") {
					continue
				}
				if strings.HasPrefix(strings.TrimSpace(l), "//") && !strings.Contains(b.re.String(), "FIXME") {
					continue
				}
				if strings.HasPrefix(f, "internal/tidy/") {
					continue
				}
				t.Errorf("%s:%d: %s: %s", f, i+1, b.re, b.why)
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
