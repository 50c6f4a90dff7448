package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvert-net/culvert/internal/netns"
)

// questioner asks the resolver of a workload's node over one UDP socket, without waiting for answers.
type questioner struct {
	mu      sync.Mutex
	asked   int
	sent    map[uint16]time.Time // that have no answer yet
	right   int                  // answers with the address that is wanted
	wrong   []string             // the first maxShown of the others
	slowest time.Duration
}

// question has a workload ask for a name's address so many times a second until ctx ends; none is asked again. Then done waits
// until none waits for its answer, for a time.
func (w *world) question(ctx context.Context, t *testing.T, workload, name, want string, perSecond int) (q *questioner, done func(time.Duration)) {
	t.Helper()
	var conn *net.UDPConn
	if err := netns.Do(netns.Path(wl(workload)), func() (err error) {
		conn, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(169, 254, 169, 253), Port: 53})
		return err
	}); err != nil {
		t.Fatalf("%s: %v", workload, err)
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{RecursionDesired: true})
	err := b.StartQuestions()
	if err == nil {
		err = b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET})
	}
	packet, errEnd := b.Finish()
	if err != nil || errEnd != nil {
		t.Fatal(err, errEnd)
	}
	q = &questioner{sent: map[uint16]time.Time{}}
	var asking, hearing sync.WaitGroup
	hearing.Go(func() { q.hear(conn, want) })
	asking.Go(func() { q.ask(ctx, conn, packet, perSecond) })
	return q, func(most time.Duration) {
		asking.Wait()
		for deadline := time.Now().Add(most); q.waiting() > 0 && time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		}
		conn.Close()
		hearing.Wait()
	}
}

func (q *questioner) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.sent)
}

func (q *questioner) ask(ctx context.Context, conn *net.UDPConn, packet []byte, perSecond int) {
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; <-tick.C {
		for due := int(time.Since(began).Seconds() * float64(perSecond)); n < due && ctx.Err() == nil; n++ {
			id := uint16(n)
			binary.BigEndian.PutUint16(packet, id)
			q.mu.Lock()
			q.asked, q.sent[id] = q.asked+1, time.Now()
			q.mu.Unlock()
			_, _ = conn.Write(packet) // one that is not sent has no answer
		}
	}
}

// hear takes answers until the socket is closed.
func (q *questioner) hear(conn *net.UDPConn, want string) {
	buf := make([]byte, 1500)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		got := firstAddress(buf[:n])
		q.mu.Lock()
		at, ok := q.sent[binary.BigEndian.Uint16(buf)]
		delete(q.sent, binary.BigEndian.Uint16(buf))
		switch {
		case ok && got == want:
			q.right++
			q.slowest = max(q.slowest, time.Since(at))
		case len(q.wrong) < maxShown:
			q.wrong = append(q.wrong, got)
		}
		q.mu.Unlock()
	}
}

// firstAddress is an answer's, or what it has instead.
func firstAddress(b []byte) string {
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		return err.Error()
	}
	if len(m.Answers) == 0 {
		return m.RCode.String()
	}
	if a, ok := m.Answers[0].Body.(*dnsmessage.AResource); ok {
		return net.IP(a.A[:]).String()
	}
	return m.Answers[0].Header.Type.String()
}

// A workload that asks twenty times as much as it may gets as many answers as it may have, and takes none from its neighbours on the node: two
// others' workloads have an answer to each of their questions, at the first try. The node counts what it dropped.
func TestFloodOfQuestions(t *testing.T) {
	w := mesh(t)
	const name, limit, rate = "near.flood.internal", 1024, 20_000
	for account, address := range map[string]string{"shop": "10.0.1.91", "stranger": "10.0.1.92", "pay": "10.0.1.93"} {
		w.hostedZone(t, account, "flood.internal", record{name, "A", address, address})
	}
	if err := w.converge(t.Context()); err != nil {
		t.Fatal(err)
	}
	dropped := func() float64 {
		return figure(t, prefix+"-host-a", "7445", `culvert_dns_queries_total\{result="rate_limited"\}`)
	}
	before := dropped()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second*slowness())
	defer cancel()
	began := time.Now()
	visitor, visitorDone := w.question(ctx, t, "visitor", name, "10.0.1.92", 100)
	clerk, clerkDone := w.question(ctx, t, "clerk", name, "10.0.1.93", 100)
	flood, floodDone := w.question(ctx, t, "cart", name, "10.0.1.91", rate)
	<-ctx.Done()
	took := time.Since(began)
	visitorDone(slack * 10 * time.Second * slowness())
	clerkDone(slack * 10 * time.Second * slowness())
	floodDone(time.Second)
	for _, n := range []struct {
		who string
		*questioner
	}{{"visitor", visitor}, {"clerk", clerk}} {
		t.Logf("n=%d questions of %s beside a flood of %d: %d answers, the slowest after %s", n.asked, n.who, flood.asked, n.right,
			n.slowest.Round(time.Millisecond))
		if n.asked == 0 || n.right != n.asked {
			t.Errorf("%s asked %d times and has %d answers; others: %q", n.who, n.asked, n.right, slices.Compact(n.wrong))
		}
	}
	// A second's worth at once, and the rate as long as it lasted.
	most := int(limit * (1 + took.Seconds()))
	t.Logf("n=%d questions of the flood in %s: %d answers", flood.asked, took.Round(time.Millisecond), flood.right)
	if flood.right > most || flood.right < limit || flood.asked < 2*most {
		t.Errorf("the flood asked %d times in %s and has %d answers, want %d to %d", flood.asked, took, flood.right, limit, most)
	}
	eventually(t, 30*time.Second, "the node counts what it dropped", func() error {
		if n := int(dropped() - before); n < flood.asked-most {
			return fmt.Errorf("%d of %d questions with %d answers", n, flood.asked, flood.right)
		}
		return nil
	})
}
