package ownfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want string // of the error; empty: it is read
	}{
		"own":     {func(string) error { return nil }, ""},
		"foreign": {func(path string) error { return os.Chown(path, 65534, 0) }, "belongs to the user 65534"},
		"lax":     {func(path string) error { return os.Chmod(path, 0o640) }, "run chmod 600"},
		"long":    {func(path string) error { return os.WriteFile(path, make([]byte, 101), 0o600) }, "more than 100 bytes"},
		"none":    {os.Remove, "no such file"},
		"a directory": {func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		}, "no regular file"},
		"a pipe": {func(path string) error {
			return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))
		}, "no regular file"},
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := errors.Join(os.WriteFile(path, []byte("content"), 0o600), c.make(path)); err != nil {
			t.Fatal(err)
		}
		data, err := Read(path, 100)
		if c.want == "" && (err != nil || string(data) != "content") {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path)) {
			t.Errorf("%s: %v, want one with %q and the path", name, err, c.want)
		}
	}
}
