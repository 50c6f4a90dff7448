package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// kind is what the commands of all resources have in common.
type kind[T any] struct {
	command string // culvert COMMAND
	arg     string // in usage, such as VPC
	noun    string // in sentences, such as "VPC"
	plural  string
	list    func(*client.Client, context.Context, ...client.Option) ([]T, error)
	watch   func(*client.Client, context.Context, ...client.Option) client.Watch[T]
	get     func(*client.Client, context.Context, string, ...client.Option) (*T, error)
	remove  func(*client.Client, context.Context, string, ...client.Option) (*api.Result, error)
	// prefix of ids, and the code that says that there is none of that name: for kinds whose names are unique in a VPC.
	prefix  string
	missing api.ErrorCode
	byVPC   bool // --vpc narrows lists
	head    []string
	row     func(*T) []string
	shown   func(*T) any // what describe shows as text, where that is not the resource as it is
	whose   string       // which of them one sees; default: one's account's
	empty   string       // what to say, and to do next, when there is none
	sample  string       // an id or name for examples

	// more is what describe adds to its text.
	more func(context.Context, *client.Client, *T, io.Writer) error
}

func meta[T any](v *T) *api.Meta { return any(v).(interface{ GetMeta() *api.Meta }).GetMeta() }

// show prints what a command made or changed.
func (k kind[T]) show(a *app, items ...T) error {
	if a.quiet {
		for i := range items {
			if _, err := fmt.Fprintln(a.Out, meta(&items[i]).ID); err != nil {
				return err
			}
		}
		return nil
	}
	text := func(w io.Writer) error {
		rows := make([][]string, len(items))
		for i := range items {
			rows[i] = k.row(&items[i])
		}
		return table(w, k.head, rows)
	}
	if len(items) == 1 {
		return a.print(items[0], text)
	}
	return a.print(items, text)
}

func (k kind[T]) showList(a *app, items []T) error {
	if len(items) == 0 && a.output == "table" {
		if a.quiet {
			return nil
		}
		_, err := fmt.Fprintln(a.Out, k.empty)
		return err
	}
	if items == nil {
		items = []T{}
	}
	if len(items) == 1 && a.output != "table" && !a.quiet { // a list stays one
		return a.print(items, nil)
	}
	return k.show(a, items...)
}

func (k kind[T]) listCommand(a *app) *cobra.Command {
	var vpc string
	var watch bool
	whose := cmp.Or(k.whose, "You see your account's; an administrator those of all accounts, or with --account of one.")
	c := command("list", "List "+k.plural, fmt.Sprintf(`
List %s, sorted by name.
%s`, k.plural, whose),
		fmt.Sprintf("\n  culvert %s list\n  culvert %s list -o json\n  culvert %s list --watch", k.command, k.command, k.command),
		func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			var opts []client.Option
			if vpc != "" {
				opts = append(opts, client.WithVPC(vpc))
			}
			if watch {
				return k.showWatch(cmd.Context(), a, k.watch(cl, cmd.Context(), opts...))
			}
			items, err := k.list(cl, cmd.Context(), opts...)
			if err != nil {
				return err
			}
			return k.showList(a, items)
		})
	c.Args = noArguments
	watchFlag(c, &watch)
	if k.byVPC {
		reference(a, c, vpcKind, &vpc, "vpc", "only those of this `VPC`")
	}
	return c
}

func (k kind[T]) describeCommand(a *app) *cobra.Command {
	var vpc string
	c := command(fmt.Sprintf("describe %s...", k.arg), "Show everything about "+k.plural, fmt.Sprintf(`
Show all fields of one or more %s, named by id or name.`, k.plural),
		fmt.Sprintf("\n  culvert %s describe %s\n  culvert %s describe %s -o yaml", k.command, k.sample, k.command, k.sample),
		func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			items := make([]T, 0, len(args))
			for _, ref := range args {
				id, err := k.in(cmd.Context(), cl, vpc, ref)
				if err != nil {
					return err
				}
				item, err := k.get(cl, cmd.Context(), id)
				if err != nil {
					return err
				}
				items = append(items, *item)
			}
			return k.describe(cmd.Context(), a, cl, items)
		})
	c.Args = atLeast(k.arg)
	c.ValidArgsFunction = complete(a, k)
	k.narrow(a, c, &vpc)
	return c
}

func (k kind[T]) describe(ctx context.Context, a *app, cl *client.Client, items []T) error {
	if a.quiet {
		return k.show(a, items...)
	}
	text := func(w io.Writer) error {
		for i := range items {
			if i > 0 {
				fmt.Fprintln(w)
			}
			var v any = &items[i]
			if k.shown != nil {
				v = k.shown(&items[i])
			}
			if err := details(w, v); err != nil {
				return err
			}
			if k.more == nil {
				continue
			}
			if err := k.more(ctx, cl, &items[i], w); err != nil {
				return err
			}
		}
		return nil
	}
	if len(items) == 1 {
		return a.print(items[0], text)
	}
	return a.print(items, text)
}

// deleted is the answer of a command that leaves no resource to show.
type deleted struct {
	Deleted  string `json:"deleted"` // as it was named
	Revision int64  `json:"revision"`
}

