package dns

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// controlSize has room for IPV6_PKTINFO: a header of 16 and a body of 20 bytes, aligned.
const controlSize = 64

// readPause keeps a socket that fails at every read from taking a whole CPU.
const readPause = 5 * time.Millisecond

// servePackets answers datagrams until the socket is closed. Goroutines that wait for forwarders are added to wg.
func (s *Server) servePackets(ctx context.Context, socket packetSocket, wg *sync.WaitGroup) error {
	query, control, reply := make([]byte, maxQuery), make([]byte, controlSize), make([]byte, maxQuery)
	for {
		n, cn, from, err := socket.read(query, control)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return err
			}
			if !pause(ctx, readPause) {
				return err
			}
			continue
		}
		c, st, ok := s.identify(from.Addr())
		if !ok {
			s.stats.notClient.Add(1)
			continue
		}
		now := time.Now()
		if !s.rate.allow(c, now) {
			s.stats.rateLimited.Add(1)
			continue
		}
		out, wait := s.handleSafely(st, packet{client: c, arrived: now, data: query[:n]}, reply)
		switch {
		case out != nil:
			_ = socket.write(out, control[:cn], from) // a lost answer is asked for again
		case wait != nil:
			oob := append([]byte(nil), control[:cn]...)
			wg.Go(func() {
				defer s.guard()
				_ = socket.write(wait(ctx), oob, from)
			})
		}
	}
}

// pause waits and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *Server) handleSafely(st *state, p packet, buf []byte) (out []byte, wait waiting) {
	defer s.guard()
	return s.handle(st, p, buf)
}
