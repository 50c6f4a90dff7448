package tunnel

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A reader that waits is woken when there is something for it, and only then.
func TestRouse(t *testing.T) {
	iface, kernel := pipeTun(t)
	bufs, sizes := [][]byte{make([]byte, 2048)}, make([]int, 1)
	iface.in.poll.waits.Store(true)
	if iface.rouse(); !iface.in.poll.waits.Load() {
		t.Fatal("the reader is woken for nothing")
	}
	if _, err := unix.Write(kernel, make([]byte, vnetLen+100)); err != nil {
		t.Fatal(err)
	}
	if iface.rouse(); iface.in.poll.waits.Load() {
		t.Fatal("the reader waits while there is a packet")
	}
	if n, err := iface.Read(bufs, sizes, 0); n != 1 || err != nil || sizes[0] != 100 {
		t.Fatalf("%d packets, %v: want one of 100 bytes", n, err)
	}
}
