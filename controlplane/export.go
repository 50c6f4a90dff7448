package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/controlplane/evidence"
	"github.com/culvert-net/culvert/internal/logkey"
)

// partSize is how many bytes of a file go into one line of a copy.
const partSize = 256 << 10

func (s *Server) registerEvidence() {
	huma.Register(s.huma, stream(operation{http.MethodGet, "/v1/evidence", "stream-evidence", "A copy of the evidence, for auditors",
		anAdmin}.huma(s), "Parts of files, one after the other; the last line says that all came"), s.streamEvidence)
}

type evidenceFilter struct {
	Since time.Time `query:"since" doc:"Segments that were sealed in or after this hour"`
	Until time.Time `query:"until" doc:"Segments that were sealed before the end of this hour; default: now"`
}

// copying is a copy on its way.
type copying struct {
	s        *Server
	out      *lines
	manifest api.EvidenceManifest
}

// streamEvidence sends a copy that can be verified without the server: the whole Merkle log, and the segments of a span.
func (s *Server) streamEvidence(ctx context.Context, in *evidenceFilter) (*huma.StreamResponse, error) {
	c := s.newCall(ctx, s.store.Snapshot())
	if err := c.chooseAccount(); err != nil {
		return nil, s.failure(ctx, "stream-evidence", err)
	}
	now := c.now
	m := api.EvidenceManifest{Version: 1, At: now, Origin: s.logKey.Origin, Since: in.Since.UTC().Truncate(time.Hour),
		Until: now.Truncate(time.Hour).Add(time.Hour), Files: []api.EvidenceFile{}}
	if !in.Until.IsZero() {
		m.Until = in.Until.UTC().Add(time.Hour - 1).Truncate(time.Hour)
	}
	if !m.Since.Before(m.Until) {
		return nil, s.failure(ctx, "stream-evidence", api.Errorf(api.CodeInvalidParameter, "until", "give a time after since",
			"nothing is sealed from %s to %s", m.Since.Format(time.RFC3339), m.Until.Format(time.RFC3339)))
	}
	if c.account != "" {
		m.Accounts = []string{c.account}
	}
	s.noteRead(ctx, c, "stream-evidence", "")
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		out, r := startLines(hc)
		x := &copying{s: s, out: out, manifest: m}
		if err := x.run(r.Context()); err != nil {
			s.log.Warn("a copy of evidence ended early", logkey.RequestID, requestID(ctx), logkey.Error, err)
			panic(http.ErrAbortHandler) // the caller sees that it is cut off
		}
	}}, nil
}

// run sends segments first: each has its leaf then, and the log's copy, which comes after, has it too.
func (x *copying) run(ctx context.Context) error {
	snap, err := x.s.evidence.Snapshot(ctx, x.manifest.Since, x.manifest.Until, x.s.tree.Size)
	if err != nil {
		return err
	}
	if len(snap.Waiting) > 0 {
		return fmt.Errorf("segments of %s wait to be written: copy again when they are", strings.Join(snap.Waiting, ", "))
	}
	x.manifest.TreeSize = snap.TreeSize
	files, err := x.chosen(ctx, snap.Files)
	if err != nil {
		return err
	}
	for i := range files {
		if err := x.segments(&files[i]); err != nil {
			return err
		}
	}
	// The log knows what the copy is: nobody can make up a manifest that suits what he leaves out, though he may take another one of the log.
	data, err := json.Marshal(x.manifest)
	if err != nil {
		return err
	}
	report, err := leaf.OfReport(x.manifest.At, "export", x.manifest.Since, x.manifest.Until, data)
	if err != nil {
		return err
	}
	at, err := x.s.tree.Append(ctx, report)
	if err != nil {
		return err
	}
	if _, err := x.s.tree.Published(ctx, at); err != nil {
		return err
	}
	if err := x.merkle(ctx); err != nil {
		return err
	}
	if err := x.send("manifest.json", data); err != nil {
		return err
	}
	return errors.Join(x.out.send(api.EvidencePart{Done: true}), x.out.caughtUp())
}

// segments sends a file of segments and notes it.
func (x *copying) segments(f *evidence.File) error {
	r, packed, err := f.Open()
	if err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	defer r.Close()
	sum := sha256.New()
	n, err := x.file(f.Path(packed), io.TeeReader(r, sum))
	x.manifest.Files = append(x.manifest.Files, api.EvidenceFile{Path: f.Path(packed), Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil))})
	return err
}

// file sends what a reader gives as a file.
func (x *copying) file(path string, r io.Reader) (n int64, err error) {
	part := make([]byte, partSize)
	for first := true; ; first = false {
		got, err := io.ReadFull(r, part)
		n += int64(got)
		if got > 0 || first {
			if err := x.send(path, part[:got]); err != nil {
				return n, err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return n, nil
		case err != nil:
			return n, err
		}
	}
}

func (x *copying) send(path string, data []byte) error {
	return x.out.send(api.EvidencePart{Path: path, Data: data})
}

// merkle sends the log's files. The checkpoint goes first: what it is over is there already, and stays.
func (x *copying) merkle(ctx context.Context) error {
	if mem, ok := x.s.tree.(interface {
		Files(context.Context) (map[string][]byte, error)
	}); ok { // one that has no directory
		files, err := mem.Files(ctx)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			err = errors.Join(err, x.send("log/"+name, files[name]))
		}
		return err
	}
	dir := filepath.Join(x.s.evidenceDir(), "log")
	sent := map[string]bool{}
	if err := x.logFile(dir, "checkpoint", sent); err != nil {
		return err
	}
	// Once more for what took another's place meanwhile: a full tile that of a partial one.
	for range 2 {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			if strings.HasPrefix(e.Name(), ".") && rel != "." {
				if e.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if e.IsDir() {
				return nil
			}
			return x.logFile(dir, filepath.ToSlash(rel), sent)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// logFile sends a file of the log, as long as it is now, unless it was sent.
func (x *copying) logFile(dir, name string, sent map[string]bool) error {
	if sent[name] {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	sent[name] = true
	_, err = x.file("log/"+name, io.LimitReader(f, info.Size()))
	return err
}
