package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/culvert-net/culvert/internal/failpoint"
)

// attachment is one of our programs at one side of an interface: a tcx link, or a filter where the kernel has no tcx.
type attachment interface {
	// alive says whether it still is at the interface: an interface may be gone, and another have its index.
	alive() bool
	// first says whether it runs before all others.
	first() (bool, error)
	// replace puts another program in its place, without a gap.
	replace(p *ebpf.Program) error
	// move replaces the program too, and the pin: from then on the attachment is that of another schema.
	move(p *ebpf.Program, pin string) error
	// release takes it off the interface and unpins it. What is gone is no error.
	release() error
	// path is where it is pinned; pinAgain pins it there, with its program, after somebody else removed the pin.
	path() string
	pinAgain(p *ebpf.Program) error
	// close lets go of it and leaves it where it is.
	close() error
}

// tcx is a link of Linux 6.6 and later.
type tcx struct {
	link    link.Link
	id      link.ID
	ifindex int
	attach  ebpf.AttachType
	pin     string // empty: not pinned
}

// attachTCX puts a program first of all.
func attachTCX(ifindex int, attach ebpf.AttachType, p *ebpf.Program, pin string) (*tcx, error) {
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: attach, Anchor: link.Head()})
	if err != nil {
		return nil, err
	}
	failpoint.Here("secure.unpinned")
	a, err := newTCX(l, ifindex, attach, pin)
	if err == nil && pin != "" {
		err = l.Pin(pin)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return a, nil
}

func newTCX(l link.Link, ifindex int, attach ebpf.AttachType, pin string) (*tcx, error) {
	info, err := l.Info()
	if err != nil {
		return nil, err
	}
	return &tcx{link: l, id: info.ID, ifindex: ifindex, attach: attach, pin: pin}, nil
}

// alive asks the link: it outlives its interface, but points nowhere then.
func (a *tcx) alive() bool {
	info, err := a.link.Info()
	return err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == a.ifindex
}

func (a *tcx) first() (bool, error) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: a.ifindex, Attach: a.attach})
	if err != nil || len(result.Programs) == 0 {
		return false, err
	}
	id, ok := result.Programs[0].LinkID()
	return ok && id == a.id, nil
}

func (a *tcx) replace(p *ebpf.Program) error { return a.link.Update(p) }

func (a *tcx) move(p *ebpf.Program, pin string) error {
	if err := a.link.Update(p); err != nil {
		return err
	}
	if err := a.link.Pin(pin); err != nil { // renames the one that is there
		return err
	}
	a.pin = pin
	return nil
}

func (a *tcx) release() error {
	// Without this the kernel detaches some time after the last reference is gone.
	err := a.link.Detach()
	if errors.Is(err, link.ErrNotSupported) {
		err = nil
	}
	return errors.Join(err, a.link.Close(), removePin(a.pin))
}

func (a *tcx) close() error { return a.link.Close() }

// clsact is a filter; the program is pinned beside it, so that the next agent knows which filter is ours.
type clsact struct {
	ifindex int
	egress  bool
	name    string
	program ebpf.ProgramID
	pin     string // empty: not pinned
}

func attachClsact(ifindex int, egress bool, name string, p *ebpf.Program, pin string) (*clsact, error) {
	a := &clsact{ifindex: ifindex, egress: egress, name: name, pin: pin}
	return a, a.replace(p)
}

func (a *clsact) alive() bool {
	list, err := filters(a.ifindex, a.egress)
	if err != nil {
		return false
	}
	for _, f := range list {
		if f.priority == filterPriority && f.handle == filterHandle && f.program == uint32(a.program) {
			return true
		}
	}
	return false
}

func (a *clsact) first() (bool, error) {
	list, err := filters(a.ifindex, a.egress)
	return err == nil && len(list) > 0 && list[0].program == uint32(a.program), err
}

func (a *clsact) replace(p *ebpf.Program) error {
	id, err := programID(p)
	if err != nil {
		return err
	}
	if a.pin != "" { // first: an unpinned filter would be nobody's
		if err := removePin(a.pin); err != nil {
			return err
		}
		copied, err := p.Clone()
		if err != nil {
			return err
		}
		defer copied.Close()
		if err := copied.Pin(a.pin); err != nil {
			return fmt.Errorf("pin: %w", err)
		}
	}
	if err := putFilter(a.ifindex, a.egress, filterPriority, a.name, p); err != nil {
		return errors.Join(err, removePin(a.pin))
	}
	a.program = id
	return nil
}

func (a *clsact) move(p *ebpf.Program, pin string) error {
	moved := *a
	moved.pin = pin
	if err := moved.replace(p); err != nil {
		return err
	}
	old := a.pin
	*a = moved
	return removePin(old)
}

func (a *clsact) release() error {
	var err error
	if a.alive() {
		err = deleteFilter(a.ifindex, a.egress, filterPriority)
	}
	return errors.Join(err, removePin(a.pin))
}

func (a *clsact) close() error { return nil }

func removePin(path string) error {
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("the kernel gives programs no ids")
	}
	return id, nil
}
