package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// serveStreams accepts connections until the listener is closed.
func (s *Server) serveStreams(ctx context.Context, l net.Listener, wg *sync.WaitGroup) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !pause(ctx, readPause) {
				return err
			}
			continue
		}
		c, account, ok := s.admit(conn)
		if !ok {
			s.stats.connsRefused.Add(1)
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer s.conns.release(account, c)
			s.serveConn(ctx, conn, c)
		})
	}
}

// admit counts a connection of a client towards its account, which is the VPC's of now.
func (s *Server) admit(conn net.Conn) (c client, account string, ok bool) {
	remote, ok := addrPort(conn.RemoteAddr())
	if !ok {
		return client{}, "", false
	}
	c, st, ok := s.identify(remote.Addr())
	if !ok {
		return client{}, "", false
	}
	account = st.zone.Account(c.vpc)
	return c, account, s.conns.acquire(account, c)
}

// serveConn answers the queries of one connection; private names in order, forwarded ones as they come in (RFC 7766
// section 6.2.1.1).
func (s *Server) serveConn(ctx context.Context, conn net.Conn, c client) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	w := &streamWriter{conn: conn}
	slots := make(chan struct{}, maxPipelined)
	var wg sync.WaitGroup
	defer wg.Wait() // before the connection is closed, so that a client that half-closes still gets its answers
	query, reply := make([]byte, maxQuery), make([]byte, maxQuery)
	for {
		data, err := readMessage(conn, query)
		if err != nil {
			return
		}
		now := time.Now()
		st := s.state.Load()
		if !st.zone.Serves(c.vpc, c.addr) {
			s.stats.notClient.Add(1)
			return
		}
		if !s.rate.allow(c, now) {
			s.stats.rateLimited.Add(1)
			return
		}
		out, wait := s.handleSafely(st, packet{client: c, arrived: now, data: data, tcp: true}, reply)
		switch {
		case out != nil:
			if w.write(out) != nil {
				return
			}
		case wait != nil:
			slots <- struct{}{} // each holder ends within forwardTimeout
			wg.Go(func() {
				defer s.guard()
				defer func() { <-slots }()
				_ = w.write(wait(ctx))
			})
		default:
			return // not a query: nothing sensible follows
		}
	}
}

var errMessageSize = errors.New("message too short or too long")

// readMessage reads one message with its length prefix; the whole of it must arrive in time.
func readMessage(conn net.Conn, buf []byte) ([]byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(tcpIdle)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, buf[:2]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if n < headerSize || n > len(buf) {
		return nil, errMessageSize
	}
	_, err := io.ReadFull(conn, buf[:n])
	return buf[:n], err
}

// streamWriter writes whole messages, one at a time. A client that does not read is cut off.
type streamWriter struct {
	mu   sync.Mutex
	conn net.Conn
	buf  []byte
}

func (w *streamWriter) write(message []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.conn.SetWriteDeadline(time.Now().Add(tcpWrite)); err != nil {
		return err
	}
	w.buf = binary.BigEndian.AppendUint16(w.buf[:0], uint16(len(message)))
	w.buf = append(w.buf, message...)
	if _, err := w.conn.Write(w.buf); err != nil {
		_ = w.conn.Close()
		return err
	}
	return nil
}
