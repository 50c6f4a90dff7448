package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const passing = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: noise\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:2: killed n=10: p50 3 ms\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"        its second line, and n=1 elsewhere\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p","Elapsed":0.1}
{"Action":"start","Package":"q"}
{"Action":"output","Package":"q","Output":"?   \tq\t[no test files]\n"}
{"Action":"skip","Package":"q","Elapsed":0}
`

// figure is what is printed of the test that passes.
const figure = "TestA: killed n=10: p50 3 ms\n"

func TestReport(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want string
		ok   bool
	}{
		"passing":  {passing, figure + "ok  \tp\t0.1s\n?   \tq\t[no test files]\nPASS: 1 tests passed, 0 failed, 0 skipped\n", true},
		"no tests": {"", "FAIL: 0 tests passed, 0 failed, 0 skipped\n", false},
		"a skipped test": {passing + `{"Action":"run","Package":"r","Test":"TestB"}
{"Action":"output","Package":"r","Test":"TestB","Output":"    b_test.go:1: needs root\n"}
{"Action":"skip","Package":"r","Test":"TestB"}
`, figure + "ok  \tp\t0.1s\n?   \tq\t[no test files]\nskipped: r TestB\n    b_test.go:1: needs root\n" +
			"FAIL: 1 tests passed, 0 failed, 1 skipped\n", false},
		"a failing test": {`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: bad\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`, "    a_test.go:1: bad\nFAIL\nFAIL\tp\t0.1s\nFAIL: 0 tests passed, 1 failed, 0 skipped\n", false},
		"a test that stops the process": {passing + `{"Action":"start","Package":"r"}
{"Action":"run","Package":"r","Test":"TestB"}
{"Action":"output","Package":"r","Test":"TestB","Output":"panic: no\n"}
{"Action":"output","Package":"r","Output":"FAIL\tr\t0.1s\n"}
{"Action":"fail","Package":"r"}
`, figure + "ok  \tp\t0.1s\n?   \tq\t[no test files]\npanic: no\nFAIL\tr\t0.1s\nFAIL: 1 tests passed, 1 failed, 0 skipped\n", false},
		"a build that fails": {`{"ImportPath":"p [p.test]","Action":"build-output","Output":"p.go:1: undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}
`, "p.go:1: undefined: x\nFAIL\tp [build failed]\nFAIL: 0 tests passed, 1 failed, 0 skipped\n", false},
		"a stream that breaks off": {`{"Action":"run","Package":"p","Test":"TestA"}
no event
`, "no event\nnever ended: p TestA\nFAIL: 0 tests passed, 1 failed, 0 skipped\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(c.in)); err != nil {
				t.Fatal(err)
			}
			if ok := r.finish(); ok != c.ok || out.String() != c.want {
				t.Errorf("ok %v, want %v\n%s\nwant\n%s", ok, c.ok, out.String(), c.want)
			}
		})
	}
}

// What failed is told again in few lines: what tests say of themselves, and why a process was stopped; not what they logged.
func TestDigest(t *testing.T) {
	tree := fstest.MapFS{
		"p/a_test.go":       {Data: []byte("package p\n\tt.Errorf(`bad`)\n\tt.Logf(`seed`)\n\teventually(t, ok)\n")},
		"internal/logs.go":  {Data: []byte("package internal\n\tt.Log(output)\n")},
		".git/p/a_test.go":  {Data: []byte("package p\n\tt.Log(`not of this tree`)\n")},
		"internal/other.md": {Data: []byte("t.Log(")},
	}
	for name, c := range map[string]struct {
		in   failure
		want string
	}{
		"errors and logs": {failure{"p", "TestA", "    a_test.go:3: seed 1\n        of two\n    a_test.go:2: bad\n        worse\n" +
			"    logs.go:2: output:\n        level=ERROR\n    a_test.go:4: not within 1s\n--- FAIL: TestA (1s)\n"},
			"what failed:\n--- p TestA\n    a_test.go:2: bad\n        worse\n    a_test.go:4: not within 1s\n"},
		"a panic": {failure{"p", "TestA", "    a_test.go:3: seed\n--- FAIL: TestA\npanic: no\n\ngoroutine 9 [running]:\n"},
			"what failed:\n--- p TestA\npanic: no\n\ngoroutine 9 [running]:\n"},
		"a test whose parts failed": {failure{"p", "TestA", "--- FAIL: TestA (1s)\n"}, "what failed:\n--- p TestA\n"},
		"a package":                 {failure{"p", "", "mesh not taken down\nFAIL\tp\t1s\n"}, "what failed:\n--- p\nmesh not taken down\nFAIL\tp\t1s\n"},
		"a long message": {failure{"p", "TestA", "    a_test.go:2: " + strings.Repeat("x", 1000) + "\n" + strings.Repeat("        more\n", 100)},
			"what failed:\n--- p TestA\n    a_test.go:2: " + strings.Repeat("x", lineBytes-len("    a_test.go:2: ")) + "…\n" +
				strings.Repeat("        more\n", messageLines-1)},
		"many messages": {failure{"p", "TestA", strings.Repeat("    a_test.go:2: bad\n", 100)},
			"what failed:\n--- p TestA\n" + strings.Repeat("    a_test.go:2: bad\n", failureLines)},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			(&sources{tree: tree}).digest(&out, []failure{c.in})
			if out.String() != c.want {
				t.Errorf("%s\nwant\n%s", out.String(), c.want)
			}
		})
	}
	var out strings.Builder
	if (&sources{tree: tree}).digest(&out, nil); out.Len() > 0 {
		t.Errorf("nothing failed: %s", out.String())
	}
}

// All that makes a run fail is in what is told again, in order.
func TestFailuresAreKept(t *testing.T) {
	r := newReport(io.Discard)
	in := passing + `{"Action":"run","Package":"r","Test":"TestB"}
{"Action":"output","Package":"r","Test":"TestB","Output":"no\n"}
{"Action":"fail","Package":"r","Test":"TestB"}
{"Action":"fail","Package":"r"}
{"Action":"run","Package":"s","Test":"TestC"}
{"Action":"skip","Package":"s","Test":"TestC"}
{"Action":"start","Package":"u"}
{"Action":"output","Package":"u","Output":"FAIL\tu [build failed]\n"}
{"Action":"fail","Package":"u"}
{"Action":"run","Package":"v","Test":"TestD"}
`
	if err := r.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	r.finish()
	want := []failure{{"r", "TestB", "no\n"}, {"s", "TestC", ""}, {"u", "", "FAIL\tu [build failed]\n"}, {"v", "TestD", ""}}
	if !slices.Equal(r.what, want) {
		t.Errorf("%q\nwant\n%q", r.what, want)
	}
}
