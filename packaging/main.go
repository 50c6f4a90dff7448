// Packaging builds Culvert's packages for Debian and for distributions with rpm: the binary, its units, and what is
// written from the command tree, which are manual pages and completions. It is a module of its own, so that what it needs
// is no part of the product.
//
//	go run . -version v1.2.3 -time 1700000000 -out ../dist
//
// The same source, version and time give the same bytes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// architectures as Go names them.
var architectures = []string{"amd64", "arm64"}

// build is one run: what is built, from where, whereto.
type build struct {
	version string // as culvert version prints it
	made    time.Time
	out     string
	source  string // the main module
	work    string // generated files
}

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "packaging:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("packaging", flag.ContinueOnError)
	version := f.String("version", "", "`version` to stamp; packages get one that is derived from it")
	seconds := f.Int64("time", 0, "`seconds` since 1970 that all files were last changed at: the commit's")
	out := f.String("out", "../dist", "`directory` for the packages")
	archs := f.String("arch", strings.Join(architectures, ","), "`list` of architectures, as Go names them")
	formats := f.String("format", strings.Join(formats, ","), "`list` of formats")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *version == "" || *seconds <= 0 || f.NArg() > 0 {
		return errors.New("give -version and -time, and no arguments")
	}
	work, err := os.MkdirTemp("", "culvert-packaging-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	b := build{version: *version, made: time.Unix(*seconds, 0).UTC(), out: *out, source: "..", work: work}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	texts, err := b.texts()
	if err != nil {
		return err
	}
	for arch := range strings.SplitSeq(*archs, ",") {
		binary, err := b.compile(arch)
		if err != nil {
			return err
		}
		for format := range strings.SplitSeq(*formats, ",") {
			file, err := b.pack(format, arch, binary, texts)
			if err != nil {
				return fmt.Errorf("%s for %s: %w", format, arch, err)
			}
			fmt.Fprintln(os.Stdout, file)
		}
	}
	return nil
}

// compile builds the binary as `make build` does. It is static, so any distribution's kernel and loader will do.
func (b build) compile(arch string) (string, error) {
	out, err := filepath.Abs(filepath.Join(b.work, "culvert-"+arch))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags",
		"-s -w -X github.com/culvert-net/culvert/internal/version.stamp="+b.version, "-o", out, "./cmd/culvert")
	cmd.Dir, cmd.Stderr = b.source, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go build for %s: %w", arch, err)
	}
	return out, nil
}
