package tunnel

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// upAgain is how often a link that is up is reported again: opening the sockets may have failed, and nobody else would
// try anew. For a device that is up it is nothing.
const upAgain = time.Second

// linkWatch reports when an interface goes up or down or changes its MTU, as the kernel tells over netlink.
type linkWatch struct {
	name   string
	index  uint32
	socket *os.File
	events chan tun.Event
	done   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
}

// watchLink prepares to watch an interface of this network namespace.
func watchLink(name string) (*linkWatch, error) {
	index, err := ifIndex(name)
	if err != nil {
		return nil, fmt.Errorf("watch interface %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch interface %s: netlink socket: %w", name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch interface %s: bind netlink socket: %w", name, err)
	}
	return &linkWatch{
		name: name, index: index, socket: os.NewFile(uintptr(fd), "netlink"),
		events: make(chan tun.Event, 5), done: make(chan struct{}),
	}, nil
}

// start begins to report, with the state of now first.
func (w *linkWatch) start() {
	changed := make(chan struct{}, 1)
	changed <- struct{}{}
	w.wg.Go(func() { w.listen(changed) })
	w.wg.Go(func() {
		defer close(w.events)
		w.report(changed)
	})
}

// listen turns messages about the interface into wake-ups; what is true is then asked of the kernel, so that a message
// lost to a full queue costs nothing.
func (w *linkWatch) listen(changed chan<- struct{}) {
	buf := make([]byte, 1<<16)
	for {
		n, err := w.socket.Read(buf)
		select {
		case <-w.done:
			return
		default:
		}
		if err == nil && !concerns(buf[:n], w.index) {
			continue
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// concerns reports whether one of the netlink messages is about the interface of that index.
func concerns(msgs []byte, index uint32) bool {
	for len(msgs) >= unix.SizeofNlMsghdr+unix.SizeofIfInfomsg {
		length := binary.NativeEndian.Uint32(msgs)
		kind := binary.NativeEndian.Uint16(msgs[4:])
		// The index is the third field of struct ifinfomsg, 4 bytes in.
		about := binary.NativeEndian.Uint32(msgs[unix.SizeofNlMsghdr+4:])
		if (kind == unix.RTM_NEWLINK || kind == unix.RTM_DELLINK) && about == index {
			return true
		}
		length = (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		if length < unix.SizeofNlMsghdr || int(length) > len(msgs) {
			return false
		}
		msgs = msgs[length:]
	}
	return false
}

func (w *linkWatch) report(changed <-chan struct{}) {
	again := time.NewTicker(upAgain)
	defer again.Stop()
	wasUp, lastMTU := false, 0
	for {
		select {
		case <-w.done:
			return
		case <-again.C:
			if wasUp {
				w.emit(tun.EventUp)
			}
			continue
		case <-changed:
		}
		if mtu, err := getMTU(w.name); err == nil && mtu != lastMTU {
			lastMTU = mtu
			w.emit(tun.EventMTUUpdate)
		}
		up := isUp(w.name)
		switch {
		case up && !wasUp:
			w.emit(tun.EventUp)
		case !up && wasUp:
			w.emit(tun.EventDown)
		}
		wasUp = up
	}
}

func (w *linkWatch) emit(e tun.Event) {
	select {
	case w.events <- e:
	case <-w.done:
	}
}

func isUp(name string) bool {
	ifr, err := linkIoctl(name, unix.SIOCGIFFLAGS, nil)
	return err == nil && ifr.Uint16()&unix.IFF_UP != 0
}

// close ends watching and closes the channel of events.
func (w *linkWatch) close() {
	w.once.Do(func() {
		close(w.done)
		w.socket.Close()
	})
	w.wg.Wait()
}
