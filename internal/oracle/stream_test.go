package oracle

import (
	"testing"
	"time"
)

// TestSince: what became of datagrams, also before the first is sent.
func TestSince(t *testing.T) {
	began := time.Now()
	s := &Stream{began: began}
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	if seen := s.Since(at(0), at(100)); seen != (Seen{}) {
		t.Errorf("of nothing: %+v", seen)
	}
	for _, ms := range []int{10, 20, 30, 40} {
		s.sent = append(s.sent, at(ms).Sub(began))
		s.arrived = append(s.arrived, at(ms+1).Sub(began))
	}
	s.arrived[1], s.arrived[2] = 0, 0
	want := Seen{Sent: 3, Lost: 2, Resumed: 26 * time.Millisecond, Pause: 25 * time.Millisecond}
	if seen := s.Since(at(15), at(50)); seen != want {
		t.Errorf("%+v, want %+v", seen, want)
	}
}
