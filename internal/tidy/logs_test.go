package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const logkeyFile = "internal/logkey/logkey.go"

// logged are the calls that write a line or add to one, with the place of their first key among the arguments; the argument before
// it is the message. With has none.
var logged = map[string]int{
	"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0, "Log": 3, "DebugContext": 2, "InfoContext": 2, "WarnContext": 2,
	"ErrorContext": 2,
}

// attributes take their key first.
var attributes = []string{"Any", "Bool", "Duration", "Float64", "Group", "Int", "Int64", "String", "Time", "Uint64"}

var logReceiver = regexp.MustCompile(`^(slog|[lL]og|[lL]ogger)$`)

// logFaults finds in a file what is logged under a key that is not a constant of internal/logkey, or with a message that is not a
// constant text. Whoever looks for a line must be able to write down what it says.
func logFaults(fset *token.FileSet, file *ast.File) (faults []string, found int) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		to, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		receiver := lastName(to.X)
		at := func(what string) { faults = append(faults, fset.Position(call.Pos()).String()+": "+what) }
		if receiver == "slog" && slices.Contains(attributes, to.Sel.Name) && !isLogkey(call.Args[0]) {
			at("use a key of internal/logkey")
		}
		first, ok := logged[to.Sel.Name]
		if !ok || !logReceiver.MatchString(receiver) {
			return true
		}
		found++
		if first > 0 && (len(call.Args) < first || !isText(call.Args[first-1])) {
			at("the message is not a constant text: what differs goes into the values")
		}
		for i := first; i < len(call.Args); i += 2 {
			if !isLogkey(call.Args[i]) {
				at("use a key of internal/logkey")
			}
		}
		return true
	})
	return faults, found
}

// lastName is the last part of a.b.c.
func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func isLogkey(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	return ok && lastName(s.X) == "logkey"
}

func isText(e ast.Expr) bool {
	l, ok := e.(*ast.BasicLit)
	return ok && l.Kind == token.STRING
}

func TestLogs(t *testing.T) {
	all := 0
	for _, f := range sources(t, "*.go") {
		src := read(t, f)
		if strings.HasSuffix(f, "_test.go") || generated(src) {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, f, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		faults, found := logFaults(fset, file)
		for _, fault := range faults {
			t.Error(fault)
		}
		all += found
	}
	if all < 50 {
		t.Errorf("%d lines are logged; are they still found?", all)
	}
}

func TestFindsFaultsInLogs(t *testing.T) {
	const src = `package p
func f() {
	log.Info("fine", logkey.Node, 1)
	a.b.log.Warn(fmt.Sprintf("no"), logkey.Node, 1)
	c.cfg.Logger.Error("no", "node", 1)
	s.log.Log(ctx, level, "no", logkey.Node, 1, key, 2)
	log.With("node", 1)
	log.Info("no", slog.String("node", "x"))
	t.Error("no log")
	_ = err.Error()
}`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	faults, found := logFaults(fset, file)
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = strings.SplitN(f, ":", 3)[1]
	}
	if want := []string{"4", "5", "6", "7", "8", "8"}; !slices.Equal(lines, want) || found != 6 {
		t.Errorf("%d calls, faults in lines %v, want 6 and %v", found, lines, want)
	}
}

// Every key is written in one way, is used, and is explained.
func TestLogKeys(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), logkeyFile, read(t, logkeyFile), 0)
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, f := range sources(t, "*.go") {
		if !strings.HasSuffix(f, "_test.go") {
			code.WriteString(read(t, f))
		}
	}
	_, document, _ := strings.Cut(read(t, "docs/OBSERVABILITY.md"), "### Keys\n")
	document, _, _ = strings.Cut(document, "\n## ")
	form, seen := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`), map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		key, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		switch {
		case err != nil || !form.MatchString(key) || seen[key]:
			t.Errorf("%s = %q: keys are lower_case and there once", v.Names[0], key)
		case !regexp.MustCompile(`logkey\.` + v.Names[0].Name + `\b`).MatchString(code.String()):
			t.Errorf("%s: nothing is logged under it", key)
		case !strings.Contains(document, "\n| `"+key+"` |"):
			t.Errorf("%s is not explained in docs/OBSERVABILITY.md", key)
		}
		seen[key] = true
		return true
	})
	for _, m := range regexp.MustCompile("\n\\| `([a-z_]+)` \\|").FindAllStringSubmatch(document, -1) {
		if !seen[m[1]] {
			t.Errorf("docs/OBSERVABILITY.md explains %s, which is no key", m[1])
		}
	}
}
