package dev

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// followInterval between looks at a log that is followed.
const followInterval = 200 * time.Millisecond

// Logs copies the last lines of a host's logs (or of one process of it) to out, then, with follow, what is added until ctx
// ends. With more than one log every line begins with the process's name.
func (l *Lab) Logs(ctx context.Context, host, role string, lines int, follow bool, out io.Writer) error {
	r, err := l.Load()
	if err != nil {
		return err
	}
	procs, err := l.pick(r, host, role)
	if err != nil {
		return err
	}
	var tails []*tail
	for _, p := range procs {
		t := &tail{path: p.log}
		if len(procs) > 1 {
			t.prefix = p.role + " | "
		}
		text := lastLines(p.log, lines)
		if err := t.write(out, text); err != nil {
			return err
		}
		if info, err := os.Stat(p.log); err == nil {
			t.offset = info.Size()
		}
		tails = append(tails, t)
	}
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for follow {
		for _, t := range tails {
			if err := t.more(out); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// tail is one log being read.
type tail struct {
	path, prefix string
	offset       int64
}

func (t *tail) more(out io.Writer) error {
	f, err := os.Open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() < t.offset {
		t.offset = 0 // it was truncated
	}
	if _, err := f.Seek(t.offset, io.SeekStart); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return err
	}
	end := bytes.LastIndexByte(data, '\n') + 1 // the rest of a line comes next time
	t.offset += int64(end)
	return t.write(out, string(data[:end]))
}

func (t *tail) write(out io.Writer, text string) error {
	sc := bufio.NewScanner(bytes.NewBufferString(text))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if _, err := fmt.Fprintf(out, "%s%s\n", t.prefix, sc.Text()); err != nil {
			return err
		}
	}
	return sc.Err()
}

// lastLines returns at most n of the last lines of a file, and at most 256 KiB of it.
func lastLines(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 256 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	data = bytes.TrimRight(data, "\n")
	if len(data) == 0 {
		return ""
	}
	start := len(data)
	for ; n > 0 && start > 0; n-- {
		start = bytes.LastIndexByte(data[:start], '\n')
		if start < 0 {
			start = 0
		}
	}
	return string(bytes.TrimLeft(data[start:], "\n")) + "\n"
}
