package cli

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write testdata anew from what the commands say now")

func newTree() *cobra.Command {
	return New(Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard})
}

// each calls fn for every command of the tree, the root first.
func each(c *cobra.Command, fn func(*cobra.Command)) {
	fn(c)
	for _, sub := range c.Commands() {
		each(sub, fn)
	}
}

// eachFlag calls fn for every flag that a command adds, the root's for the root.
func eachFlag(c *cobra.Command, fn func(*pflag.Flag)) {
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && c.LocalNonPersistentFlags().Lookup(f.Name) != nil || c.PersistentFlags().Lookup(f.Name) != nil {
			fn(f)
		}
	})
}

func TestEveryCommandIsComplete(t *testing.T) {
	n := 0
	each(newTree(), func(c *cobra.Command) {
		n++
		path := c.CommandPath()
		first, _ := utf8.DecodeRuneInString(c.Short)
		switch {
		case c.Short == "" || !unicode.IsUpper(first) || strings.HasSuffix(c.Short, "."):
			t.Errorf("%s: the short text %q must begin like a sentence and have no full stop", path, c.Short)
		case !strings.HasSuffix(c.Long, ".") && c.HasParent():
			t.Errorf("%s: the long text must be sentences", path)
		case c.Example == "":
			t.Errorf("%s: no example", path)
		case c.Args == nil:
			t.Errorf("%s: it does not say which arguments it takes", path)
		case c.RunE == nil || c.Run != nil:
			t.Errorf("%s: it must have RunE, so that errors are reported in one place", path)
		case c.ValidArgsFunction == nil:
			t.Errorf("%s: the shell would offer files for its arguments", path)
		case len(c.Aliases) > 0:
			t.Errorf("%s: %v are second words for one thing", path, c.Aliases)
		}
		for _, text := range []string{c.Long, c.Example, c.Use} {
			for line := range strings.Lines(text) {
				if utf8.RuneCountInString(line) > 121 {
					t.Errorf("%s: a line of its texts is longer than 120: %q", path, line)
				}
			}
		}
	})
	if n < 90 {
		t.Errorf("%d commands found: the walk misses some", n)
	}
}

// TestExamples: every example is a command line that the tree accepts, and every command is in an example of its own.
func TestExamples(t *testing.T) {
	each(newTree(), func(c *cobra.Command) {
		shown := false
		for _, args := range commandLines(c.Example) {
			if err := accepts(args); err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), strings.Join(args, " "), err)
			}
			found, _, err := newTree().Find(args)
			shown = shown || err == nil && found.CommandPath() == c.CommandPath()
		}
		if !shown && c.Annotations[holdsOthers] == "" {
			t.Errorf("%s: none of its examples calls it:\n%s", c.CommandPath(), c.Example)
		}
	})
}

// TestOneWordOneThing: a flag's word means the same everywhere, and a thing has the same word everywhere.
func TestOneWordOneThing(t *testing.T) {
	// Where the word says the role that the thing plays.
	roles := map[string]string{"from": "eni", "target": "eni", "allow": "account", "via": "endpoint",
		"add-load-balancer": "load-balancer", "remove-load-balancer": "load-balancer", "domain-list": "dns-firewall domain-list"}
	boolean := map[string]bool{}
	shorthand := map[string]string{}
	where := map[string]string{}
	each(newTree(), func(c *cobra.Command) {
		eachFlag(c, func(f *pflag.Flag) {
			path := c.CommandPath()
			if c.Name() == "create" && f.Name == "name" {
				t.Errorf("%s --name: the name of what is made is an argument", path)
			}
			isBool := f.Value.Type() == "bool"
			if first, seen := where[f.Name]; seen && (boolean[f.Name] != isBool || shorthand[f.Name] != f.Shorthand) {
				t.Errorf("--%s is one thing in %s and another in %s", f.Name, first, path)
			}
			boolean[f.Name], shorthand[f.Name], where[f.Name] = isBool, f.Shorthand, path
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: usage %q", path, f.Name, f.Usage)
			}
			if value, _ := pflag.UnquoteUsage(f); value == "string" || value == "strings" || value == "stringArray" || value == "uint" {
				t.Errorf("%s --%s: name its value in back quotes", path, f.Name)
			}
			kind := f.Annotations[refersTo]
			if kind == nil {
				if strings.HasSuffix(strings.TrimSuffix(f.Usage, " (may repeat)"), "id or name") {
					t.Errorf("%s --%s names a resource: make it with reference", path, f.Name)
				}
				return
			}
			if want := roles[f.Name]; f.Name != kind[0] && want != kind[0] {
				t.Errorf("%s --%s: elsewhere that flag is --%s", path, f.Name, kind[0])
			}
		})
	})
	for role := range roles {
		if where[role] == "" {
			t.Errorf("no command has --%s any more", role)
		}
	}
}

