package query

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Source is where files are.
type Source interface {
	// Files lists what there is, in a fixed order.
	Files(ctx context.Context) ([]File, error)
	// Open gives a file's bytes by ranges, for reading until it is closed.
	Open(ctx context.Context, f File) (Reader, error)
}

// File of a source.
type File struct {
	Name string // path within the source, with slashes
	Size int64
}

// Reader is an open file.
type Reader interface {
	io.ReaderAt
	io.Closer
}

// kinds of files, by the end of their names. What is named otherwise is none of ours, such as the tiles of an evidence log.
const (
	kindNone = iota
	kindParquet
	kindText
	kindJSON
)

// IsRecords tells by its name whether a file holds flow records.
func IsRecords(name string) bool { return kindOf(name) != kindNone }

func kindOf(name string) int {
	base := strings.TrimSuffix(path.Base(name), ".gz")
	switch {
	case strings.HasPrefix(base, "."):
		return kindNone
	case strings.HasSuffix(base, ".parquet"):
		return kindParquet
	case strings.HasSuffix(base, ".log"):
		return kindText
	case strings.HasSuffix(base, ".ndjson"), strings.HasSuffix(base, ".jsonl"):
		return kindJSON
	case strings.HasSuffix(base, ".json") && strings.Contains(base, "_vpcflowlogs_"):
		return kindJSON
	}
	return kindNone
}

type fsSource struct{ fsys fs.FS }

// FS is the files of a file system, such as those of a folder. Its files must be read by ranges, as those of the operating system are.
func FS(fsys fs.FS) Source { return fsSource{fsys} }

func (s fsSource) Files(ctx context.Context) ([]File, error) {
	var out []File
	err := fs.WalkDir(s.fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if !d.Type().IsRegular() || !IsRecords(name) {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // compressed or disposed of meanwhile
		} else if err != nil {
			return err
		}
		out = append(out, File{Name: name, Size: info.Size()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list flow records: %w", err)
	}
	return out, nil
}

func (s fsSource) Open(_ context.Context, f File) (Reader, error) {
	file, err := s.fsys.Open(f.Name)
	if err != nil {
		return nil, err
	}
	r, ok := file.(Reader)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s cannot be read by ranges", f.Name), file.Close())
	}
	return r, nil
}
