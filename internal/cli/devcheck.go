package cli

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/internal/dev"
)

// The two commands that put the mesh's promises to the test.

func (a *app) devCapture(f *devFlags) *cobra.Command {
	var markers []string
	c := command("capture [--marker TEXT]", "Say what crosses the underlay, until interrupted", `
Look at every packet on the mesh's underlay until interrupted, then say how many of which kind there were. Only
WireGuard, TLS and encrypted gossip may cross it, and what finds neighbours. The exit status is 1 when anything else
did, or when nothing was seen.`, `
  culvert dev capture
  culvert dev capture --marker "my secret"`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, _ []string) error {
			r, err := lab.Capture(cmd.Context(), markers, func() {
				fmt.Fprintln(a.Err, "Looking at the underlay. End it with Ctrl-C.")
			})
			if err != nil {
				return err
			}
			err = a.print(r, func(w io.Writer) error {
				for _, line := range r.Lines() {
					if _, err := fmt.Fprintln(w, line); err != nil {
						return err
					}
				}
				if r.Missed > 0 {
					_, err := fmt.Fprintf(w, "%8d  not seen: too many at once\n", r.Missed)
					return err
				}
				return nil
			})
			if err == nil && !r.OK() {
				return exitStatus(1)
			}
			return err
		}))
	c.Flags().StringArrayVar(&markers, "marker", nil, "`text` that must not be seen in clear (may repeat)")
	c.Args = noArguments
	return c
}

func (a *app) devAttack(f *devFlags) *cobra.Command {
	var via string
	c := command("attack HOST --via ENDPOINT", "Make a host hostile, to see who stops it", `
Kill a host's agent, detach its programs, and write packets that it has no right to send raw into its tunnel, toward the
provider of an endpoint that its workloads use. The provider's host must refuse every one by its own check. The exit
status is 1 when one was not refused. Bring the host back with culvert dev start.`, `
  culvert dev attack host-a --via ledger
  culvert dev start host-a`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, args []string) error {
			r, err := lab.Attack(cmd.Context(), args[0], via)
			if err != nil {
				return err
			}
			if err := a.print(r, func(w io.Writer) error { return writeAttack(w, r) }); err != nil {
				return err
			}
			if !r.OK() {
				return exitStatus(1)
			}
			return nil
		}))
	reference(a, c, endpointKind, &via, "via", "the `ENDPOINT` whose provider is attacked")
	c.Args = exactly("HOST")
	c.ValidArgsFunction = positions(completeLab(a, true, false), cobra.NoFileCompletions)
	required(c, "via")
	return c
}

func writeAttack(w io.Writer, r *dev.AttackReport) error {
	rows := make([][]string, len(r.Attempts))
	for i, t := range r.Attempts {
		reason, refused := t.Reason, number(t.Refused)
		if reason == "" { // it must not get as far as the receiver's programs
			reason, refused = "dropped by WireGuard", ""
		}
		rows[i] = []string{t.What, strconv.Itoa(t.Sent), refused, reason}
	}
	if err := table(w, []string{"ATTEMPT", "SENT", "REFUSED", "REASON"}, rows); err != nil {
		return err
	}
	verdict := "Nothing got through"
	if !r.OK() {
		verdict = "NOT as it must be"
	}
	_, err := fmt.Fprintf(w, "\n%s: of what %s sent, %d packets reached %s (expected %d), which forwarded %d.\n",
		verdict, r.Host, r.Arrived, r.Provider, r.Expected, r.Forwarded)
	return err
}
