package dev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/netns"
)

// attachTimeout bounds how long a node may take to learn of an ENI.
const attachTimeout = 30 * time.Second

// AddWorkload makes a network namespace and puts an ENI into it, by the agent of a host. The ENI is named by id or name;
// c is whose it is. The same call again repairs what is missing.
func (l *Lab) AddWorkload(ctx context.Context, c *client.Client, w Workload) (*Workload, error) {
	unlock, err := l.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	r, err := l.Load()
	if err != nil {
		return nil, err
	}
	if _, err := r.host(w.Host); err != nil {
		return nil, err
	}
	eni, err := c.GetENI(ctx, w.ENI)
	if err != nil {
		return nil, err
	}
	w.ENI = eni.ID
	known, err := r.workload(w.Name)
	switch {
	case err == nil && (known.ENI != w.ENI || known.Host != w.Host):
		return nil, fmt.Errorf("workload %s: it has %s on %s already; remove it first with: culvert dev workload delete %s",
			w.Name, known.ENI, known.Host, w.Name)
	case err == nil:
	case !validName(w.Name) || len(w.Name) > 60:
		return nil, fmt.Errorf("workload %q: use at most 60 of a-z, 0-9 and '-', beginning with a letter", w.Name)
	case netns.Exists(netns.Path(w.Name)):
		return nil, fmt.Errorf("workload %s: there is a namespace of that name already; choose another name", w.Name)
	default:
		r.Workloads = append(r.Workloads, w)
		if err := l.save(r); err != nil {
			return nil, err
		}
		known, _ = r.workload(w.Name)
	}
	failpoint.Here("dev.workload-noted")
	if err := l.attach(ctx, c, known); err != nil {
		if errUndo := l.removeWorkload(ctx, r, known); errUndo != nil {
			err = fmt.Errorf("%w (and undoing it: %w)", err, errUndo)
		}
		return nil, err
	}
	return known, l.save(r)
}

// attach makes the namespace, binds the ENI to the host's node and has its agent attach it.
func (l *Lab) attach(ctx context.Context, c *client.Client, w *Workload) error {
	if err := addNamespace(w.Name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	agent := local.NewClient(l.AgentSocket(w.Host))
	status, err := agent.Status(ctx)
	if err != nil {
		return err
	}
	eni, err := c.GetENI(ctx, w.ENI)
	if err != nil {
		return err
	}
	if eni.Node != status.Node {
		if eni, err = c.BindENI(ctx, w.ENI, status.Node); err != nil {
			return fmt.Errorf("bind %s to %s: %w", w.ENI, w.Host, err)
		}
		if err := c.WaitConverged(ctx, eni.Revision); err != nil {
			return err
		}
	}
	got, err := agent.Attach(ctx, local.AttachRequest{
		ENI: w.ENI, Netns: netns.Path(w.Name), Interface: w.Interface, DefaultRoute: true,
	})
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", w.ENI, w.Name, err)
	}
	w.Interface, w.Address, w.IPv6Address = got.Interface, got.Address, got.IPv6Address
	return nil
}

// DeleteWorkload detaches the ENI, ends what runs in the namespace and removes it.
func (l *Lab) DeleteWorkload(ctx context.Context, name string) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := l.Load()
	if err != nil {
		return err
	}
	w, err := r.workload(name)
	if err != nil {
		return err
	}
	return l.removeWorkload(ctx, r, w)
}

func (l *Lab) removeWorkload(ctx context.Context, r *Record, w *Workload) error {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	err := local.NewClient(l.AgentSocket(w.Host)).Detach(ctx, local.DetachRequest{ENI: w.ENI})
	var refused *api.Error
	if err != nil && !errors.As(err, &refused) {
		l.step("the agent of %s could not be told: %v", w.Host, err)
	}
	if err := l.dropWorkload(w); err != nil {
		return err
	}
	r.removeWorkload(w.Name)
	return l.save(r)
}

// dropWorkload removes a workload's namespace, and the resolver file that an agent wrote for it. The file's directory has the
// name of a namespace of ours, so it goes too unless somebody put something into it: an agent whose file was removed by
// hand no longer knows that it made it.
func (l *Lab) dropWorkload(w *Workload) error {
	err := errors.Join(l.dropNamespace(w.Name), host.RestoreResolver(netns.ConfigDir, w.ENI))
	if gone := os.Remove(filepath.Join(netns.ConfigDir, w.Name)); gone != nil && !errors.Is(gone, fs.ErrNotExist) &&
		!errors.Is(gone, unix.ENOTEMPTY) {
		err = errors.Join(err, gone)
	}
	return err
}

// dropNamespace ends what runs in a namespace and removes it.
func (l *Lab) dropNamespace(name string) error {
	ended, err := sweep(name)
	if ended > 0 {
		l.step("ended %d processes in %s", ended, name)
	}
	return errors.Join(err, netns.Remove(name))
}

// Exec replaces this process by a command in a workload's namespace, or a host's. On a host, and on the server, culvert
// finds the mesh there; who calls it must say.
func (l *Lab) Exec(name string, argv []string) error {
	r, err := l.Load()
	if err != nil {
		return err
	}
	namespace := ""
	if h, err := r.host(name); err == nil {
		namespace = h.Netns
	} else if w, err := r.workload(name); err == nil {
		namespace = w.Name
	} else if name == "server" {
		namespace = l.namespace("server")
	} else {
		return err
	}
	if len(argv) == 0 {
		return fmt.Errorf("command: missing; write culvert dev exec %s -- COMMAND", name)
	}
	if _, err := r.workload(name); err != nil {
		if err := l.putEnvironment(name); err != nil {
			return err
		}
	}
	return netns.Exec(netns.Path(namespace), filepath.Join(netns.ConfigDir, namespace), argv)
}

// putEnvironment says in this process's environment where a host's agent and the server are. A key for another server is
// not shown to this one.
func (l *Lab) putEnvironment(name string) error {
	if s := os.Getenv("CULVERT_SERVER"); s != "" && s != l.ServerAddress() {
		if err := errors.Join(os.Unsetenv("CULVERT_API_KEY"), os.Unsetenv("CULVERT_ACCOUNT")); err != nil {
			return err
		}
	}
	err := errors.Join(os.Setenv("CULVERT_SERVER", l.ServerAddress()), os.Setenv("CULVERT_CA", l.CAFile()))
	if name != "server" {
		err = errors.Join(err, os.Setenv("CULVERT_AGENT_SOCKET", l.AgentSocket(name)))
	}
	return err
}
