package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
)

// exportFlags say what is copied, and where to.
type exportFlags struct {
	since, until, out string
}

func (a *app) flowsExport() *cobra.Command {
	var f exportFlags
	c := command("export --out DIR [--since TIME] [--until TIME] [--account ACCOUNT]", "Copy evidence that can be verified anywhere", `
Copy the Merkle log, and what nodes sealed of their logs in a span of time, into a directory that is made for it. The
copy is verified without the server, by the public key of the log alone, which culvert log-key prints. Spans are widened
to whole hours.

It is for administrators: segments are what nodes wrote, and hold records of all accounts on a node. --account leaves
out nodes that wrote nothing about that account, but not what there is of others in the same segments.`, `
  culvert flows export --since 2026-03-01T00:00:00Z --until 2026-04-01T00:00:00Z --out march
  culvert flows export --since 24h --account pay --out pay-today`,
		func(cmd *cobra.Command, _ []string) error { return a.export(cmd.Context(), &f) })
	s := c.Flags()
	s.StringVar(&f.since, "since", "", "segments that were sealed after this `time`, or so long ago")
	s.StringVar(&f.until, "until", "", "segments that were sealed before this `time`, or so long ago")
	s.StringVar(&f.out, "out", "", "`directory` to make; it must not exist")
	c.Args = noArguments
	return c
}

// exported is what was copied.
type exported struct {
	Dir   string `json:"dir"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"`
}

func (a *app) export(ctx context.Context, f *exportFlags) error {
	if f.out == "" {
		return api.Errorf(api.CodeMissingParameter, "--out", "name a directory that does not exist yet", "no directory is given")
	}
	var q api.EvidenceQuery
	var err error
	now := time.Now()
	if q.Since, err = parseTime("--since", f.since, now); err != nil {
		return err
	}
	if q.Until, err = parseTime("--until", f.until, now); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := os.Mkdir(f.out, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return api.Errorf(api.CodeInvalidParameter, "--out", "name one that does not", "%s exists", f.out)
		}
		return err
	}
	w := copyWriter{dir: f.out}
	err = errors.Join(c.Evidence(ctx, q, w.part), w.end())
	if err != nil {
		return errors.Join(err, os.RemoveAll(f.out)) // half a copy would pass for a whole one
	}
	out := exported{f.out, w.files, w.bytes}
	return a.print(out, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d files, %s, in %s. Verify it with: culvert flows verify %s --keys FILE, the file from culvert log-key\n", out.Files,
			size(uint64(out.Bytes)), out.Dir, out.Dir)
		return err
	})
}

// copyWriter makes files of parts.
type copyWriter struct {
	dir   string
	path  string
	file  *os.File
	files int
	bytes int64
}

// part writes the next bytes of a file, which begins where its name does. Nothing is written outside the directory.
func (w *copyWriter) part(p api.EvidencePart) error {
	if w.file == nil || p.Path != w.path {
		if err := w.end(); err != nil {
			return err
		}
		parts := strings.Split(p.Path, "/")
		if !filepath.IsLocal(p.Path) || slices.ContainsFunc(parts, func(s string) bool { return s == "" || s[0] == '.' }) {
			return fmt.Errorf("the server sends a file named %q, which is not written", p.Path)
		}
		path := filepath.Join(w.dir, filepath.FromSlash(p.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		w.file, w.path = f, p.Path
		w.files++
	}
	n, err := w.file.Write(p.Data)
	w.bytes += int64(n)
	return err
}

func (w *copyWriter) end() error {
	if w.file == nil {
		return nil
	}
	err := errors.Join(w.file.Sync(), w.file.Close())
	w.file = nil
	return err
}

func (a *app) logKeyCommand() *cobra.Command {
	c := command("log-key", "Print the public key of the evidence", `
Print the public key that checkpoints of the mesh's Merkle log are signed with, in the form that culvert flows verify
takes in its --keys file. Ask for it once, over a way that you trust, and keep it: who verifies with a key that came
with the evidence has verified nothing. Add the mesh's CA to the file, DATA-DIR/ca.pem of the server: then nodes' keys
are judged, too.`, `
  culvert log-key > keys
  culvert flows verify march --keys keys`,
		func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			k, err := cl.LogKey(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(k, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, k.VerifierKey)
				return err
			})
		})
	c.Args = noArguments
	return c
}
