package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netns"
)

// detachTimeout bounds cleaning up, which happens also after an interruption.
const detachTimeout = 30 * time.Second

// runFlags say where a command gets its network.
type runFlags struct {
	vpc     string
	eni     string
	ifname  string
	timeout time.Duration
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	c := command("run --eni ENI [--interface eni0] -- COMMAND...", "Run a command on this node, in a network of its own", `
Run a command in a new network namespace that has nothing but loopback and the network interface named, and that uses
the VPC's resolver. When the command ends the interface is detached and the namespace is gone. The exit status is the
command's. The agent of this machine does it, so this needs root; an interface that is bound to no node is bound to this
one first.`, `
  culvert run --eni cart -- curl https://ledger.pay.internal
  culvert run --eni eni-0a1b2c3d4e5f60718 -- /usr/sbin/nginx -g 'daemon off;'`,
		func(cmd *cobra.Command, args []string) error {
			if err := needRoot("culvert run"); err != nil {
				return err
			}
			return a.runInside(cmd.Context(), &f, args)
		})
	reference(a, c, eniKind, &f.eni, "eni", "the `ENI` to have in it")
	c.Flags().StringVar(&f.ifname, "interface", "eni0", "`name` of the interface inside")
	c.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "how long to wait for the interface")
	eniKind.narrow(a, c, &f.vpc)
	c.Flags().SetInterspersed(false)
	required(c, "eni")
	c.Args = atLeast("COMMAND")
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return c
}

// runInside makes the namespace, attaches, runs and detaches.
func (a *app) runInside(ctx context.Context, f *runFlags, argv []string) error {
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return api.Errorf(api.CodeInvalidParameter, "COMMAND", "give the path of a program", "%v", err)
	}
	return netns.DoNew(func(path string) (err error) {
		if err := netns.Loopback(); err != nil {
			return err
		}
		got, err := a.attachInside(ctx, f, path)
		if err != nil {
			return err
		}
		defer func() {
			if left := a.detach(ctx, got.ENI); left != nil {
				fmt.Fprintln(a.Err, render(nil, left))
				err = cmp.Or(err, error(exitStatus(1)))
			}
		}()
		etc, err := resolverFiles(got)
		if err != nil {
			return err
		}
		defer os.RemoveAll(etc)
		if err := netns.Mounts(etc); err != nil {
			return err
		}
		return a.runHere(ctx, program, argv)
	})
}

// attachInside attaches in the namespace at path. What a culvert run that was killed has left, the agent takes back.
func (a *app) attachInside(ctx context.Context, f *runFlags, path string) (*local.AttachResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return a.attach(ctx, f.vpc, f.eni, local.AttachRequest{
		Netns: path, Interface: f.ifname, DefaultRoute: true, KeepResolver: true, // see resolverFiles
	})
}

// detach gives the interface back, also when the command was interrupted.
func (a *app) detach(ctx context.Context, eni string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachTimeout)
	defer cancel()
	agent, err := a.agent()
	if err != nil {
		return err
	}
	if err := agent.Detach(ctx, local.DetachRequest{ENI: eni}); err != nil {
		return fmt.Errorf("detach %s (do it later with culvert eni detach): %w", eni, err)
	}
	return nil
}

// resolverFiles are what the command sees in /etc instead of the machine's.
func resolverFiles(got *local.AttachResponse) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "culvert-run-"); err != nil {
		return "", fmt.Errorf("resolver of the command: %w", err)
	}
	text := fmt.Sprintf("# written by culvert run\nnameserver %s\noptions timeout:2 attempts:3\n", got.Resolver)
	err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(text), 0o644))
	if err != nil {
		return "", errors.Join(fmt.Errorf("resolver of the command: %w", err), os.RemoveAll(dir))
	}
	return dir, nil
}

// runHere runs the command as a child of this thread, which is inside. An interruption is passed on.
func (a *app) runHere(ctx context.Context, program string, argv []string) error {
	cmd := exec.Command(program)
	cmd.Args = argv
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Out, a.Err
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) }) // it may have ended
	defer stop()
	err := cmd.Wait()
	var ended *exec.ExitError
	if !errors.As(err, &ended) {
		return err
	}
	status, ok := ended.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return exitStatus(128 + int(status.Signal()))
	}
	return exitStatus(ended.ExitCode())
}
