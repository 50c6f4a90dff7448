package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// loads are what this program does as a process inside a namespace, by its first argument.
var loads = map[string]func(args []string, out io.Writer) error{
	"answer": answer, "request": request, "connect": connect,
}

// messageSize of a request and of its answer, bytes.
const messageSize = 64

// answer ADDRESS sends back what each connection sends it, until it is ended.
func answer(args []string, _ io.Writer) error {
	l, err := net.Listen("tcp4", args[0])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for buf := make([]byte, messageSize); ; {
				if _, err := io.ReadFull(c, buf); err != nil {
					return
				}
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		}()
	}
}

// latency of requests, µs.
type latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// request ADDRESS DURATION sends one request after the other over one connection and reports the latency.
func request(args []string, out io.Writer) error {
	within, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	c, err := net.DialTimeout("tcp4", args[0], dialTime)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(within + dialTime)); err != nil {
		return err
	}
	buf, start := make([]byte, messageSize), time.Now()
	var took []float64
	for last := start; last.Sub(start) < within; {
		if err := ask(c, buf); err != nil {
			return err
		}
		now := time.Now()
		took = append(took, float64(now.Sub(last).Nanoseconds())/1e3)
		last = now
	}
	return json.NewEncoder(out).Encode(latency{P50: quantile(took, 0.5), P99: quantile(took, 0.99)})
}

func ask(c net.Conn, buf []byte) error {
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf)
	return err
}

const (
	dialTime = 5 * time.Second
	callers  = 16 // at a time
	// calls of one measurement. A node remembers closed connections for up to a minute: a whole run must neither fill its
	// flow table nor use a port twice.
	calls = 1000
)

// connect ADDRESS opens connections, each for one request, and reports how many it had in a second.
func connect(args []string, out io.Writer) error {
	var begun atomic.Int64
	errs := make([]error, callers)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			buf := make([]byte, messageSize)
			for begun.Add(1) <= calls && errs[i] == nil {
				errs[i] = once(args[0], buf)
			}
		})
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, strconv.FormatFloat(calls/took, 'f', 1, 64))
	return err
}

func once(address string, buf []byte) error {
	c, err := net.DialTimeout("tcp4", address, dialTime)
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(dialTime)); err != nil {
		return err
	}
	return errors.Join(ask(c, buf), c.Close())
}

// quantile of at least one value, by nearest rank; it sorts them.
func quantile(xs []float64, q float64) float64 {
	slices.Sort(xs)
	return xs[min(len(xs)-1, int(q*float64(len(xs))))]
}
