package tunnel

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

const (
	// gateMax is how many packets may be inside the device each way. Measured: 128 to 512 are alike, 4096 loses a
	// third of the throughput, and memory grows with it.
	gateMax = 256

	// gatePatience is how long a full gate stands without a packet leaving before it is taken that none will: what is
	// inside then waits for a session, or was dropped without a trace.
	gatePatience = 2 * time.Millisecond
)

// gate counts the packets that went into the device and did not come out yet.
type gate struct {
	mu     sync.Mutex
	inside int
	epoch  uint32 // grows when the count is forgiven: packets of an older epoch do not count any more
	left   uint64 // packets that came out, ever
	forgot uint64 // packets forgiven, ever: they may have come out since
	wake   chan struct{}
}

func newGate() *gate { return &gate{wake: make(chan struct{}, 1)} }

// wait returns when there is room.
func (g *gate) wait() {
	left, full := g.full()
	if !full {
		return
	}
	timer := time.NewTimer(gatePatience)
	defer timer.Stop()
	for {
		select {
		case <-g.wake:
		case <-timer.C:
			g.forgive(left)
		}
		if left, full = g.full(); !full {
			g.signal() // the other socket's reader may wait too
			return
		}
		timer.Reset(gatePatience)
	}
}

func (g *gate) signal() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *gate) full() (left uint64, full bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left, g.inside >= gateMax
}

// forgive empties the gate unless a packet left since the count was seen.
func (g *gate) forgive(left uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left == left {
		g.forgot += uint64(g.inside)
		g.inside = 0
		g.epoch++
	}
}

func (g *gate) forgotten() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.forgot
}

// enter counts n packets and returns the epoch with which they leave.
func (g *gate) enter(n int) (epoch uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside += n
	return g.epoch
}

// leave counts n packets of an epoch out.
func (g *gate) leave(n int, epoch uint32) {
	if n == 0 {
		return
	}
	g.mu.Lock()
	g.left += uint64(n)
	if epoch == g.epoch {
		g.inside -= n
	}
	g.mu.Unlock()
	g.signal()
}

// direction says through which gate a packet entered.
type direction uint8

const (
	outbound direction = 1 + iota // from the interface to a peer
	inbound                       // from a peer to the interface
)

// tag is what a packet's buffer carries through the device.
type tag struct {
	dir   direction
	epoch uint32
	turn         // outbound: its place in its peer's queue
	probe uint32 // outbound: the number of a question about the path; 0: an ordinary packet
}

// turn is a packet's place in its peer's queue.
type turn struct {
	peer uint32 // index of the queue, or noPeer
	row  uint32 // grows when those that waited were dropped: packets of an older row do not count any more
}

// tags writes tags into message buffers, behind the packet. The device hands each buffer on from the call that fills it
// to the call that empties it, and takes buffers from a pool: a buffer that turns up for filling with a tag still on it
// is one whose packet was dropped inside. So every packet is accounted for without looking into the device, but for
// those whose buffers the garbage collector took.
type tags struct {
	magic uint64 // drawn at start, so that no packet can carry a tag into a buffer
	at    int    // offset in the buffer
}

const (
	tagLen = 28

	// bufferLen is the capacity by which a message buffer of the device is known.
	bufferLen = device.MaxMessageSize
)

// newTags places tags behind packets of up to mtu bytes: behind their header, padding and authentication, on the same
// page of memory at usual MTUs. Larger packets, which only a peer with a larger MTU sends, are not counted.
func newTags(mtu int) tags {
	var magic [8]byte
	_, _ = rand.Read(magic[:]) // never fails: it ends the program instead
	at := device.MessageTransportSize + mtu + device.PaddingMultiple
	at = (at + 63) &^ 63
	return tags{magic: binary.NativeEndian.Uint64(magic[:]) | 1, at: min(at, bufferLen-tagLen)}
}

// room returns the part of a buffer that holds its tag, or nil when it is none of the device's message buffers.
func (t *tags) room(buf []byte) []byte {
	if cap(buf) != bufferLen {
		return nil
	}
	return buf[:bufferLen][t.at : t.at+tagLen]
}

// put marks a buffer that holds used bytes and reports whether it could.
func (t *tags) put(buf []byte, used int, v tag) bool {
	room := t.room(buf)
	if room == nil || used > t.at {
		return false
	}
	binary.NativeEndian.PutUint64(room, t.magic)
	binary.NativeEndian.PutUint32(room[8:], v.epoch)
	binary.NativeEndian.PutUint32(room[12:], v.peer)
	binary.NativeEndian.PutUint32(room[16:], v.row)
	room[20] = byte(v.dir)
	binary.NativeEndian.PutUint32(room[24:], v.probe)
	return true
}

// take removes and returns a buffer's tag.
func (t *tags) take(buf []byte) (tag, bool) {
	room := t.room(buf)
	if room == nil || binary.NativeEndian.Uint64(room) != t.magic {
		return tag{}, false
	}
	binary.NativeEndian.PutUint64(room, 0)
	return tag{
		dir:   direction(room[20]),
		epoch: binary.NativeEndian.Uint32(room[8:]),
		turn:  turn{peer: binary.NativeEndian.Uint32(room[12:]), row: binary.NativeEndian.Uint32(room[16:])},
		probe: binary.NativeEndian.Uint32(room[24:]),
	}, true
}
