package bpf

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/cmd/bpf2go/gen"

	"github.com/culvert-net/culvert/bpf/gen/header"
	"github.com/culvert-net/culvert/bpf/gen/sources"
)

// What is generated from the header's comments is fresh.
func TestGeneratedFromHeader(t *testing.T) {
	text, err := os.ReadFile("lib/abi.h")
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := header.Reasons(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]byte{
		"reason.go": header.Go(reasons), "../docs/REASONS.md": header.Markdown(reasons),
	} {
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is stale: go generate ./bpf", path)
		}
	}
}

// The committed object is what the sources give, where the compiler that made it is at hand.
func TestObjectIsFresh(t *testing.T) {
	version, err := os.ReadFile("clang-version.txt")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("clang-19", "--version").Output()
	found := regexp.MustCompile(`clang version ([0-9.]+)`).FindSubmatch(out)
	if err != nil || found == nil || !bytes.Equal(found[1], bytes.TrimSpace(version)) {
		t.Logf("the object was made by clang %s, which is not here: not compared", bytes.TrimSpace(version))
		return
	}
	dir := t.TempDir()
	for _, target := range []string{"bpfel", "bpfeb"} {
		if got, want := compile(t, dir, target), sections(t, "culvert_"+target+".o"); !bytes.Equal(got, want) {
			t.Errorf("culvert_%s.o is stale: go generate ./bpf", target)
		}
	}
}

// compile makes an object as bpf2go does, with the flags of the directive in doc.go.
func compile(t *testing.T, dir, target string) []byte {
	t.Helper()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`-cflags "([^"]*)"`).FindSubmatch(doc)
	if found == nil {
		t.Fatal("no -cflags in doc.go")
	}
	object := filepath.Join(dir, target+".o")
	source, err := filepath.Abs("culvert.c")
	if err != nil {
		t.Fatal(err)
	}
	args := append(strings.Fields(string(found[1])), "-target", target, "-c", source, "-o", object)
	if out, err := exec.Command("clang-19", args...).CombinedOutput(); err != nil {
		t.Fatalf("clang-19: %v\n%s", err, out)
	}
	return sections(t, object)
}

// sections are the instructions of an object, without debugging data: paths and versions of tools do not count.
func sections(t *testing.T, object string) []byte {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec(object)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, name := range []string{
		ABIProgFromHost, ABIProgFromTunnel, ABIProgFromWorkload, ABIProgGuard, ABIProgMarkFlows, ABIProgReceiveLocal,
		ABIProgRemoveFlows,
	} {
		p, ok := spec.Programs[name]
		if !ok {
			t.Fatalf("%s has no program %s", object, name)
		}
		all.WriteString(name)
		for _, ins := range p.Instructions {
			fmt.Fprintln(&all, ins, ins.Reference(), ins.Symbol())
		}
	}
	for _, c := range spec.Maps[".rodata"].Contents {
		all.Write(c.Value.([]byte))
	}
	return all.Bytes()
}

// The object was made from the sources that lie beside it, as far as that can be told without the compiler.
func TestObjectIsOfTheseSources(t *testing.T) {
	got, err := os.ReadFile(sources.File)
	if err != nil {
		t.Fatal(err)
	}
	want, err := sources.Sum(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the objects are not of these sources: go generate ./bpf\n%s\nwant\n%s", got, want)
	}
}

// The Go files are those that bpf2go makes of the committed objects.
func TestGoIsOfTheObjects(t *testing.T) {
	for _, name := range []string{"bpfel", "bpfeb"} {
		target, arches, err := gen.FindTarget(name)
		if err != nil {
			t.Fatal(err)
		}
		stem := "culvert_" + target.Suffix()
		spec, err := ebpf.LoadCollectionSpec(stem + ".o")
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := gen.Generate(gen.GenerateArgs{
			Package: "bpf", Stem: "ABI", Constraints: arches.Constraint(), ObjectFile: stem + ".o", Output: &want,
			Maps:      slices.DeleteFunc(slices.Collect(maps.Keys(spec.Maps)), func(m string) bool { return m[0] == '.' }),
			Variables: slices.Collect(maps.Keys(spec.Variables)), Programs: slices.Collect(maps.Keys(spec.Programs)),
			Types: gen.CollectGlobalTypes(spec),
		}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(stem + ".go"); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s.go is stale (%v): go generate ./bpf", stem, err)
		}
	}
}
