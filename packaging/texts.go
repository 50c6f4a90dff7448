package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/culvert-net/culvert/internal/cli"
)

// text is a file written from the command tree.
type text struct {
	path string // in the package
	file string // where it is now
}

// completions by shell: where distributions look for them, by format where they differ.
var completions = map[string]map[string]string{
	"bash": {"deb": "/usr/share/bash-completion/completions/culvert", "rpm": "/usr/share/bash-completion/completions/culvert"},
	"zsh":  {"deb": "/usr/share/zsh/vendor-completions/_culvert", "rpm": "/usr/share/zsh/site-functions/_culvert"},
	"fish": {"deb": "/usr/share/fish/vendor_completions.d/culvert.fish", "rpm": "/usr/share/fish/vendor_completions.d/culvert.fish"},
}

// texts writes a manual page for each command, and a completion script for each shell, by format.
func (b build) texts() (map[string][]text, error) {
	pages, err := b.pages()
	if err != nil {
		return nil, err
	}
	all := map[string][]text{}
	for _, format := range formats {
		all[format] = append(all[format], pages...)
	}
	for shell, paths := range completions {
		file := filepath.Join(b.work, "completion."+shell)
		var script bytes.Buffer
		root := cli.New(cli.Streams{In: &bytes.Buffer{}, Out: &script, Err: os.Stderr})
		root.SetArgs([]string{"completion", shell})
		if err := root.Execute(); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, script.Bytes(), 0o644); err != nil {
			return nil, err
		}
		for format, path := range paths {
			all[format] = append(all[format], text{path, file})
		}
	}
	return all, nil
}

// pages writes culvert.1, culvert-server.1 and so on.
func (b build) pages() ([]text, error) {
	dir := filepath.Join(b.work, "man")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	root := cli.New(cli.Streams{In: &bytes.Buffer{}, Out: io.Discard, Err: io.Discard})
	quiet(root)
	header := &doc.GenManHeader{Section: "1", Date: &b.made, Source: "Culvert " + b.version, Manual: "Culvert"}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil {
		return nil, err
	}
	var pages []text
	for _, f := range files {
		if err := compress(f); err != nil {
			return nil, err
		}
		pages = append(pages, text{"/usr/share/man/man1/" + filepath.Base(f) + ".gz", f + ".gz"})
	}
	return pages, nil
}

// quiet leaves out the line that says when a page was generated.
func quiet(c *cobra.Command) {
	c.DisableAutoGenTag = true
	for _, sub := range c.Commands() {
		quiet(sub)
	}
}

// compress writes FILE.gz, without a name and a time in it.
func compress(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(data); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(file+".gz", out.Bytes(), 0o644)
}
