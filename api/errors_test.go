package api

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEveryCodeHasAStatus: a code that the table lacks would be answered with 400, and be missing in the API's description.
func TestEveryCodeHasAStatus(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var written []ErrorCode
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Names) != 1 || !strings.HasPrefix(v.Names[0].Name, "Code") {
			return true
		}
		text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, ErrorCode(text))
		return true
	})
	slices.Sort(written)
	if len(written) < 50 || !slices.Equal(written, ErrorCodes(0)) {
		t.Errorf("in the source %v\nin the table %v", written, ErrorCodes(0))
	}
	for _, code := range written {
		if notFound := strings.HasSuffix(string(code), "NotFound"); notFound && (&Error{Code: code}).GetStatus() != 404 {
			t.Errorf("%s has the status %d", code, (&Error{Code: code}).GetStatus())
		}
	}
}
