// Gen writes what follows from the comments of bpf/lib/abi.h, Go names of the reasons and docs/REASONS.md, and the sums of
// the sources. It runs in bpf/ through go generate, after the objects were made.
package main

import (
	"fmt"
	"os"

	"github.com/culvert-net/culvert/bpf/gen/header"
	"github.com/culvert-net/culvert/bpf/gen/sources"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run() error {
	text, err := os.ReadFile("lib/abi.h")
	if err != nil {
		return err
	}
	reasons, err := header.Reasons(string(text))
	if err != nil {
		return err
	}
	if err := os.WriteFile("reason.go", header.Go(reasons), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile("../docs/REASONS.md", header.Markdown(reasons), 0o644); err != nil {
		return err
	}
	sums, err := sources.Sum(os.DirFS("."))
	if err != nil {
		return err
	}
	return os.WriteFile(sources.File, sums, 0o644)
}
