package tidy

import (
	"regexp"
	"strings"
	"testing"
)

var (
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
	// A test as a document names it; with … or * behind it all that begin so.
	testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)([…*]?)")
)

// Tests that documents name exist: a claim whose proof was renamed or removed is found.
func TestDocumentsNameTests(t *testing.T) {
	var have []string
	for _, f := range sources(t, "*_test.go") {
		for _, m := range testFunc.FindAllStringSubmatch(read(t, f), -1) {
			have = append(have, m[1])
		}
	}
	named := 0
	for _, f := range sources(t, "*.md") {
		for i, l := range strings.Split(read(t, f), "\n") {
			for _, m := range testName.FindAllStringSubmatch(l, -1) {
				if named++; !known(have, m[1], m[2] != "") {
					t.Errorf("%s:%d names %s, and there is no such test", f, i+1, m[1])
				}
			}
		}
	}
	if named == 0 {
		t.Error("no document names a test: this finds nothing")
	}
}

func known(have []string, name string, prefix bool) bool {
	for _, h := range have {
		if h == name || prefix && strings.HasPrefix(h, name) {
			return true
		}
	}
	return false
}
