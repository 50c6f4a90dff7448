package dev

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
)

// Down ends the mesh and everything that runs in its namespaces, and removes every trace: namespaces, links, pinned BPF
// objects, resolver files, state. It goes on after an error and may be called again.
func (l *Lab) Down() error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := l.Load()
	if errors.Is(err, ErrNoMesh) {
		return errors.Join(os.RemoveAll(l.StateDir()), os.RemoveAll(l.RunDir())) // down already, or never made
	}
	if err != nil {
		return err
	}
	procs := l.processes(r)
	slices.Reverse(procs) // agents before tunnels, the server last
	var errs []error
	for _, p := range procs {
		if _, ok := p.running(); ok {
			l.step("ending %s", p)
		}
		errs = append(errs, p.stop(unix.SIGTERM))
		failpoint.Here("dev.ended")
	}
	for _, w := range slices.Backward(r.Workloads) { // the first may have made /etc/netns
		errs = append(errs, l.dropWorkload(&w))
		failpoint.Here("dev.workload-dropped")
	}
	for _, h := range r.Hosts {
		errs = append(errs, l.dropNamespace(h.Netns))
		failpoint.Here("dev.host-dropped")
	}
	errs = append(errs, l.dropNamespace(l.namespace("server")), l.dropNamespace(l.namespace("underlay")),
		os.RemoveAll(l.bpfDir()))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the mesh is not gone completely, call culvert dev down again: %w", err)
	}
	failpoint.Here("dev.dropped")
	return errors.Join(os.RemoveAll(l.StateDir()), os.RemoveAll(l.RunDir()))
}
