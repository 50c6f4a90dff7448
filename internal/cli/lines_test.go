package cli

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// accepts reports what is wrong with a command line, without running it.
func accepts(args []string) error {
	c, rest, err := newTree().Find(args)
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	rest = c.Flags().Args()
	if help, _ := c.Flags().GetBool("help"); help {
		return nil
	}
	if c.Annotations[holdsOthers] != "" {
		return fmt.Errorf("%s %v is no command", c.CommandPath(), rest)
	}
	return errors.Join(c.ValidateArgs(rest), c.ValidateRequiredFlags())
}

// commandLines finds the calls of culvert in lines for the shell, also within $(…), and returns their arguments. What
// the shell would put in for a variable or a command is "1".
func commandLines(script string) (calls [][]string) {
	script = strings.ReplaceAll(script, "\\\n", " ")
	for line := range strings.Lines(script) {
		calls = append(calls, lineCalls(line)...)
	}
	return calls
}

func lineCalls(line string) (calls [][]string) {
	var words []string
	end := func() {
		for i, w := range words {
			if words[0] == "apt-get" { // there it is the package
				break
			}
			if w == "culvert" || strings.HasSuffix(w, "/culvert") {
				calls = append(calls, words[i+1:])
				break
			}
			if w == "as" && len(words) > i+2 { // scripts/demo: as ACCOUNT COMMAND…
				calls = append(calls, words[i+2:])
				break
			}
		}
		words = nil
	}
	s := scanner{rest: line}
	for s.rest != "" {
		switch c := s.rest[0]; {
		case c == ' ' || c == '\t' || c == '\n':
			s.rest = s.rest[1:]
		case c == '#':
			s.rest = ""
		case strings.IndexByte(";&|()", c) >= 0:
			end()
			s.rest = s.rest[1:]
		case redirection.MatchString(s.rest):
			s.rest = s.rest[len(redirection.FindString(s.rest)):]
			s.word()
		default:
			words = append(words, s.word())
		}
	}
	end()
	for _, inner := range s.inner {
		calls = append(calls, lineCalls(inner)...)
	}
	return calls
}

var redirection = regexp.MustCompile(`^[0-9]*[<>]+&?[ ]*`)

// scanner takes words as a shell does, and what is in $(…) apart.
type scanner struct {
	rest  string
	inner []string
}

func (s *scanner) word() string {
	var b strings.Builder
	quote := byte(0)
	for s.rest != "" {
		c := s.rest[0]
		switch {
		case strings.HasPrefix(s.rest, "$(") && quote != '\'':
			depth, i := 0, 1
			for ; i < len(s.rest); i++ {
				if s.rest[i] == '(' {
					depth++
				} else if s.rest[i] == ')' {
					if depth--; depth == 0 {
						break
					}
				}
			}
			s.inner = append(s.inner, s.rest[2:min(i, len(s.rest))])
			s.rest = s.rest[min(i+1, len(s.rest)):]
			b.WriteString("1")
			continue
		case variable.MatchString(s.rest) && quote != '\'':
			s.rest = s.rest[len(variable.FindString(s.rest)):]
			b.WriteString("1")
			continue
		case c == '\\' && len(s.rest) > 1 && s.rest[1] == '$': // in a here-document
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == c:
			quote = 0
		case quote == 0 && strings.IndexByte(" \t\n;&|()<>", c) >= 0:
			return b.String()
		default:
			b.WriteByte(c)
		}
		s.rest = s.rest[1:]
	}
	return b.String()
}

var variable = regexp.MustCompile(`^\$(\w+|\{[^}]*\}|[@#?*])`)

