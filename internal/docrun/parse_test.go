package docrun

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// doc writes a fence as ”' so that it can stand in a raw string.
func doc(text string) string { return strings.ReplaceAll(text, "'''", "```") }

func TestParse(t *testing.T) {
	blocks, err := Parse("X.md", doc(`# Title

'''sh machine=server
one
two
'''

'''text
1
'''

'''
a picture
'''

1. In a list:

   '''sh no-run=it takes = too long
   make demo   # and
   sudo make test
   '''
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Block{
		{File: "X.md", Line: 4, Machine: "server", Text: "one\ntwo\n", Promise: []string{"1"}},
		{File: "X.md", Line: 19, NoRun: "it takes = too long", Text: "make demo   # and\nsudo make test\n"},
	}
	if !reflect.DeepEqual(blocks, want) {
		t.Errorf("have %+v\nwant %+v", blocks, want)
	}
	if have := blocks[1].MakeTargets(); !slices.Equal(have, []string{"demo", "test"}) {
		t.Errorf("targets %v", have)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unmarked":       {"'''sh\nls\n'''", "X.md:1: say where this runs"},
		"no reason":      {"\n'''sh no-run=\nls\n'''", "X.md:2: say where this runs"},
		"other mark":     {"'''sh host=a\nls\n'''", "X.md:1: say where this runs"},
		"machine":        {"'''sh machine=moon\nls\n'''", `X.md:1: there is no machine "moon", only node-a, node-b, server`},
		"other shell":    {"'''bash machine=server\nls\n'''", "X.md:1: fence commands as sh, not as bash"},
		"no language":    {"'''\n\n  culvert status\n'''", "X.md:1: fence commands as sh"},
		"prompt":         {"'''\n$ ls\n'''", "X.md:1: fence commands as sh"},
		"not closed":     {"text\n'''sh machine=server\nls\n", "X.md:2: the block is not closed"},
		"other fence":    {"~~~sh\nls\n~~~", "X.md:1: fence blocks with ```"},
		"second of them": {"'''sh machine=server\nls\n'''\n'''sh\nls\n'''", "X.md:4: say where this runs"},
	} {
		_, err := Parse("X.md", doc(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: have %v, want %s", name, err, c.want)
		}
	}
}

func TestAPromiseStandsRightBehindItsBlock(t *testing.T) {
	for _, between := range []string{"words\n", "'''\npicture\n'''\n", "'''text\nfirst\n'''\n"} {
		blocks, err := Parse("X.md", doc("'''sh machine=server\nls\n'''\n"+between+"'''text\nlast\n'''\n"))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(blocks[0].Promise, "last") {
			t.Errorf("after %q the text became a promise", between)
		}
	}
}

func TestMissing(t *testing.T) {
	output := "ID     NAME\neni-1  cart\n\ndone (1.5 s)\n"
	for _, c := range []struct{ promise, want string }{
		{"", ""},
		{"ID NAME\neni-1 cart", ""},
		{"eni-… cart\n\ndone (… s)", ""},
		{"done (1.5 s)\neni-1 cart", "eni-1 cart"},     // the order
		{"eni-1", "eni-1"},                             // whole lines
		{"done (1x5 s)", "done (1x5 s)"},               // no pattern but …
		{"done (1.5 s)\ndone (1.5 s)", "done (1.5 s)"}, // twice
	} {
		if have := missing(strings.Split(c.promise, "\n"), output); have != c.want {
			t.Errorf("%q: have %q, want %q", c.promise, have, c.want)
		}
	}
}

func TestCommands(t *testing.T) {
	b := Block{File: "X.md", Line: 10, Text: `# a comment
one \
  --flag

for x in a b; do
  # inside
  two $x
done
cat <<END
three
END
four &
`}
	have, err := b.commands()
	if err != nil {
		t.Fatal(err)
	}
	want := []command{
		{11, "one \\\n  --flag"}, {14, "for x in a b; do\n  # inside\n  two $x\ndone"}, {18, "cat <<END\nthree\nEND"}, {21, "four &"},
	}
	if !slices.Equal(have, want) {
		t.Errorf("have %+v\nwant %+v", have, want)
	}
}

func TestCommandsThatDoNotEnd(t *testing.T) {
	for text, want := range map[string]string{
		"ls\nfor x in a; do\nls\n": "X.md:11: this command does not end",
		"ls \\\n":                  "X.md:10: this command does not end: the last line ends with a backslash",
		"ls\nls\ncat <<END\nls\n":  "X.md:12: this command does not end",
	} {
		_, err := (&Block{File: "X.md", Line: 10, Text: text}).commands()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: have %v, want %s", text, err, want)
		}
	}
}

func TestAssignments(t *testing.T) {
	earlier := []said{
		{"culvert token create --node node-a", "export CULVERT_JOIN_TOKEN=first\n"},
		{"culvert token create --node node-a", "export CULVERT_JOIN_TOKEN=second\n"},
		{"culvert token create --node node-b", "export CULVERT_JOIN_TOKEN=other\n"},
		{"culvert eni create cart --node node-a", "ID NAME\neni-0a1b2c3d4e5f60718 cart\n"},
		{"culvert eni create mute", "\n"},
	}
	for text, want := range map[string]string{
		`run "$TOKEN_FOR_NODE_A" ${ENI_CART}`: "TOKEN_FOR_NODE_A='second'\nENI_CART='eni-0a1b2c3d4e5f60718'\n",
		"run $HOME $TOKEN":                    "",
	} {
		if have, err := assignments(text, earlier); err != nil || have != want {
			t.Errorf("%s: have %q, %v, want %q", text, have, err, want)
		}
	}
	for text, want := range map[string]string{
		"run $ENI_LEDGER": "ENI_LEDGER: no culvert eni create ledger was run before",
		"run $ENI_MUTE":   "ENI_MUTE: culvert eni create mute printed nothing like",
	} {
		if _, err := assignments(text, earlier); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: have %v, want %s", text, err, want)
		}
	}
}
