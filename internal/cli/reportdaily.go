package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
)

func (a *app) reportDaily() *cobra.Command {
	var date string
	c := command("daily [--date DATE]", "What somebody should look at each day", `
Show the report that the server made of a day, in UTC, when the day was over: what was refused, by whom and why; who
decided about connections; what talked for the first time; which records are missing; what was wrong with the server;
and what came of verifying its own evidence of the day. Without --date the newest one. The report is in the Merkle log:
its SHA-256 is that of a leaf. For administrators.`, `
  culvert report daily
  culvert report daily --date 2026-03-01 -o json`,
		func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			if date == "" {
				list, err := cl.ListDailyReports(cmd.Context())
				if err != nil {
					return err
				}
				if len(list) == 0 {
					return api.Errorf(api.CodeReportNotFound, "--date", "look again tomorrow", "no day was over yet since the server makes reports")
				}
				date = list[len(list)-1].Date
			}
			r, err := cl.GetDailyReport(cmd.Context(), date)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) error { return writeDaily(w, r) })
		})
	c.Flags().StringVar(&date, "date", "", "of this `DATE`, such as 2026-03-01 (default the newest)")
	c.Args = noArguments
	return c
}

func writeDaily(w io.Writer, r *api.DailyReport) error {
	verified := "nothing was found"
	switch v := r.Verification; {
	case v.NotDone != "":
		verified = "not done: " + v.NotDone
	case !v.Good:
		verified = "NOT VERIFIED: " + strings.Join(v.Findings, "; ")
	}
	n := func(n uint64) string { return strconv.FormatUint(n, 10) }
	if err := table(w, []string{"DAY", r.Date}, [][]string{
		{"made", stamp(r.MadeAt)},
		{"evidence", verified},
		{"problems", strings.Join(r.Problems, "; ")},
		{"audit events", fmt.Sprintf("%d to %d", r.Audit.FirstSeq, r.Audit.LastSeq)},
		{"changes", n(r.Audit.Calls)},
		{"denied calls", fmt.Sprintf("%d, %d of them anonymous", r.Audit.Denied, r.Audit.Anonymous)},
		{"readings of logs", n(r.Audit.LogReads)},
		{"starts", fmt.Sprintf("%d, %d of them after a crash", r.Audit.Starts, r.Audit.Crashes)},
		{"flow records", fmt.Sprintf("%d of %d nodes, which lack detail of %d", r.Flows.Records, r.Flows.Nodes, r.Flows.Lost)},
		{"new pairs", strconv.Itoa(r.Flows.NewPairsCount)},
	}); err != nil {
		return err
	}
	var denials, decisions, refused, pairs, gaps [][]string
	for _, d := range r.Audit.Denials {
		denials = append(denials, []string{n(d.Count), d.Actor, d.Account, d.Action, d.Outcome})
	}
	for _, d := range r.Audit.Decisions {
		decisions = append(decisions, []string{stamp(d.At), d.Connection, d.Service, d.Endpoint, string(d.State), d.Actor})
	}
	for _, f := range r.Flows.Refused {
		refused = append(refused, []string{n(f.Packets), f.Account, f.Reason})
	}
	for _, p := range r.Flows.NewPairs {
		pairs = append(pairs, []string{stamp(p.First), p.Account, p.Interface, p.To})
	}
	for _, g := range r.Flows.Gaps {
		gaps = append(gaps, []string{g.Node, g.Boot, n(g.First), n(g.Last)})
	}
	for _, t := range []struct {
		title string
		head  []string
		rows  [][]string
	}{
		{"Denied calls", []string{"TIMES", "ACTOR", "ACCOUNT", "ACTION", "OUTCOME"}, denials},
		{"Decisions", []string{"TIME", "CONNECTION", "SERVICE", "ENDPOINT", "STATE", "ACTOR"}, decisions},
		{"Refused flows", []string{"PACKETS", "ACCOUNT", "REASON"}, refused},
		{"New pairs", []string{"FIRST", "ACCOUNT", "INTERFACE", "TO"}, pairs},
		{"Missing records", []string{"NODE", "BOOT", "FIRST", "LAST"}, gaps},
	} {
		if len(t.rows) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s\n", t.title); err != nil {
			return err
		}
		if err := table(w, t.head, t.rows); err != nil {
			return err
		}
	}
	return nil
}
