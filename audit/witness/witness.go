package witness

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	maxBody  = 64 << 10
	maxProof = 63 // hashes
	suffix   = ".checkpoint"
)

// Witness keeps the newest checkpoint of each log that it knows, and cosigns the next if it goes on from there.
type Witness struct {
	dir    string
	signer note.Signer
	logs   map[string][]note.Verifier // by origin
	log    *slog.Logger

	mu sync.Mutex // one checkpoint at a time
}

// New makes a witness that keeps what it signed in dir, which exists. signer makes cosignature/v1 signatures.
func New(dir string, signer note.Signer, logs []note.Verifier, log *slog.Logger) *Witness {
	w := &Witness{dir: dir, signer: signer, logs: map[string][]note.Verifier{}, log: log}
	for _, v := range logs {
		w.logs[v.Name()] = append(w.logs[v.Name()], v)
	}
	return w
}

// refusal is an answer other than a signature.
type refusal struct {
	status int
	body   string
	kind   string // content type; "" for text
	why    string // for the log
}

func (r *refusal) Error() string { return r.why }

func refuse(status int, format string, args ...any) error {
	why := fmt.Sprintf(format, args...)
	return &refusal{status: status, body: why + "\n", why: why}
}

// ServeHTTP answers POST /add-checkpoint (C2SP tlog-witness), and GET /checkpoint?origin=ORIGIN, with &before=TIME if, for who verifies a log.
func (w *Witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/add-checkpoint":
		w.serveAdd(rw, r)
	case "/checkpoint":
		w.serveNewest(rw, r)
	default:
		http.NotFound(rw, r)
	}
}

