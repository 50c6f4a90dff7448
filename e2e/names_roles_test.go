package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// roleAsker asks for a name by Go's own resolver and holds a connection to what it found first. Arguments: the name, and the port of
// an echo service. It prints the address that it is connected to, and what came of it all when its input has ended.
const roleAsker = "asker"

const (
	askEvery    = 5 * time.Millisecond
	watchEvery  = 50 * time.Millisecond
	askPatience = 5 * time.Second // as dig's: a query that is lost is not asked again within it
	echoEvery   = 20 * time.Millisecond
	maxShown    = 10
)

// asked is what came of asking.
type asked struct {
	Queries  int
	Answers  map[string]int // how often there was each: addresses, separated by blanks
	Failed   int
	Failures []string // the first maxShown
	Slowest  time.Duration
	Echoes   int    // over the connection
	Broken   string // how the connection ended; "": it did not
	// Still is for how long the process itself got no processor at worst, and Loopback the slowest answer over the namespace's own loopback:
	// with either as long as a failure that is the machine's, and not the mesh's.
	Still, Loopback time.Duration
}

type asker struct {
	name string
	mu   sync.Mutex
	asked
}

func playAsker(in io.Reader, out io.Writer, name, port string) error {
	a := &asker{name: name, asked: asked{Answers: map[string]int{}}}
	first, err := a.lookUp()
	if err != nil {
		return err
	}
	address := strings.Fields(first)[0]
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, port), 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(out, address); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { a.hold(ctx, conn) })
	all.Go(func() { a.ask(ctx) })
	all.Go(func() { a.watch(ctx) })
	_, err = io.Copy(io.Discard, in)
	cancel()
	all.Wait()
	return errors.Join(err, json.NewEncoder(out).Encode(a.asked))
}

// ask does not wait for one answer before it asks again.
func (a *asker) ask(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		all.Go(func() {
			begun := time.Now()
			answer, err := a.lookUp()
			a.mu.Lock()
			defer a.mu.Unlock()
			a.Queries++
			a.Slowest = max(a.Slowest, time.Since(begun))
			if err == nil {
				a.Answers[answer]++
				return
			}
			if a.Failed++; len(a.Failures) < maxShown {
				a.Failures = append(a.Failures, err.Error())
			}
		})
	}
}

// watch looks at what has nothing to do with the mesh: how late the process wakes up, and how long a datagram to itself takes.
func (a *asker) watch(ctx context.Context) {
	self, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		self = nil // there is no loopback here
	} else {
		defer self.Close()
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for last := time.Now(); ; last = time.Now() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		begun := time.Now()
		a.mu.Lock()
		a.Still = max(a.Still, begun.Sub(last)-watchEvery)
		a.mu.Unlock()
		if self == nil {
			continue
		}
		if err := self.SetDeadline(begun.Add(askPatience * slowness())); err != nil {
			return
		}
		if _, err := self.WriteTo([]byte{0}, self.LocalAddr()); err == nil {
			_, _, _ = self.ReadFrom(make([]byte, 1)) // one that is lost took all the patience
		}
		a.mu.Lock()
		a.Loopback = max(a.Loopback, time.Since(begun))
		a.mu.Unlock()
	}
}

// lookUp asks once: an answer that took Go's resolver a second try is an error, though programs would not notice.
func (a *asker) lookUp() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askPatience*slowness())
	defer cancel()
	var tries atomic.Int32
	r := net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, server string) (net.Conn, error) {
		tries.Add(1)
		return new(net.Dialer).DialContext(ctx, network, server)
	}}
	list, err := r.LookupNetIP(ctx, "ip4", a.name+".")
	if n := tries.Load(); err == nil && n != 1 {
		err = fmt.Errorf("%s was answered after %d tries", a.name, n)
	}
	if err != nil {
		return "", err
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return strings.Trim(fmt.Sprint(list), "[]"), nil
}

// hold sends a line and waits for it to come back, again and again.
func (a *asker) hold(ctx context.Context, conn net.Conn) {
	tick := time.NewTicker(echoEvery)
	defer tick.Stop()
	lines := bufio.NewReader(conn)
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := conn.SetDeadline(time.Now().Add(2 * time.Second * slowness()))
		want := fmt.Sprintf("line %d\n", n)
		if err == nil {
			_, err = io.WriteString(conn, want)
		}
		if err == nil {
			var got string
			if got, err = lines.ReadString('\n'); err == nil && got != want {
				err = fmt.Errorf("%q came back as %q", want, got)
			}
		}
		a.mu.Lock()
		if err != nil {
			a.Broken = err.Error()
			a.mu.Unlock()
			return
		}
		a.Echoes++
		a.mu.Unlock()
	}
}
