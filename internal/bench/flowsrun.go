package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Lines of the document between which the result of flows stands.
const (
	flowsBegin = "<!-- make bench-flows writes from here -->\n"
	flowsEnd   = "<!-- make bench-flows writes to here -->\n"
)

// flowsOptions of a run.
type flowsOptions struct {
	rounds      int
	sizes       []int // lines of the archives that are asked, rising
	file, dir   string
	withoutMesh bool
	keep, build bool
}

// benchFlows is the command "flows": what recording costs the datapath, what a record costs on disk and in CPU, and how long questions
// take.
func benchFlows(args []string, out io.Writer) error {
	o := flowsOptions{}
	var sizes string
	f := flag.NewFlagSet("flows", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 7, "how often each is measured")
	f.StringVar(&sizes, "sizes", "1,10,100", "millions of `lines` of the archives that are asked, separated by commas")
	f.StringVar(&o.dir, "dir", "", "`directory` for the archives: 50 bytes a line (default: one for temporary files)")
	f.StringVar(&o.file, "write", "", "put the result between the markers of this `file`, not on standard output")
	f.BoolVar(&o.keep, "keep", false, "keep the archives in the directory of -dir, and take those that are there")
	f.BoolVar(&o.build, "build", false, "only write the archives that -keep keeps; a run that is ended goes on where it was")
	f.BoolVar(&o.withoutMesh, "files-only", false, "leave out what needs a mesh and root")
	if err := f.Parse(args); err != nil {
		return err
	}
	for s := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil || n <= 0 || n > 1000 {
			return fmt.Errorf("-sizes %q: want millions, such as 1,10", sizes)
		}
		o.sizes = append(o.sizes, int(n*1e6))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return o.run(ctx, out)
}

func (o flowsOptions) run(ctx context.Context, out io.Writer) (err error) {
	if o.rounds < 1 || o.rounds > 100 {
		return fmt.Errorf("-rounds %d: want 1 to 100", o.rounds)
	}
	if (o.keep || o.build) && (!o.keep || o.dir == "") {
		return errors.New("-keep needs -dir, and -build needs both: archives are kept there")
	}
	if o.build {
		return o.buildArchives(ctx)
	}
	dir, err := os.MkdirTemp(o.dir, "cvbench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &flowsResult{o: o}
	if r.where, err = flowsCircumstances(); err != nil {
		return err
	}
	if !o.withoutMesh {
		if err := r.measureMesh(ctx, dir); err != nil {
			return err
		}
	}
	if err := r.measureForms(); err != nil {
		return err
	}
	for _, n := range o.sizes {
		in := dir
		if o.keep {
			in = o.dir
		}
		if err := r.measureArchive(ctx, archiveDir(in, n), n); err != nil {
			return err
		}
	}
	if o.file == "" {
		_, err := io.WriteString(out, r.markdown())
		return err
	}
	doc, err := os.ReadFile(o.file)
	if err != nil {
		return err
	}
	if doc, err = replaceBetween(doc, flowsBegin, flowsEnd, r.markdown()); err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	return os.WriteFile(o.file, doc, 0o644)
}

func flowsCircumstances() (string, error) {
	commit, err := commit()
	if err != nil {
		return "", err
	}
	kernel, err := kernel()
	return fmt.Sprintf("Commit %s, %s, Linux %s, %s", commit, machine(), kernel, runtime.Version()), err
}
