package flowlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Day is a day of records.
type Day struct {
	Begin time.Time // UTC
	Name  string    // of the file
	Path  string
}

// Days lists the days there are records of, oldest first.
func (l *Log) Days() ([]Day, error) {
	names, err := l.days()
	if err != nil {
		return nil, err
	}
	out := make([]Day, len(names))
	for i, name := range names {
		begin, err := time.Parse(dayFormat, name)
		if err != nil {
			return nil, fmt.Errorf("flow log: %w", err)
		}
		out[i] = Day{begin, name + suffix, l.path(name)}
	}
	return out, nil
}

// Mentions tells whether a record of a day has one of the words, in quotes.
func (l *Log) Mentions(d Day, words ...string) (bool, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return false, fmt.Errorf("flow log: %w", err)
	}
	defer f.Close()
	quoted := make([][]byte, len(words))
	for i, w := range words {
		quoted[i] = []byte(`"` + w + `"`)
	}
	r := bufio.NewReaderSize(f, 2*MaxRecord)
	for {
		line, err := r.ReadSlice('\n')
		if slices.ContainsFunc(quoted, func(q []byte) bool { return bytes.Contains(line, q) }) {
			return true, nil
		}
		switch {
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return false, fmt.Errorf("flow log: read %s: %w", d.Name, err)
		}
	}
}

// Remove disposes of a day.
func (l *Log) Remove(d Day) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := d.Begin.Format(dayFormat)
	if f := l.files[name]; f != nil {
		_ = f.Close()
		delete(l.files, name)
	}
	if err := os.Remove(d.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("flow log: dispose: %w", err)
	}
	return nil
}
