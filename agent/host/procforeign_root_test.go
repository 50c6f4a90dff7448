//go:build linux

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netlab"
)

// nobody runs a script as a user without rights, who is root in a user namespace with mounts of its own.
func (w *kernelWorld) nobody(netns, script string) box {
	w.t.Helper()
	return w.start(netns, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm", "sh", "-c",
		script+"; exec "+program+" 600")
}

// cart is a container with a resolver file of its own, in a namespace.
func (w *kernelWorld) cart(netns string) (b box, root string) {
	w.t.Helper()
	root = w.t.TempDir()
	ok(w.t, errorsOf(os.MkdirAll(root+"/etc", 0o755), os.MkdirAll(root+"/x", 0o755),
		os.WriteFile(root+"/etc/resolv.conf", []byte(containers), 0o644)))
	return w.container(netns, root, ""), root
}

// A sandbox inside the workload has a copy of our mount that nobody can take away. It goes with the sandbox.
func TestSandboxHoldsNothingUp(t *testing.T) {
	w := newKernelWorld(t)
	netns := w.namespace("cart")
	b, _ := w.cart(netns)
	must(w.Attach(b.spec()))(t)
	inside := w.start(netns, "nsenter", "-t", fmt.Sprint(b.pid), "-m", "-n", "-r", "unshare", "-Um", program, "600")
	if len(inside.marks()) != 1 {
		t.Fatalf("the sandbox has no copy: %v", inside.marks())
	}
	for range 2 {
		ok(t, w.Detach(b.spec().ENI))
	}
	if len(b.marks()) != 0 || b.reads("etc/resolv.conf") != containers {
		t.Errorf("after detaching: mounts %v, it reads %q", b.marks(), b.reads("etc/resolv.conf"))
	}
	must(w.Attach(b.spec()))(t)
	ok(t, w.Cleanup())
	if len(b.marks()) != 0 {
		t.Errorf("after cleaning up: mounts %v", b.marks())
	}
}

// Users' mounts with a mark, wherever they are, keep nobody from detaching, and are not looked at outside the workload.
func TestForgedMarks(t *testing.T) {
	w := newKernelWorld(t)
	netns := w.namespace("cart")
	b, _ := w.cart(netns)
	s := b.spec()
	must(w.Attach(s))(t)
	forged := mark{s.ENI, "0", true, w.resolvers.host}
	const covered = "mount -t tmpfs none /tmp && mkdir /tmp/m /tmp/b && mount -t tmpfs %s /tmp/m && mkdir /tmp/m/a && " +
		"mount --bind /tmp/m/a /tmp/b && umount /tmp/m && mount -t tmpfs none /tmp/b"
	for _, at := range []string{netns, w.namespace("elsewhere")} {
		x := w.nobody(at, fmt.Sprintf(covered, forged))
		if len(x.marks()) != 1 {
			t.Fatalf("no mark was forged: %v", x.marks())
		}
	}
	ok(t, w.Detach(s.ENI))
	if len(b.marks()) != 0 {
		t.Errorf("after detaching: %v", b.marks())
	}
	ok(t, w.Cleanup())
}

// A mark of a user's says that an empty file was made. It was not, and stays.
func TestForgedMarkRemovesNothing(t *testing.T) {
	w := newKernelWorld(t)
	netns := w.namespace("cart")
	victim := mustBeSeen(t)
	file := filepath.Join(victim, "resolv.conf")
	ok(t, os.WriteFile(file, nil, 0o644))
	b, _ := w.cart(netns)
	must(w.Attach(b.spec()))(t)
	x := w.nobody(netns, fmt.Sprintf("mount -t tmpfs none /tmp && mkdir /tmp/m && mount -t tmpfs %s /tmp/m && touch /tmp/m/f && "+
		"mount --bind /tmp/m/f %s && umount /tmp/m", mark{b.spec().ENI, "0", true, w.resolvers.host}, file))
	if len(x.marks()) != 1 {
		t.Fatalf("no mark was forged: %v", x.marks())
	}
	ok(t, w.Detach(b.spec().ENI))
	if len(x.marks()) != 0 {
		t.Errorf("the forged mount of the workload is left: %v", x.marks())
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a user had a file removed: %v", err)
	}
}

// mustBeSeen is a directory that other users can enter.
func mustBeSeen(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "culvert-test-")
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ok(t, os.Chmod(dir, 0o755))
	return dir
}

