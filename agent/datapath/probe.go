package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Support is what a kernel has of what the programs need.
type Support struct {
	Missing []string // in words, such as "ring buffers"
	TCX     bool     // else programs are filters of clsact
	JIT     bool     // programs are compiled
}

// Probe asks the kernel, by loading programs and making maps that are gone when it returns. It needs CAP_BPF and
// CAP_NET_ADMIN.
func Probe() (Support, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return Support{}, fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	var s Support
	var errs []error
	need := func(what string, err error) {
		switch {
		case errors.Is(err, ebpf.ErrNotSupported):
			s.Missing = append(s.Missing, what)
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	need("BPF programs at interfaces", features.HaveProgramType(ebpf.SchedCLS))
	need("bounded loops in BPF programs", features.HaveBoundedLoops())
	need("BPF programs of 4,097 instructions and more", features.HaveLargeInstructions())
	for _, m := range []struct {
		kind ebpf.MapType
		what string
	}{
		{ebpf.Hash, "hash tables"}, {ebpf.PerCPUHash, "hash tables per CPU"}, {ebpf.HashOfMaps, "tables of tables"},
		{ebpf.RingBuf, "ring buffers"}, {ebpf.ProgramArray, "tail calls"},
	} {
		need(m.what, features.HaveMapType(m.kind))
	}
	var err error
	if s.TCX, err = haveTCX(); err != nil {
		errs = append(errs, err)
	}
	s.JIT = jit()
	return s, errors.Join(errs...)
}

// haveTCX tries to attach to an interface that cannot exist: a kernel that has tcx says just that.
func haveTCX() (bool, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		return false, fmt.Errorf("load a program: %w", err)
	}
	defer p.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1<<31 - 1, Program: p, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		return true, l.Close()
	case errors.Is(err, unix.ENODEV):
		return true, nil
	case errors.Is(err, link.ErrNotSupported):
		return false, nil
	}
	return false, fmt.Errorf("attach a program: %w", err)
}

// jit reads net.core.bpf_jit_enable. A kernel that always compiles may not have it.
func jit() bool {
	text, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	return err != nil || strings.TrimSpace(string(text)) != "0"
}

// Pinnable tells whether a bpffs is there for a pin path, or at its nearest directory that exists, and with which
// permissions the path itself is there; 0: it is not.
func Pinnable(path string) (mounted bool, mode os.FileMode) {
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	return onBPFFS(path), mode
}

// onBPFFS tells whether a path, or the nearest directory above it that exists, lies on a bpffs.
func onBPFFS(path string) bool {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	for errors.Is(err, unix.ENOENT) && filepath.Dir(path) != path {
		path = filepath.Dir(path)
		err = unix.Statfs(path, &st)
	}
	return err == nil && st.Type == unix.BPF_FS_MAGIC
}