// TestFlagsForFields: what stands for a field of the API is a flag or an argument of some command.
func TestFlagsForFields(t *testing.T) {
	have := map[string]bool{}
	each(newTree(), func(c *cobra.Command) {
		eachFlag(c, func(f *pflag.Flag) { have[f.Name] = true })
		for _, name := range arguments(c) {
			have[name] = true
		}
	})
	for field, words := range flagsFor {
		for _, word := range words {
			if !have[word] {
				t.Errorf("%s: no command has %s", field, word)
			}
		}
	}
}

func TestEveryFlagCompletes(t *testing.T) {
	each(newTree(), func(c *cobra.Command) {
		eachFlag(c, func(f *pflag.Flag) {
			_, completes := c.GetFlagCompletionFunc(f.Name)
			value, _ := pflag.UnquoteUsage(f)
			files := slices.Contains(fileLike, value) || len(f.Annotations[cobra.BashCompFilenameExt])+
				len(f.Annotations[cobra.BashCompSubdirsInDir]) > 0
			if f.Value.Type() != "bool" && completes == files {
				t.Errorf("%s --%s: completes %v, takes files %v", c.CommandPath(), f.Name, completes, files)
			}
		})
	})
}

// TestHelp compares the help of every command with testdata/help, one file per command of the first level.
func TestHelp(t *testing.T) {
	want := map[string]string{"culvert.txt": help(t, nil)}
	for _, top := range newTree().Commands() {
		var b strings.Builder
		each(top, func(c *cobra.Command) {
			path := strings.Fields(c.CommandPath())[1:]
			text, _, _ := strings.Cut(help(t, path), "\nGlobal Flags:\n")
			b.WriteString("$ culvert " + strings.Join(path, " ") + " --help\n\n" + strings.TrimRight(text, "\n") + "\n\n\n")
		})
		want[top.Name()+".txt"] = strings.TrimRight(b.String(), "\n") + "\n"
	}
	dir := filepath.Join("testdata", "help")
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := want[f.Name()]; !ok {
			t.Errorf("%s belongs to no command", f.Name())
		}
	}
	for name, text := range want {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(have) != text {
			t.Errorf("%s differs from what the commands say (%v); if that is meant: go test ./internal/cli -run TestHelp -update",
				name, err)
		}
	}
}

func help(t *testing.T, path []string) string {
	t.Helper()
	var out, problems bytes.Buffer
	args := append(slices.Clone(path), "--help")
	if code := Main(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &problems}); code != 0 || problems.Len() > 0 {
		t.Fatalf("culvert %s: status %d: %s", strings.Join(args, " "), code, &problems)
	}
	return out.String()
}

// TestGroups: a group by itself shows its help; with a word that is no command of it, it says which one was meant.
func TestGroups(t *testing.T) {
	each(newTree(), func(c *cobra.Command) {
		if c.Annotations[holdsOthers] == "" {
			return
		}
		path := strings.Fields(c.CommandPath())[1:]
		var out, problems bytes.Buffer
		s := Streams{In: strings.NewReader(""), Out: &out, Err: &problems}
		if code := Main(t.Context(), path, s); code != 0 || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("%s: status %d, %q", c.CommandPath(), code, out.String())
		}
		out.Reset()
		wrong := c.Commands()[0].Name() + "x"
		if code := Main(t.Context(), append(path, wrong), s); code != 1 || out.Len() > 0 ||
			!strings.Contains(problems.String(), c.CommandPath()+" "+c.Commands()[0].Name()) {
			t.Errorf("%s %s: status %d, %q, %q", c.CommandPath(), wrong, code, out.String(), problems.String())
		}
	})
}
