package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/history"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/verify"
)

// auditFiles are the flags of commands that read the audit log from a directory of evidence instead of the server.
type auditFiles struct{ from, keys string }

func (f *auditFiles) flags(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.from, "from", "", "read the evidence in this `DIR` instead of asking the server; with --keys")
	s.StringVar(&f.keys, "keys", "", "`file` with the public keys of the log and of witnesses")
	must(c.MarkFlagDirname("from"))
	must(c.MarkFlagFilename("keys"))
}

// used reports whether a directory is to be read.
func (f *auditFiles) used() (bool, error) {
	switch {
	case f.from == "" && f.keys != "":
		return false, api.Errorf(api.CodeInvalidCombination, "--keys", "add --from DIR, or leave it out", "the server is asked with an API key")
	case f.from != "" && f.keys == "":
		return false, api.Errorf(api.CodeMissingParameter, "--keys", "give the file with the public keys", "without keys evidence proves nothing")
	}
	return f.from != "", nil
}

// judge verifies the audit log in a directory and calls each for its events, in the log's order.
func (f *auditFiles) judge(each func(*api.AuditEvent)) (*verify.Report, error) {
	text, err := os.ReadFile(f.keys)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--keys", "name a file that can be read", "%v", err)
	}
	keys, err := verify.ParseKeys(string(text))
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--keys", "write one verifier key a line, as culvert log-key prints it", "%s: %v", f.keys, err)
	}
	if info, err := os.Stat(f.from); err != nil || !info.IsDir() {
		return nil, api.Errorf(api.CodeInvalidParameter, "DIR", "name a directory of evidence, which has log in it", "%s is none", f.from)
	}
	o := verify.Options{AuditOnly: true}
	if each != nil {
		o.Each = func(_ uint64, l *leaf.Leaf) {
			if l.Event != nil {
				each(l.Event)
			}
		}
	}
	return verify.Run(os.DirFS(f.from), keys, o), nil
}

// doubt says on the error stream that what was read does not verify, and makes the exit status say so.
func (a *app) doubt(r *verify.Report) error {
	if r.OK {
		return nil
	}
	fmt.Fprintf(a.Err, "NOT VERIFIED, believe none of it: %s\nAll that was found: culvert audit verify\n", r.First())
	return exitStatus(1)
}

func (a *app) auditVerify() *cobra.Command {
	var f auditFiles
	c := command("verify DIR --keys FILE", "Prove from files that no audit event was changed or left out", `
Judge the audit log in a directory of evidence, or in a copy that culvert flows export made, without any server: that
the log is one tree and signed, that each of its checkpoints goes on from the one before, and that no event is missing.
The exit status is 0 when all of it holds, else 1; then what is wrong is named. Flow records are for culvert flows
verify, which judges the audit log too.

FILE has the public keys that you believe, one a line: the log's, which culvert log-key prints, and those of witnesses.
Take it from somebody else than the one who gave you DIR.`, `
  culvert audit verify /var/lib/culvert/evidence --keys mesh.keys
  culvert audit verify march --keys mesh.keys -o json`,
		func(_ *cobra.Command, args []string) error {
			if f.from = args[0]; f.keys == "" {
				_, err := f.used()
				return err
			}
			r, err := f.judge(nil)
			if err != nil {
				return err
			}
			if err := a.print(r, func(w io.Writer) error { return r.Transcript(w) }); err != nil {
				return fmt.Errorf("write the transcript: %w", err)
			}
			if !r.OK {
				return exitStatus(1)
			}
			return nil
		})
	c.Flags().StringVar(&f.keys, "keys", "", "`file` with the public keys of the log and of witnesses")
	must(c.MarkFlagFilename("keys"))
	c.Args = exactly("DIR")
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return c
}

// listFiles lists the newest events in a directory that a filter selects.
func (a *app) listFiles(f *auditFiles, filter api.AuditFilter, limit int) error {
	events := []api.AuditEvent{}
	r, err := f.judge(func(e *api.AuditEvent) {
		if !filter.Match(e) {
			return
		}
		if events = append(events, *e); len(events) >= 2*limit {
			events = slices.Delete(events, 0, len(events)-limit)
		}
	})
	if err != nil {
		return err
	}
	events = events[max(0, len(events)-limit):]
	if err := a.showAudit(events); err != nil {
		return err
	}
	return a.doubt(r)
}

// showFiles shows a resource as a directory tells of it.
func (a *app) showFiles(f *auditFiles, id string, at time.Time) error {
	kind, err := api.ParseID(id)
	if err != nil {
		return err
	}
	if at.IsZero() {
		at = time.Now()
	}
	book := history.Book{}
	r, err := f.judge(func(e *api.AuditEvent) { book.Add(e, at) })
	if err != nil {
		return err
	}
	s, err := history.Show(id, at.UTC(), book.Look)
	if err != nil {
		return err
	}
	if s == nil {
		if err := a.doubt(r); err != nil {
			return err
		}
		return api.NotFound(kind, "RESOURCE", id)
	}
	if err := a.print(s, func(w io.Writer) error { return writeAudited(w, s) }); err != nil {
		return err
	}
	return a.doubt(r)
}