func (w *Witness) serveAdd(rw http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		rw.Header().Set("Allow", http.MethodPost)
		http.Error(rw, "use POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxBody))
	if err != nil {
		http.Error(rw, "the request is longer than 64 KiB, or broke off", http.StatusBadRequest)
		return
	}
	lines, err := w.Add(body)
	w.answer(rw, r, lines, err)
}

// answer writes what was asked for, or why not.
func (w *Witness) answer(rw http.ResponseWriter, r *http.Request, lines []byte, err error) {
	var no *refusal
	switch {
	case errors.As(err, &no):
		w.log.Warn("refused", logkey.Reason, no.why, logkey.Address, r.RemoteAddr)
		rw.Header().Set("Content-Type", no.kind)
		if no.kind == "" {
			rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		}
		rw.WriteHeader(no.status)
		_, _ = io.WriteString(rw, no.body)
	case err != nil:
		w.log.Error("checkpoint", logkey.Error, err)
		http.Error(rw, "this witness cannot keep what it would sign", http.StatusInternalServerError)
	default:
		_, _ = rw.Write(lines)
	}
}

// Add judges a request and returns the line of its signature. What is signed is on the disk before.
func (w *Witness) Add(body []byte) ([]byte, error) {
	old, proof, raw, err := parse(body)
	if err != nil {
		return nil, err
	}
	origin, _, _ := bytes.Cut(raw, []byte("\n"))
	keys := w.logs[string(origin)]
	if keys == nil {
		return nil, refuse(http.StatusNotFound, "this witness does not know the log %q", origin)
	}
	opened, err := note.Open(raw, note.VerifierList(keys...))
	if err != nil {
		return nil, refuse(http.StatusForbidden, "the checkpoint is not signed by the log %s: %v", origin, err)
	}
	c, err := tiles.ParseSigned(raw)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	size, root, err := w.newest(c.Origin)
	if err != nil {
		return nil, err
	}
	if err := follows(c, old, size, root, proof); err != nil {
		return nil, err
	}
	signed, err := note.Sign(&note.Note{Text: c.Text}, w.signer)
	if err != nil {
		return nil, fmt.Errorf("cosign: %w", err)
	}
	_, line, _ := bytes.Cut(signed, []byte("\n\n"))
	c.By = slices.DeleteFunc(c.By, func(by tiles.By) bool { // what is not the log's
		return !slices.ContainsFunc(opened.Sigs, func(s note.Signature) bool { return s.Name == by.Name && s.Hash == by.KeyHash })
	})
	if err := w.keep(c.Origin, append(c.Bytes(), line...)); err != nil {
		return nil, err
	}
	w.log.Debug("checkpoint cosigned", logkey.Name, c.Origin, logkey.Entries, c.Size)
	return line, nil
}

// parse splits a request into the size that the log believes to be signed, a proof, and a checkpoint.
func parse(body []byte) (old uint64, proof tlog.TreeProof, checkpoint []byte, err error) {
	head, checkpoint, ok := bytes.Cut(body, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	text, isOld := strings.CutPrefix(lines[0], "old ")
	old, errOld := strconv.ParseUint(text, 10, 63)
	if !ok || !isOld || errOld != nil || len(lines)-1 > maxProof {
		return 0, nil, nil, refuse(http.StatusBadRequest, "write old SIZE, a proof of at most %d lines, an empty line, and a checkpoint", maxProof)
	}
	for _, l := range lines[1:] {
		h, err := base64.StdEncoding.DecodeString(l)
		if err != nil || len(h) != sha256.Size {
			return 0, nil, nil, refuse(http.StatusBadRequest, "%q is no hash in base64", l)
		}
		proof = append(proof, tlog.Hash(h))
	}
	return old, proof, checkpoint, nil
}

// follows tells whether a checkpoint goes on from the newest one that was signed.
func follows(c *tiles.Signed, old, size uint64, root tiles.Hash, proof tlog.TreeProof) error {
	if old > c.Size {
		return refuse(http.StatusBadRequest, "the old size %d is more than the checkpoint's, %d", old, c.Size)
	}
	if old != size {
		return &refusal{http.StatusConflict, fmt.Sprintf("%d\n", size), "text/x.tlog.size",
			fmt.Sprintf("the log %s says that %d was signed last, it was %d", c.Origin, old, size)}
	}
	switch {
	case size == c.Size && size > 0 && root != c.Root:
		return &refusal{http.StatusConflict, fmt.Sprintf("%d\n", size), "text/x.tlog.size",
			fmt.Sprintf("the log %s has two trees of %d leaves", c.Origin, size)}
	case size == 0 || size == c.Size:
		if len(proof) > 0 {
			return refuse(http.StatusUnprocessableEntity, "from %d to %d leaves there is nothing to prove", size, c.Size)
		}
		return nil
	}
	if err := tlog.CheckTree(proof, int64(c.Size), tlog.Hash(c.Root), int64(size), tlog.Hash(root)); err != nil {
		return refuse(http.StatusUnprocessableEntity, "the proof does not show that %d leaves go on from the %d signed: %v", c.Size, size, err)
	}
	return nil
}

func (w *Witness) path(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return filepath.Join(w.dir, hex.EncodeToString(sum[:8])+suffix)
}

// newest is what was signed last of a log.
func (w *Witness) newest(origin string) (uint64, tiles.Hash, error) {
	data, err := os.ReadFile(w.path(origin))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, tiles.Hash{}, nil
	}
	if err != nil {
		return 0, tiles.Hash{}, fmt.Errorf("read what was signed last: %w", err)
	}
	c, err := tiles.ParseSigned(data)
	if err != nil || c.Origin != origin {
		return 0, tiles.Hash{}, fmt.Errorf("%s is damaged; without it this witness would sign anything: restore it (%v)", w.path(origin), err)
	}
	return c.Size, c.Root, nil
}

// keep writes what is about to be told, with the log's own signatures, and now and then for good.
func (w *Witness) keep(origin string, signed []byte) error {
	if err := w.remember(origin, signed); err != nil {
		return fmt.Errorf("keep a checkpoint: %w", err)
	}
	if err := write(w.dir, filepath.Base(w.path(origin)), signed); err != nil {
		return fmt.Errorf("keep a checkpoint: %w", err)
	}
	return nil
}
