package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kthreadd is the parent of kernel threads; what they do for the network belongs to what is measured.
const kthreadd = 2

// ticks of CPU time in a second, in /proc (USER_HZ).
const ticks = 100

// usage is CPU time so far, seconds: of the machine, and of processes that are neither this one nor descend from it.
type usage struct{ busy, others float64 }

func readUsage() (u usage, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	if u.busy, err = busy(text); err != nil {
		return u, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return u, err
	}
	all := map[int]process{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it ended meanwhile
		}
		if p, ok := parseProcess(text); ok {
			all[pid] = p
		}
	}
	u.others = others(all, os.Getpid())
	return u, nil
}

// busy is the time that the machine's CPUs did anything, of the first line of /proc/stat.
func busy(stat []byte) (float64, error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	sum := 0.0
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += n
	}
	return sum / ticks, nil
}

type process struct {
	parent int
	used   float64 // by it and by those children that it has waited for, seconds
}

// parseProcess reads /proc/PID/stat.
func parseProcess(stat []byte) (p process, ok bool) {
	// The command in parentheses may hold anything; what follows the last one is fields 3, 4, ….
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 15 {
		return p, false
	}
	var err error
	if p.parent, err = strconv.Atoi(f[1]); err != nil {
		return p, false
	}
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return p, false
		}
		p.used += n / ticks
	}
	return p, true
}

// others sums over processes that do not descend from root and are not kernel threads. It stays right when one of them
// ends: its parent has the time then.
func others(all map[int]process, root int) float64 {
	sum := 0.0
	for pid, p := range all {
		if !descends(all, pid, root) && !descends(all, pid, kthreadd) {
			sum += p.used
		}
	}
	return sum
}

func descends(all map[int]process, pid, root int) bool {
	for range len(all) + 1 {
		if pid == root {
			return true
		}
		p, ok := all[pid]
		if !ok {
			return false
		}
		pid = p.parent
	}
	return false
}

// niceness of this program and of all that it starts: all systems alike come before what else the machine does.
const niceness = -10

// comeFirst sets the niceness of every thread; later ones, and processes, have it from those that start them. Where the
// kernel shares CPUs between sessions first, prefer is needed as well.
func comeFirst() error {
	for range 2 { // one may be starting another
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err == nil {
				err = unix.Setpriority(unix.PRIO_PROCESS, tid, niceness)
			}
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("priority of thread %s: %w", e.Name(), err)
			}
		}
	}
	return nil
}

// prefer sets the niceness of a process's session, which must be its own, if the kernel knows such a thing.
func prefer(pid int) error {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte(strconv.Itoa(niceness)), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("priority of process %d: %w", pid, err)
	}
	return nil
}

// memory of a process, MiB.
type memory struct{ now, most float64 }

func readMemory(pid int) (m memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		switch name {
		case "VmRSS":
			m.now = kib / 1024
		case "VmHWM":
			m.most = kib / 1024
		}
	}
	if m.now == 0 {
		return m, fmt.Errorf("process %d: its status names no memory", pid)
	}
	return m, nil
}
