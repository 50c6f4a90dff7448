package controlplane

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOpenAPI: the document is served to anybody, describes every operation, and how each authenticates.
func TestOpenAPI(t *testing.T) {
	l := startLab(t, nil)
	a := l.rawClient(nil).do("GET", "/openapi.json", "", "")
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string                      `json:"operationId"`
			Summary     string                      `json:"summary"`
			Security    []map[string][]string       `json:"security"`
			Parameters  []struct{ Name, In string } `json:"parameters"`
			Responses   map[string]json.RawMessage  `json:"responses"`
		} `json:"paths"`
		Components struct {
			Schemas         map[string]json.RawMessage `json:"schemas"`
			SecuritySchemes map[string]json.RawMessage `json:"securitySchemes"`
		} `json:"components"`
	}
	if err := json.Unmarshal(a.body, &doc); err != nil || a.status != http.StatusOK || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatalf("status %d, version %s: %v", a.status, doc.OpenAPI, err)
	}
	described := map[string]bool{}
	for path, item := range doc.Paths {
		for method, o := range item {
			described[strings.ToUpper(method)+" "+path] = true
			if o.Summary == "" || o.Responses["200"] == nil || o.Responses["default"] == nil {
				t.Errorf("%s %s: %+v", method, path, o)
			}
			if len(o.Security) == 0 && o.OperationID != "join" {
				t.Errorf("%s: anybody may", o.OperationID)
			}
			for _, s := range o.Security {
				for name := range s {
					if doc.Components.SecuritySchemes[name] == nil {
						t.Errorf("%s: %s is not described", o.OperationID, name)
					}
				}
			}
			for _, name := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
				found := false
				for _, p := range o.Parameters {
					found = found || p.In == "path" && p.Name == name[1]
				}
				if !found {
					t.Errorf("%s: the parameter %s is not described", o.OperationID, name[1])
				}
			}
		}
	}
	for _, r := range routes(l) {
		if !described[r.method+" "+r.path] {
			t.Errorf("%s %s is not in the document", r.method, r.path)
		}
	}
	for _, schema := range []string{"Endpoint", "Connection", "Service", "LoadBalancer", "Error"} {
		if doc.Components.Schemas[schema] == nil {
			t.Errorf("%s has no schema", schema)
		}
	}
	for _, call := range clientCalls(t) {
		if !described[call] {
			t.Errorf("the client calls %s, which there is not", call)
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
