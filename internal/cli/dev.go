package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
)

// devFlags are common to the dev commands.
type devFlags struct {
	prefix string
	log    processFlags // of dev up
}

func (a *app) lab(cmd *cobra.Command, f *devFlags) (*dev.Lab, error) {
	prefix := f.prefix
	if prefix == "" {
		prefix = a.getenv("CULVERT_DEV_PREFIX")
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cfg := dev.Config{Prefix: prefix, Program: program, Out: a.Err}
	if cmd.Flags().Lookup("wireguard") != nil {
		if err := a.wireguard(cmd, &cfg.KernelTunnel); err != nil {
			return nil, err
		}
	}
	if cmd.Flags().Changed("log-level") {
		cfg.LogLevel = f.log.level
	}
	if cmd.Flags().Changed("log-format") {
		cfg.LogFormat = f.log.format
	}
	lab, err := dev.New(cfg)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--prefix", "use at most 12 of a-z, 0-9 and '-', beginning with a letter",
			"%q is not a prefix (CULVERT_DEV_PREFIX)", prefix)
	}
	return lab, nil
}

// inLab makes a command's body of one that works on the mesh.
func (a *app) inLab(f *devFlags, run func(*cobra.Command, *dev.Lab, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		lab, err := a.lab(cmd, f)
		if err != nil {
			return err
		}
		return run(cmd, lab, args)
	}
}

// labChanged shows the mesh after a change to those who did not ask for a table: what was done has been said already.
func (a *app) labChanged(lab *dev.Lab) error {
	s, err := lab.Status()
	if err != nil {
		return err
	}
	return a.print(s, func(io.Writer) error { return nil })
}

func (a *app) devCommand() *cobra.Command {
	f := new(devFlags)
	g := group("dev", "A whole mesh on this machine, in network namespaces", `
Run a whole mesh on this machine: a server and hosts, each in a network namespace of its own, joined by an underlay that
leads nowhere else. Hosts run what real ones run. Workloads are network namespaces too. It needs root, and dev down
removes all of it.`, `
  culvert dev up
  eval "$(culvert dev env)"
  culvert dev status
  culvert dev down`)
	g.PersistentFlags().StringVar(&f.prefix, "prefix", "", "`prefix` of names, for a second mesh (CULVERT_DEV_PREFIX)")
	g.AddCommand(a.devUp(f), a.devDown(f), a.devStatus(f), a.devEnv(f), a.devExec(f), a.devLogs(f), a.devKill(f),
		a.devStart(f), a.devRestart(f), a.devWorkload(f), a.devCapture(f), a.devAttack(f))
	return g
}

func (a *app) devUp(f *devFlags) *cobra.Command {
	var hosts int
	c := command("up [--hosts N] [--wireguard user]", "Bring the mesh up", `
Bring up a mesh with at least so many hosts, named host-a, host-b and so on, and wait until the server hears of all of
them. What is up already is left alone; what is dead is started again. With --wireguard kernel the tunnels of the hosts
are the kernel's WireGuard and have no process. How to log is remembered, and holds for what is started from then on.`, `
  culvert dev up
  culvert dev up --hosts 3 --log-format json --log-level debug`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, _ []string) error {
			if hosts < 1 || hosts > dev.MaxHosts {
				return invalidFlag("--hosts", strconv.Itoa(hosts), "give 1 to 26")
			}
			if _, err := f.log.logger(io.Discard); err != nil {
				return err
			}
			if err := lab.Up(cmd.Context(), hosts); err != nil {
				return err
			}
			s, err := lab.Status()
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "The mesh is up. Now:\n\n  eval \"$(culvert dev env)\"\n  culvert status\n")
				return err
			})
		}))
	c.Flags().IntVar(&hosts, "hosts", 2, "`N` hosts at least, 1 to 26")
	wireguardFlag(c)
	f.log.logFlags(c)
	c.Args = noArguments
	return c
}

func (a *app) devDown(f *devFlags) *cobra.Command {
	c := command("down", "Remove the mesh and everything in it", `
End every process of the mesh and whatever runs in its namespaces, and remove namespaces, links, pinned BPF objects and
all state. Nothing is left, also when processes were killed before.`, `
  culvert dev down`,
		a.inLab(f, func(_ *cobra.Command, lab *dev.Lab, _ []string) error {
			if err := lab.Down(); err != nil {
				return err
			}
			fmt.Fprintln(a.Err, "The mesh is gone.")
			return a.print(dev.Status{Processes: []dev.ProcessStatus{}, Workloads: []dev.WorkloadStatus{}},
				func(io.Writer) error { return nil })
		}))
	c.Args = noArguments
	return c
}

func (a *app) devStatus(f *devFlags) *cobra.Command {
	c := command("status", "Show processes and workloads of the mesh", `
Show every process of the mesh, whether it runs, and every workload. The exit status is 1 when one does not run.`, `
  culvert dev status
  culvert dev status -o json`,
		a.inLab(f, func(_ *cobra.Command, lab *dev.Lab, _ []string) error {
			s, err := lab.Status()
			if err != nil {
				return err
			}
			if err := a.print(s, func(w io.Writer) error { return writeLab(w, s, time.Now()) }); err != nil {
				return err
			}
			if !s.Running() {
				return exitStatus(1)
			}
			return nil
		}))
	c.Args = noArguments
	return c
}

