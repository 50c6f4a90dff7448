package cli

import (
	"cmp"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// targetHealthKind is what a watch of targets' health shows.
var targetHealthKind = kind[api.DescribedTarget]{
	head: []string{"TARGET", "STATE", "REASON", "SINCE", "WHY"},
	row: func(t *api.DescribedTarget) []string {
		return []string{targetName(t), string(t.State), string(t.Reason), stamp(t.Since), t.Description}
	},
}

// targetName is a target as people call it.
func targetName(t *api.DescribedTarget) string {
	return cmp.Or(t.ENIName, t.ENI) + ":" + strconv.Itoa(int(t.Port))
}

func (a *app) targetGroupHealth() *cobra.Command {
	var vpc string
	var watch bool
	c := command("health GROUP", "Show how a target group's targets are", `
Show the state of each target, why it is in it and since when, and the last changes. The node that hosts a target asks
it and tells; docs/decisions/0020-health.md says what follows from it.`, `
  culvert target-group health ledger
  culvert target-group health ledger --watch
  culvert target-group health ledger -o json`,
		func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			id, err := targetGroupKind.in(cmd.Context(), cl, vpc, args[0])
			if err != nil {
				return err
			}
			if watch {
				return targetHealthKind.showWatch(cmd.Context(), a, cl.WatchTargetHealth(cmd.Context(), client.WithTargetGroup(id)))
			}
			h, err := cl.TargetHealth(cmd.Context(), id)
			if err != nil {
				return err
			}
			return a.print(h, func(w io.Writer) error { return targetHealthText(w, h) })
		})
	c.Args = exactly("GROUP")
	c.ValidArgsFunction = complete(a, targetGroupKind)
	watchFlag(c, &watch)
	targetGroupKind.narrow(a, c, &vpc)
	return c
}

// targetHealthText is a group's health as two tables.
func targetHealthText(w io.Writer, h *api.TargetGroupHealth) error {
	note := ""
	if h.FailOpen {
		note = "; too few, so all are used"
	}
	fmt.Fprintf(w, "%d of %d targets take flows%s\n\n", h.Usable, h.Registered, note)
	var states, changes [][]string
	for _, t := range h.Targets {
		name := targetName(&t)
		states = append(states, []string{name, t.Address.String(), t.Zone, strconv.Itoa(int(t.Weight)), string(t.State), string(t.Reason),
			stamp(t.Since), t.Description})
		for _, c := range t.History {
			changes = append(changes, []string{stamp(c.At), name, string(c.From), string(c.To), string(c.Reason), c.Description})
		}
	}
	if err := table(w, []string{"TARGET", "ADDRESS", "ZONE", "WEIGHT", "STATE", "REASON", "SINCE", "WHY"}, states); err != nil {
		return err
	}
	if len(changes) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return table(w, []string{"AT", "TARGET", "FROM", "TO", "REASON", "WHY"}, changes)
}
