//go:build linux

package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netlab"
)

// box is a process with mounts, and maybe a root directory, of its own.
type box struct {
	t   *testing.T
	pid int
}

// program is what a box runs when it is set up.
const program = "sleep"

// start runs argv in a namespace until the test ends, and waits until it has become the program.
func (w *kernelWorld) start(netns string, argv ...string) box {
	w.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + netns}, argv...)...)
	var out bytes.Buffer
	cmd.Stderr, cmd.WaitDelay = &out, patience
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ok(w.t, cmd.Start())
	w.t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("%v: %s", argv, &out)
		}
	})
	netlab.Eventually(w.t, patience, func() bool {
		name, err := os.ReadFile(procFile(cmd.Process.Pid, "comm"))
		return err == nil && strings.TrimSpace(string(name)) == program
	}, "the process is set up")
	return box{w.t, cmd.Process.Pid}
}

// container runs a process whose root is the directory, as a container engine does. mount is run before it changes its root.
func (w *kernelWorld) container(netns, root, mount string) box {
	w.t.Helper()
	script := `set -e; mount --bind "$0" "$0"; cd "$0"
for d in bin lib lib64 usr; do mount --rbind /$d $d; done; ` + mount + `
pivot_root . old
[ -z "$shared" ] || mount --make-rshared /
exec chroot . ` + program + ` 600`
	for _, d := range []string{"bin", "lib", "lib64", "usr", "old"} {
		ok(w.t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	return w.start(netns, "unshare", "--mount", "--propagation", "private", "sh", "-c", script, root)
}

func (b box) spec() WorkloadSpec { return spec(fmt.Sprintf("/proc/%d/ns/net", b.pid)) }

// reads is what the process has at a path; "" for nothing.
func (b box) reads(path string) string {
	b.t.Helper()
	p := must(openProcess(b.pid))(b.t)
	defer p.close()
	fd, err := unix.Openat2(p.root, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	ok(b.t, err)
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var text bytes.Buffer
	must(text.ReadFrom(f))(b.t)
	return text.String()
}

// mounted are the marks of what is mounted among the process's mounts.
func (b box) marks() (out []mark) {
	b.t.Helper()
	ok(b.t, newScanner().each(b.pid, true, func(m mountPoint) error {
		if k, ok := markOf(m); ok {
			out = append(out, k)
		}
		return nil
	}))
	return out
}

// do runs a function among the process's mounts, with its root.
func (b box) do(f func() error) error {
	b.t.Helper()
	p := must(openProcess(b.pid))(b.t)
	defer p.close()
	return p.among(func() error { return nil }, func() error {
		if err := errors.Join(unix.Fchdir(p.root), unix.Chroot(".")); err != nil {
			return err
		}
		return f()
	})
}

const containers = "nameserver 192.0.2.53\n"

func TestProcessResolver(t *testing.T) {
	file := func(root string) error {
		return errorsOf(os.MkdirAll(root+"/etc", 0o755), os.WriteFile(root+"/etc/resolv.conf", []byte(containers), 0o640))
	}
	for _, c := range []struct {
		name    string
		files   func(root string) error
		mount   string
		unnamed string
		before  string
	}{
		{"file", file, "", "", containers},
		{"file on a read-only root", file, "mount -o remount,bind,ro .", "", containers},
		{"file that is a mount", file, "echo 'nameserver 192.0.2.54' >m; mount --bind m etc/resolv.conf", "",
			"nameserver 192.0.2.54\n"},
		{"file that is shared with its children", file, "shared=1", "", containers},
		{"link", func(root string) error {
			return errorsOf(os.MkdirAll(root+"/etc", 0o755), os.MkdirAll(root+"/run/x", 0o755),
				os.WriteFile(root+"/run/x/resolv.conf", []byte(containers), 0o644), os.Symlink("/run/x/resolv.conf", root+"/etc/resolv.conf"))
		}, "", "", containers},
		{"link to nothing", func(root string) error {
			return errorsOf(os.MkdirAll(root+"/etc", 0o755), os.Symlink("../run/systemd/resolve/stub-resolv.conf", root+"/etc/resolv.conf"))
		}, "", "", ""},
		{"link out", func(root string) error {
			return errorsOf(os.MkdirAll(root+"/etc", 0o755), os.Symlink("../../../../../etc/resolv.conf", root+"/etc/resolv.conf"))
		}, "", "", "loop"},
		{"directory that is a link out", func(root string) error {
			return errorsOf(os.MkdirAll(root+"/real", 0o755), os.WriteFile(root+"/real/resolv.conf", []byte(containers), 0o644),
				os.Symlink("../../../../real", root+"/etc"))
		}, "", "", containers},
		{"nothing", func(root string) error { return os.MkdirAll(root+"/etc", 0o755) }, "", "", ""},
		{"nothing on a read-only root", func(root string) error { return os.MkdirAll(root+"/etc", 0o755) },
			"mount -o remount,bind,ro .", "read-only", ""},
		{"no directory", func(string) error { return nil }, "", "no directory /etc", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newKernelWorld(t)
			root := t.TempDir()
			ok(t, c.files(root))
			b := w.container(w.namespace("cart"), root, c.mount)
			reads := func() string {
				if c.before == "loop" {
					return c.before
				}
				return b.reads("etc/resolv.conf")
			}
			host, files := must(os.ReadFile("/etc/resolv.conf"))(t), tree(t, root+"/etc")
			if reads() != c.before {
				t.Fatalf("before: %q", reads())
			}
			l := must(w.Attach(b.spec()))(t)
			if !strings.Contains(l.Unnamed, c.unnamed) || (l.Unnamed == "") != (c.unnamed == "") {
				t.Errorf("unnamed: %q, want %q", l.Unnamed, c.unnamed)
			}
			want := resolverText(b.spec().ENI, 0, 0, b.spec().Resolver, b.spec().Search)
			if have := b.reads("etc/resolv.conf"); c.unnamed == "" && have != want {
				t.Errorf("the process reads %q", have)
			}
			if now := must(os.ReadFile("/etc/resolv.conf"))(t); !bytes.Equal(now, host) {
				t.Errorf("the host's own resolver is now %q", now)
			}
			err := b.do(func() error { return os.WriteFile(etcResolvConf, nil, 0) })
			if c.unnamed == "" && !errors.Is(err, unix.EROFS) {
				t.Errorf("the process writes to its resolver file: %v", err)
			}
			must(w.Attach(b.spec()))(t)
			if n := len(b.marks()); n != 1 && c.unnamed == "" {
				t.Errorf("%d mounts after attaching again", n)
			}
			ok(t, w.Detach(b.spec().ENI))
			if len(b.marks()) != 0 || reads() != c.before || tree(t, root+"/etc") != files {
				t.Errorf("after detaching: mounts %v, it reads %q, files\n%s", b.marks(), reads(), tree(t, root+"/etc"))
			}
		})
	}
}

// A resolver that vanished, changed, or that another attachment has; and an agent that was killed before it took it away.
func TestProcessResolverIsKept(t *testing.T) {
	w := newKernelWorld(t)
	root := t.TempDir()
	ok(t, os.MkdirAll(root+"/etc", 0o755))
	b := w.container(w.namespace("cart"), root, "")
	s := b.spec()
	must(w.Attach(s))(t)
	first := b.reads("etc/resolv.conf")
	ok(t, b.do(func() error { return unix.Unmount(etcResolvConf, 0) }))
	if now := b.reads("etc/resolv.conf"); now != "" {
		t.Fatalf("unmounted, it reads %q", now)
	}
	must(w.Attach(s))(t)
	if now := b.reads("etc/resolv.conf"); now != first {
		t.Errorf("after it vanished: %q", now)
	}
	s.Search = "other.internal"
	must(w.Attach(s))(t)
	if now := b.reads("etc/resolv.conf"); !strings.Contains(now, "search other.internal\n") || len(b.marks()) != 1 {
		t.Errorf("changed: %q, mounts %v", now, b.marks())
	}
	second := s
	second.ENI, second.Interface, second.Address = "eni-0second", "eni1", s.Address.Next()
	second.VPC, second.Subnet = netip.MustParsePrefix("172.16.0.0/16"), netip.MustParsePrefix("172.16.1.0/24")
	second.Address, second.Gateway = second.Subnet.Addr().Next().Next(), second.Subnet.Addr().Next()
	second.Resolver = second.VPC.Addr().Next().Next()
	must(w.Attach(second))(t)
	if m := b.marks(); len(m) != 1 || m[0].eni != s.ENI {
		t.Errorf("two attachments: mounts %v", m)
	}
	another := New(Config{Netns: w.ns.Path(), EtcNetns: w.etc}) // an agent that knows nothing of the one before
	t.Cleanup(another.Close)
	ok(t, another.Detach(s.ENI))
	must(another.Attach(second))(t)
	if m := b.marks(); len(m) != 1 || m[0].eni != second.ENI {
		t.Errorf("the first one detached: mounts %v", m)
	}
	w.ns.DeleteLink(VethName(second.ENI)) // by hand: nothing leads to the process any more
	ok(t, another.Detach(second.ENI))
	if m := b.marks(); len(m) != 0 {
		t.Errorf("both detached: mounts %v", m)
	}
	must(w.Attach(s))(t)
	ok(t, b.do(func() error { return unix.Mount("/etc", "/etc", "", unix.MS_BIND, "") }))
	if l := must(w.Attach(s))(t); !strings.Contains(l.Unnamed, "covers") || len(b.marks()) != 1 {
		t.Errorf("covered: %q, mounts %v", l.Unnamed, b.marks())
	}
	if err := w.Detach(s.ENI); !errors.Is(err, ErrKept) || len(must(w.Workloads())(t)) != 0 {
		t.Errorf("detach what is covered: %v", err)
	}
	ok(t, b.do(func() error { return unix.Unmount("/etc", 0) }))
	ok(t, w.Detach(s.ENI))
	if m := b.marks(); len(m) != 0 {
		t.Errorf("uncovered and detached: mounts %v", m)
	}
}

// Nobody but the workload gets its resolver: not the host, and not who shares mounts with it.
func TestProcessResolverIsNobodyElses(t *testing.T) {
	w := newKernelWorld(t)
	netns, elsewhere := w.namespace("cart"), w.namespace("elsewhere")
	private := []string{"unshare", "--mount", "--propagation", "private", program, "600"}
	enter := func(b box) []string { return []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", b.pid)} }
	outside := w.start(elsewhere, "unshare", "--mount", "--propagation", "shared", program, "600")
	alone := w.start(elsewhere, private...)
	for _, c := range []struct {
		name string
		argv []string
		want string
	}{
		{"the host's mounts", []string{program, "600"}, "mounts of the host"},
		{"the mounts of a process outside", append(enter(alone), program, "600"), fmt.Sprintf("process %d, ", alone.pid)},
		{"mounts that a process outside gets", append(enter(outside), "unshare", "--mount", "--propagation", "unchanged", program, "600"),
			fmt.Sprintf("process %d, ", outside.pid)},
		{"its own", private, ""},
		{"its own, and those of its children in other namespaces", []string{"unshare", "--mount", "--propagation", "private", "sh", "-c",
			"unshare --net " + program + " 600 & exec " + program + " 600"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := w.start(netns, c.argv...)
			b.t = t
			before := must(os.ReadFile("/etc/resolv.conf"))(t)
			l := must(w.Attach(b.spec()))(t)
			if !strings.Contains(l.Unnamed, c.want) || (l.Unnamed == "") != (c.want == "") {
				t.Errorf("unnamed: %q, want %q", l.Unnamed, c.want)
			}
			if named := strings.Contains(b.reads("etc/resolv.conf"), "nameserver 10.0.0.2\n"); named != (c.want == "") {
				t.Errorf("the process reads %q", b.reads("etc/resolv.conf"))
			}
			for _, x := range []box{outside, alone} {
				if x.reads("etc/resolv.conf") != string(before) {
					t.Errorf("process %d outside reads %q", x.pid, x.reads("etc/resolv.conf"))
				}
			}
			if now := must(os.ReadFile("/etc/resolv.conf"))(t); !bytes.Equal(now, before) {
				t.Errorf("the host's own resolver is now %q", now)
			}
			ok(t, w.Detach(b.spec().ENI))
			if m := b.marks(); len(m) != 0 || b.reads("etc/resolv.conf") != string(before) {
				t.Errorf("after detaching: mounts %v, it reads %q", m, b.reads("etc/resolv.conf"))
			}
			ok(t, unix.Kill(b.pid, unix.SIGKILL)) // before the next one is judged
		})
	}
	// A process outside has copies of the workload's mounts that get what is mounted there later.
	shared := w.start(netns, "unshare", "--mount", "--propagation", "private", "sh", "-c", "mount --make-rshared /; exec "+program+" 600")
	slave := w.start(elsewhere, "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", shared.pid),
		"unshare", "--mount", "--propagation", "slave", program, "600")
	if l := must(w.Attach(shared.spec()))(t); !strings.Contains(l.Unnamed, fmt.Sprintf("process %d, ", slave.pid)) ||
		strings.Contains(slave.reads("etc/resolv.conf"), "10.0.0.2") {
		t.Errorf("with a slave outside: unnamed %q, that reads %q", l.Unnamed, slave.reads("etc/resolv.conf"))
	}
	ok(t, w.Detach(shared.spec().ENI))
	b := w.start(netns, private...)
	s := b.spec()
	s.Resolver = spec("/").Address.Prev()
	s.Resolver = s.Resolver.Prev()
	ok(t, unix.Kill(b.pid, unix.SIGKILL))
	if _, err := w.Attach(s); err != nil && !errors.Is(err, ErrNoNamespace) {
		t.Errorf("a process that ends: %v", err)
	}
	ok(t, w.Cleanup())
}
