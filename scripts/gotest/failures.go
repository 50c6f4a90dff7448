package main

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// What is repeated of a failure, at most.
const (
	messageLines = 6   // of a message
	failureLines = 24  // of a test
	lineBytes    = 300 // of a line
)

// failure is what a test that failed has said, or a package that failed without one.
type failure struct{ pkg, test, output string }

// messageHead begins what a test says: the file's name without its directory, and the line.
var messageHead = regexp.MustCompile(`^ {4}([\w.-]+\.go):(\d+): `)

// stoppedHead begins what the runtime says when it stops a process.
var stoppedHead = regexp.MustCompile(`^(panic: |fatal error: |WARNING: DATA RACE|runtime: )`)

// A line that logs and does not fail the test has the one and not the other.
var (
	logs  = regexp.MustCompile(`\.Logf?\(`)
	fails = regexp.MustCompile(`\.(Error|Fatal|Skip)f?\(`)
)

// sources tells where a tree only logs.
type sources struct {
	tree fs.FS
	logs map[string]map[string]bool // FILE → LINE; nil: not read yet
}

// onlyLogs tells whether what a line of a file says is no failure. Files of one name are taken together: output has no directories.
func (s *sources) onlyLogs(file, line string) bool {
	if s.logs == nil {
		s.read()
	}
	return s.logs[file][line]
}

// read notes the lines of all Go files that log. What cannot be read logs nothing: too much is shown then, not too little.
func (s *sources) read() {
	s.logs = map[string]map[string]bool{}
	_ = fs.WalkDir(s.tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && len(name) > 1 && name[0] == '.' {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() || path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(s.tree, name)
		if err != nil {
			return nil
		}
		number := 0
		for line := range strings.Lines(string(text)) {
			if number++; !logs.MatchString(line) || fails.MatchString(line) {
				continue
			}
			if s.logs[d.Name()] == nil {
				s.logs[d.Name()] = map[string]bool{}
			}
			s.logs[d.Name()][fmt.Sprint(number)] = true
		}
		return nil
	})
}

// own are the first lines of a test's own failure messages: not what it logged, nor what processes did. Of a package all counts.
func (s *sources) own(f failure) []string {
	var out []string
	left := 0 // lines of the message that may follow
	if f.test == "" {
		left = failureLines
	}
	for line := range strings.Lines(f.output) {
		line = strings.TrimRight(line, "\n")
		if head := messageHead.FindStringSubmatch(line); head != nil {
			if left = messageLines; s.onlyLogs(head[1], head[2]) {
				left = 0
			}
		} else if stoppedHead.MatchString(line) {
			left = messageLines
		} else if strings.HasPrefix(line, "--- ") { // the test's end
			left = 0
		}
		if left == 0 || len(out) == failureLines {
			continue
		}
		left--
		if len(line) > lineBytes {
			line = strings.ToValidUTF8(line[:lineBytes], "") + "…"
		}
		out = append(out, line)
	}
	return out
}

// digest repeats of each failure what it is and the first lines of what it said, for readers who have only the end of the output.
func (s *sources) digest(w io.Writer, failures []failure) {
	if len(failures) > 0 {
		fmt.Fprintln(w, "what failed:")
	}
	for _, f := range failures {
		fmt.Fprintln(w, strings.TrimSpace("--- "+f.pkg+" "+f.test))
		for _, line := range s.own(f) {
			fmt.Fprintln(w, line)
		}
	}
}