func TestCommandLines(t *testing.T) {
	for text, want := range map[string]string{
		`culvert vpc list`:               "[[vpc list]]",
		`eval "$(culvert dev env shop)"`: "[[dev env shop]]",
		`KEY=$(culvert key create --account x -q) culvert status # culvert x`:     "[[status] [key create --account x -q]]",
		`culvert service allow ledger '*' && bin/culvert flows tail`:              "[[service allow ledger *] [flows tail]]",
		"culvert a \\\n  --b \"c d\" >/dev/null 2>&1 &":                           "[[a --b c d]]",
		`run as pay service accept ledger "$(id <x)" --wait`:                      "[[service accept ledger 1 --wait]]",
		`  eval "\$(bin/culvert dev env shop)"   # be the consumer`:               "[[dev env shop]]",
		`source <(culvert completion bash)`:                                       "[[completion bash]]",
		`until culvert status --server x; do sleep 0.3; done`:                     "[[status --server x]]",
		`culvert completion zsh > "${fpath[1]}/_culvert"`:                         "[[completion zsh]]",
		`culvert sg authorize web --egress --protocol all --cidr 0.0.0.0/0 | cat`: "[[sg authorize web --egress --protocol all --cidr 0.0.0.0/0]]",
	} {
		if got := fmt.Sprint(commandLines(text)); got != want {
			t.Errorf("%s\n have %s\n want %s", text, got, want)
		}
	}
	for _, bad := range []string{"vpc", "vpc create", "vpc create a b --cidr x", "vpc list --nmae x", "nothing", "vpc nothing"} {
		if accepts(strings.Fields(bad)) == nil {
			t.Errorf("culvert %s is accepted", bad)
		}
	}
}

// TestDocuments: every command line in the documents and in the demo is one that the tree accepts.
func TestDocuments(t *testing.T) {
	fence := regexp.MustCompile("(?ms)^```sh[^\n]*\n(.*?)^```")
	inline := regexp.MustCompile("`culvert ([a-z][^`|…]*)`")
	documents, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	check := func(file string, calls [][]string) {
		for _, args := range calls {
			n++
			if err := accepts(args); err != nil {
				t.Errorf("%s: culvert %s: %v", file, strings.Join(args, " "), err)
			}
		}
	}
	for _, file := range append(documents, "../../README.md") {
		text := text(t, file)
		for _, block := range fence.FindAllStringSubmatch(text, -1) {
			check(file, commandLines(block[1]))
		}
		for _, code := range inline.FindAllStringSubmatch(text, -1) {
			if c, rest, err := newTree().Find(strings.Fields(code[1])); err != nil || c.HasSubCommands() && len(rest) > 0 && rest[0][0] != '-' {
				t.Errorf("%s: there is no command culvert %s", file, code[1])
			}
		}
	}
	demo := text(t, "../../scripts/demo")
	_, story, found := strings.Cut(demo, "say \"1.")
	if !found {
		t.Fatal("the demo's story does not begin where it did")
	}
	check("scripts/demo", commandLines(story))
	if n < 60 {
		t.Errorf("%d command lines found: some are not seen", n)
	}
}

func text(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var quoted = regexp.MustCompile(`\bculvert ([a-z][a-z-]*(?: [a-z][a-z-]*)*)((?: --?[a-z][a-z0-9-]*| [A-Z%"][^ ;:,)]*)*)`)

// notCommands are words behind "culvert " that name none.
var notCommands = []string{"view", "workload", "needs", "command", "of", "is", "server:"}

// TestMessages: commands that messages and remedies of any package quote exist, with their flags.
func TestMessages(t *testing.T) {
	n := 0
	for _, file := range goFiles(t) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			continue // being written: the compiler says it better
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			lit, ok := node.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			s, err := strconv.Unquote(lit.Value)
			if err != nil {
				return true
			}
			for _, m := range quoted.FindAllStringSubmatch(s, -1) {
				words := strings.Fields(m[1])
				if slices.Contains(notCommands, words[0]) {
					continue
				}
				n++
				if err := exists(words, strings.Fields(m[2])); err != nil {
					t.Errorf("%s: %q: %v", file, m[0], err)
				}
			}
			return true
		})
	}
	if n < 100 {
		t.Errorf("%d commands found in messages: some are not seen", n)
	}
}

// exists walks as far as words name commands; more words are prose, unless a group needs one.
func exists(words, rest []string) error {
	c := newTree()
	for _, w := range words {
		next, _, err := c.Find([]string{w})
		if err != nil || next == c {
			if c.Annotations[holdsOthers] != "" {
				return fmt.Errorf("%s has no %q", c.CommandPath(), w)
			}
			break
		}
		c = next
	}
	for _, f := range rest {
		name := strings.TrimLeft(f, "-")
		if !strings.HasPrefix(f, "-") || name == "help" {
			continue
		}
		if c.Flags().Lookup(name) == nil && c.InheritedFlags().Lookup(name) == nil && c.Flags().ShorthandLookup(name[:1]) == nil {
			return fmt.Errorf("%s has no flag %s", c.CommandPath(), f)
		}
	}
	return nil
}

// goFiles are the module's, without tests.
func goFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && path != "../.." {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files = append(files, path)
		}
		return nil
	})
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	return files
}
