package main

import (
	"strings"
	"testing"
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
