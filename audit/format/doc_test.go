package format

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/FLOWLOGS.md anew")

// The document lists every field, as the registry has it.
func TestFieldsAreDocumented(t *testing.T) {
	const file, mark = "../../docs/FLOWLOGS.md", "<!-- fields -->\n"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(data), mark)
	if !ok {
		t.Fatalf("%s: no %q", file, mark)
	}
	var b strings.Builder
	b.WriteString("\n| field | version | type | what |\n|---|---|---|---|\n")
	var without []string
	for _, f := range Fields() {
		if f.Doc == withoutDoc {
			without = append(without, "`"+f.Name+"`")
			continue
		}
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s |\n", f.Name, f.Version, []string{"string", "int32", "int64"}[f.Type], f.Doc)
	}
	fmt.Fprintf(&b, "\nAccepted as AWS writes them, and always `-`: %s.\n", strings.Join(without, ", "))
	if *update {
		if err := os.WriteFile(file, []byte(before+mark+b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if after != b.String() {
		t.Errorf("%s does not list the fields as they are: go test ./audit/format -run TestFieldsAreDocumented -update", file)
	}
}
