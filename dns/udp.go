package dns

import (
	"context"
	"sync"
	"time"
)

// controlSize has room for IPV6_PKTINFO: a header of 16 and a body of 20 bytes, aligned.
const controlSize = 64

// readPause keeps a socket that fails at every read from taking a whole CPU.
const readPause = 5 * time.Millisecond

// servePackets answers datagrams until the socket is closed. Goroutines that wait for forwarders are added to wg. It is
// alone while it keeps up: a second reader would be woken for each datagram and find nothing. When it has read all that it
// can hold there is something in busy.
func (s *Server) servePackets(ctx context.Context, socket packetSocket, wg *sync.WaitGroup, busy chan<- struct{}) error {
	b := new(batch)
	for {
		got, err := socket.read(b)
		if err != nil {
			if ended(ctx, err) || !pause(ctx, readPause) {
				return err
			}
			continue
		}
		if len(got) == batchSize {
			select {
			case busy <- struct{}{}:
			default:
			}
		}
		s.serveBatch(ctx, socket, b, got, wg)
	}
}

// assist helps servePackets while there is more than that reads at once.
func (s *Server) assist(ctx context.Context, socket packetSocket, wg *sync.WaitGroup, busy <-chan struct{}) {
	b := new(batch)
	for {
		select {
		case <-ctx.Done():
			return
		case <-busy:
		}
		for {
			got := socket.poll(b)
			s.serveBatch(ctx, socket, b, got, wg)
			if len(got) < batchSize {
				break
			}
		}
	}
}

func (s *Server) serveBatch(ctx context.Context, socket packetSocket, b *batch, got []datagram, wg *sync.WaitGroup) {
	now := time.Now()
	for i := range got {
		s.serveDatagram(ctx, socket, &got[i], b.replies[i][:], now, wg)
	}
	_ = socket.write(b, got) // a lost answer is asked for again
}

// serveDatagram sets the reply, or sends it when it is there.
func (s *Server) serveDatagram(ctx context.Context, socket packetSocket, d *datagram, buf []byte, now time.Time, wg *sync.WaitGroup) {
	if len(d.query) == 0 {
		s.stats.malformed.Add(1)
		return
	}
	c, st, ok := s.identify(d.from.Addr())
	if !ok {
		s.stats.notClient.Add(1)
		return
	}
	if !s.rate.allow(c, now) {
		s.stats.rateLimited.Add(1)
		return
	}
	out, wait := s.handleSafely(st, packet{client: c, arrived: now, data: d.query}, buf)
	d.reply = out
	if wait != nil {
		control, to := append([]byte(nil), d.control...), d.from
		wg.Go(func() {
			defer s.guard()
			_ = socket.writeOne(wait(ctx), control, to)
		})
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
