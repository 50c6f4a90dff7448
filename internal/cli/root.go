// Package cli is the command line of culvert: it turns arguments into calls of the API client, the local agent's client,
// or the Config of a long-running process, and answers into tables, JSON or YAML. It decides nothing.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/version"
)

// Streams are the process's standard streams.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// app is what all commands of one invocation share.
type app struct {
	Streams
	settings
	output   string
	quiet    bool
	badFlags bool // flags were not read to their end
}

// Main runs one command line, without the program's name, and returns the exit status: 0, 1 after a failure, or what a
// command says itself (that of the program it ran).
func Main(ctx context.Context, args []string, s Streams) int {
	root, a := build(s)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	report(s.Err, a.errorFormat(args), explained(cmd, err))
	return 1
}

// errorFormat is what --output asks for, also when flags before it were wrong.
func (a *app) errorFormat(args []string) string {
	if !a.badFlags {
		return a.output
	}
	format := a.output
	for i, arg := range args {
		if arg == "--" {
			break
		}
		for _, flag := range []string{"--output", "-o"} {
			if arg == flag && i+1 < len(args) {
				format = args[i+1]
			} else if value, is := strings.CutPrefix(arg, flag+"="); is {
				format = value
			}
		}
	}
	return format
}

// exitStatus ends the program with a status and no message.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// New makes the command tree.
func New(s Streams) *cobra.Command {
	root, _ := build(s)
	return root
}

func build(s Streams) (*cobra.Command, *app) {
	a := &app{Streams: s, settings: settings{getenv: os.Getenv}}
	root := group("culvert", "Private endpoints for services on machines you own", `
Culvert lets a workload in one VPC reach a service in another by a private address of its own VPC: no peering, no
shared address plan, no proxy, nothing in clear between machines, and every packet accounted for.

Try it on this machine:   culvert dev up
Then see:                 culvert status`, `
  culvert dev up
  eval "$(culvert dev env)"
  culvert status`)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetIn(s.In)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		a.badFlags = true
		return flagError(cmd, err)
	})
	root.CompletionOptions.DisableDefaultCmd = true
	a.globalFlags(root.PersistentFlags())
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.checkOutput(cmd) }
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"},
		cobra.ShellCompDirectiveNoFileComp)))
	must(root.RegisterFlagCompletionFunc("account", complete(a, accountKind)))
	root.AddGroup(
		&cobra.Group{ID: "resources", Title: "Resources:"}, &cobra.Group{ID: "see", Title: "Seeing what happens:"},
		&cobra.Group{ID: "run", Title: "Running the mesh:"})
	add := func(id string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add("resources", a.accountCommand(), a.keyCommand(), a.vpcCommand(), a.subnetCommand(), a.eniCommand(), a.groupCommand(),
		a.targetGroupCommand(), a.loadBalancerCommand(), a.listenerCommand(), a.serviceCommand(), a.endpointCommand(),
		a.provenDomainCommand(), a.hostedZoneCommand(), a.resolverRuleCommand(), a.flowLogCommand(), a.dnsFirewallCommand(), a.queryLogCommand())
	add("see", a.statusCommand(), a.doctorCommand(), a.explainCommand(), a.whoisCommand(), a.flowsCommand(), a.queriesCommand(), a.reportCommand(),
		a.auditCommand(), a.evidenceCommand(), a.logKeyCommand(),
		a.retentionCommand(), a.legalHoldCommand())
	add("run", a.devCommand(), a.serverCommand(), a.agentCommand(), a.tunnelCommand(), a.witnessCommand(), a.tokenCommand(), a.nodeCommand(),
		a.runCommand())
	root.AddCommand(a.versionCommand(), completionCommand())
	completeNothing(root)
	return root, a
}

func (a *app) globalFlags(f *pflag.FlagSet) {
	f.StringVar(&a.server, "server", "", "`address` of the server: https://HOST:PORT or unix:/PATH (CULVERT_SERVER)")
	f.StringVar(&a.apiKey, "api-key", "", "`secret` that says who you are; others see arguments, so prefer CULVERT_API_KEY")
	f.StringVar(&a.caFile, "ca", "", "`file` with the server's CA certificate (CULVERT_CA)")
	f.StringVar(&a.account, "account", "", "act for this `account`, id or name; for administrators (CULVERT_ACCOUNT)")
	f.StringVar(&a.socket, "socket", "", "`path` of the local agent's socket (CULVERT_AGENT_SOCKET)")
	f.StringVarP(&a.output, "output", "o", "table", "`format` of answers and errors: table, json or yaml")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print ids only, one a line")
}

// writesCSV annotates commands whose answers may be CSV too.
const writesCSV = "culvert_writes_csv"

func (a *app) checkOutput(c *cobra.Command) error {
	if a.output == "csv" && c.Annotations[writesCSV] != "" {
		return nil
	}
	switch a.output {
	case "table":
		return nil
	case "json", "yaml":
		if a.quiet {
			return api.Errorf(api.CodeInvalidCombination, "--quiet", "leave out one of them", "--output %s prints more than ids", a.output)
		}
		return nil
	}
	return api.Errorf(api.CodeInvalidParameter, "--output", "use table, json or yaml", "%q is not a format", a.output)
}

// command makes one. Texts begin with a line break in the source; it goes.
func command(use, short, long, example string, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: strings.TrimSpace(long), Example: strings.Trim(example, "\n"), RunE: run,
		DisableFlagsInUseLine: true, ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// holdsOthers annotates commands that do nothing themselves.
const holdsOthers = "culvert_holds_others"

// group makes a command that only holds others.
func group(use, short, long, example string) *cobra.Command {
	c := command(use, short, long, example, nil)
	c.Annotations = map[string]string{holdsOthers: "true"}
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return noCommand(cmd, args[0])
	}
	c.SuggestionsMinimumDistance = 2
	return c
}

func (a *app) versionCommand() *cobra.Command {
	c := command("version", "Print the version of this binary", `
Print which build this binary is. The version of the server and of the nodes is in culvert status.`, `
  culvert version
  culvert version -o json`,
		func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version string `json:"version"`
			}{version.Version()}
			return a.print(v, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, v.Version)
				return err
			})
		})
	c.Args = noArguments
	return c
}

func completionCommand() *cobra.Command {
	c := command("completion SHELL", "Print a script that completes commands, ids and names", `
Print a script for your shell: bash, zsh or fish. With it, the tab key completes commands, flags, and, by asking the
server that CULVERT_SERVER names, ids and names of resources.`, `
  source <(culvert completion bash)
  culvert completion zsh > "${fpath[1]}/_culvert"
  culvert completion fish > ~/.config/fish/completions/culvert.fish`,
		func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(out)
			case "fish":
				return cmd.Root().GenFishCompletion(out, true)
			}
			return api.Errorf(api.CodeInvalidParameter, "SHELL", "use bash, zsh or fish", "%q is not a shell known here", args[0])
		})
	c.Args = exactly("SHELL")
	c.ValidArgsFunction = cobra.FixedCompletions([]string{"bash", "zsh", "fish"}, cobra.ShellCompDirectiveNoFileComp)
	return c
}
