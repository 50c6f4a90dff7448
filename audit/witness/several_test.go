package witness

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/audit/treelog"
)

// witnessed opens a log that several witnesses cosign, each at an address of its own, over HTTPS.
func witnessed(t *testing.T, names ...string) (l *treelog.Log, servers []*httptest.Server, keys []note.Verifier) {
	t.Helper()
	logKey, err := note.NewVerifier(tiles.LogKey(origin, public(1)))
	if err != nil {
		t.Fatal(err)
	}
	cfg := treelog.Config{Dir: t.TempDir(), Signer: logSigner(t, 1), Interval: 100 * time.Millisecond, WitnessRoots: x509.NewCertPool()}
	for i, name := range names {
		signer, err := NewSigner(name, key(byte(10+i)))
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewTLSServer(New(t.TempDir(), signer, []note.Verifier{logKey}, slog.New(slog.DiscardHandler)))
		t.Cleanup(s.Close)
		cfg.WitnessRoots.AddCert(s.Certificate())
		text := VerifierKey(name, public(byte(10+i)))
		v, err := cosign.NewVerifierForCosignatureV1(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Witnesses = append(cfg.Witnesses, treelog.Witness{URL: s.URL, Key: text})
		servers, keys = append(servers, s), append(keys, v)
	}
	if l, err = treelog.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, servers, keys
}

// newest asks a witness as who verifies does.
func newest(t *testing.T, s *httptest.Server, query string) (status int, body []byte) {
	t.Helper()
	r, err := s.Client().Get(s.URL + "/checkpoint?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if body, err = io.ReadAll(r.Body); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, body
}

// TestSeveralWitnesses: each cosigns each checkpoint over HTTPS, those that are there also while one is away, and each tells what it cosigned last.
func TestSeveralWitnesses(t *testing.T) {
	l, servers, keys := witnessed(t, "a.example", "b.example", "c.example")
	seq := uint64(0)
	signers := func() (by []bool, size uint64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		seq++
		at, err := l.Append(ctx, leaf.OfEvent(time.Now(), api.AuditEvent{Seq: seq}))
		if err != nil {
			t.Fatal(err)
		}
		data, err := l.Published(ctx, at)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tiles.ParseSigned(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			_, valid := c.SignedBy(k)
			by = append(by, valid)
		}
		return by, c.Size
	}
	if by, _ := signers(); fmt.Sprint(by) != "[true true true]" {
		t.Fatalf("cosigned by %v", by)
	}
	servers[1].CloseClientConnections()
	servers[1].Close()
	by, size := signers()
	if fmt.Sprint(by) != "[true false true]" {
		t.Errorf("while one is away: cosigned by %v", by)
	}
	for _, i := range []int{0, 2} {
		status, body := newest(t, servers[i], "origin="+url.QueryEscape(origin))
		c, err := tiles.ParseSigned(body)
		if status != http.StatusOK || err != nil || c.Size < size {
			t.Errorf("witness %d tells %d %s, %v", i, status, body, err)
			continue
		}
		logKey, err := note.NewVerifier(tiles.LogKey(origin, public(1)))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []note.Verifier{keys[i], logKey} { // both stand by it
			if _, valid := c.SignedBy(v); !valid {
				t.Errorf("witness %d tells what %s has not signed: %s", i, v.Name(), body)
			}
		}
	}
}

// TestWhatWasCosignedBefore: a witness keeps now and then what it cosigned for good, and tells the newest of a time; what a crash cut short is
// passed over.
func TestWhatWasCosignedBefore(t *testing.T) {
	dir := t.TempDir()
	w := newWitness(t, dir)
	l := &tree{t: t}
	l.grow(30, "")
	ask := func(query string) (int, string) {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/checkpoint?"+query, nil))
		return rec.Code, rec.Body.String()
	}
	of := "origin=" + url.QueryEscape(origin)
	if code, body := ask(of); code != http.StatusNotFound || !strings.Contains(body, "cosigned nothing") {
		t.Errorf("at first: %d %s", code, body)
	}
	history := w.historyPath(origin)
	hour := time.Now().Truncate(time.Hour).UTC()
	last := int64(0)
	for _, size := range []int64{10, 11, 20} {
		if _, err := w.Add(l.request(last, size, logSigner(t, 1))); err != nil {
			t.Fatal(err)
		}
		last = size
		if size == 11 { // so soon it is not kept for good
			old := time.Now().Add(-2 * historyEvery)
			text, err := os.ReadFile(history)
			if err != nil || strings.Count(strings.TrimSpace(string(text)), "\n") != 0 {
				t.Fatalf("%q, %v", text, err)
			}
			text = append(dated(t, w, text, hour.Add(-2*time.Hour)), "c2hvcnQ"...) // and one that was cut short
			if err := errors.Join(os.WriteFile(history, text, 0o600), os.Chtimes(history, old, old)); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := os.ReadFile(history)
	if err != nil {
		t.Fatal(err)
	}
	at := func(tm time.Time) string { return of + "&before=" + url.QueryEscape(tm.UTC().Format(time.RFC3339)) }
	for name, c := range map[string]struct {
		query string
		code  int
		says  string
	}{
		"now":            {of, 200, "\n20\n"},
		"until later":    {at(time.Now().Add(time.Hour)), 200, "\n20\n"},
		"until an hour":  {at(hour.Add(-time.Hour)), 200, "\n10\n"},
		"until long ago": {at(hour.Add(-3 * time.Hour)), 404, "until then"},
		"no time":        {of + "&before=March", 400, "write it like"},
		"another log":    {"origin=other", 404, "does not know the log"},
		"no log":         {"", 404, "does not know the log"},
	} {
		if code, body := ask(c.query); code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s; the history is %s", name, code, body, text)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(w.path(origin))), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _ := ask(of); code != http.StatusInternalServerError {
		t.Errorf("a damaged memory: %d", code)
	}
	rec := httptest.NewRecorder()
	if w.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/checkpoint", nil)); rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", rec.Code)
	}
}

// dated is a history of one checkpoint as if it had been cosigned at a time.
func dated(t *testing.T, w *Witness, history []byte, at time.Time) []byte {
	t.Helper()
	signed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(history)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := tiles.ParseSigned(signed)
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range c.By {
		if by.Name == w.signer.Name() {
			binary.BigEndian.PutUint64(by.Signature, uint64(at.Unix()))
		}
	}
	return []byte("\n" + base64.StdEncoding.EncodeToString(c.Bytes()) + "\n")
}
