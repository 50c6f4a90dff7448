package datapath

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Behind our programs, at the same hooks, stand fences: filters of clsact that need no map, no pin, no agent and no
// nftables. As tcx runs before clsact and our programs leave nothing to what comes after them, a fence sees a packet only
// when the program is gone. So the door has to be opened and both have to be taken away before the host's stack sees a
// packet: decision 0007. Before Linux 6.6 program and fence are filters of one clsact, and go with it.

// Names of the programs made here, as `tc filter show` and `bpftool prog` have them.
const (
	fenceAll     = "culvert_fence" // drops everything
	fenceAnswers = "culvert_bounce"
)

const (
	tcaBPFTag = 10

	fencePriority = 2 // behind a program's filter

	// Offsets in struct __sk_buff, linux/bpf.h.
	skbMark           = 8
	skbIngressIfindex = 36
	skbIfindex        = 40

	actOK   = -1 // TC_ACT_UNSPEC: what comes after decides; nothing of ours does
	actShot = 2  // TC_ACT_SHOT

	// answerMark is on packets that the agent itself sends to a workload.
	answerMark = 0x43554c57
)

// fencePrograms are so small that they need no compiler. fenceAnswers is for the way to a workload past its own namespace:
// programs deliver straight into that, so on this way come only their answers to the workload itself, which turn round at
// its interface, and the agent's prompts. All else is the host's own stack, a bridge, or another program.
func fencePrograms() map[string]*ebpf.ProgramSpec {
	program := func(name string, ins asm.Instructions) *ebpf.ProgramSpec {
		return &ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, Instructions: ins, License: "GPL"}
	}
	return map[string]*ebpf.ProgramSpec{
		fenceAll: program(fenceAll, asm.Instructions{asm.Mov.Imm(asm.R0, actShot), asm.Return()}),
		fenceAnswers: program(fenceAnswers, asm.Instructions{
			asm.Mov.Imm(asm.R0, actOK),
			asm.LoadMem(asm.R2, asm.R1, skbMark, asm.Word),
			asm.JEq.Imm(asm.R2, answerMark, "out"),
			asm.LoadMem(asm.R2, asm.R1, skbIngressIfindex, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, skbIfindex, asm.Word),
			asm.JEq.Reg(asm.R2, asm.R3, "out"),
			asm.Mov.Imm(asm.R0, actShot),
			asm.Return().WithSymbol("out"),
		}),
	}
}

// fences of a place: program by side.
func fencesOf(place Place) map[bool]string {
	switch place {
	case AtWorkload:
		return map[bool]string{false: fenceAll, true: fenceAnswers}
	case AtTunnel:
		return map[bool]string{false: fenceAll, true: fenceAll}
	}
	return map[bool]string{false: fenceAll}
}

// fence makes sure of an interface's fences. known says that they were there before.
func (d *Datapath) fence(ifindex int, place Place, known bool) error {
	for egress, name := range fencesOf(place) {
		p := d.coll.Programs[name]
		info, err := p.Info()
		if err != nil {
			return err
		}
		there, err := filters(ifindex, egress)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(there, func(f filter) bool { return f.fences(info.Tag) }) {
			continue
		}
		if err := putFilter(ifindex, egress, fencePriority, name, p); err != nil {
			return err
		}
		if known {
			d.note("the fence (tc filter %s) of %s was gone; put back", name, nameOf(ifindex))
		}
	}
	return nil
}

// fences tells whether a filter is a fence of the given program, whoever loaded it.
func (f filter) fences(tag string) bool {
	return f.priority == fencePriority && f.handle == filterHandle && f.tag == tag
}

// unfence takes the fences away. What is absent, or lost its interface, is no error.
func (d *Datapath) unfence(ifindex int, place Place) error {
	for egress := range fencesOf(place) {
		if err := deleteFilter(ifindex, egress, fencePriority); err != nil {
			return fmt.Errorf("remove the fence of %s: %w", nameOf(ifindex), err)
		}
	}
	return nil
}

// note keeps what was put right, for Repairs. The lock is held.
func (d *Datapath) note(format string, args ...any) {
	if len(d.repairs) < maxRepairs {
		d.repairs = append(d.repairs, fmt.Sprintf(format, args...))
	}
}

// maxRepairs bounds what is kept between two calls of Repairs.
const maxRepairs = 64

// Repairs hands out once what was found not as it was left, and put back, since the last call.
func (d *Datapath) Repairs() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.repairs
	d.repairs = nil
	return out
}

// nameOf is an interface's name for people, in the caller's network namespace.
func nameOf(ifindex int) string {
	if i, err := net.InterfaceByIndex(ifindex); err == nil {
		return i.Name
	}
	return "interface " + strconv.Itoa(ifindex)
}

func exists(ifindex int) bool {
	_, err := net.InterfaceByIndex(ifindex)
	return err == nil
}

// markAnswers marks what a packet socket sends as the agent's own.
func markAnswers(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, answerMark)
}
