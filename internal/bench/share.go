package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/internal/netns"
)

// fairShare is what an account is held against that another one floods beside: what it asks for, or half of what both get.
const fairShare = "its fair share"

// leastShare is the part of it that it wants to get.
const leastShare = 0.9

const (
	ownRate  = 20e3 // datagrams a second of a neighbour that does not ask for half
	ownSize  = 1200
	floodPre = 300 * time.Millisecond // the flood is there before its neighbour
	crowds   = 2                      // processes that flood with datagrams

	ownHeaders = 14 + 20 + 8                  // of a datagram, as an interface counts
	begun      = 64 << 10                     // bytes that are more than a connection's begin
	watched    = turn/2 - 50*time.Millisecond // within what a paced flood lasts
)

// floods are what one account does to its neighbour; streams or datagrams of so many bytes.
var floods = []struct {
	name          string
	streams, size int
}{{"64 B datagrams", 0, 64}, {"1200 B datagrams", 0, 1200}, {"64 TCP streams", 64, 0}}

func shareOf(own, flood string) metric {
	return metric{fmt.Sprintf("%s beside %s of another account", own, flood), "part of " + fairShare, 2, false}
}

const (
	ownStream    = "TCP, 1 stream"
	ownDatagrams = "UDP, 1200 B, 20 kpps"
)

func shares() (all []metric) {
	for _, f := range floods {
		all = append(all, shareOf(ownStream, f.name), shareOf(ownDatagrams, f.name))
	}
	return all
}

// sharing measures what a neighbour of each flood gets.
func sharing(ctx context.Context, s *system) (map[metric]float64, error) {
	values := map[metric]float64{}
	for _, f := range floods {
		own, flood, err := s.beside(ctx, f.streams, f.size, func() error {
			_, err := throughput(1, forward)(ctx, s)
			return err
		})
		if err != nil {
			return nil, err
		}
		values[shareOf(ownStream, f.name)] = own / ((own + flood) / 2)
		asked := 0.0
		own, flood, err = s.beside(ctx, f.streams, f.size, func() error {
			x, err := s.flood(ctx, ownSize, ownRate)
			asked = float64(x.Sent) * (ownSize + ownHeaders) / x.Seconds
			return err
		})
		if err != nil {
			return nil, err
		}
		values[shareOf(ownDatagrams, f.name)] = own / min(asked, (own+flood)/2)
	}
	return values, nil
}

// beside runs a load while the system's crowd floods, and returns what both get, in bytes a second, as their servers'
// interfaces count them while both run: what a flood gets before its neighbour begins is not at the neighbour's cost.
func (s *system) beside(ctx context.Context, streams, size int, run func() error) (own, flood float64, err error) {
	var wg sync.WaitGroup
	errs := make([]error, crowds+1)
	if streams > 0 {
		wg.Go(func() { _, errs[0] = s.crowd.stream(ctx, streams) })
	} else {
		for i := range crowds {
			wg.Go(func() { _, errs[i] = s.crowd.pour(ctx, size) })
		}
	}
	select {
	case <-time.After(floodPre):
	case <-ctx.Done():
	}
	wg.Go(func() { errs[crowds] = run() })
	own, flood, err = s.watch(ctx)
	wg.Wait()
	return own, flood, errors.Join(err, errors.Join(errs...))
}

// watch waits until something comes to the system's server, and then counts for watched.
func (s *system) watch(ctx context.Context) (own, flood float64, err error) {
	idle, err := received(s.server)
	if err != nil {
		return 0, 0, err
	}
	var from, crowd float64
	if err := eventually(ctx, answerTime, func() error {
		from, err = received(s.server)
		if err == nil && from-idle < begun {
			err = errors.New("nothing came to the neighbour of a flood")
		}
		return err
	}); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if crowd, err = received(s.crowd.server); err != nil {
		return 0, 0, err
	}
	select {
	case <-time.After(watched):
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	own, err = received(s.server)
	flood, errOf := received(s.crowd.server)
	seconds := time.Since(began).Seconds()
	return (own - from) / seconds, (flood - crowd) / seconds, errors.Join(err, errOf)
}

// received is how many bytes came by a namespace's interfaces, but for the one to itself.
func received(namespace string) (bytes float64, err error) {
	err = netns.Do(netns.Path(namespace), func() error {
		table, err := os.ReadFile("/proc/thread-self/net/dev") // two lines of heading, then "name: bytes packets ..."
		for line := range strings.Lines(string(table)) {
			name, counts, ok := strings.Cut(line, ":")
			if fields := strings.Fields(counts); ok && len(fields) > 0 && strings.TrimSpace(name) != "lo" {
				n, errOf := strconv.ParseFloat(fields[0], 64)
				bytes, err = bytes+n, errors.Join(err, errOf)
			}
		}
		return err
	})
	return bytes, err
}

// stream floods with TCP for a whole second more than a turn: iperf3 takes whole ones.
func (s *system) stream(ctx context.Context, streams int) (float64, error) {
	out, err := output(ctx, s.client, "iperf3", "-J", "-C", "cubic", "-c", s.dial.String(), "-p", strconv.Itoa(iperfPort),
		"-t", strconv.Itoa(int(turn.Seconds())+1), "-P", strconv.Itoa(streams))
	if err != nil {
		return 0, err
	}
	rate, _, err := parseIperf(out)
	return rate, err
}

// pour floods with datagrams for a turn and somewhat more.
func (s *system) pour(ctx context.Context, size int) (float64, error) {
	var f flooded
	err := s.load(ctx, &f, "flood", strconv.Itoa(size), (turn + 2*floodPre).String(), "0")
	if err != nil || f.Seconds == 0 {
		return 0, errors.Join(err, errors.New("no flood"))
	}
	return float64(f.Arrived) * float64(size) * 8 / f.Seconds, nil
}
