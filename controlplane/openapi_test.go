package controlplane

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOpenAPI: the document is served to anybody and has every operation; the client has a method for each, and for nothing else.
func TestOpenAPI(t *testing.T) {
	l := startLab(t, nil)
	a := l.rawClient(nil).do("GET", "/openapi.json", "", "")
	if a.status != http.StatusOK {
		t.Fatalf("status %d", a.status)
	}
	d := must(newDocument(a.body))(t)
	inDocument, called := map[string]bool{}, map[string]bool{}
	for _, o := range d.operations() {
		inDocument[strings.ToUpper(o.method)+" "+o.path] = true
	}
	for _, r := range routes(l) {
		if !inDocument[r.method+" "+r.path] {
			t.Errorf("%s %s is not in the document", r.method, r.path)
		}
	}
	for _, call := range clientCalls(t) {
		called[call] = true
		if !inDocument[call] {
			t.Errorf("the client calls %s, which there is not", call)
		}
	}
	for operation := range inDocument {
		if !called[operation] {
			t.Errorf("the client has no method for %s", operation)
		}
	}
}

// clientCalls reads from the client's source what it calls, as METHOD PATH with every argument of a path as {}.
func clientCalls(t *testing.T) (calls []string) {
	t.Helper()
	files, err := filepath.Glob("../api/client/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no source of the client: %v", err)
	}
	argument := regexp.MustCompile(`segment\((\w+)\)`)
	call := regexp.MustCompile(`(?:http\.Method(\w+),|ctx,(?: c,)?)\s*("/v1/[^"]*"(?:\s*\+\s*(?:\{\w+\}|"[^"]*"))*)`)
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(argument.ReplaceAllString(string(src), "{$1}"), -1) {
			method := strings.ToUpper(m[1])
			if method == "" {
				method = http.MethodGet
			}
			calls = append(calls, method+" "+generic(regexp.MustCompile(`["+\s]`).ReplaceAllString(m[2], "")))
		}
	}
	if len(calls) < 60 {
		t.Fatalf("found %d calls only: %v", len(calls), calls)
	}
	return calls
}

// generic names a path's arguments as the server does.
func generic(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") && i == 3 {
			parts[i] = "{id}"
		}
	}
	return strings.Join(parts, "/")
}
