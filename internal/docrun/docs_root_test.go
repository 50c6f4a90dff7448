package docrun

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

const top = "../.."

// documents are those that show commands: the README first, as a reader does.
func documents(t *testing.T) []string {
	t.Helper()
	files := []string{"README.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			name, err := filepath.Rel(top, f)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, name)
		}
	}
	return files
}

func parse(t *testing.T, name string) []Block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := Parse(name, string(text))
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

// TestDocumentsRun does what the documents say to do. The machines need curl and busybox.
func TestDocumentsRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
	programs := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(programs, "culvert"), top+"/cmd/culvert").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, name := range documents(t) {
		t.Run(name, func(t *testing.T) {
			if err := Run(t, parse(t, name), programs); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDocumentsSpeakOfTargetsThatExist is what can be said cheaply of blocks that take minutes.
func TestDocumentsSpeakOfTargetsThatExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(top, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^([\w-]+):`).FindAllSubmatch(makefile, -1) {
		targets = append(targets, string(m[1]))
	}
	for _, name := range documents(t) {
		for _, b := range parse(t, name) {
			for _, target := range b.MakeTargets() {
				if !slices.Contains(targets, target) {
					t.Errorf("%s: make %s: the Makefile has no such target", b.Place(b.Line), target)
				}
			}
		}
	}
}
