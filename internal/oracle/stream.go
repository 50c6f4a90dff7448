package oracle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/culvert-net/culvert/internal/netns"
)

// streamPause is between two datagrams of a stream.
const streamPause = 5 * time.Millisecond

// Stream is one direction of datagrams with numbers. Both ends are here, so the times are of one clock.
type Stream struct {
	to    net.PacketConn
	out   net.Conn
	began time.Time
	done  chan struct{}
	wg    sync.WaitGroup

	mu       sync.Mutex
	sent     []time.Duration // by number, after began
	arrived  []time.Duration // by number; 0: not
	repeated int
	err      error
}

// StartStream sends from a namespace to a service whose target is the given address of another namespace.
func StartStream(namespace, address, target, targetAddress string) (*Stream, error) {
	s := &Stream{began: time.Now(), done: make(chan struct{})}
	err := netns.Do(netns.Path(target), func() (err error) {
		s.to, err = net.ListenPacket("udp4", targetAddress)
		return err
	})
	if err == nil {
		err = netns.Do(netns.Path(namespace), func() (err error) {
			s.out, err = net.Dial("udp4", address)
			return err
		})
	}
	if err != nil {
		if s.to != nil {
			s.to.Close()
		}
		return nil, fmt.Errorf("stream from %s to %s: %w", namespace, target, err)
	}
	s.wg.Go(s.send)
	s.wg.Go(s.receive)
	return s, nil
}

func (s *Stream) send() {
	tick := time.NewTicker(streamPause)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		number := len(s.sent)
		s.sent = append(s.sent, time.Since(s.began))
		s.arrived = append(s.arrived, 0)
		s.mu.Unlock()
		// Refused for a moment while the target's port is closed: the datagram is lost, and counts so.
		_, _ = s.out.Write(binary.BigEndian.AppendUint64([]byte(Magic), uint64(number)))
	}
}

func (s *Stream) receive() {
	buf := make([]byte, 256)
	for {
		n, _, err := s.to.ReadFrom(buf)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
				s.fail(err)
			}
			return
		}
		if bytes.HasPrefix(buf[:n], []byte(probeText)) {
			continue // a probe that is allowed
		}
		if n != len(Magic)+8 || string(buf[:len(Magic)]) != Magic {
			s.fail(fmt.Errorf("a datagram came as % x", buf[:n]))
			continue
		}
		number := binary.BigEndian.Uint64(buf[len(Magic):])
		s.mu.Lock()
		switch {
		case number >= uint64(len(s.arrived)):
			s.err = fmt.Errorf("number %d was never sent", number)
		case s.arrived[number] != 0:
			s.repeated++
		default:
			s.arrived[number] = time.Since(s.began)
		}
		s.mu.Unlock()
	}
}

func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Seen is what became of the datagrams sent in a span of time.
type Seen struct {
	Sent, Lost, Repeated int
	// Resumed is when the first one arrived that was sent after the span began, less that moment; 0 if none did.
	Resumed time.Duration
	// Pause is the longest time between two that arrived, by when they were sent: what was lost in a row.
	Pause time.Duration
}

// Since tells what became of what was sent from a moment on. What is still on its way counts as lost: ask after a while.
func (s *Stream) Since(from, to time.Time) Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r Seen
	begin, end := from.Sub(s.began), to.Sub(s.began)
	last := begin
	for i, at := range s.sent {
		if at < begin || at > end {
			continue
		}
		r.Sent++
		if s.arrived[i] == 0 {
			r.Lost++
			continue
		}
		if d := s.arrived[i] - begin; r.Resumed == 0 || d < r.Resumed {
			r.Resumed = d
		}
		r.Pause = max(r.Pause, at-last)
		last = at
	}
	if n := len(s.sent); n > 0 {
		r.Pause = max(r.Pause, min(end, s.sent[n-1])-last)
	}
	r.Repeated = s.repeated
	return r
}

// Arrived reports whether something that was sent after a moment has arrived.
func (s *Stream) Arrived(after time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	begin := after.Sub(s.began)
	for i := len(s.sent) - 1; i >= 0 && s.sent[i] >= begin; i-- {
		if s.arrived[i] != 0 {
			return true
		}
	}
	return false
}

// Err says what came that was never sent so.
func (s *Stream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Quiet stops sending.
func (s *Stream) Quiet() {
	select {
	case <-s.done:
	default:
		close(s.done)
	}
}

// Stop ends the stream.
func (s *Stream) Stop() {
	s.Quiet()
	s.out.Close()
	s.to.Close()
	s.wg.Wait()
}
