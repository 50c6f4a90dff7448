package controlplane

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
)

// maxDisposed and maxDisposedBytes bound the files of a disposal, in a leaf of 64 KiB, the latter as JSON has them: a path has some 300
// bytes, and whoever made directories by hand may have made longer ones, which are cut, or such whose characters JSON writes with six.
const (
	maxDisposed      = 100
	maxDisposedPath  = 400
	maxDisposedBytes = 48 << 10
)

// deliveredFile is a file of a flow log at the server.
type deliveredFile struct {
	name    string // below deliveries, with slashes
	account string
	at      time.Time // when it was written
}

// windowBegin is in the name of a file that was delivered: when its window began, or ended, where an earlier build wrote it.
var windowBegin = regexp.MustCompile(`_([0-9]{8}T[0-9]{4}Z)_[0-9a-f]{8}\.log[^/]*$`)

// longestWindow is what a file has at most.
const longestWindow = 10 * time.Minute

// span is of when the file's records may be: from a day before its window, as its name says it, until it was written, for what comes late
// is delivered late. A file of another name may have all that was kept when it was written.
func (f *deliveredFile) span(kept time.Duration) (from, to time.Time) {
	from, to = f.at.Add(-kept), f.at
	if m := windowBegin.FindStringSubmatch(f.name); m != nil {
		if begin, err := time.Parse("20060102T1504Z", m[1]); err == nil {
			from, to = earlier(begin, f.at).Add(-day), later(begin.Add(longestWindow), f.at)
		}
	}
	return from, to.Add(time.Second)
}

// disposeDeliveries removes files of flow logs below DataDir/deliveries that were kept long enough. What is elsewhere is whose that is.
func (s *Server) disposeDeliveries(ctx context.Context) error {
	s.room.Recount()
	root, err := os.OpenRoot(s.allowed.Local)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	var old []deliveredFile
	now := s.cfg.Now()
	kept := now.Sub(s.remembering(now))
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		account, _, _ := strings.Cut(name, "/")
		f := deliveredFile{name, account, info.ModTime().UTC()}
		if s.expired(api.RetainDeliveries, f.at) && !s.holds.onDelivery(&f, kept) {
			old = append(old, f)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	slices.SortFunc(old, func(a, b deliveredFile) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.name, b.name)) })
	var errs []error // of some files, which are in no others' way
	for len(old) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := s.disposeFiles(ctx, root, old)
		errs = append(errs, err)
		old = old[n:]
	}
	return errors.Join(errs...)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// onDelivery tells whether a hold may be on a file of an account: one on the account, or on what its records may be about, of the time
// that they may be of.
func (h *holds) onDelivery(f *deliveredFile, kept time.Duration) bool {
	return slices.ContainsFunc(h.over(f.span(kept)), func(subject string) bool {
		return subject == f.account || !api.IsAccountID(subject)
	})
}

// disposeFiles tells of the first files, the oldest first, and removes them. It returns how many it looked at, of which those that cannot be
// read stay.
func (s *Server) disposeFiles(ctx context.Context, root *os.Root, files []deliveredFile) (looked int, err error) {
	var d leaf.Disposal
	var gone []deliveredFile
	var wrong []error
	all, size := sha256.New(), 0
	for _, f := range files {
		name := "deliveries/" + f.name
		listed := name[:min(len(name), maxDisposedPath)]
		text, err := json.Marshal(listed)
		if err != nil {
			return looked, err
		}
		if size += len(text); len(gone) > 0 && (len(gone) == maxDisposed || size > maxDisposedBytes) {
			break
		}
		looked++
		sum, err := fileSum(filepath.Join(s.allowed.Local, filepath.FromSlash(f.name)))
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		fmt.Fprintf(all, "%s %s\n", sum, name)
		d.Files = append(d.Files, leaf.Disposed{Path: listed, SHA256: sum})
		gone = append(gone, f)
	}
	if len(gone) == 0 {
		return looked, errors.Join(wrong...)
	}
	d.ID = "deliveries/" + hex.EncodeToString(all.Sum(nil))
	if err := s.tellDisposal(ctx, api.RetainDeliveries, gone[len(gone)-1].at, d); err != nil {
		return looked, errors.Join(append(wrong, err)...)
	}
	for _, f := range gone {
		wrong = append(wrong, removeDelivered(root, f.name))
	}
	return looked, errors.Join(wrong...)
}

// removeDelivered removes a file, and the directories that it leaves empty.
func removeDelivered(root *os.Root, name string) error {
	if err := ignoreGone(root.Remove(name)); err != nil {
		return err
	}
	for dir := path.Dir(name); strings.Contains(dir, "/"); dir = path.Dir(dir) {
		if root.Remove(dir) != nil { // there is something in it
			break
		}
	}
	return nil
}
