//go:build linux

package host

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netlab"
)

// silent mounts a file system over /etc of a process, which answers nothing until it is ended.
func (b box) silent() (end func()) {
	b.t.Helper()
	fd := must(unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0))(b.t)
	ended := false
	end = func() {
		if !ended {
			ended = true
			ok(b.t, unix.Close(fd))
		}
	}
	b.t.Cleanup(end)
	ok(b.t, b.do(func() error {
		return unix.Mount("silent", "/etc", "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
	}))
	return end
}

// quick runs an operation that waits for a process no longer than errandPatience; the rest is for a slow machine.
func quick(t *testing.T, most time.Duration, op func()) {
	t.Helper()
	start := time.Now()
	op()
	if took := time.Since(start); took > most*netlab.Slowness() {
		t.Errorf("it took %v", took)
	}
}

// A process whose file system does not answer holds the agent up once, for a moment, and no other interface.
func TestSilentProcess(t *testing.T) {
	w := newKernelWorld(t)
	b, _ := w.cart(w.namespace("cart"))
	end := b.silent()
	s := b.spec()
	quick(t, errandPatience+patience/2, func() {
		if l := must(w.Attach(s))(t); l.Unnamed != noAnswer {
			t.Errorf("unnamed: %q", l.Unnamed)
		}
	})
	first := w.errands[s.ENI]
	for range 20 {
		must(w.Attach(s))(t)
	}
	if w.errands[s.ENI] != first || first.ended() {
		t.Error("while it does not answer it is asked again")
	}
	ok(t, w.Detach(s.ENI))
	end()
	netlab.Eventually(t, patience, first.ended, "the errand ends with the file system")
	ok(t, b.do(func() error { return unix.Unmount("/etc", unix.MNT_DETACH) }))
	if len(b.marks()) != 0 {
		t.Errorf("detached, it was told: %v", b.marks())
	}
	if l := must(w.Attach(s))(t); l.Unnamed != "" || !strings.Contains(b.reads("etc/resolv.conf"), "nameserver 10.0.0.2\n") {
		t.Errorf("answering: unnamed %q, it reads %q", l.Unnamed, b.reads("etc/resolv.conf"))
	}
}

// Detaching waits no longer for it; another interface's process is told meanwhile.
func TestSilentProcessIsDetached(t *testing.T) {
	w := newKernelWorld(t)
	b, _ := w.cart(w.namespace("cart"))
	s := b.spec()
	must(w.Attach(s))(t)
	b.silent()
	quick(t, errandPatience+patience/2, func() {
		if err := w.Detach(s.ENI); !errors.Is(err, ErrKept) || len(must(w.Workloads())(t)) != 0 {
			t.Errorf("detach: %v", err)
		}
	})
	other, _ := w.cart(w.namespace("other"))
	x := other.spec()
	x.ENI, x.Address = "eni-0other", s.Address.Next()
	if l := must(w.Attach(x))(t); l.Unnamed != "" {
		t.Errorf("another: unnamed %q", l.Unnamed)
	}
	ok(t, w.Cleanup())
	if len(other.marks()) != 0 {
		t.Errorf("after cleaning up: %v", other.marks())
	}
}

// What is called off changes nothing any more, however late it gets there.
func TestErrandIsCalledOff(t *testing.T) {
	late, changed := make(chan struct{}), 0
	e := begin(processResolver{}, func(e *errand) (string, error) {
		<-late
		return "", e.change(func() error { changed++; return nil })
	})
	e.callOff()
	close(late)
	<-e.done
	if changed != 0 || !errors.Is(e.err, errCalledOff) {
		t.Errorf("changed %d times, %v", changed, e.err)
	}
}
