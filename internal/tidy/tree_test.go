package tidy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// top are the entries of the tree's first level; whatever is new belongs into one of them, or has a reason to be here.
var top = map[string]string{
	".ci":          "what CI calls",
	".gitignore":   "what builds leave",
	"CHANGELOG.md": "what an operator has to do",
	"LICENSE":      "Apache-2.0",
	"Makefile":     "what a person calls",
	"README.md":    "where a reader begins",
	"Vagrantfile":  "three machines",
	"agent":        "the node's side",
	"api":          "resources",
	"audit":        "checks of records",
	"bpf":          "the programs",
	"cmd":          "the binary",
	"controlplane": "the server's side",
	"dns":          "the resolver",
	"docs":         "documents",
	"e2e":          "tests of the whole",
	"go.mod":       "the module",
	"go.sum":       "the module",
	"internal":     "what nobody else imports",
	"judge":        "the oracle of the whole",
	"packaging":    "deb and rpm packages",
	"plan":         "what a node must do",
	"scripts":      "what the Makefile calls",
}

func TestTopLevel(t *testing.T) {
	for _, f := range sources(t) {
		if entry, _, _ := strings.Cut(f, "/"); top[entry] == "" {
			t.Errorf("%s: %s is not in the list of top-level entries", f, entry)
		}
	}
}

// places are names of the machine that runs this test: none of them may be in the tree.
func places(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("go", "env", "GOMODCACHE", "GOCACHE", "GOPROXY")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	ps := []string{root(t)}
	for word := range strings.FieldsFuncSeq(string(out), func(r rune) bool { return strings.ContainsRune(",|\n ", r) }) {
		if u, ok := strings.CutPrefix(word, "https://"); ok {
			word, _, _ = strings.Cut(u, "/")
		}
		ps = append(ps, word)
	}
	var long []string
	for _, p := range ps { // "/src" or "direct" may well stand in a text
		if strings.Count(p, "/") > 1 || strings.Contains(p, ".") {
			long = append(long, p)
		}
	}
	return long
}

// registries are names of hosts that packages come from: which one is used is the machine's business.
var registries = regexp.MustCompile(`(?i)\b((proxy|sum)\.golang\.org|(deb|security)\.debian\.org|registry\.[a-z0-9-]+\.[a-z]+|` +
	`[a-z0-9.-]*(artifactory|nexus|goproxy)[a-z0-9-]*\.[a-z]{2,}|GOPROXY=\S)`)

func TestNothingOfOneMachine(t *testing.T) {
	bad := places(t)
	for _, f := range sources(t) {
		if strings.HasPrefix(f, "internal/tidy/") {
			continue
		}
		src := read(t, f) // objects too: compilers like to leave paths
		for _, p := range bad {
			if strings.Contains(src, p) {
				t.Errorf("%s contains %s, a name of the machine it was made on", f, p)
			}
		}
		if m := registries.FindString(src); m != "" {
			t.Errorf("%s names the registry %s; the machine's settings do that", f, m)
		}
	}
}

// A script that is called must be executable, and bash must be able to read it.
func TestScripts(t *testing.T) {
	for _, f := range sources(t, "scripts/*", ".ci/*", "*.sh") {
		src := read(t, f)
		if !strings.HasPrefix(src, "#!") {
			continue
		}
		if !strings.HasPrefix(src, "#!/usr/bin/env bash\n") {
			t.Errorf("%s does not begin with #!/usr/bin/env bash", f)
		}
		if !strings.Contains(src, "\nset -euo pipefail\n") {
			t.Errorf("%s goes on after errors: set -euo pipefail", f)
		}
		path := filepath.Join(root(t), f)
		if info, err := os.Stat(path); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s is not executable (%v)", f, err)
		}
		if out, err := exec.Command("bash", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", f, err, out)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// A document's relative links lead somewhere.
func TestLinks(t *testing.T) {
	for _, f := range sources(t, "*.md") {
		for i, l := range strings.Split(read(t, f), "\n") {
			for _, m := range link.FindAllStringSubmatch(l, -1) {
				target, _, _ := strings.Cut(m[1], "#")
				if target == "" || strings.Contains(target, "://") {
					continue
				}
				if _, err := os.Stat(filepath.Join(root(t), filepath.Dir(f), target)); err != nil {
					t.Errorf("%s:%d: the link to %s leads nowhere", f, i+1, m[1])
				}
			}
		}
	}
}
