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
	"answer": answer, "request": request, "connect": connect, "flood": flood, "names": benchNames, "name-server": serveNames,
	"flows": benchFlows, "open": openFlows,
}

// messageSize of a request and of its answer, bytes.
const messageSize = 64

// answer ADDRESS sends back what each connection sends it, and counts datagrams, until it is ended.
func answer(args []string, _ io.Writer) error {
	l, err := net.Listen("tcp4", args[0])
	if err != nil {
		return err
	}
	sink, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	go drain(sink)
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

// latency of requests, µs, and how many there were a second.
type latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	Rate float64 `json:"rate"`
}

// request ADDRESS DURATION CONNECTIONS sends one request after the other over each connection and reports the latency.
func request(args []string, out io.Writer) error {
	within, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	conns, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	took, errs := make([][]float64, conns), make([]error, conns)
	var ready, done sync.WaitGroup
	begin := make(chan struct{})
	ready.Add(conns)
	for i := range conns {
		done.Go(func() { took[i], errs[i] = requestOver(args[0], within, &ready, begin) })
	}
	ready.Wait()
	start := time.Now()
	close(begin)
	done.Wait()
	all := slices.Concat(took...)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(latency{
		P50: quantile(all, 0.5), P99: quantile(all, 0.99), Rate: float64(len(all)) / time.Since(start).Seconds(),
	})
}

// requestOver is one connection's part, which begins when all are connected: how long each request took, in µs.
func requestOver(address string, within time.Duration, ready *sync.WaitGroup, begin <-chan struct{}) ([]float64, error) {
	c, err := net.DialTimeout("tcp", address, dialTime)
	ready.Done()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	<-begin
	buf, start := make([]byte, messageSize), time.Now()
	if err := c.SetDeadline(start.Add(within + dialTime)); err != nil {
		return nil, err
	}
	var took []float64
	for last := start; last.Sub(start) < within; {
		if err := ask(c, buf); err != nil {
			return nil, err
		}
		now := time.Now()
		took = append(took, float64(now.Sub(last).Nanoseconds())/1e3)
		last = now
	}
	return took, nil
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

// connect ADDRESS [DURATION] opens connections, each for one request, and reports how many it had in a second: so many as
// calls says, or as there is time for.
func connect(args []string, out io.Writer) error {
	var begun atomic.Int64
	errs := make([]error, callers)
	start := time.Now()
	goOn := func() bool { return begun.Add(1) <= calls }
	if len(args) > 1 {
		within, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		goOn = func() bool { return time.Since(start) < within && begun.Add(1) > 0 }
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			buf := make([]byte, messageSize)
			for goOn() && errs[i] == nil {
				errs[i] = once(args[0], buf)
			}
		})
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	had := begun.Load()
	if len(args) == 1 {
		had = calls
	}
	_, err := fmt.Fprintln(out, strconv.FormatFloat(float64(had)/took, 'f', 1, 64))
	return err
}

func once(address string, buf []byte) error {
	c, err := net.DialTimeout("tcp", address, dialTime)
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
