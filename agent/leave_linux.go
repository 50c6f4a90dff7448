package agent

import (
	"context"
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
	"github.com/culvert-net/culvert/internal/failpoint"
)

// Left is what became of a node that left.
type Left struct {
	Kept   int    `json:"keptFlowRecords"` // that were never sent, and are still here
	KeptIn string `json:"keptIn,omitempty"`
}

// leaver takes a node off this machine; its fields are the edges.
type leaver struct {
	dir      state.Dir
	host     host.Host
	unpin    func() error // programs and maps
	unlink   func() error // the tunnel's interface, where it is a TUN; the kernel's is the host's
	inTunnel func(context.Context) bool
	log      string // directory of flow records
}

// Leave takes off this machine all that makes it a node: programs, maps, interfaces, the door, resolver files, key and
// identity. It tells nobody: to the mesh the node is one that is silent, until it is revoked. It refuses, with nothing
// changed, while the agent or the tunnel runs. Flow records that were never sent stay, unless force; a leave that was
// interrupted can be repeated.
func Leave(ctx context.Context, cfg Config, force bool) (Left, error) {
	cfg.setDefaults()
	dir := state.Dir(cfg.DataDir)
	links := host.New(host.Config{})
	defer links.Close()
	l := leaver{
		dir: dir, host: links, log: dir.Path(flowDir),
		unpin:    func() error { return datapath.RemovePins(cfg.PinDir) },
		unlink:   func() error { return tunnel.DeleteTUN(cfg.Tunnel) },
		inTunnel: func(ctx context.Context) bool { return tunnelAnswers(ctx, cfg.TunnelSocket) },
	}
	return l.leave(ctx, force)
}

func tunnelAnswers(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := wire.NewUAPI(socket).Observe(ctx)
	return err == nil
}

func (l leaver) leave(ctx context.Context, force bool) (left Left, err error) {
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
	if !force {
		if left.Kept, err = unsent(l.log); err != nil {
			return left, fmt.Errorf("leave: %w: with --force flow records are not looked at, and lost", err)
		}
	}
	failpoint.Here("leave.begun")
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
	log, _, err := flow.OpenLog(flow.LogConfig{Store: flow.Dir(dir), Boot: boot, Shipping: true})
	if err != nil {
		return 0, err
	}
	return log.Stats().Pending, log.Close()
}
