package tidy

import (
	"encoding/json"
	"os/exec"
	"slices"
	"testing"
)

type required struct {
	Path     string
	Indirect bool
}

// provider is the module that a package comes from, the longest that fits; "" if none does.
func provider(modules []required, pkg string) string {
	best := ""
	for _, m := range modules {
		if within(pkg, m.Path) && len(m.Path) > len(best) {
			best = m.Path
		}
	}
	return best
}

// TestRequirements holds go.mod against the imports: what the tree imports is required directly, and nothing else is.
// `go mod tidy` says more and needs the network.
func TestRequirements(t *testing.T) {
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []required
		Replace []json.RawMessage
		Tool    []struct{ Path string }
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	if len(mod.Replace) > 0 {
		t.Error("go.mod replaces modules: whoever requires this one would not")
	}
	var imports []string
	for _, p := range packages(t) {
		imports = slices.Concat(imports, p.Imports, p.TestImports, p.XTestImports)
	}
	for _, tool := range mod.Tool {
		imports = append(imports, tool.Path)
	}
	for _, r := range mod.Require {
		direct := slices.ContainsFunc(imports, func(i string) bool { return provider(mod.Require, i) == r.Path })
		if direct == r.Indirect {
			t.Errorf("go.mod: %s is marked indirect: %v; imported here: %v; go mod tidy", r.Path, r.Indirect, direct)
		}
	}
}
