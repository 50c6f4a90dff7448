package oracle

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-net/culvert/internal/netns"
)

const (
	// flowPause is between an answer and the next request of a flow.
	flowPause = 100 * time.Millisecond
	// flowPatience is how long an answer may take: faults in a row make TCP wait twice as long each time, and it would try for
	// 15 minutes. The longest that a machine with much else to do was seen to take for it is a minute.
	flowPatience = 2 * time.Minute
	dialPatience = 10 * time.Second
	messageSize  = 32
)

// Echo answers what TCP connections to an address in a namespace send, until ctx ends.
func Echo(ctx context.Context, namespace, address string) error {
	var l net.Listener
	if err := netns.Do(netns.Path(namespace), func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	}); err != nil {
		return fmt.Errorf("echo in %s: %w", namespace, err)
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { c.Close() })
			go func() {
				defer stop()
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return nil
}

// Dial opens a TCP connection from inside a namespace.
func Dial(ctx context.Context, namespace, address string) (net.Conn, error) {
	var c net.Conn
	err := netns.Do(netns.Path(namespace), func() (err error) {
		d := net.Dialer{Timeout: dialPatience}
		c, err = d.DialContext(ctx, "tcp4", address)
		return err
	})
	return c, err
}

// Flows are long TCP connections on which numbered messages go and come back.
type Flows struct {
	conns    []net.Conn
	answers  atomic.Int64
	stopping atomic.Bool
	wg       sync.WaitGroup
	mu       sync.Mutex
	errs     []error
}

// StartFlows opens n connections from a namespace to an echo, each with a first answer.
func StartFlows(ctx context.Context, namespace, address string, n int) (*Flows, error) {
	f := &Flows{}
	for i := range n {
		c, err := Dial(ctx, namespace, address)
		if err == nil {
			f.conns = append(f.conns, c)
			err = ask(c, uint64(i), 0)
		}
		if err != nil {
			f.Stop()
			return nil, fmt.Errorf("flow %d from %s to %s: %w", i, namespace, address, err)
		}
	}
	for i, c := range f.conns {
		f.wg.Go(func() { f.run(c, uint64(i)) })
	}
	return f, nil
}

// ask sends one message and demands it back.
func ask(c net.Conn, flow, number uint64) error {
	var out, in [messageSize]byte
	copy(out[:], Magic[:16])
	binary.BigEndian.PutUint64(out[16:], flow)
	binary.BigEndian.PutUint64(out[24:], number)
	if err := c.SetDeadline(time.Now().Add(flowPatience)); err != nil {
		return err
	}
	if _, err := c.Write(out[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, in[:]); err != nil {
		return err
	}
	if in != out {
		return fmt.Errorf("message %d came back as % x", number, in)
	}
	return nil
}

func (f *Flows) run(c net.Conn, flow uint64) {
	tick := time.NewTicker(flowPause)
	defer tick.Stop()
	for number := uint64(1); !f.stopping.Load(); number++ {
		if err := ask(c, flow, number); err != nil {
			if !f.stopping.Load() {
				f.mu.Lock()
				f.errs = append(f.errs, fmt.Errorf("flow %d (%s): %w", flow, c.LocalAddr(), err))
				f.mu.Unlock()
			}
			return
		}
		f.answers.Add(1)
		<-tick.C
	}
}

// Err says which flows have ended, were reset or got a wrong answer.
func (f *Flows) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.errs...)
}

// Len is the number of flows, Answers of their right answers.
func (f *Flows) Len() int       { return len(f.conns) }
func (f *Flows) Answers() int64 { return f.answers.Load() }

// Stop ends the flows.
func (f *Flows) Stop() {
	f.stopping.Store(true)
	f.wg.Wait()
	for _, c := range f.conns {
		c.Close()
	}
}
