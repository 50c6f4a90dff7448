package tunnel

import (
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// slowListener accepts a connection that came before the deadline only some time after that was set.
type slowListener struct {
	deadline chan struct{}
	conn     net.Conn // accepted first
	ended    atomic.Bool
}

func (l *slowListener) Accept() (net.Conn, error) {
	<-l.deadline
	<-time.After(20 * time.Millisecond)
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	l.ended.Store(true)
	return nil, os.ErrDeadlineExceeded
}

func (l *slowListener) SetDeadline(time.Time) error { close(l.deadline); return nil }
func (l *slowListener) Close() error                { return nil }
func (l *slowListener) Addr() net.Addr              { return nil }

// When pause has returned the process accepts no more: who asked for an upgrade asks next who runs now, and is to hear it from the
// next process.
func TestNothingIsAcceptedAfterAPause(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	l := &slowListener{deadline: make(chan struct{}), conn: ours}
	s := newServer(nil, nil, slog.New(slog.DiscardHandler))
	s.start(l)
	s.pause(l)
	if !l.ended.Load() {
		t.Error("connections are still accepted")
	}
	s.close()
}
