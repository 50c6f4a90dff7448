package cli

import (
	"io"

	"github.com/spf13/cobra"
)

func (a *app) whoisCommand() *cobra.Command {
	var here bool
	c := command("whois [--local] ADDRESS", "Say whose an overlay address is", `
Say which account, VPC and network interface an overlay address belongs to, and by which endpoint it is on its way to
which service. Overlay addresses are the IPv6 addresses between nodes, as packet captures show them, and as targets see
clients of services with --client-identity clientAddress.

The owner of a VPC may ask about all of its addresses, the provider of a service about those of its consumers, an
administrator about any.

With --local this machine's agent is asked, and no server: root learns what the node knows of VPCs, interfaces and
endpoints that it has to do with, and as of when. So it works while every server is dead.`, `
  culvert whois fd70:6c01:0:2:a00:105:8007:1683
  culvert whois --local fd70:6c01:0:2:a00:105:8007:1683`,
		func(cmd *cobra.Command, args []string) error {
			if here {
				return a.whoisHere(cmd, args[0])
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			w, err := cl.Whois(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(w, func(out io.Writer) error { return details(out, w) })
		})
	c.Flags().BoolVar(&here, "local", false, "from what this machine's node knows, without a server")
	c.Args = exactly("ADDRESS")
	return c
}

// whoisHere asks the agent of this machine.
func (a *app) whoisHere(cmd *cobra.Command, address string) error {
	agent, err := a.agent()
	if err != nil {
		return err
	}
	w, err := agent.Whois(cmd.Context(), address)
	if err != nil {
		return err
	}
	return a.print(w, func(out io.Writer) error { return details(out, &w) })
}
