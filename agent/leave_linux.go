package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/tunnel"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/failpoint"
)

// Left is what became of a node that left.
type Left struct {
	Node   string `json:"nodeId,omitempty"` // "" when this machine was none any more
	Name   string `json:"name,omitempty"`
	Mesh   string `json:"mesh"`            // what the mesh knows of the node now: one of the Mesh constants
	Kept   int    `json:"keptFlowRecords"` // that were never sent, and are still here
	KeptIn string `json:"keptIn,omitempty"`
}

// What the mesh knows of a node that left.
const (
	MeshForgotten = "forgotten" // nothing
	MeshRevoked   = "revoked"   // that it is shut out, because interfaces are placed on it or somebody had revoked it
	MeshNotTold   = "not told"  // to others it is a node that is silent, until an administrator revokes it
)

// LeaveOptions say what may be left behind.
type LeaveOptions struct {
	Force bool // leave also while interfaces are placed on this node, and delete flow records that were never sent
	Local bool // do not tell the server
}

// leaveWithin bounds how long servers are asked.
const leaveWithin = 20 * time.Second

// leaver takes a node off this machine; its fields are the edges.
type leaver struct {
	dir      state.Dir
	host     host.Host
	unpin    func() error // programs and maps
	unlink   func() error // the tunnel's interface, where it is a TUN; the kernel's is the host's
	inTunnel func(context.Context) bool
	tell     func(ctx context.Context, id *state.Identity, force bool) (*api.LeaveResponse, error)
	log      string // directory of flow records
}

// Leave takes the node out of the mesh, and off this machine all that makes it one: programs, maps, interfaces, the door,
// resolver files, key and identity. It refuses, with nothing changed, while the agent or the tunnel runs, and when no server
// can be reached or the server refuses. A leave that was interrupted can be repeated.
func Leave(ctx context.Context, cfg Config, o LeaveOptions) (Left, error) {
	cfg.setDefaults()
	dir := state.Dir(cfg.DataDir)
	links := host.New(host.Config{})
	defer links.Close()
	l := leaver{
		dir: dir, host: links, log: dir.Path(flowDir),
		unpin:    func() error { return unpin(cfg.PinDir) },
		unlink:   func() error { return tunnel.DeleteTUN(cfg.Tunnel) },
		inTunnel: func(ctx context.Context) bool { return tunnelAnswers(ctx, cfg.TunnelSocket) },
		tell:     tellLeave,
	}
	return l.leave(ctx, o)
}

// unpin removes what is pinned below a directory, and the directory unless it holds more or is a mount.
func unpin(dir string) error {
	err := datapath.RemovePins(dir)
	_ = os.Remove(dir)
	return err
}

// tellLeave asks one server after another until one answers.
func tellLeave(ctx context.Context, id *state.Identity, force bool) (answer *api.LeaveResponse, err error) {
	certificate, err := id.Certificate()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	err = errors.New("the identity names no server")
	for _, server := range id.Servers {
		var r remote
		r, err = dialControlPlane(id, server, func() (*tls.Certificate, error) { return &certificate, nil })
		if err != nil {
			return nil, err
		}
		answer, err = r.Leave(ctx, force)
		r.Close()
		if err == nil || answered(err) || ctx.Err() != nil {
			return answer, err
		}
	}
	return nil, err
}

func tunnelAnswers(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := wire.NewUAPI(socket).Observe(ctx)
	return err == nil
}

func (l leaver) leave(ctx context.Context, o LeaveOptions) (left Left, err error) {
	left.Mesh = MeshNotTold
	if _, err := os.Stat(string(l.dir)); errors.Is(err, os.ErrNotExist) {
		return left, l.clean()
	}
	unlock, err := l.dir.Lock()
	if errors.Is(err, state.ErrLocked) {
		return left, fmt.Errorf("leave: %w: stop culvert agent first", err)
	}
	if err != nil {
		return left, err
	}
	defer unlock()
	if l.inTunnel(ctx) {
		return left, errors.New("leave: the tunnel runs: stop culvert tunnel first")
	}
	if !o.Force {
		if left.Kept, err = unsent(l.log); err != nil {
			return left, fmt.Errorf("leave: %w: with --force flow records are not looked at, and lost", err)
		}
	}
	failpoint.Here("leave.begun")
	if err := l.leaveMesh(ctx, o, &left); err != nil {
		return left, err
	}
	failpoint.Here("leave.told")
	if err := l.clean(); err != nil {
		return left, err
	}
	failpoint.Here("leave.cleaned")
	if left.Kept > 0 {
		left.KeptIn = l.log
	} else if err := os.RemoveAll(l.log); err != nil {
		return left, fmt.Errorf("leave: %w", err)
	}
	failpoint.Here("leave.records")
	return left, l.dir.Forget()
}

// leaveMesh tells the server, unless this machine is no node any more or that is not wanted.
func (l leaver) leaveMesh(ctx context.Context, o LeaveOptions, left *Left) error {
	joined, err := l.dir.HasIdentity()
	if !joined && err == nil {
		return nil
	}
	var id *state.Identity
	if err == nil {
		id, err = l.dir.LoadIdentity()
	}
	if id != nil {
		left.Node, left.Name = id.Node, id.Name
	}
	if o.Local {
		return nil
	}
	if err != nil {
		return fmt.Errorf("leave: %w: with --local the server is not told, and an administrator revokes the node", err)
	}
	answer, err := l.tell(ctx, id, o.Force)
	var refused *api.Error
	switch {
	case err == nil && answer.Forgotten, errors.Is(err, &api.Error{Code: api.CodeNodeForgotten}): // then an answer was lost
		left.Mesh = MeshForgotten
	case err == nil, errors.As(err, &refused) && refused.Code == api.CodeNodeRevoked:
		left.Mesh = MeshRevoked
	case refused != nil && refused.Code == api.CodeDependencyViolation:
		return err
	default:
		return api.Errorf(api.CodeUnavailable, "",
			"try again, or leave with --local and have an administrator run: culvert node revoke "+id.Name,
			"the server could not be told, and nothing was changed: %v", err)
	}
	return nil
}

// clean takes the node out of the kernel. Programs go first: what they do not take, the door drops.
func (l leaver) clean() error {
	if err := errors.Join(l.unpin(), l.unlink(), l.host.Cleanup()); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

// unsent counts flow records that the control plane has not got.
func unsent(dir string) (int, error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	boot, err := bootID()
	if err != nil {
		return 0, err
	}
	log, _, err := flow.OpenLog(flow.LogConfig{Store: flow.Dir(dir), Boot: boot, Word: bootWord, Shipping: true})
	if err != nil {
		return 0, err
	}
	return log.Stats().Pending, log.Close()
}
