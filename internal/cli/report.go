package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/query"
	reports "github.com/culvert-net/culvert/audit/report"
)

func (a *app) reportCommand() *cobra.Command {
	g := group("report", "Ready reports: top talkers, refusals, new pairs, unused rules, approvals, the daily review", `
Reports that reviews ask for, from the server's records or, with --from, from delivered files or evidence. For questions
of your own see: culvert flows query --group-by.`, `
  culvert report top-talkers --since 24h
  culvert report refused --since 24h -o csv
  culvert report unused-rules --since 4320h
  culvert report daily`)
	g.AddCommand(a.reportTopTalkers(), a.reportRefused(), a.reportNewPairs(), a.reportUnusedRules(), a.reportApprovals())
	for _, c := range g.Commands() {
		c.Annotations = map[string]string{writesCSV: "true"}
	}
	g.AddCommand(a.reportDaily())
	return g
}

// flowReport makes a command of a report on flows.
func (a *app) flowReport(name, since, short, long, example string,
	make func(ask reports.Ask, q query.Query, f *answerFlags) (reports.Report, error)) *cobra.Command {
	var f answerFlags
	c := command(name+" [--from DIR] [--since TIME] [--top N]", short, long, example, func(cmd *cobra.Command, _ []string) error {
		ask, q, err := a.answering(cmd.Context(), &f)
		if err != nil {
			return err
		}
		r, err := make(ask, q, &f)
		if err != nil {
			return err
		}
		return a.printReport(r)
	})
	f.flags(a, c)
	if since != "" {
		must(c.Flags().Set("since", since))
		c.Flags().Lookup("since").DefValue = since
		c.Flags().Lookup("since").Changed = false
	}
	return c
}

func (a *app) reportTopTalkers() *cobra.Command {
	return a.flowReport("top-talkers", "24h", "Which addresses sent most to which", `
The pairs of source and destination that sent most bytes, most first. A packet counts where it was sent, so both ends of
a flow together count it once; answers count for who answers.`, `
  culvert report top-talkers --since 24h --top 20
  culvert report top-talkers --from /srv/flow-logs --since 2026-03-01T00:00:00Z --until 2026-04-01T00:00:00Z -o csv`,
		func(ask reports.Ask, q query.Query, f *answerFlags) (reports.Report, error) {
			return reports.TopTalkers(ask, q, f.top)
		})
}

func (a *app) reportRefused() *cobra.Command {
	return a.flowReport("refused", "24h", "What was refused, and why", `
What was refused, by reason, interface and both addresses, most packets first. docs/REASONS.md has the reasons.`, `
  culvert report refused --since 24h
  culvert report refused --service pay/ledger --from /srv/evidence -o json`,
		func(ask reports.Ask, q query.Query, f *answerFlags) (reports.Report, error) {
			return reports.Refused(ask, q, f.top)
		})
}

func (a *app) reportNewPairs() *cobra.Command {
	var f answerFlags
	var lookback string
	c := command("new-pairs [--from DIR] --since TIME [--lookback TIME]", "Who spoke to whom for the first time", `
The pairs of who opened a flow and whereto that were let in since a time, and not before it as far as records go back.
--lookback says how far that is at most; the report tells when the oldest record is not older than --since, for then
every pair looks new.`, `
  culvert report new-pairs --since 24h
  culvert report new-pairs --from /srv/flow-logs --since 2026-03-01T00:00:00Z --lookback 2026-01-01T00:00:00Z`,
		func(cmd *cobra.Command, _ []string) error {
			ask, q, err := a.answering(cmd.Context(), &f)
			if err != nil {
				return err
			}
			since := q.Since
			if q.Since, err = parseTime("--lookback", lookback, time.Now()); err != nil {
				return err
			}
			if !q.Since.Before(since) {
				return api.Errorf(api.CodeInvalidCombination, "--lookback", "give an earlier time, such as 720h", "it is not before --since")
			}
			r, err := reports.NewPairs(ask, q, since, f.top)
			if err != nil {
				return err
			}
			return a.printReport(r)
		})
	f.flags(a, c)
	c.Flags().StringVar(&lookback, "lookback", "2160h", "what was seen since this `time`, or so long ago, and before --since, is not new")
	required(c, "since")
	return c
}

