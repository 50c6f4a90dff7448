package docrun

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// command is one complete command of a block; it may have several lines.
type command struct {
	line int // in the document
	text string
}

// commands cuts a block where bash takes a command to be complete.
func (b *Block) commands() ([]command, error) {
	var cs []command
	var pending []string
	start := 0 // of pending, in the document
	var problem error
	for i, line := range strings.Split(strings.TrimSuffix(b.Text, "\n"), "\n") {
		if len(pending) == 0 {
			if s := strings.TrimSpace(line); s == "" || s[0] == '#' {
				continue
			}
			start = b.Line + i
		}
		pending = append(pending, line)
		text := strings.Join(pending, "\n")
		if problem = complete(text); problem == nil {
			cs, pending = append(cs, command{line: start, text: text}), nil
		}
	}
	if len(pending) > 0 {
		return nil, fmt.Errorf("%s: this command does not end: %w", b.Place(start), problem)
	}
	return cs, nil
}

// complete asks bash; a here-document without its end is a warning there.
func complete(text string) error {
	if strings.HasSuffix(text, `\`) {
		return errors.New("the last line ends with a backslash")
	}
	cmd := exec.Command("bash", "--norc", "-n")
	cmd.Stdin = strings.NewReader(text + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		return fmt.Errorf("bash: %s", bytes.TrimSpace(out))
	}
	return nil
}

// copyRule is one kind of variables that are copied.
type copyRule struct {
	prefix, command string
	pattern         *regexp.Regexp // the first group is the value
}

// copied are the variables whose values a person copies from what a command printed: PREFIX_NAME is what matches the
// pattern in the output of the last such command with the word "name", lower case and with '-' for '_'.
var copied = []copyRule{
	{"TOKEN_FOR_", "culvert token create", regexp.MustCompile(`CULVERT_JOIN_TOKEN=(\S+)`)},
	{"ENI_", "culvert eni create", regexp.MustCompile(`\b(eni-[0-9a-f]{17})\b`)},
}

// said is a command that was run and what it printed.
type said struct{ command, output string }

var variable = regexp.MustCompile(`\$\{?([A-Z][A-Z0-9_]*)`)

// assignments sets the variables of a command that are to be copied from earlier output.
func assignments(text string, earlier []said) (string, error) {
	var set strings.Builder
	for _, m := range variable.FindAllStringSubmatch(text, -1) {
		for _, c := range copied {
			name, ok := strings.CutPrefix(m[1], c.prefix)
			if !ok {
				continue
			}
			word := strings.ReplaceAll(strings.ToLower(name), "_", "-")
			value, err := c.find(word, earlier)
			if err != nil {
				return "", fmt.Errorf("%s: %w", m[1], err)
			}
			fmt.Fprintf(&set, "%s='%s'\n", m[1], value)
		}
	}
	return set.String(), nil
}

func (c copyRule) find(word string, earlier []said) (string, error) {
	for _, s := range slices.Backward(earlier) {
		if !strings.HasPrefix(s.command, c.command) || !slices.Contains(strings.Fields(s.command), word) {
			continue
		}
		m := c.pattern.FindStringSubmatch(s.output)
		if m == nil {
			return "", fmt.Errorf("%s printed nothing like %s", s.command, c.pattern)
		}
		return m[1], nil
	}
	return "", fmt.Errorf("no %s %s was run before", c.command, word)
}
