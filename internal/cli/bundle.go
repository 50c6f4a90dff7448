package cli

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/bundle"
)

// bundleFlags say what evidence is wanted, of what, and where to.
type bundleFlags struct {
	service, from, to, out string
	copied, keys           string
}

func (a *app) evidenceCommand() *cobra.Command {
	var f bundleFlags
	c := command("evidence --service SERVICE --from TIME --to TIME --out DIR|FILE.tar.gz [--keys FILE] [--copy DIR]", "Make a bundle for an auditor", `
Make what an auditor is handed for one service and time: the service's records, who approved whom, the policies in force
and their changes, a verification transcript, and one page that sums it up, beside a copy of the evidence that all of it
is computed from. It is verified with culvert flows verify, and the same copy gives the same bytes.

The copy is taken from the server, which is for administrators: of all nodes, so that verification names what is missing
of any, and sealed until 24 hours after --to, as a node may be late. Or give one that there is with --copy. --keys has
the public keys that you believe, as culvert flows verify takes them: without it the server's own word is taken for its
key, and the command says which that was. Compare it.

The service is an id, or ACCOUNT/NAME. Records belong to the time in which they ended: at --from or later, and before
--to. Segments hold records of all accounts on a node, so a bundle is for an auditor of the whole mesh.`, `
  culvert evidence --service pay/ledger --from 2026-03-01T00:00:00Z --to 2026-04-01T00:00:00Z --keys keys \
    --out ledger-march.tar.gz
  culvert evidence --service pay/ledger --from 2026-03-01T00:00:00Z --to 2026-04-01T00:00:00Z --copy march --keys keys \
    --out ledger-march`,
		func(cmd *cobra.Command, _ []string) error { return a.evidence(cmd.Context(), &f) })
	s := c.Flags()
	serviceReference(a, c, &f.service, "of this service")
	s.StringVar(&f.from, "from", "", "from this `time` on, or so long ago")
	s.StringVar(&f.to, "to", "", "until this `time`, or so long ago")
	s.StringVar(&f.copied, "copy", "", "`DIR` with a copy of the evidence, or with that of a server that is stopped")
	must(c.MarkFlagDirname("copy"))
	s.StringVar(&f.keys, "keys", "", "`file` with the verifier keys of the log and of witnesses, one a line")
	s.StringVar(&f.out, "out", "", "`path` of a folder, or of a file that ends in .tar.gz, to make; it must not exist")
	required(c, "service", "from", "to", "out")
	c.Args = noArguments
	return c
}

// bundled is what was made.
type bundled struct {
	Out      string `json:"out"`
	Service  string `json:"service"`
	Records  int64  `json:"records"`
	Verified bool   `json:"verified"`
}

func (a *app) evidence(ctx context.Context, f *bundleFlags) error {
	o, err := f.options(time.Now())
	if err != nil {
		return err
	}
	fill, err := a.filler(ctx, f, &o, time.Now())
	if err != nil {
		return err
	}
	if _, err := os.Lstat(f.out); err == nil {
		return api.Errorf(api.CodeInvalidParameter, "--out", "name one that does not", "%s exists", f.out)
	}
	dir, packed := f.out, strings.HasSuffix(f.out, ".tar.gz")
	if packed {
		if dir, err = os.MkdirTemp(filepath.Dir(f.out), ".evidence-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	} else if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	s, err := makeBundle(fill, dir, o)
	if err == nil && packed {
		err = pack(dir, f.out)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(f.out)) // half a bundle would pass for a whole one
	}
	out := bundled{f.out, cmp.Or(s.Name, s.Service), s.Records, s.Verified.OK}
	err = a.print(out, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %d records of %s. Begin with %s.\n", out.Out, out.Records, out.Service, bundle.SummaryName)
		return err
	})
	if err == nil && !s.Verified.OK {
		return api.Errorf(api.CodeIncorrectState, "--service", "see "+bundle.TranscriptName+" in the bundle", "the evidence does not verify: %s",
			s.Verified.First())
	}
	return err
}

// isWritten tells whether a server that runs on this machine has the directory of evidence.
func isWritten(dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if absolute, err := filepath.Abs(dir); err == nil {
		dir = absolute
	}
	_, err := os.Stat(filepath.Join(dir, "manifest.json"))
	return err != nil && state.Dir(filepath.Dir(dir)).Locked()
}

func (f *bundleFlags) options(now time.Time) (o bundle.Options, err error) {
	o.Service = f.service
	if o.From, err = parseTime("--from", f.from, now); err != nil {
		return o, err
	}
	if o.To, err = parseTime("--to", f.to, now); err != nil {
		return o, err
	}
	if !o.From.Before(o.To) {
		return o, api.Errorf(api.CodeInvalidCombination, "--to", "give an end behind --from", "the time ends before it begins")
	}
	if f.keys == "" {
		return o, nil
	}
	text, err := os.ReadFile(f.keys)
	if err != nil {
		return o, api.Errorf(api.CodeInvalidParameter, "--keys", "give the file that culvert flows verify takes", "it cannot be read: %v", err)
	}
	o.Keys = string(text)
	return o, nil
}

