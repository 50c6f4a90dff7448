package resident

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a file holds is given back, the program's own file too, and is there again when it is used.
func TestShed(t *testing.T) {
	want := bytes.Repeat([]byte("of a file, "), 1<<20)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, r := range files(text) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.from, r.to-r.from, unix.MADV_POPULATE_READ); errno != 0 {
			t.Fatal(errno)
		}
		size += int64(r.to - r.from)
	}
	before := fromFiles(t)
	if size < int64(len(want)) || before < size*3/4 { // the kernel counts roughly
		t.Fatalf("%d bytes of files are in memory, of which %d were read", before, size)
	}
	if err := Shed(); err != nil {
		t.Fatal(err)
	}
	if after := fromFiles(t); before-after < int64(len(want))*3/4 {
		t.Errorf("%d bytes of files are in memory, %d before", after, before)
	}
	if !bytes.Equal(b, want) {
		t.Error("the file says something else now")
	}
}

// fromFiles is how much of files the process has in memory, bytes.
func fromFiles(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "RssFile: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	t.Fatal("no RssFile")
	return 0
}

// What the process wrote into a file's page is its own, though it may not write there any more.
func TestShedKeepsWhatNoFileHas(t *testing.T) {
	page := os.Getpagesize()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 2*page), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	b[page] = 7
	if err := unix.Mprotect(b, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	if err := Shed(); err != nil {
		t.Fatal(err)
	}
	if b[page] != 7 {
		t.Errorf("%d where 7 was written", b[page])
	}
}

func TestFiles(t *testing.T) {
	const anonymous = "Size: 4 kB\nAnonymous: %d kB\nVmFlags: rd ex mr\n"
	var b bytes.Buffer
	for _, r := range []struct {
		line string
		own  int
	}{
		{"1000-2000 r--p 00000000 fe:00 77 /usr/bin/culvert", 0},
		{"2000-5000 r-xp 00001000 fe:00 77 /usr/bin/culvert (deleted)", 0},
		{"5000-6000 rw-p 00004000 fe:00 77 /usr/bin/culvert", 0},
		{"6000-7000 r--p 00005000 fe:00 77 /usr/bin/culvert", 4},
		{"7000-8000 r--s 00000000 00:0e 12 anon_inode:bpf-map", 0},
		{"8000-9000 r--p 00000000 00:00 0 [vvar]", 0},
		{"9000-a000 ---p 00000000 fe:00 77 /usr/bin/culvert", 0},
		{"b000-a000 r--p 00000000 fe:00 77 /usr/bin/culvert", 0},
		{"zz-zz r--p 00000000 fe:00 77 /usr/bin/culvert", 0},
		{"c000-d000 r--p", 0},
	} {
		fmt.Fprintf(&b, r.line+"\n"+anonymous, r.own)
	}
	want := []region{{0x1000, 0x2000}, {0x2000, 0x5000}}
	if got := files(b.Bytes()); !slices.Equal(got, want) {
		t.Errorf("%x: want %x", got, want)
	}
}
