package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// auditKind is how audit events are shown.
var auditKind = kind[api.AuditEvent]{
	head: []string{"TIME", "ACTOR", "ACTION", "RESOURCE", "OUTCOME", "FROM"},
	row: func(e *api.AuditEvent) []string {
		outcome := e.Outcome
		if e.Count > 0 {
			outcome += fmt.Sprintf(" (%d times)", e.Count)
		}
		what := cmp.Or(e.Resource, e.Asked)
		if what == "" && len(e.Changes) > 0 {
			what = e.Changes[0].ID
		}
		who, _ := auditActor(e)
		return []string{stamp(e.At), who, e.Action, what, outcome, e.Source}
	},
}

const (
	// auditStandard is how many events are listed where nothing is said, auditPage how many are asked for at once at most.
	auditStandard = 1000
	auditPage     = 10_000
)

func (a *app) auditCommand() *cobra.Command {
	g := group("audit", "Who changed what, and who was kept from it", `
Every call that changes something leaves an audit event, every call that is refused, and every reading of logs: who,
what, when, from where, with what outcome, and what became of the resources. What is refused to the same caller more
often than a hundred times, and then once in ten seconds, and what is read again within a minute, are events with a
count. Of what others did to its resources an account is told, too, without their names.`, `
  culvert audit list --outcome denied
  culvert audit show vpce-con-0a1b2c3d4e5f60718 --at 2026-03-01T00:00:00Z`)
	g.AddCommand(a.auditList(), a.auditShow(), a.auditVerify())
	return g
}

// auditFlags select audit events.
type auditFlags struct {
	filter       api.AuditFilter
	since, until string
	limit        int
	files        auditFiles
}

func (f *auditFlags) flags(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.since, "since", "", "events of this `time` or later, or so long ago")
	s.StringVar(&f.until, "until", "", "events before this `time`, or so long ago")
	s.StringVar(&f.filter.Actor, "actor", "", "by this `ACTOR`: API key, node or join token, id or name; system; anonymous")
	s.StringVar(&f.filter.Action, "action", "", "of this `OPERATION`, such as accept-connections")
	s.StringVar(&f.filter.Resource, "resource", "", "about this `RESOURCE`, id")
	s.StringVar(&f.filter.Outcome, "outcome", "", "`OUTCOME`: success, denied (which is all else) or a code such as UnauthorizedOperation")
	s.IntVar(&f.limit, "limit", auditStandard, "the newest `N`")
	f.files.flags(c)
}

func (f *auditFlags) finish(now time.Time) (err error) {
	if f.limit < 1 {
		return api.Errorf(api.CodeInvalidParameter, "--limit", "give 1 or more", "%d is no number of events", f.limit)
	}
	if f.filter.Since, err = parseTime("--since", f.since, now); err != nil {
		return err
	}
	f.filter.Until, err = parseTime("--until", f.until, now)
	return err
}

