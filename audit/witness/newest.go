package witness

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-net/culvert/audit/tiles"
)

const (
	// historyEvery is how often what was signed is kept for good: 6 MB a year and log.
	historyEvery  = time.Hour
	historySuffix = ".history"
	// maxEntry bounds a line of a history, in bytes: a checkpoint in base64.
	maxEntry = 2 * maxBody
)

// serveNewest answers what was cosigned last of a log, or last before a time: by that who verifies a copy of the log knows how far it must go.
func (w *Witness) serveNewest(rw http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		rw.Header().Set("Allow", "GET, HEAD")
		http.Error(rw, "use GET", http.StatusMethodNotAllowed)
		return
	}
	q := r.URL.Query()
	var before time.Time
	if text := q.Get("before"); text != "" {
		var err error
		if before, err = time.Parse(time.RFC3339, text); err != nil {
			w.answer(rw, r, nil, refuse(http.StatusBadRequest, "before is no time: write it like 2026-03-01T12:00:00Z"))
			return
		}
	}
	signed, err := w.Newest(q.Get("origin"), before)
	if err == nil {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		rw.Header().Set("Cache-Control", "no-store")
	}
	w.answer(rw, r, signed, err)
}

// Newest is the newest checkpoint of a log that was cosigned, with the log's signature and this witness's; where before is not zero, the newest
// that is kept of those cosigned until then.
func (w *Witness) Newest(origin string, before time.Time) ([]byte, error) {
	if w.logs[origin] == nil {
		return nil, refuse(http.StatusNotFound, "this witness does not know the log %.100q", origin)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, _, err := w.newest(origin); err != nil {
		return nil, err
	}
	signed, err := os.ReadFile(w.path(origin))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what was signed last: %w", err)
	}
	if !before.IsZero() && err == nil && w.signedAt(signed).After(before) {
		if signed, err = w.history(origin, before); err != nil {
			return nil, err
		}
	}
	if len(signed) == 0 {
		return nil, refuse(http.StatusNotFound, "this witness has cosigned nothing of the log %s until then", origin)
	}
	return signed, nil
}

// signedAt is when this witness cosigned a checkpoint; zero: it did not.
func (w *Witness) signedAt(signed []byte) time.Time {
	c, err := tiles.ParseSigned(signed)
	if err != nil {
		return time.Time{}
	}
	for _, by := range c.By {
		if by.Name == w.signer.Name() && by.KeyHash == w.signer.KeyHash() && len(by.Signature) > 8 {
			return time.Unix(int64(binary.BigEndian.Uint64(by.Signature)), 0).UTC()
		}
	}
	return time.Time{}
}

func (w *Witness) historyPath(origin string) string {
	return strings.TrimSuffix(w.path(origin), suffix) + historySuffix
}

// remember keeps a checkpoint for good, if none was for a while: a line of base64, behind what a crash may have cut short.
func (w *Witness) remember(origin string, signed []byte) error {
	path := w.historyPath(origin)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case w.signedAt(signed).Sub(info.ModTime()).Abs() < historyEvery:
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString("\n" + base64.StdEncoding.EncodeToString(signed) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil || info != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// history is the newest checkpoint that was cosigned until a time, of those that were kept; nil: there is none.
func (w *Witness) history(origin string, until time.Time) (newest []byte, err error) {
	f, err := os.Open(w.historyPath(origin))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxEntry)
	var at time.Time
	for lines.Scan() {
		one := make([]byte, base64.StdEncoding.DecodedLen(len(lines.Bytes())))
		n, err := base64.StdEncoding.Decode(one, bytes.TrimSpace(lines.Bytes()))
		if err != nil || n == 0 {
			continue // a crash cut it short
		}
		if t := w.signedAt(one[:n]); !t.IsZero() && !t.After(until) && !t.Before(at) {
			newest, at = one[:n], t
		}
	}
	return newest, lines.Err()
}
