package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// local is a directory at the server. Nothing leads out of it, whatever links others put there.
type local struct {
	dir  string
	room *Room
	own  bool // it is below the account's directory of the server, and counts there
}

// Put writes a file beside and renames it, so that readers see whole files only. It leaves the room that others need.
func (l local) Put(ctx context.Context, o Object, body *Body) (err error) {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	if err := l.room.Free(l.dir); err != nil {
		return err
	}
	root, err := os.OpenRoot(l.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(path.Dir(o.Path), 0o750); err != nil {
		return err
	}
	if l.own {
		before, err := sizeIn(root, o.Path)
		if err == nil {
			err = l.room.take(o.Account, body.Size-before)
		}
		if err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = l.room.take(o.Account, before-body.Size)
			}
		}()
	}
	return l.write(ctx, root, o, body)
}

func (l local) write(ctx context.Context, root *os.Root, o Object, body *Body) (err error) {
	part := path.Join(path.Dir(o.Path), "."+path.Base(o.Path)+".part")
	f, err := root.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreGone(root.Remove(part)))
		}
	}()
	_, err = io.Copy(f, body)
	if err = errors.Join(err, f.Sync(), f.Close(), ctx.Err()); err != nil {
		return err
	}
	if err := root.Rename(part, o.Path); err != nil {
		return err
	}
	dir, err := root.Open(path.Dir(o.Path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// localDir is the directory that a destination names: below the server's own for the account, or as it is where the operator allows it.
func (a *Allowed) localDir(account, destination string) (string, error) {
	if !filepath.IsAbs(destination) {
		if destination == "" || destination == "." || !filepath.IsLocal(destination) || filepath.Clean(destination) != destination {
			return "", refuse("name a directory, such as flow-logs; it lies at the server below DATA-DIR/deliveries/ACCOUNT",
				"%q is no directory below the account's", destination)
		}
		return filepath.Join(a.Local, account, destination), nil
	}
	clean := filepath.Clean(destination)
	for _, dir := range a.Dirs {
		if rel, err := filepath.Rel(dir, clean); err == nil && filepath.IsLocal(rel) && clean == destination {
			return clean, nil
		}
	}
	return "", refuse("name one without leading slash, or have the operator allow it: culvert server --flow-log-directory",
		"the directory %q is not allowed", fmt.Sprintf("%.100s", destination))
}
