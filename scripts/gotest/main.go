// Gotest runs `go test` with the arguments given and demands that nothing is skipped. It prints what go test prints
// without -v: a line per package and, of failures only, the output; and of tests that passed the lines with a figure, which are
// those that say of how many events it is ("n=10"). It exits with 1 when a test failed or was skipped, or when none ran.
package main

import (
	"fmt"
	"os"
	"os/exec"
)

func main() {
	ok, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(args []string) (bool, error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	r := newReport(os.Stdout)
	readErr := r.read(out)
	waitErr := cmd.Wait()
	ok := r.finish()
	if readErr != nil {
		return false, readErr
	}
	if waitErr != nil && ok {
		return false, waitErr // go test itself failed, and said why on standard error
	}
	return ok, nil
}
