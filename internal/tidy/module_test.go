package tidy

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
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

// TestNestedModules loads the packages of every module within this one. They build against the tree through a `replace`:
// what this module newly requires, theirs must, or nothing of them builds, and only the test that needs them says so.
func TestNestedModules(t *testing.T) {
	top := root(t)
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case d.Name() == "go.mod" && filepath.Dir(path) != top:
			dirs = append(dirs, filepath.Dir(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) == 0 {
		t.Fatal("no module within this one was found")
	}
	for _, dir := range dirs {
		cmd := exec.Command("go", "list", "-mod=readonly", "-deps", "./...")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1") // one of them is of files for cgo only; nothing is compiled
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s(cd there and go mod tidy)", dir, err, out)
		}
	}
}
