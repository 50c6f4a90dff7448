package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is a line of `go test -json`; `go doc test2json` explains the fields.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
}

// report turns events into text. A test's output is kept until its end is known.
type report struct {
	w       io.Writer
	running map[key]*strings.Builder // tests, and packages under the empty name, that have not ended
	order   []key                    // of running
	passed  int
	failed  int            // tests, and packages of which no test failed
	blamed  map[string]int // failed tests by package
	skipped []string
	what    []failure // that failed or was skipped, in order
}

type key struct{ pkg, test string }

func newReport(w io.Writer) *report {
	return &report{w: w, running: map[key]*strings.Builder{}, blamed: map[string]int{}}
}

// read handles events up to the end of the stream. Lines that are no events are printed as they are.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
				fmt.Fprint(r.w, line)
			} else {
				r.handle(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) handle(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.w, e.Output)
	case "start", "run":
		r.buffer(k)
	case "output":
		if !strings.HasPrefix(e.Output, "=== ") { // -v's own lines
			r.buffer(k).WriteString(e.Output)
		}
	case "pass":
		r.pass(k)
	case "skip":
		r.skip(k)
	case "fail":
		r.fail(k)
	}
}

func (r *report) buffer(k key) *strings.Builder {
	b := r.running[k]
	if b == nil {
		b = &strings.Builder{}
		r.running[k] = b
		r.order = append(r.order, k)
	}
	return b
}

// end forgets a test or package and returns its output.
func (r *report) end(k key) string {
	b := r.running[k]
	if b == nil {
		return ""
	}
	delete(r.running, k)
	r.order = slices.DeleteFunc(r.order, func(o key) bool { return o == k })
	return b.String()
}

func (r *report) pass(k key) {
	text := r.end(k)
	if k.test != "" {
		r.passed++
		r.figures(k.test, text)
		return
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "ok ") {
			fmt.Fprint(r.w, line)
		}
	}
}

// logged is a line of a test's log, behind its place in the source; measured are lines that tell of how many events a figure is.
var (
	logged   = regexp.MustCompile(`^ +[a-z0-9_]+\.go:[0-9]+: (.*)`)
	measured = regexp.MustCompile(`\bn ?= ?[0-9]`)
)

// figures prints what a test that passed has measured.
func (r *report) figures(test, text string) {
	for line := range strings.Lines(text) {
		if m := logged.FindStringSubmatch(line); m != nil && measured.MatchString(m[1]) {
			fmt.Fprintf(r.w, "%s: %s\n", test, m[1])
		}
	}
}

// skip of a package means that it has no tests.
func (r *report) skip(k key) {
	text := r.end(k)
	if k.test != "" {
		r.skipped = append(r.skipped, k.pkg+" "+k.test+"\n"+text)
		r.what = append(r.what, failure{k.pkg, k.test, text})
		return
	}
	fmt.Fprint(r.w, text)
}

// fail of a package also tells of the tests that had not ended: one of them stopped it.
func (r *report) fail(k key) {
	if k.test != "" {
		r.blame(k)
		return
	}
	whole := r.end(k)
	for _, o := range slices.Clone(r.order) {
		if o.pkg == k.pkg {
			r.blame(o)
		}
	}
	if whole == "" {
		whole = "FAIL\t" + k.pkg + "\n"
	}
	fmt.Fprint(r.w, whole)
	if r.blamed[k.pkg] == 0 {
		r.failed++
		r.what = append(r.what, failure{k.pkg, "", whole})
	}
}

func (r *report) blame(k key) {
	text := r.end(k)
	fmt.Fprint(r.w, text)
	r.what = append(r.what, failure{k.pkg, k.test, text})
	r.blamed[k.pkg]++
	r.failed++
}

// finish prints the sum and tells whether all is well. What never ended has failed.
func (r *report) finish() bool {
	for _, k := range slices.Clone(r.order) {
		r.failed++
		text := r.end(k)
		fmt.Fprintf(r.w, "never ended: %s %s\n%s", k.pkg, k.test, text)
		r.what = append(r.what, failure{k.pkg, k.test, text})
	}
	for _, s := range r.skipped {
		fmt.Fprintf(r.w, "skipped: %s", s)
	}
	verdict := "PASS"
	ok := r.failed == 0 && len(r.skipped) == 0 && r.passed > 0
	if !ok {
		verdict = "FAIL"
	}
	fmt.Fprintf(r.w, "%s: %d tests passed, %d failed, %d skipped\n", verdict, r.passed, r.failed, len(r.skipped))
	return ok
}