func writeLab(w io.Writer, s *dev.Status, now time.Time) error {
	var rows [][]string
	for _, p := range s.Processes {
		pid, since := "", ""
		if p.PID != 0 {
			pid, since = strconv.Itoa(p.PID), now.Sub(p.Since).Round(time.Second).String()
		}
		rows = append(rows, []string{p.Host, p.Process, p.State, pid, since, p.Netns, p.Address})
	}
	if err := table(w, []string{"HOST", "PROCESS", "STATE", "PID", "FOR", "NETNS", "ADDRESS"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if len(s.Workloads) == 0 {
		_, err := fmt.Fprintln(w, "No workload yet. Make one: culvert dev workload add NAME --host host-a --eni ENI")
		return err
	}
	rows = nil
	for _, x := range s.Workloads {
		rows = append(rows, []string{x.Name, x.Host, x.ENI, x.Interface, both(x.Address, x.IPv6Address), x.State})
	}
	return table(w, []string{"WORKLOAD", "HOST", "ENI", "INTERFACE", "ADDRESS", "NAMESPACE"}, rows)
}

func (a *app) devEnv(f *devFlags) *cobra.Command {
	var host string
	c := command("env [ACCOUNT] [--host HOST]", "Print the environment for talking to the mesh", `
Print lines for the shell that set CULVERT_SERVER, CULVERT_CA and CULVERT_API_KEY: the administrator's key, or one of
the account named, made at first use. With --host, CULVERT_AGENT_SOCKET is that host's agent too.`, `
  eval "$(culvert dev env)"
  eval "$(culvert dev env shop)"
  eval "$(culvert dev env shop --host host-a)"`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, args []string) error {
			x, err := lab.Env(cmd.Context(), strings.Join(args, ""), host)
			if err != nil {
				return err
			}
			return a.print(x, func(w io.Writer) error { return writeEnv(w, x) })
		}))
	c.Flags().StringVar(&host, "host", "", "with the socket of this `HOST`'s agent")
	must(c.RegisterFlagCompletionFunc("host", completeLab(a, true, false)))
	c.Args = atMost("ACCOUNT")
	c.ValidArgsFunction = complete(a, accountKind)
	return c
}

func writeEnv(w io.Writer, x *dev.Access) error {
	for _, kv := range [][2]string{
		{"CULVERT_SERVER", x.Server}, {"CULVERT_CA", x.CA}, {"CULVERT_API_KEY", x.APIKey}, {"CULVERT_AGENT_SOCKET", x.AgentSocket},
	} {
		if kv[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "export %s='%s'\n", kv[0], strings.ReplaceAll(kv[1], "'", `'\''`)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) devExec(f *devFlags) *cobra.Command {
	c := command("exec WORKLOAD -- COMMAND...", "Run a command inside a workload", `
Run a command in a workload's network namespace, with the VPC's resolver. A host or "server" may be named too. The exit
status is the command's.`, `
  culvert dev exec cart -- curl https://ledger.pay.internal
  culvert dev exec host-a -- ip link`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, args []string) error {
			argv := args[1:]
			if argv[0] == "--" { // it stays among the arguments, as flags end at the workload's name
				argv = argv[1:]
			}
			return lab.Exec(args[0], argv)
		}))
	c.Args = atLeast("WORKLOAD", "COMMAND")
	c.Flags().SetInterspersed(false)
	c.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return completeLab(a, true, true)(cmd, args, word)
		}
		return nil, cobra.ShellCompDirectiveDefault
	}
	return c
}

func (a *app) devLogs(f *devFlags) *cobra.Command {
	var follow bool
	var lines int
	c := command("logs HOST|server [agent|tunnel] [-f] [-n N]", "Show the logs of a host", `
Show the end of the logs of a host's processes, or of one of them; with -f, go on as they grow.`, `
  culvert dev logs host-a
  culvert dev logs host-a agent -f
  culvert dev logs server`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, args []string) error {
			return lab.Logs(cmd.Context(), args[0], strings.Join(args[1:], ""), lines, follow, a.Out)
		}))
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as they grow")
	c.Flags().IntVarP(&lines, "lines", "n", 50, "the last `N` of each")
	c.Args = hostAndProcess
	c.ValidArgsFunction = a.completeProcess()
	return c
}

// hostAndProcess are one or two arguments.
func hostAndProcess(cmd *cobra.Command, args []string) error {
	if len(args) > 2 {
		return tooMany(cmd, args[2])
	}
	return atLeast("HOST")(cmd, args)
}

func (a *app) completeProcess() completer {
	return positions(completeLab(a, true, false),
		cobra.FixedCompletions([]string{"agent", "tunnel", "server"}, cobra.ShellCompDirectiveNoFileComp))
}

