package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// Who has work that takes long, much of it and first, gets no more time than who has little; who comes later is owed nothing of before.
func TestTurnsAreSharedByTime(t *testing.T) {
	l := newTurns(1)
	clock := time.Unix(0, 0)
	l.now = func() time.Time { return clock }
	var all sync.WaitGroup
	used := map[string]time.Duration{}
	var worst time.Duration
	add := func(account string, cost time.Duration) {
		before := l.waits(account)
		all.Go(func() {
			l.do(t.Context(), account, func() { // one at a time, so nothing here is written by two
				clock = clock.Add(cost)
				used[account] += cost
				if used["quick"] < 20*time.Millisecond { // both have work
					worst = max(worst, used["slow"]-used["quick"])
				}
			})
		})
		eventually(t, account+" waits", func() bool { return l.waits(account) == before+1 })
	}
	l.begin(t.Context(), "slow")
	for range 50 {
		add("slow", 10*time.Millisecond)
	}
	for range 20 {
		add("quick", time.Millisecond)
	}
	clock = clock.Add(30 * time.Millisecond)
	l.end("slow", 30*time.Millisecond)
	all.Wait()
	if worst > 10*time.Millisecond || used["slow"] != 500*time.Millisecond || used["quick"] != 20*time.Millisecond {
		t.Errorf("the slow one was ahead by %s while both had work; used %v", worst, used)
	}
	if l.free != 1 || len(l.accounts) != 0 {
		t.Errorf("%d places are free, %d accounts are known", l.free, len(l.accounts))
	}
}

// Who comes later is owed nothing of the time before: it does not have all turns until it has caught up.
func TestTurnsOfWhoComesLater(t *testing.T) {
	l := newTurns(1)
	clock := time.Unix(0, 0)
	l.now = func() time.Time { return clock }
	var all sync.WaitGroup
	var order []string
	add := func(account string) {
		before := l.waits(account)
		all.Go(func() {
			l.do(t.Context(), account, func() {
				clock = clock.Add(time.Millisecond)
				order = append(order, account)
			})
		})
		eventually(t, account+" waits", func() bool { return l.waits(account) == before+1 })
	}
	l.begin(t.Context(), "early")
	release := make(chan struct{})
	all.Go(func() { l.do(t.Context(), "early", func() { <-release }) })
	eventually(t, "the second turn waits", func() bool { return l.waits("early") == 1 })
	l.end("early", time.Hour)
	for range 4 {
		add("early")
	}
	for range 4 {
		add("late")
	}
	close(release)
	all.Wait()
	if late := strings.Count(strings.Join(order[:4], " "), "late"); late != 2 {
		t.Errorf("of the first four turns %d are of who came later: %v", late, order)
	}
}

// An answer is read in the account's turn; what is none by its header is told at once.
func TestAnswersAreReadInTurn(t *testing.T) {
	u := &upstream{account: "one", reading: newTurns(1)}
	query := ask("www.example.org.", miekg.TypeA)
	data, err := new(miekg.Msg).SetReply(query).Pack()
	if err != nil {
		t.Fatal(err)
	}
	u.reading.begin(t.Context(), "another")
	if _, err := u.read(t.Context(), data[:headerSize-1], query); !errors.Is(err, errEcho) {
		t.Errorf("no answer: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := u.read(t.Context(), data, query)
		done <- err
	}()
	eventually(t, "the answer waits", func() bool { return u.reading.waits("one") == 1 })
	u.reading.end("another", time.Second)
	if err := <-done; err != nil {
		t.Error(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	u.reading.begin(t.Context(), "another")
	if _, err := u.read(over, data, query); !errors.Is(err, errTurn) {
		t.Errorf("when the time is up: %v", err)
	}
}

// Who gives up leaves no place taken, and none behind it waits for it.
func TestTurnThatIsGivenUp(t *testing.T) {
	l := newTurns(1)
	l.begin(t.Context(), "first")
	ctx, cancel := context.WithCancel(t.Context())
	gone, done := make(chan bool, 1), make(chan bool, 1)
	go func() { gone <- l.do(ctx, "second", func() {}) }()
	eventually(t, "it waits", func() bool { return l.waits("second") == 1 })
	go func() { done <- l.do(t.Context(), "second", func() {}) }()
	eventually(t, "both wait", func() bool { return l.waits("second") == 2 })
	cancel()
	if <-gone {
		t.Error("who gave up had its turn")
	}
	l.end("first", time.Second)
	if !<-done {
		t.Error("who waited behind had none")
	}
	if !l.do(ctx, "third", func() {}) {
		t.Error("a free place is not taken")
	}
}

// While another account's answers are read, names of the zone and small answers that are kept are given at once; all that takes a
// forwarder's answer apart waits for its turn, large answers that are kept too.
func TestReadingTakesTurns(t *testing.T) {
	up := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		name := q.Question[0].Name
		n, records := 1, []string{}
		if strings.HasPrefix(strings.ToLower(name), "large") {
			n = 100
		}
		for i := range n {
			records = append(records, fmt.Sprintf("%s 300 IN A 203.0.113.%d", name, i+1))
		}
		reply(w, q, miekg.RcodeSuccess, records...)
	})
	for _, forwarder := range []string{"192.0.2.1", "tcp://192.0.2.1", "tls://192.0.2.1"} {
		r := startPay(t, testZone(t, forwarder), Config{Dial: reach(up), RootCAs: up.roots})
		answer := func(name string) string {
			return show(r.exchange(t, "tcp", ask(name, miekg.TypeA)))
		}
		for _, name := range []string{"small.example.com.", "large.example.com."} {
			if got := answer(name); !strings.Contains(got, "203.0.113.1") {
				t.Fatalf("%s: %s", name, got)
			}
		}
		asked, account := len(up.seen()), r.Zone().Account(pay)
		for _, name := range []string{"ledger.pay.internal.", "small.example.com.", "large.example.com.", "next.example.com."} {
			for range r.reading.places {
				r.reading.begin(t.Context(), "another")
			}
			waits := strings.HasPrefix(name, "large") || strings.HasPrefix(name, "next")
			done := make(chan string, 1)
			go func() {
				c := miekg.Client{Timeout: 8 * time.Second}
				m, _, err := c.Exchange(ask(name, miekg.TypeA), r.addr)
				if err != nil {
					done <- err.Error()
					return
				}
				done <- show(m)
			}()
			if waits {
				eventually(t, name+" waits for its turn", func() bool { return r.reading.waits(account) == 1 })
			} else if got := <-done; !strings.HasPrefix(got, "NOERROR") {
				t.Errorf("%s, %s beside another account's: %s", forwarder, name, got)
			}
			for range r.reading.places {
				r.reading.end("another", time.Second)
			}
			if !waits {
				continue
			}
			if got := <-done; !strings.HasPrefix(got, "NOERROR") {
				t.Errorf("%s, %s after its turn: %s", forwarder, name, got)
			}
		}
		for _, q := range up.seen()[asked:] {
			if strings.Contains(q, "large") {
				t.Errorf("%s: what is kept was asked for again: %s", forwarder, q)
			}
		}
		log := r.logged()
		for _, q := range log[len(log)-2:] {
			if kept := strings.HasPrefix(q.Name, "large"); q.CacheHit != kept {
				t.Errorf("%s: %s is logged as from the cache: %v", forwarder, q.Name, q.CacheHit)
			}
		}
	}
}
