//go:build linux

package netlab

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLabHostsReachEachOther(t *testing.T) {
	lab := New(t)
	a, b := lab.Host("a"), lab.Host("b")
	if lab.Host("a") != a {
		t.Fatal("a second Host(a) is another host")
	}
	for _, address := range []netip.Addr{b.Underlay, b.Underlay6} {
		to := netip.AddrPortFrom(address, 7).String()
		var ln net.Listener
		if err := b.Do(func() (err error) {
			ln, err = net.Listen("tcp", to)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if err := a.Do(func() error {
			c, err := net.DialTimeout("tcp", to, 30*time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		}); err != nil {
			t.Fatalf("a to %s: %v", to, err)
		}
	}
	if out, err := a.Try("ip", "route", "get", "8.8.8.8"); err == nil {
		t.Fatalf("the lab has a way out: %s", out)
	}
}

func TestLabDoReturnsToWhereItCameFrom(t *testing.T) {
	lab := New(t)
	ns := lab.Namespace("x")
	before, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var inside string
	boom := errors.New("boom")
	if err := ns.Do(func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return errors.Join(err, boom)
	}); !errors.Is(err, boom) {
		t.Fatalf("Do returned %v", err)
	}
	if inside == before {
		t.Fatal("Do ran outside the namespace")
	}
	after, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil || after != before {
		t.Fatalf("namespace after Do: %s (%v), before %s", after, err, before)
	}
}

func TestLabProcessRunsInsideAndStops(t *testing.T) {
	lab := New(t)
	ns := lab.Namespace("x")
	p := ns.Start("sh", "-c", "readlink /proc/self/ns/net; exec sleep 600")
	Eventually(t, 5*time.Second, func() bool { return strings.Contains(p.Output(), "net:[") }, "no output")
	want := strings.TrimSpace(ns.Exec("readlink", "/proc/self/ns/net"))
	if got := strings.TrimSpace(p.Output()); got != want {
		t.Fatalf("process is in %s, the namespace is %s", got, want)
	}
	p.Stop()
	p.Stop()
	if p.Wait() == nil {
		t.Fatal("a process ended by a signal reports success")
	}
}

func TestLabCleansUp(t *testing.T) {
	var path string
	t.Run("lab", func(t *testing.T) {
		lab := New(t)
		ns := lab.Namespace("gone")
		path = ns.Path()
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		lab.Namespace("early").Remove()
	})
	if path == "" {
		return // not root
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Fatalf("%s is still there: %v", path, err)
	}
}