func (a *app) reportUnusedRules() *cobra.Command {
	var f answerFlags
	var all bool
	c := command("unused-rules [--from DIR] [--since TIME] [--all]", "Rules, grants and connections that no flow used", `
The rules of security groups, the principals that services allow and the endpoint connections that no flow was let in by
since a time (180 days without --since, as PCI DSS 1.2.7 has reviews): those that there are now, and those that there
were at some moment of that time, as the audit log tells. With --all also those that were used, with what they let in.
The server is asked for them also with --from. It keeps flow records for 30 days unless told otherwise; the report notes
where records begin, and files that reach back further are asked with --from.`, `
  culvert report unused-rules
  culvert report unused-rules --all --since 720h -o csv
  culvert report unused-rules --since 2160h --from /srv/flow-logs -o json`,
		func(cmd *cobra.Command, _ []string) error {
			ask, q, err := a.answering(cmd.Context(), &f)
			if err != nil {
				return err
			}
			have, err := a.permissions(cmd.Context(), q.Since)
			if err != nil {
				return err
			}
			r, err := reports.Unused(ask, q, have, all)
			if err != nil {
				return err
			}
			return a.printReport(r)
		})
	f.flags(a, c)
	c.Flags().BoolVar(&all, "all", false, "also what was used, with the packets and bytes that it let in as both ends count them")
	must(c.Flags().Set("since", "4320h"))
	c.Flags().Lookup("since").DefValue, c.Flags().Lookup("since").Changed = "4320h", false
	return c
}

// permissions are those of the caller's account, and what became of them since a time.
func (a *app) permissions(ctx context.Context, since time.Time) (reports.Permissions, error) {
	var out reports.Permissions
	c, err := a.client()
	if err != nil {
		return out, err
	}
	defer c.Close()
	if out.Groups, err = c.ListSecurityGroups(ctx); err != nil {
		return out, err
	}
	if out.Services, err = c.ListServices(ctx); err != nil {
		return out, err
	}
	if out.Connections, err = connections(ctx, c, out.Services); err != nil {
		return out, err
	}
	out.Events, err = auditPages(ctx, c, api.AuditFilter{Since: since, Outcome: api.OutcomeSuccess}, maxAuditEvents)
	if len(out.Events) == maxAuditEvents {
		out.Begin = out.Events[0].At
	}
	return out, err
}

func connections(ctx context.Context, c *client.Client, services []api.Service) ([]api.Connection, error) {
	var out []api.Connection
	for _, s := range services {
		list, err := c.ListConnections(ctx, s.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

func (a *app) reportApprovals() *cobra.Command {
	var since, until string
	c := command("approvals [--since TIME] [--until TIME]", "Who accepted or rejected which endpoint connection", `
Who accepted or rejected the endpoint connections of the account's services, and when: each decision that the audit log
tells, with the number of its event, also on connections that are gone; of older ones the newest on each connection that
there is. "automatic" is the service's own, where it does not require acceptance.`, `
  culvert report approvals
  culvert report approvals --since 2160h -o csv`,
		func(cmd *cobra.Command, _ []string) error {
			from, err := parseTime("--since", since, time.Now())
			if err != nil {
				return err
			}
			to, err := parseTime("--until", until, time.Now())
			if err != nil {
				return err
			}
			list, err := a.decisions(cmd.Context(), api.AuditFilter{Since: from, Until: to})
			if err != nil {
				return err
			}
			return a.printReport(reports.Approvals(list, from, to))
		})
	c.Flags().StringVar(&since, "since", "", "decided after this `time`, or so long ago")
	c.Flags().StringVar(&until, "until", "", "decided before this `time`, or so long ago")
	c.Args = noArguments
	return c
}

// maxAuditEvents bounds the audit events that are read for a report.
const maxAuditEvents = 200_000

// decisions are those of a time that the server knows of.
func (a *app) decisions(ctx context.Context, f api.AuditFilter) ([]reports.Decision, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	services, err := c.ListServices(ctx)
	if err != nil {
		return nil, err
	}
	now, err := connections(ctx, c, services)
	if err != nil {
		return nil, err
	}
	events, err := auditPages(ctx, c, f, maxAuditEvents+1)
	if err != nil {
		return nil, err
	}
	if len(events) > maxAuditEvents {
		return nil, api.Errorf(api.CodeLimitExceeded, "--since", "narrow the time", "there are more than %d audit events in it", maxAuditEvents)
	}
	return reports.Told(events, now), nil
}

func (a *app) printReport(r reports.Report) error {
	if a.quiet {
		return api.Errorf(api.CodeInvalidCombination, "--quiet", "take what you need from -o json", "reports have no ids")
	}
	head := make([]string, len(r.Columns))
	for i, c := range r.Columns {
		head[i] = strings.ToUpper(c)
	}
	if a.output == "table" || a.output == "csv" {
		for _, n := range r.Notes {
			fmt.Fprintln(a.Err, n)
		}
	}
	return a.printTable(r, head, r.Text())
}
