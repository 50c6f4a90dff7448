package docrun

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Block is one fenced block of commands.
type Block struct {
	File    string
	Line    int    // of the first command's first line, from 1
	Machine string // "" when it is not run
	NoRun   string // why it is not run
	Text    string
	Promise []string // lines that the output must have, in order
}

// Place names a line for messages.
func (b *Block) Place(line int) string { return fmt.Sprintf("%s:%d", b.File, line) }

// fence is an open block.
type fence struct {
	line           int
	indent         string
	language, info string
	lines          []string
}

var (
	fenceLine = regexp.MustCompile("^( *)```+ *([^ `]*) *([^`]*)$")
	// commandLine is what belongs into an sh block.
	commandLine = regexp.MustCompile(`^\s*(\$ |(sudo )?(culvert|make|apt|apt-get|go|ip|curl) )`)
)

// otherShells are names for sh blocks that would go unnoticed.
var otherShells = []string{"bash", "shell", "console", "shellsession", "shell-session", "zsh"}

// Parse finds the blocks of commands in a Markdown document. The error lists everything that breaks the rules.
func Parse(file, text string) ([]Block, error) {
	var blocks []Block
	var errs []error
	var open *fence
	last := "" // what stands between the last sh block and here, when it is only white space, else not blank
	for i, line := range strings.Split(text, "\n") {
		m := fenceLine.FindStringSubmatch(line)
		switch {
		case open == nil && strings.HasPrefix(strings.TrimSpace(line), "~~~"):
			errs = append(errs, fmt.Errorf("%s:%d: fence blocks with ```", file, i+1))
		case open == nil && m != nil:
			open = &fence{line: i + 1, indent: m[1], language: m[2], info: strings.TrimSpace(m[3])}
		case open == nil:
			last += strings.TrimSpace(line)
		case m != nil && m[2] == "" && m[3] == "":
			b, err := open.close(file)
			errs = append(errs, err)
			if b != nil {
				blocks, last = append(blocks, *b), ""
			} else if open.language == "text" && len(blocks) > 0 && last == "" {
				blocks[len(blocks)-1].Promise = open.lines
				last = "promised"
			} else {
				last = "another block"
			}
			open = nil
		default:
			open.lines = append(open.lines, strings.TrimPrefix(line, open.indent))
		}
	}
	if open != nil {
		errs = append(errs, fmt.Errorf("%s:%d: the block is not closed", file, open.line))
	}
	return blocks, errors.Join(errs...)
}

// close returns the block if it is one of commands.
func (f *fence) close(file string) (*Block, error) {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s:%d: "+format, append([]any{file, f.line}, args...)...)
	}
	if slices.Contains(otherShells, f.language) {
		return nil, fail("fence commands as sh, not as %s", f.language)
	}
	if f.language != "sh" {
		if f.language == "" && slices.ContainsFunc(f.lines, commandLine.MatchString) {
			return nil, fail("fence commands as sh")
		}
		return nil, nil
	}
	b := &Block{File: file, Line: f.line + 1, Text: strings.Join(f.lines, "\n") + "\n"}
	key, value, _ := strings.Cut(f.info, "=")
	switch {
	case value == "" || key != "machine" && key != "no-run":
		return nil, fail("say where this runs: ```sh machine=NAME, or ```sh no-run=REASON")
	case key == "no-run":
		b.NoRun = value
		return b, nil
	case addresses[value] == "":
		return nil, fail("there is no machine %q, only %s", value, strings.Join(machineNames(), ", "))
	}
	b.Machine = value
	return b, nil
}

var makeTarget = regexp.MustCompile(`(?m)^\s*(?:sudo )?make ([\w-]+)`)

// MakeTargets are the targets of make that a block speaks of, run or not.
func (b *Block) MakeTargets() []string {
	var targets []string
	for _, m := range makeTarget.FindAllStringSubmatch(b.Text, -1) {
		targets = append(targets, m[1])
	}
	return targets
}

// missing returns the first promised line that the output lacks, "" if it has all, in order.
func missing(promise []string, output string) string {
	have := strings.Split(output, "\n")
	for _, want := range promise {
		if strings.TrimSpace(want) == "" {
			continue
		}
		i := slices.IndexFunc(have, linePattern(want).MatchString)
		if i < 0 {
			return want
		}
		have = have[i+1:]
	}
	return ""
}

func linePattern(want string) *regexp.Regexp {
	var parts []string
	for _, field := range strings.Fields(want) {
		parts = append(parts, strings.ReplaceAll(regexp.QuoteMeta(field), "…", ".*"))
	}
	return regexp.MustCompile(`^\s*` + strings.Join(parts, `\s+`) + `\s*$`)
}
