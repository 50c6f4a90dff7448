package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
)

func (a *app) retentionCommand() *cobra.Command {
	g := group("retention", "How long records and evidence are kept", `
How long the server keeps flow records that flows query reads, segments of evidence, events that audit list reads, and
files of flow logs that are delivered to its own disk.
A shorter term is for what comes from then on: what was kept under a longer one stays until that is over. What goes is
named in the Merkle log before, which itself is kept for ever.`, `
  culvert retention list
  culvert retention modify segments --days 730 --minimum-days 400`)
	l := command("list", "List the terms", `
List for how long each class is kept.`, `
  culvert retention list`,
		func(cmd *cobra.Command, _ []string) error { return a.retentionList(cmd.Context()) })
	l.Args = noArguments
	var m mutation
	var days, least int
	c := command("modify CLASS [--days N] [--minimum-days N]", "Change a term", `
Change for how long a class is kept: flow-records, segments, audit-events or deliveries. The minimum says what the term
may not be set below, and can only grow.`, `
  culvert retention modify segments --days 730 --minimum-days 400`,
		func(cmd *cobra.Command, args []string) error {
			var r api.ModifyRetentionRequest
			if cmd.Flags().Changed("days") {
				r.Days = &days
			}
			if cmd.Flags().Changed("minimum-days") {
				r.MinimumDays = &least
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			out, err := cl.ModifyRetention(cmd.Context(), args[0], r, m.options()...)
			if err != nil {
				return err
			}
			if m.dryRun {
				fmt.Fprintln(a.Err, "Dry run: nothing was changed.")
			}
			return a.showRetention(out, []api.Retention{*out})
		})
	c.Flags().IntVar(&days, "days", 0, "how many `days` what comes from now on is kept")
	c.Flags().IntVar(&least, "minimum-days", 0, "how many `days` it is kept at least, whoever sets it")
	m.flagsAtServer(c)
	c.Args = exactly("CLASS")
	c.ValidArgsFunction = cobra.FixedCompletions([]string{string(api.RetainFlowRecords), string(api.RetainSegments),
		string(api.RetainAuditEvents), string(api.RetainDeliveries)}, cobra.ShellCompDirectiveNoFileComp)
	g.AddCommand(l, c)
	return g
}

func (a *app) retentionList(ctx context.Context) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	all, err := cl.ListRetention(ctx)
	if err != nil {
		return err
	}
	return a.showRetention(all, all)
}

func (a *app) showRetention(v any, all []api.Retention) error {
	if a.quiet {
		for _, r := range all {
			fmt.Fprintln(a.Out, r.Class)
		}
		return nil
	}
	return a.print(v, func(w io.Writer) error {
		var rows [][]string
		for _, r := range all {
			kept, least := "for ever", ""
			if r.Days > 0 {
				kept = fmt.Sprintf("%d days", r.Days)
			}
			if r.MinimumDays > 0 {
				least = strconv.Itoa(r.MinimumDays)
			}
			var longer []string
			for _, t := range r.Longer {
				longer = append(longer, fmt.Sprintf("%d days what came before %s", t.Days, stamp(t.Until)))
			}
			rows = append(rows, []string{string(r.Class), kept, dash(least), dash(strings.Join(longer, "; "))})
		}
		return table(w, []string{"CLASS", "KEPT", "MINIMUM", "LONGER"}, rows)
	})
}

func (a *app) legalHoldCommand() *cobra.Command {
	g := group("legal-hold", "Keep what is about something, whatever the retention", `
A legal hold keeps flow records and segments of evidence of a span of time that mention an account, a VPC, a service, an
endpoint or a node, until it is released. They are kept by whole days and hours, with what else is in them.`, `
  culvert legal-hold create --account pay --from 2026-03-01T00:00:00Z --to 2026-04-01T00:00:00Z --reason "case 4711"
  culvert legal-hold list`)
	l := command("list", "List legal holds", `
List the legal holds.`, `
  culvert legal-hold list`,
		func(cmd *cobra.Command, _ []string) error { return a.legalHoldList(cmd.Context()) })
	l.Args = noArguments
	g.AddCommand(a.legalHoldCreate(), l, a.legalHoldRelease())
	return g
}

func (a *app) legalHoldCreate() *cobra.Command {
	var r api.CreateLegalHoldRequest
	var m mutation
	var from, to string
	c := command("create --from TIME --to TIME --reason TEXT", "Make a legal hold", `
Make a legal hold. It is about the --vpc, --service, --endpoint or --node that is named, else about the --account.`, `
  culvert legal-hold create --account pay --from 2026-03-01T00:00:00Z --to 2026-04-01T00:00:00Z --reason "case 4711"
  culvert legal-hold create --node host-a --from 720h --to 0s --reason "case 4712"`,
		func(cmd *cobra.Command, _ []string) error {
			var err error
			now := time.Now()
			if r.From, err = neededTime("--from", from, now); err != nil {
				return err
			}
			if r.To, err = neededTime("--to", to, now); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			h, err := cl.CreateLegalHold(cmd.Context(), r, m.options()...)
			if err != nil {
				return err
			}
			if m.dryRun {
				fmt.Fprintln(a.Err, "Dry run: nothing was changed.")
			}
			return a.showHolds(h, []api.LegalHold{*h})
		})
	s := c.Flags()
	reference(a, c, vpcKind, &r.VPC, "vpc", "about this `VPC`")
	reference(a, c, serviceKind, &r.Service, "service", "about this `SERVICE`")
	reference(a, c, endpointKind, &r.Endpoint, "endpoint", "about this `ENDPOINT`")
	reference(a, c, nodeKind, &r.Node, "node", "about this `NODE`")
	s.StringVar(&from, "from", "", "records from this `time` on, or so long ago")
	s.StringVar(&to, "to", "", "records before this `time`, or so long ago")
	s.StringVar(&r.Reason, "reason", "", "`text` that says why, such as the case's number")
	m.flagsAtServer(c)
	c.Args = noArguments
	return c
}

func neededTime(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, api.Errorf(api.CodeMissingParameter, flag, "write 720h or 2026-01-02T15:04:05Z", "no time is given")
	}
	return parseTime(flag, s, now)
}

func (a *app) legalHoldRelease() *cobra.Command {
	var m mutation
	c := command("release ID", "Release a legal hold", `
Release a legal hold. What it alone has kept is disposed of within the hour.`, `
  culvert legal-hold release lh-0a1b2c3d4e5f60718`,
		func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			if _, err := cl.ReleaseLegalHold(cmd.Context(), args[0], m.options()...); err != nil {
				return err
			}
			if m.dryRun {
				fmt.Fprintln(a.Err, "Dry run: nothing was changed.")
			}
			return nil
		})
	m.flagsAtServer(c)
	c.Args = exactly("ID")
	return c
}

func (a *app) legalHoldList(ctx context.Context) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	all, err := cl.ListLegalHolds(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 && a.output == "table" && !a.quiet {
		_, err := fmt.Fprintln(a.Err, "There is no legal hold.")
		return err
	}
	return a.showHolds(all, all)
}

func (a *app) showHolds(v any, all []api.LegalHold) error {
	if a.quiet {
		for _, h := range all {
			fmt.Fprintln(a.Out, h.ID)
		}
		return nil
	}
	return a.print(v, func(w io.Writer) error {
		var rows [][]string
		for _, h := range all {
			rows = append(rows, []string{h.ID, h.Subject, stamp(h.From), stamp(h.To), h.CreatedBy, h.Reason})
		}
		return table(w, []string{"ID", "ABOUT", "FROM", "TO", "BY", "REASON"}, rows)
	})
}
