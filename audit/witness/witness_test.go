package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/audit/treelog"
)

const (
	origin = "mesh.example/log"
	name   = "witness.example"
)

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(n byte) ed25519.PublicKey { return key(n).Public().(ed25519.PublicKey) }

func newWitness(t *testing.T, dir string) *Witness {
	t.Helper()
	signer, err := NewSigner(name, key(2))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(tiles.LogKey(origin, public(1)))
	if err != nil {
		t.Fatal(err)
	}
	return New(dir, signer, []note.Verifier{v}, slog.New(slog.DiscardHandler))
}

func logSigner(t *testing.T, n byte) note.Signer {
	t.Helper()
	s, err := treelog.NewSigner(origin, key(n))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tree is a log with proofs, by another implementation than the witness's own.
type tree struct {
	t      *testing.T
	hashes []tlog.Hash
	size   int64
}

func (l *tree) ReadHashes(at []int64) (out []tlog.Hash, err error) {
	for _, i := range at {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *tree) grow(to int64, salt string) {
	for ; l.size < to; l.size++ {
		h, err := tlog.StoredHashes(l.size, fmt.Append(nil, salt, l.size), l)
		if err != nil {
			l.t.Fatal(err)
		}
		l.hashes = append(l.hashes, h...)
	}
}

// request asks to go on from old to size.
func (l *tree) request(old, size int64, signers ...note.Signer) []byte {
	l.t.Helper()
	root, err := tlog.TreeHash(size, l)
	if err != nil {
		l.t.Fatal(err)
	}
	b := fmt.Appendf(nil, "old %d\n", old)
	if old > 0 && old < size {
		proof, err := tlog.ProveTree(size, old, l)
		if err != nil {
			l.t.Fatal(err)
		}
		for _, h := range proof {
			b = fmt.Appendln(b, base64.StdEncoding.EncodeToString(h[:]))
		}
	}
	signed, err := tiles.Sign(origin, uint64(size), tiles.Hash(root), signers...)
	if err != nil {
		l.t.Fatal(err)
	}
	return append(append(b, '\n'), signed...)
}

func TestWitnessSignsWhatGoesOn(t *testing.T) {
	dir := t.TempDir()
	l := &tree{t: t}
	l.grow(300, "")
	v, err := cosign.NewVerifierForCosignatureV1(VerifierKey(name, public(2)))
	if err != nil {
		t.Fatal(err)
	}
	old := int64(0)
	for _, size := range []int64{0, 1, 7, 7, 256, 257, 300} {
		req := l.request(old, size, logSigner(t, 1))
		line, err := newWitness(t, dir).Add(req) // each time a new process
		if err != nil {
			t.Fatalf("from %d to %d: %v", old, size, err)
		}
		_, checkpoint, _ := bytes.Cut(req, []byte("\n\n"))
		if _, err := note.Open(append(checkpoint, line...), note.VerifierList(v)); err != nil {
			t.Errorf("from %d to %d: %v: %s", old, size, err, line)
		}
		old = size
	}
}

func TestWitnessRefuses(t *testing.T) {
	l, fork := &tree{t: t}, &tree{t: t}
	l.grow(30, "")
	fork.grow(30, "other ")
	good := logSigner(t, 1)
	for what, c := range map[string]struct {
		body   []byte
		status int
		says   string
	}{
		"another log":         {bytes.ReplaceAll(l.request(10, 20, good), []byte(origin), []byte("other.example")), 404, "does not know the log"},
		"another key":         {l.request(10, 20, logSigner(t, 3)), 403, "is not signed by the log"},
		"nothing":             {nil, 400, "write old SIZE"},
		"no size":             {bytes.Replace(l.request(10, 20, good), []byte("old 10"), []byte("old x"), 1), 400, "write old SIZE"},
		"no hash":             {bytes.Replace(l.request(10, 20, good), []byte("old 10\n"), []byte("old 10\nabc\n"), 1), 400, "is no hash"},
		"smaller than before": {l.request(10, 9, good), 400, "is more than the checkpoint's"},
		"older":               {l.request(5, 20, good), 409, "10\n"},
		"newer":               {l.request(15, 20, good), 409, "10\n"},
		"two trees":           {fork.request(10, 10, good), 409, "10\n"},
		"a fork":              {fork.request(10, 20, good), 422, "does not show"},
		"too much proof": {bytes.Replace(l.request(10, 10, good), []byte("old 10\n"), []byte("old 10\n"+strings.Repeat("A", 43)+"=\n"), 1),
			422, "nothing to prove"},
	} {
		dir := t.TempDir()
		w := newWitness(t, dir)
		if _, err := w.Add(l.request(0, 10, good)); err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(c.body)))
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.says) {
			t.Errorf("%s: %d, %q", what, rec.Code, rec.Body)
		}
		if c.status == 409 && rec.Header().Get("Content-Type") != "text/x.tlog.size" {
			t.Errorf("%s: %v", what, rec.Header())
		}
		if _, err := w.Add(l.request(10, 20, good)); err != nil {
			t.Errorf("after %s: %v", what, err)
		}
	}
}

func TestWitnessWithoutItsMemorySignsNothing(t *testing.T) {
	dir := t.TempDir()
	l := &tree{t: t}
	l.grow(20, "")
	if _, err := newWitness(t, dir).Add(l.request(0, 10, logSigner(t, 1))); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = newWitness(t, dir).Add(l.request(0, 20, logSigner(t, 1)))
	var no *refusal
	if err == nil || errors.As(err, &no) || !strings.Contains(err.Error(), "is damaged") {
		t.Error(err)
	}
}

func TestOtherRequests(t *testing.T) {
	w := newWitness(t, t.TempDir())
	for _, c := range []struct {
		method, path string
		body         string
		want         int
	}{
		{http.MethodGet, "/add-checkpoint", "", 405}, {http.MethodPost, "/", "", 404},
		{http.MethodPost, "/add-checkpoint", strings.Repeat("x", maxBody+1), 400},
	} {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if rec.Code != c.want {
			t.Errorf("%s %s: %d", c.method, c.path, rec.Code)
		}
	}
}

// A log with a witness has its signature under every checkpoint, and goes on without it while it is away.
func TestALogIsWitnessed(t *testing.T) {
	w := newWitness(t, t.TempDir())
	s := httptest.NewServer(w)
	defer s.Close()
	v, err := cosign.NewVerifierForCosignatureV1(VerifierKey(name, public(2)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := treelog.Open(t.Context(), treelog.Config{Dir: t.TempDir(), Signer: logSigner(t, 1), Interval: 100 * time.Millisecond,
		Witnesses: []treelog.Witness{{URL: s.URL, Key: VerifierKey(name, public(2))}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cosigned := func(seq uint64) bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
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
		_, valid := c.SignedBy(v)
		return valid
	}
	for seq := range uint64(3) {
		if !cosigned(seq + 1) {
			t.Errorf("checkpoint %d is not cosigned", seq+1)
		}
	}
	s.CloseClientConnections()
	s.Close()
	if cosigned(4) {
		t.Error("a witness that is away has cosigned")
	}
}

func TestKeyIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, err := Key(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Key(dir)
	if err != nil || !first.Equal(again) {
		t.Error("another key the second time:", err)
	}
	path := filepath.Join(dir, keyName)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Key(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Error("a key that others can read:", err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Key(dir); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Error("a damaged key:", err)
	}
}
