package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/internal/oracle"
)

// idleFlow is a TCP connection through the endpoint that nothing else uses, on which neither end sends: when its permission
// goes, only a prompt makes an end hear of it.
type idleFlow struct {
	client   string // namespace
	accepted chan net.Conn
	ends     map[string]net.Conn // those that have not heard yet
}

// listenIdle makes the targets take such connections while the test runs.
func (m *crashMesh) listenIdle(t *testing.T) *idleFlow {
	t.Helper()
	f := &idleFlow{client: m.ns("cart"), accepted: make(chan net.Conn, 8), ends: map[string]net.Conn{}}
	for _, target := range []string{"ledger-1", "ledger-2"} {
		var l net.Listener
		if err := netns.Do(netns.Path(m.ns(target)), func() (err error) {
			l, err = net.Listen("tcp4", ":444")
			return err
		}); err != nil {
			t.Fatalf("listen in %s: %v", target, err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				f.accepted <- c
			}
		}()
	}
	t.Cleanup(f.close)
	return f
}

func (f *idleFlow) close() {
	for name, c := range f.ends {
		c.Close()
		delete(f.ends, name)
	}
}

// open makes a new one in place of that of before.
func (f *idleFlow) open(ctx context.Context, address string) error {
	f.close()
	near, err := oracle.Dial(ctx, f.client, address)
	if err != nil {
		return fmt.Errorf("an idle connection: %w", err)
	}
	f.ends["client"] = near
	for {
		select {
		case far := <-f.accepted:
			if far.RemoteAddr().(*net.TCPAddr).Port != near.LocalAddr().(*net.TCPAddr).Port {
				far.Close() // of a client that had died
				continue
			}
			f.ends["target"] = far
			return nil
		case <-ctx.Done():
			return fmt.Errorf("an idle connection is not accepted: %w", ctx.Err())
		}
	}
}

// cut demands that both ends are told that the connection is no more.
func (f *idleFlow) cut() error {
	var errs []error
	for name, c := range f.ends {
		_ = c.SetReadDeadline(time.Now().Add(slack * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			errs = append(errs, fmt.Errorf("the %s's end of an idle connection whose permission went: %w, want a reset", name, err))
			continue
		}
		c.Close()
		delete(f.ends, name)
	}
	return errors.Join(errs...)
}
