package evidence

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// replaceFile writes a file as a whole or not at all.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// hourOf is the beginning of a file's hour.
func hourOf(name string) (time.Time, error) {
	base := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(name), packed), suffix)
	t, err := time.Parse(hourFormat, base)
	if err != nil {
		return t, fmt.Errorf("evidence: %s is no file of an hour: %w", name, err)
	}
	return t, nil
}

// openHour opens a file of segments, packed or not.
func openHour(path string) (io.ReadCloser, error) {
	f, err := os.Open(strings.TrimSuffix(path, packed))
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	z, err := os.Open(strings.TrimSuffix(path, packed) + packed)
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(z)
	if err != nil {
		return nil, errors.Join(err, z.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{r, z}, nil
}

// eachLine calls f for every whole line.
func eachLine(r io.Reader, f func([]byte) error) error {
	in := bufio.NewReaderSize(r, 128<<10)
	var long []byte
	for {
		part, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		line := part
		if len(long) > 0 {
			line = append(long, part...)
			long = nil
		}
		if err := f(bytes.TrimSuffix(line, []byte{'\n'})); err != nil {
			return err
		}
	}
}