// filler is what puts a copy of the evidence into a folder: one that there is, or the server's. Keys that are not given are the server's.
func (a *app) filler(ctx context.Context, f *bundleFlags, o *bundle.Options, now time.Time) (fill func(dir string) error, err error) {
	if f.copied == "" {
		return a.fetching(ctx, o, now)
	}
	if o.Keys == "" {
		return nil, api.Errorf(api.CodeMissingParameter, "--keys", "give the file that culvert flows verify takes", "a copy proves nothing without keys")
	}
	if info, err := os.Stat(f.copied); err != nil || !info.IsDir() {
		return nil, api.Errorf(api.CodeInvalidParameter, "--copy", "give a folder with log/ and segments/", "%q is no folder that can be read",
			api.Shortened(f.copied))
	}
	if isWritten(f.copied) {
		return nil, api.Errorf(api.CodeIncorrectState, "--copy", "leave --copy out, take a copy of one moment with culvert flows export, or stop the server",
			"a server writes to %s now", f.copied)
	}
	return func(dir string) error { return copyEvidence(ctx, os.DirFS(f.copied), dir) }, nil
}

// sealedWithin is how late after its last packet a record may be sealed, by a node that was away: what is sealed so long behind the
// bundle's time is fetched, too. As long as flows query looks for late records.
const sealedWithin = 24 * time.Hour

// fetching takes from the server what a bundle needs: the log, and the segments of all nodes. A copy for an account is of nodes that wrote
// about it as far as the server's disk tells, so what is gone from there would not be missed.
func (a *app) fetching(ctx context.Context, o *bundle.Options, now time.Time) (fill func(dir string) error, err error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	if err := resolve(ctx, c, o); err != nil {
		return nil, err
	}
	if o.Keys == "" {
		k, err := c.LogKey(ctx)
		if err != nil {
			return nil, err
		}
		o.Keys = k.VerifierKey + "\n"
		fmt.Fprintf(a.Err, "Verified with the key that the server itself told. Compare it with the one that you have from elsewhere: %s\n", k.VerifierKey)
	}
	q := api.EvidenceQuery{Since: o.From, Until: o.To.Add(sealedWithin)}
	if q.Until.After(now) {
		q.Until = now
	}
	return func(dir string) error {
		defer c.Close()
		w := copyWriter{dir: dir}
		return errors.Join(c.Evidence(ctx, q, w.part), w.end())
	}, nil
}

// resolve gives the bundle's service its id where the server knows it by its name alone. ACCOUNT/NAME stays: services of one name may have
// followed each other. Whether there was one that the server does not know any more the log tells.
func resolve(ctx context.Context, c *client.Client, o *bundle.Options) error {
	named := strings.Contains(o.Service, "/")
	s, err := c.GetService(ctx, o.Service)
	var e *api.Error
	switch {
	case err == nil:
		o.Known = true
		if !named {
			o.Service = s.ID
		}
	case named && errors.As(err, &e):
		return nil
	case errors.As(err, &e) && e.Code == api.CodeServiceNotFound && api.IsID(api.KindService.Prefix(), o.Service):
		return nil
	}
	return err
}

// copyEvidence copies what belongs to a copy.
func copyEvidence(ctx context.Context, from fs.FS, dir string) error {
	for _, part := range []string{"log", "segments", "manifest.json"} {
		err := fs.WalkDir(from, part, func(name string, d fs.DirEntry, err error) error {
			if err := errors.Join(err, ctx.Err()); err != nil || !d.Type().IsRegular() {
				return err
			}
			return copyOne(from, name, filepath.Join(dir, filepath.FromSlash(name)))
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy the evidence: %w", err)
		}
	}
	return nil
}

// makeBundle has the evidence put into a folder and computes the rest from there, so that both are of one moment.
func makeBundle(fill func(dir string) error, dir string, o bundle.Options) (*bundle.Summary, error) {
	if err := fill(dir); err != nil {
		return nil, err
	}
	return bundle.Write(os.DirFS(dir), o, func(name string) (io.WriteCloser, error) { return create(filepath.Join(dir, name)) })
}

func create(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
}

func copyOne(from fs.FS, name, to string) (err error) {
	in, err := from.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// pack makes one file of a folder: names in order, without times and owners, so that the same files give the same bytes.
func pack(dir, to string) (err error) {
	out, err := create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z := gzip.NewWriter(out)
	t := tar.NewWriter(z)
	name := strings.TrimSuffix(filepath.Base(to), ".tar.gz")
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		inner, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: name + "/" + filepath.ToSlash(inner), Mode: 0o644, Size: info.Size(), Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(t, f)
		return errors.Join(err, f.Close())
	})
	return errors.Join(err, t.Close(), z.Close(), out.Sync())
}