// A user in a namespace of his own chooses what /etc is: no file is made there. With one that is there he is told as others.
func TestUserChoosesNoPlace(t *testing.T) {
	w := newKernelWorld(t)
	netns, victim := w.namespace("cart"), mustBeSeen(t)
	b := w.nobody(netns, "mount --bind "+victim+" /etc")
	l := must(w.Attach(b.spec()))(t)
	if !strings.Contains(l.Unnamed, "put an empty file there") {
		t.Errorf("unnamed: %q", l.Unnamed)
	}
	if left := must(os.ReadDir(victim))(t); len(left) != 0 {
		t.Errorf("a user had a file made: %v", left)
	}
	ok(t, os.WriteFile(victim+"/resolv.conf", nil, 0o644))
	if l := must(w.Attach(b.spec()))(t); l.Unnamed != "" || !strings.Contains(b.reads("etc/resolv.conf"), "nameserver 10.0.0.2\n") {
		t.Errorf("with a file: unnamed %q, it reads %q", l.Unnamed, b.reads("etc/resolv.conf"))
	}
	ok(t, w.Detach(b.spec().ENI))
	if left := must(os.ReadDir(victim))(t); len(left) != 1 || len(b.marks()) != 0 {
		t.Errorf("after detaching: %v, mounts %v", left, b.marks())
	}
}

// Of mounts with our mark that are stacked, a round takes one away.
func TestStackedMarks(t *testing.T) {
	w := newKernelWorld(t)
	b, _ := w.cart(w.namespace("cart"))
	s := b.spec()
	must(w.Attach(s))(t)
	const n = 100
	ok(t, b.do(func() error {
		if err := unix.Mount(mark{s.ENI, "0", false, w.resolvers.host}.String(), "/x", "tmpfs", 0, ""); err != nil {
			return err
		}
		if err := os.WriteFile("/x/f", nil, 0o644); err != nil {
			return err
		}
		for range n {
			if err := unix.Mount("/x/f", "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
				return err
			}
		}
		return nil
	}))
	before := len(b.marks())
	l := must(w.Attach(s))(t)
	if left := len(b.marks()); before-left < 1 || before-left > 2 || !strings.Contains(l.Unnamed, "one by one") {
		t.Errorf("of %d mounts %d are left, unnamed %q", before, left, l.Unnamed)
	}
}

// What a user mounts in a namespace of his own costs the agent nothing.
func TestMountsOfUsersCostNothing(t *testing.T) {
	w := newKernelWorld(t)
	netns := w.namespace("cart")
	b, _ := w.cart(netns)
	must(w.Attach(b.spec()))(t)
	const long = `mount -t tmpfs none /tmp; cd /tmp; p=/tmp; d=$(printf '\\%.0s' $(seq 1 240))
for i in $(seq 1 14); do p=$p/$d; done; mkdir -p "$p"; for i in $(seq 1 400); do mount -n --bind "$p" "$p" || break; done`
	x := w.nobody(netns, long)
	size := 0
	netlab.Eventually(t, patience, func() bool {
		text, err := os.ReadFile(procFile(x.pid, "mountinfo"))
		size = len(text)
		return err == nil && size > 4*maxForeignMounts
	}, "its mounts are many")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ok(t, w.Detach(b.spec().ENI))
	runtime.ReadMemStats(&after)
	if cost := after.TotalAlloc - before.TotalAlloc; cost > uint64(size) {
		t.Errorf("detaching allocated %d bytes for %d of mounts", cost, size)
	}
	if len(b.marks()) != 0 {
		t.Errorf("after detaching: %v", b.marks())
	}
}

// An agent that died while it detached, or a link that went while none ran: the next one finds what nothing leads to.
func TestSweepRestoresResolvers(t *testing.T) {
	w := newKernelWorld(t)
	path := w.namespace("named")
	b, _ := w.cart(w.namespace("cart"))
	s, named := b.spec(), spec(path)
	named.ENI, named.Address = "eni-0named", s.Address.Next()
	file := filepath.Join(w.etc, filepath.Base(path), "resolv.conf")
	must(w.Attach(s))(t)
	must(w.Attach(named))(t)
	for _, eni := range []string{s.ENI, named.ENI} {
		w.ns.DeleteLink(VethName(eni))
	}
	there := func() bool { _, err := os.Stat(file); return err == nil }
	elsewhere := New(Config{Netns: w.lab.Namespace("other").Path(), EtcNetns: w.etc}) // another host's, as in a dev mesh
	t.Cleanup(elsewhere.Close)
	ok(t, elsewhere.Sweep(nil))
	kept := New(Config{Netns: w.ns.Path(), EtcNetns: w.etc})
	t.Cleanup(kept.Close)
	ok(t, kept.Sweep([]string{s.ENI, named.ENI}))
	if !there() || len(b.marks()) != 1 {
		t.Errorf("what is kept, or another's, is gone: file %v, mounts %v", there(), b.marks())
	}
	another := New(Config{Netns: w.ns.Path(), EtcNetns: w.etc})
	t.Cleanup(another.Close)
	ok(t, another.Sweep(nil))
	if there() || len(b.marks()) != 0 || b.reads("etc/resolv.conf") != containers {
		t.Errorf("after a sweep: file %v, mounts %v, it reads %q", there(), b.marks(), b.reads("etc/resolv.conf"))
	}
}
