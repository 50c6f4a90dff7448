package cli

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/netns"
)

// completionTimeout: the shell waits for this.
const completionTimeout = 2 * time.Second

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete asks the server for names, described by ids, and for ids, described by names. Without a server there is none.
func complete[T any](a *app, k kind[T]) completer {
	return completeWith(a, func(ctx context.Context, c *client.Client) ([]string, error) {
		items, err := k.list(c, ctx)
		var out []string
		for i := range items {
			m := meta(&items[i])
			if m.Name != "" {
				out = append(out, m.Name+"\t"+m.ID)
			}
			out = append(out, m.ID+"\t"+m.Name)
		}
		return out, err
	})
}

func completeWith(a *app, ask func(context.Context, *client.Client) ([]string, error)) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		out, err := ask(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeServices knows the caller's own and those of the catalogue.
func completeServices(a *app) completer {
	return completeWith(a, func(ctx context.Context, c *client.Client) ([]string, error) {
		entries, err := c.Catalogue(ctx)
		if err != nil {
			return nil, err
		}
		var out []string
		for _, e := range entries {
			out = append(out, e.ServiceName+"\t"+e.ID)
		}
		own, err := c.ListServices(ctx)
		for _, s := range own {
			out = append(out, s.ID+"\t"+s.Name)
		}
		return out, err
	})
}

// completeConnections of the service in the first argument.
func completeConnections(a *app) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return complete(a, serviceKind)(cmd, args, word)
		}
		return completeWith(a, func(ctx context.Context, c *client.Client) ([]string, error) {
			connections, err := c.ListConnections(ctx, args[0])
			var out []string
			for _, x := range connections {
				state := string(x.State) + ", of " + x.EndpointAccount
				out = append(out, x.Endpoint+"\t"+state)
				if x.Name != "" {
					out = append(out, x.Name+"\t"+state)
				}
			}
			return out, err
		})(cmd, args, word)
	}
}

// positions completes the first argument by the first completer, and so on; the last one serves all that follow.
func positions(completers ...completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		return completers[min(len(args), len(completers)-1)](cmd, args, word)
	}
}

func completeNetns(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	entries, err := os.ReadDir(netns.Dir)
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, cobra.ShellCompDirectiveDefault
}

// completeLab offers hosts, workloads or both of the development mesh.
func completeLab(a *app, hosts, workloads bool) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var out []string
		lab, err := dev.New(dev.Config{Prefix: a.getenv("CULVERT_DEV_PREFIX")})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		r, err := lab.Load()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if hosts {
			out = append(out, "server")
			for _, h := range r.Hosts {
				out = append(out, h.Name+"\t"+h.Address.String())
			}
		}
		if workloads {
			for _, w := range r.Workloads {
				out = append(out, w.Name+"\t"+w.ENI+" on "+w.Host)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