func (a *app) devKill(f *devFlags) *cobra.Command {
	var gentle bool
	c := command("kill HOST|server [agent|tunnel]", "Kill processes of a host, to see what happens", `
Kill a host's processes, or one of them, at once and without warning, as a crash would. What they made in the kernel
stays. Start them again with dev start.`, `
  culvert dev kill host-a agent
  culvert dev kill server
  culvert dev start`,
		a.inLab(f, func(_ *cobra.Command, lab *dev.Lab, args []string) error {
			if err := lab.Kill(args[0], strings.Join(args[1:], ""), gentle); err != nil {
				return err
			}
			return a.labChanged(lab)
		}))
	c.Flags().BoolVar(&gentle, "gentle", false, "ask them to end (SIGTERM) instead")
	c.Args = hostAndProcess
	c.ValidArgsFunction = a.completeProcess()
	return c
}

func (a *app) devStart(f *devFlags) *cobra.Command {
	c := command("start [HOST|server] [agent|tunnel]", "Start processes that are dead", `
Start what is dead: everything, or of one host, or one process of it.`, `
  culvert dev start
  culvert dev start host-a agent`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, args []string) error {
			args = append(args, "", "")
			if err := lab.Start(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			return a.labChanged(lab)
		}))
	c.Args = atMost("HOST", "PROCESS")
	c.ValidArgsFunction = a.completeProcess()
	return c
}

func (a *app) devRestart(f *devFlags) *cobra.Command {
	c := command("restart HOST|server [agent|tunnel]", "End processes of a host and start them again", `
End a host's processes, or one of them, by asking, and start them again.`, `
  culvert dev restart host-a agent
  culvert dev restart server`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, args []string) error {
			role := strings.Join(args[1:], "")
			if err := lab.Kill(args[0], role, true); err != nil {
				return err
			}
			if err := lab.Start(cmd.Context(), args[0], role); err != nil {
				return err
			}
			return a.labChanged(lab)
		}))
	c.Args = hostAndProcess
	c.ValidArgsFunction = a.completeProcess()
	return c
}

func (a *app) devWorkload(f *devFlags) *cobra.Command {
	g := group("workload", "Workloads: namespaces with a network interface", `
A workload of the development mesh is a network namespace, which ip netns knows by its name, with an ENI attached by
the agent of a host.`, `
  culvert dev workload add cart --host host-a --eni cart
  culvert dev exec cart -- ip address
  culvert dev workload delete cart`)
	g.AddCommand(a.devWorkloadAdd(f), a.devWorkloadDelete(f))
	return g
}

func (a *app) devWorkloadAdd(f *devFlags) *cobra.Command {
	var w dev.Workload
	c := command("add NAME --host HOST --eni ENI [--interface NAME]", "Make a workload", `
Make a network namespace and attach an ENI in it, on a host. The ENI is bound to that host first if it is not. With
CULVERT_API_KEY set its owner is that key's account; else the administrator does it, for the account of --account.`, `
  culvert dev workload add cart --host host-a --eni cart
  culvert dev workload add ledger-1 --host host-b --eni ledger-1 --interface eth0`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, args []string) error {
			c, err := a.labClient(lab)
			if err != nil {
				return err
			}
			defer c.Close()
			w.Name = args[0]
			made, err := lab.AddWorkload(cmd.Context(), c, w)
			if err != nil {
				return err
			}
			return a.print(made, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "%s is %s on %s, address %s\n", made.Name, made.ENI, made.Host, both(made.Address, made.IPv6Address))
				return err
			})
		}))
	c.Flags().StringVar(&w.Host, "host", "", "the `HOST` it runs on")
	must(c.RegisterFlagCompletionFunc("host", completeLab(a, true, false)))
	reference(a, c, eniKind, &w.ENI, "eni", "its `ENI`")
	c.Flags().StringVar(&w.Interface, "interface", "eni0", "`name` of the interface inside")
	c.Args = exactly("NAME")
	required(c, "host", "eni")
	return c
}

func (a *app) devWorkloadDelete(f *devFlags) *cobra.Command {
	c := command("delete NAME...", "Remove workloads", `
Detach a workload's ENI, end what runs in its namespace, and remove the namespace. The ENI stays.`, `
  culvert dev workload delete cart`,
		a.inLab(f, func(cmd *cobra.Command, lab *dev.Lab, args []string) error {
			for _, name := range args {
				if err := lab.DeleteWorkload(cmd.Context(), name); err != nil {
					return err
				}
				fmt.Fprintln(a.Err, "deleted "+name)
			}
			return a.labChanged(lab)
		}))
	c.Args = atLeast("NAME")
	c.ValidArgsFunction = completeLab(a, false, true)
	return c
}

// labClient is the caller's own client of the mesh, or the administrator's.
func (a *app) labClient(lab *dev.Lab) (*client.Client, error) {
	if err := a.resolve(); err != nil {
		return nil, err
	}
	if a.apiKey == "" || a.server != lab.ServerAddress() {
		return lab.Admin(a.account)
	}
	return a.client()
}
