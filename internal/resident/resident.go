// Package resident keeps small what a process has in memory.
package resident

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Shed gives back the pages of the program's file and its libraries. All packages of the program were set up at its start, which
// touched most of the file, and what a process then works with is a small part of it: that comes back from the kernel's cache of
// the file, 64 KiB at a time, when it is used. Call it when the start is over; it takes some milliseconds.
func Shed() error {
	const path = "/proc/self/smaps"
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("give back what only the start needed: %w", err)
	}
	for _, r := range files(text) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.from, r.to-r.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back what only the start needed: madvise of %#x to %#x: %w", r.from, r.to, errno)
		}
	}
	return nil
}

// region is a part of the address space.
type region struct{ from, to uintptr }

// files are the regions that hold what a file holds, and nothing else: mapped privately, not to be written to, and without a page
// of the process's own, which the file could not give back. The linker writes into pages that it then makes read-only.
func files(smaps []byte) (all []region) {
	var at region
	mapped := false
	for lines := bufio.NewScanner(bytes.NewReader(smaps)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 2 {
			continue
		}
		if name, ok := strings.CutSuffix(f[0], ":"); ok {
			if mapped && name == "Anonymous" && f[1] == "0" {
				all = append(all, at)
			}
			continue
		}
		at, mapped = fileAt(f)
	}
	return all
}

// fileAt reads the line with which a region begins: its addresses, what is allowed there, offset, device and inode of the file.
func fileAt(f []string) (r region, ok bool) {
	from, to, dash := strings.Cut(f[0], "-")
	if !dash || len(f) < 5 || len(f[1]) != 4 {
		return r, false
	}
	a, errA := strconv.ParseUint(from, 16, 64)
	b, errB := strconv.ParseUint(to, 16, 64)
	if errA != nil || errB != nil || b <= a {
		return r, false
	}
	readOnly := f[1][0] == 'r' && f[1][1] == '-' && f[1][3] == 'p'
	return region{uintptr(a), uintptr(b)}, readOnly && f[4] != "0"
}
