package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// copyEvidence copies what belongs to a copy.
func copyEvidence(ctx context.Context, from fs.FS, dir string) error {
	for _, part := range []string{"log", "segments", "manifest.json"} {
		err := fs.WalkDir(from, part, func(name string, d fs.DirEntry, err error) error {
			if err := errors.Join(err, ctx.Err()); err != nil || !d.Type().IsRegular() {
				return err
			}
			return copyOne(from, name, filepath.Join(dir, filepath.FromSlash(name)))
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy the evidence: %w", err)
		}
	}
	return nil
}

func create(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
}

func copyOne(from fs.FS, name, to string) (err error) {
	in, err := from.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
