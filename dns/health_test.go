package dns

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/dns/zone"
)

// A forwarder that gives no answer is asked last, is asked by the server itself whether it answers again, and then comes first.
// Each protocol is checked as it is used.
func TestForwardersAreChecked(t *testing.T) {
	t.Parallel()
	for _, forwarder := range []string{"192.0.2.1", "tcp://192.0.2.1", "tls://192.0.2.1"} {
		t.Run(forwarder, func(t *testing.T) {
			t.Parallel()
			var dead atomic.Bool
			first := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
				if dead.Load() {
					reply(w, q, miekg.RcodeServerFailure)
					return
				}
				example(w, q)
			})
			second := newUpstream(t, example)
			r := startPay(t, testZone(t, forwarder, "192.0.2.2"), Config{Dial: reach(first, second), RootCAs: first.roots})
			asks := func(name string, first, second int, f, s *fakeUpstream) {
				t.Helper()
				before, beside := len(f.seen()), len(s.seen())
				r.exchange(t, "udp", ask(name, miekg.TypeA))
				if a, b := len(f.seen())-before, len(s.seen())-beside; a != first || b != second {
					t.Errorf("%s: the first is asked %d times and the second %d, want %d and %d", name, a, b, first, second)
				}
			}
			asks("a.com.", 1, 0, first, second)
			dead.Store(true)
			asks("b.com.", 1, 1, first, second)
			asks("c.com.", 0, 1, first, second)
			u := r.state.Load().forwarders[route{vpc: pay}].upstreams[0]
			eventually(t, "a check fails and the next is put off", func() bool { return time.Duration(u.wait.Load()) == 2*firstCheck })
			dead.Store(false)
			eventually(t, "it is found to answer again", func() bool { return !u.bad.Load() })
			asks("d.com.", 1, 0, first, second)
			checks := 0
			for _, q := range first.seen() {
				if strings.HasSuffix(q, " . NS") {
					checks++
				}
			}
			if checks != 2 || len(second.seen()) != 2 {
				t.Errorf("%d checks of the first, want 2; the second was asked %v", checks, second.seen())
			}
		})
	}
}

// A failure is news once, and a check begins a while after it and never beside another of the same forwarder.
func TestChecksAreDue(t *testing.T) {
	now := time.Unix(1000, 0)
	u := &upstream{to: zone.Forwarder{}}
	if u.due(now) || !u.failed(now) || u.failed(now) {
		t.Error("a first failure is news, once")
	}
	if u.due(now.Add(firstCheck/2)) || !u.due(now.Add(firstCheck)) {
		t.Error("the first check is not a second after the failure")
	}
	u.checking.Store(true)
	if u.due(now.Add(time.Hour)) {
		t.Error("it is checked twice at once")
	}
	for range 100 {
		if d := jittered(longestCheck); d > longestCheck || d < longestCheck*3/4 {
			t.Fatalf("waits %v", d)
		}
	}
}