func (k kind[T]) deleteCommand(a *app, long string) *cobra.Command {
	var m mutation
	c := command(fmt.Sprintf("delete %s...", k.arg), "Delete "+k.plural, fmt.Sprintf(`
Delete one or more %s, named by id or name. %s`, k.plural, long),
		fmt.Sprintf("\n  culvert %s delete %s\n  culvert %s delete %s --wait", k.command, k.sample, k.command, k.sample),
		func(cmd *cobra.Command, args []string) error {
			if err := m.once(args); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			done, err := k.removeAll(cmd.Context(), cl, args, &m)
			if len(done) == 0 {
				return err
			}
			if err == nil {
				err = m.converge(cmd.Context(), a, cl, done[len(done)-1].Revision)
			}
			return errors.Join(err, printDeleted(a, &m, done))
		})
	c.Args = atLeast(k.arg)
	c.ValidArgsFunction = complete(a, k)
	m.flags(c)
	k.narrow(a, c, &m.vpc)
	return c
}

// removeAll stops at the first that cannot be removed, and says which were.
func (k kind[T]) removeAll(ctx context.Context, cl *client.Client, refs []string, m *mutation) (done []deleted, err error) {
	for _, ref := range refs {
		id, err := k.in(ctx, cl, m.vpc, ref)
		if err != nil {
			return done, err
		}
		result, err := k.remove(cl, ctx, id, m.options()...)
		if err != nil {
			return done, err
		}
		done = append(done, deleted{ref, result.Revision})
	}
	return done, nil
}

func printDeleted(a *app, m *mutation, done []deleted) error {
	verb := "deleted "
	if m.dryRun {
		verb = "would delete "
	}
	return a.print(done, func(w io.Writer) error {
		for _, d := range done {
			if _, err := fmt.Fprintln(w, quietly(a, verb, d.Deleted)); err != nil {
				return err
			}
		}
		return nil
	})
}

func quietly(a *app, prefix, s string) string {
	if a.quiet {
		return s
	}
	return prefix + s
}

// narrow adds --vpc to a command that names a resource whose name is unique in its VPC only.
func (k kind[T]) narrow(a *app, c *cobra.Command, vpc *string) {
	if k.byVPC && k.prefix != "" {
		reference(a, c, vpcKind, vpc, "vpc", "the `VPC` it is in, where its name alone is ambiguous")
	}
}

// in returns the id of what a name means in a VPC. Without one, and of ids, the server decides.
func (k kind[T]) in(ctx context.Context, c *client.Client, vpc, ref string) (string, error) {
	if vpc == "" || strings.HasPrefix(ref, k.prefix) {
		return ref, nil
	}
	items, err := k.list(c, ctx, client.WithVPC(vpc))
	if err != nil {
		return "", err
	}
	for i := range items {
		if m := meta(&items[i]); m.Name == ref {
			return m.ID, nil
		}
	}
	return "", api.Errorf(k.missing, "", fmt.Sprintf("see culvert %s list --vpc %s", k.command, vpc),
		"the VPC %s has no %s named %q", vpc, k.noun, ref)
}

// mutation holds the flags of commands that change something.
type mutation struct {
	wait, dryRun bool
	timeout      time.Duration
	idempotency  string
	vpc          string // where the first argument's name is unique; "": the server decides
}

func (m *mutation) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&m.wait, "wait", false, "return when every live node has applied the change")
	f.DurationVar(&m.timeout, "timeout", time.Minute, "with --wait, how long at most")
	m.flagsAtServer(c)
}

// flagsAtServer are those of a change that no node has to apply.
func (m *mutation) flagsAtServer(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&m.dryRun, "dry-run", false, "check everything, change nothing, show what would be")
	f.StringVar(&m.idempotency, "idempotency-key", "", "the same `key` again within a day changes nothing more")
}

func (m *mutation) options() []client.Option {
	var opts []client.Option
	if m.dryRun {
		opts = append(opts, client.WithDryRun())
	}
	if m.idempotency != "" {
		opts = append(opts, client.WithIdempotencyKey(m.idempotency))
	}
	return opts
}

// once refuses an idempotency key for more than one call: the server takes it for one.
func (m *mutation) once(args []string) error {
	if m.idempotency != "" && len(args) > 1 {
		return api.Errorf(api.CodeInvalidCombination, "--idempotency-key", "name one at a time",
			"one key cannot stand for %d calls", len(args))
	}
	return nil
}

// converge waits, if that was asked for, until all live nodes have the revision.
func (m *mutation) converge(ctx context.Context, a *app, c *client.Client, revision int64) error {
	if m.dryRun {
		fmt.Fprintln(a.Err, "Dry run: nothing was changed.")
		return nil
	}
	if !m.wait {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	err := c.WaitConverged(wait, revision)
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return err
	}
	who := "every node"
	if now, err := c.Converged(ctx, revision); err == nil && len(now.Waiting) > 0 {
		who = strings.Join(now.Waiting, ", ")
	}
	return fmt.Errorf("the change is made, but not yet applied by %s: %w", who, context.DeadlineExceeded)
}

// change makes a command's body of a call that changes a resource: connect, call, wait if asked to, show the outcome.
func change[T any](a *app, k kind[T], m *mutation,
	call func(ctx context.Context, c *client.Client, args []string, o ...client.Option) (*T, error)) func(
	*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		if m.vpc != "" {
			if args[0], err = k.in(cmd.Context(), cl, m.vpc, args[0]); err != nil {
				return err
			}
		}
		item, err := call(cmd.Context(), cl, args, m.options()...)
		if err != nil {
			return err
		}
		err = m.converge(cmd.Context(), a, cl, meta(item).Revision)
		return errors.Join(err, k.show(a, *item)) // the change is made, waited for or not
	}
}