func (a *app) auditList() *cobra.Command {
	var watch bool
	var f auditFlags
	c := command("list [--since TIME] [--outcome OUTCOME]", "List audit events", `
List audit events, newest last: those of your account, or all for an administrator. With -o json or yaml the events have
all that is known, with the resources before and after; other accounts' are left out. Times are absolute (RFC 3339) or
so long ago (such as 15m). With --from the events are read from a directory of evidence, which is verified first.`, `
  culvert audit list
  culvert audit list --since 24h --outcome denied
  culvert audit list --resource vpce-svc-0a1b2c3d4e5f60718 -o json
  culvert audit list --from march --keys mesh.keys --actor first-admin
  culvert audit list --watch`,
		func(cmd *cobra.Command, _ []string) error {
			if err := f.finish(time.Now()); err != nil {
				return err
			}
			switch files, err := f.files.used(); {
			case err != nil:
				return err
			case files && watch:
				return api.Errorf(api.CodeInvalidCombination, "--watch", "leave it out, or --from", "a directory tells of nothing new")
			case files:
				return a.listFiles(&f.files, f.filter, f.limit)
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			if watch {
				if cmd.Flags().Changed("limit") {
					f.filter.Limit = min(f.limit, auditPage)
				}
				return auditKind.showWatch(cmd.Context(), a, cl.WatchAudit(cmd.Context(), client.WithAuditFilter(f.filter)))
			}
			events, err := auditPages(cmd.Context(), cl, f.filter, f.limit)
			if err != nil {
				return err
			}
			return a.showAudit(events)
		})
	c.Args = noArguments
	watchFlag(c, &watch)
	f.flags(c)
	return c
}

// auditPages reads the newest events, as many answers as that takes.
func auditPages(ctx context.Context, cl *client.Client, f api.AuditFilter, limit int) ([]api.AuditEvent, error) {
	events := []api.AuditEvent{}
	for len(events) < limit {
		f.Limit = min(limit-len(events), auditPage)
		page, err := cl.ListAudit(ctx, client.WithAuditFilter(f))
		if err != nil {
			return nil, err
		}
		events = append(page, events...)
		if len(page) < f.Limit {
			break
		}
		f.Before = page[0].Seq
	}
	return events, nil
}

func (a *app) showAudit(events []api.AuditEvent) error {
	return a.print(events, func(w io.Writer) error {
		if len(events) == 0 {
			_, err := fmt.Fprintln(w, "There is no such event.")
			return err
		}
		var rows [][]string
		for i := range events {
			rows = append(rows, auditKind.row(&events[i]))
		}
		return table(w, auditKind.head, rows)
	})
}

func (a *app) auditShow() *cobra.Command {
	var at string
	var f auditFiles
	c := command("show RESOURCE [--at TIME]", "Show a resource as it was at some time, and by whose doing", `
Show a resource as it was at some time, by its id, also when it is gone: of an endpoint connection who accepted it, and
what was allowed then, by the service's principals and the security groups; of an endpoint, load balancer or interface
its security groups. It is read from the audit log, of which the server keeps the newer part; with --from from a
directory of evidence, which is verified first.`, `
  culvert audit show vpce-con-0a1b2c3d4e5f60718
  culvert audit show vpce-con-0a1b2c3d4e5f60718 --at 2026-03-01T00:00:00Z -o json
  culvert audit show vpce-con-0a1b2c3d4e5f60718 --at 2026-03-01T00:00:00Z --from march --keys mesh.keys`,
		func(cmd *cobra.Command, args []string) error {
			when, err := parseTime("--at", at, time.Now())
			if err != nil {
				return err
			}
			switch files, err := f.used(); {
			case err != nil:
				return err
			case files:
				return a.showFiles(&f, args[0], when)
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			s, err := cl.GetAuditedResource(cmd.Context(), args[0], when)
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) error { return writeAudited(w, s) })
		})
	c.Flags().StringVar(&at, "at", "", "at this `time`, or so long ago (default now)")
	f.flags(c)
	c.Args = exactly("RESOURCE")
	return c
}

// writeAudited shows the resource first, then what decided over it.
func writeAudited(w io.Writer, s *api.AuditedState) error {
	for i, r := range slices.Concat([]api.AuditedResource{s.Resource}, s.Related) {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		state := "as it was"
		if !r.Exists {
			state = "removed; as it was last"
		}
		lines := []string{fmt.Sprintf("%s %s at %s, %s:", strings.TrimSuffix(string(r.Kind), "s"), r.ID, stamp(s.At), state)}
		if r.State != nil {
			text, err := yaml.JSONToYAML(r.State)
			if err != nil {
				return fmt.Errorf("output: %w", err)
			}
			for line := range strings.Lines(string(text)) {
				lines = append(lines, "  "+strings.TrimRight(line, "\n"))
			}
		}
		if r.Hash != "" {
			lines = append(lines, fmt.Sprintf("  without %s, too large for the log; SHA-256 of the whole: %s", strings.Join(r.Cut, ", "), r.Hash))
		}
		lines = append(lines, "made so   "+auditSentence(&r.Event))
		if r.Decision != nil {
			lines = append(lines, "decided   "+auditSentence(r.Decision))
		}
		if _, err := fmt.Fprintln(w, strings.Join(lines, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// auditActor is who did it, and the name; an account is not told who did what to its resources in the name of another.
func auditActor(e *api.AuditEvent) (who, name string) {
	switch {
	case e.Actor != "":
		return e.Actor, e.ActorName
	case e.Role == api.RoleAdmin:
		return "an administrator", ""
	}
	return "another account", ""
}

// auditSentence says what happened in one line.
func auditSentence(e *api.AuditEvent) string {
	who, name := auditActor(e)
	if name != "" {
		who += " (" + name + ")"
	}
	s := fmt.Sprintf("by %s, %s, %s, event %d", who, e.Action, stamp(e.At), e.Seq)
	if e.RequestID != "" {
		s += ", request " + e.RequestID
	}
	if e.Source != "" {
		s += ", from " + e.Source
	}
	return s
}
