package tunnel

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netlab"
)

// The kernel puts packets into the lane that their mark names, and the reader reads all of them.
func TestMarkPicksLane(t *testing.T) {
	ns := netlab.New(t).Namespace("a")
	var in *queues
	if err := ns.Do(func() error {
		fds, err := openInterface("lanes0", DefaultMTU)
		if err != nil || len(fds) != Lanes {
			return fmt.Errorf("%d lanes, %w", len(fds), err)
		}
		t.Cleanup(func() { unix.Close(fds[0]) })
		if in, err = newQueues(fds); err != nil {
			return err
		}
		return steer(fds[0], nil)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(in.stop(), in.close()); err != nil {
			t.Error(err)
		}
	})
	ns.Exec("sysctl", "-qw", "net.ipv6.conf.lanes0.disable_ipv6=1")
	ns.Exec("ip", "addr", "add", "198.18.7.1/24", "dev", "lanes0")
	ns.Exec("ip", "link", "set", "lanes0", "up")
	buf := make([]byte, 2048)
	for want := range Lanes {
		if err := ns.Do(func() error { return sendMarked(LaneMark^uint32(want), "198.18.7.2:9") }); err != nil {
			t.Fatal(err)
		}
		netlab.Eventually(t, 5*time.Second, func() bool { return in.look() == nil && in.filled > 0 }, "a packet")
		if i := in.next(); i != want {
			t.Fatalf("a packet of lane %d is in lane %d", want, i)
		}
		if n, err := unix.Read(in.all[want].fd, buf); err != nil || n == 0 {
			t.Fatalf("lane %d: %d bytes, %v", want, n, err)
		}
		if err := in.empty(want); err != nil {
			t.Fatal(err)
		}
	}
}

func sendMarked(mark uint32, to string) error {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) }); e != nil {
			return e
		}
		return err
	}}
	c, err := d.Dial("udp4", to)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("x"))
	return err
}

// An interface that an earlier version made has one queue: it is used, once, and can be removed.
func TestInterfaceWithoutLanes(t *testing.T) {
	ns := netlab.New(t).Namespace("a")
	ns.Exec("ip", "tuntap", "add", "dev", "lanes0", "mode", "tun", "vnet_hdr")
	if err := ns.Do(func() error {
		fds, err := openInterface("lanes0", DefaultMTU)
		if err != nil || len(fds) != 1 {
			return fmt.Errorf("%d lanes, %w", len(fds), err)
		}
		if _, err := openInterface("lanes0", DefaultMTU); err == nil {
			return fmt.Errorf("opened twice")
		}
		closeFiles(fds)
		return Delete("lanes0")
	}); err != nil {
		t.Fatal(err)
	}
	if out, err := ns.Try("ip", "link", "show", "lanes0"); err == nil {
		t.Errorf("the interface is still there: %s", out)
	}
}

// A lane holds queueLen packets, and more where somebody said so.
func TestLanesAreLong(t *testing.T) {
	ns := netlab.New(t).Namespace("a")
	var fds []int
	length := func() (n uint32) {
		t.Helper()
		if err := ns.Do(func() error {
			if err := lengthenQueues("long0"); err != nil {
				return err
			}
			ifr, err := linkIoctl("long0", unix.SIOCGIFTXQLEN, nil)
			n = ifr.Uint32()
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := ns.Do(func() (err error) {
		fds, err = openInterface("long0", DefaultMTU)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeFiles(fds) })
	ns.Exec("ip", "link", "set", "long0", "txqueuelen", "2000")
	if n := length(); n != 2000 {
		t.Errorf("who had 2000 packets wait has %d", n)
	}
	ns.Exec("ip", "link", "set", "long0", "txqueuelen", "300")
	if n := length(); n != queueLen {
		t.Fatalf("%d packets may wait: want %d", n, queueLen)
	}
	ns.Exec("sysctl", "-qw", "net.ipv6.conf.long0.disable_ipv6=1")
	ns.Exec("ip", "addr", "add", "198.18.7.1/24", "dev", "long0")
	ns.Exec("ip", "link", "set", "long0", "up")
	if err := ns.Do(func() error {
		c, err := net.Dial("udp4", "198.18.7.2:9")
		if err != nil {
			return err
		}
		defer c.Close()
		for range queueLen + 100 {
			if _, err := c.Write([]byte{0}); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	waiting, buf := 0, make([]byte, 2048)
	for _, fd := range fds {
		for n, err := unix.Read(fd, buf); n > 0 && err == nil; n, err = unix.Read(fd, buf) {
			waiting++
		}
	}
	if waiting != queueLen {
		t.Errorf("of %d packets of one flow, %d waited: want %d", queueLen+100, waiting, queueLen)
	}
}
