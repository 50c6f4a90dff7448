// Gotest runs `go test` with the arguments given and demands that nothing is skipped. It prints what go test prints
// without -v: a line per package and, of failures only, the output; of tests that passed the lines with a figure, which are
// those that say of how many events it is ("n=10"); at its end again what failed, in a few lines each. As
// `gotest -failures FILE ARGUMENTS` it appends these to a file, too. It exits with 1 when a test failed or was skipped, or when
// none ran.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
)

func main() {
	args, file := os.Args[1:], ""
	if len(args) > 1 && args[0] == "-failures" {
		file, args = args[1], args[2:]
	}
	ok, err := run(args, file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(args []string, failures string) (bool, error) {
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
	if err := tell(r.what, failures); err != nil {
		return false, err
	}
	if readErr != nil {
		return false, readErr
	}
	if waitErr != nil && ok {
		return false, waitErr // go test itself failed, and said why on standard error
	}
	return ok, nil
}

// tell prints what failed and, if a file is named, appends it there.
func tell(what []failure, file string) error {
	s := &sources{tree: os.DirFS(".")}
	if file == "" {
		s.digest(os.Stdout, what)
		return nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s.digest(io.MultiWriter(os.Stdout, f), what)
	return f.Close()
}
