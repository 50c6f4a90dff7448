package api

import (
	"testing"

	"pgregory.net/rapid"
)

func TestCapsValidate(t *testing.T) {
	for _, c := range []struct {
		caps  Caps
		field string
	}{
		{Caps{}, ""},
		{Caps{MaxConnectionsPerSecond: 1, MaxFlows: 1, MaxBitsPerSecond: MinCapBitsPerSecond}, ""},
		{Caps{MaxCapConnectionsPerSecond, MaxCapFlows, MaxCapBitsPerSecond}, ""},
		{Caps{MaxConnectionsPerSecond: MaxCapConnectionsPerSecond + 1}, "maxConnectionsPerSecond"},
		{Caps{MaxFlows: MaxCapFlows + 1}, "maxFlows"},
		{Caps{MaxBitsPerSecond: MinCapBitsPerSecond - 1}, "maxBitsPerSecond"},
		{Caps{MaxBitsPerSecond: MaxCapBitsPerSecond + 1}, "maxBitsPerSecond"},
	} {
		e := c.caps.validate()
		if c.field == "" && e != nil || c.field != "" && (e == nil || e.Field != c.field || e.Remedy == "") {
			t.Errorf("%+v: %v, want an error about %q", c.caps, e, c.field)
		}
	}
}

// The parts of a cap make it up, no bound becomes none, and none becomes a bound.
func TestCapsShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Caps{
			MaxConnectionsPerSecond: rapid.Uint32Range(0, MaxCapConnectionsPerSecond).Draw(t, "connections"),
			MaxFlows:                rapid.Uint32Range(0, MaxCapFlows).Draw(t, "flows"),
			MaxBitsPerSecond:        rapid.Uint64Range(0, MaxCapBitsPerSecond).Draw(t, "bits"),
		}
		parts := rapid.SliceOfN(rapid.IntRange(0, 1<<rapid.IntRange(1, 40).Draw(t, "size")), 1, 20).Draw(t, "parts")
		all := 0
		for _, n := range parts {
			all += n
		}
		var sum Caps
		for _, n := range parts {
			s := c.Share(n, all)
			if (s.MaxFlows == 0) != (c.MaxFlows == 0) || (s.MaxConnectionsPerSecond == 0) != (c.MaxConnectionsPerSecond == 0) ||
				(s.MaxBitsPerSecond == 0) != (c.MaxBitsPerSecond == 0) || s.MaxFlows > c.MaxFlows || s.MaxBitsPerSecond > c.MaxBitsPerSecond {
				t.Fatalf("%d of %d of %+v is %+v", n, all, c, s)
			}
			sum.MaxFlows += s.MaxFlows
			sum.MaxBitsPerSecond += s.MaxBitsPerSecond
		}
		if all == 0 {
			return
		}
		slack := uint64(len(parts))
		if f, b := uint64(sum.MaxFlows), sum.MaxBitsPerSecond; f < uint64(c.MaxFlows) || f > uint64(c.MaxFlows)+slack ||
			b < c.MaxBitsPerSecond || b > c.MaxBitsPerSecond+slack {
			t.Fatalf("parts %v of %+v make %+v", parts, c, sum)
		}
	})
}

func TestCapsOver(t *testing.T) {
	ten, none := uint32(10), uint64(0)
	had := Caps{MaxConnectionsPerSecond: 5, MaxFlows: 6, MaxBitsPerSecond: 70_000}
	if got := (*CapsRequest)(nil).Over(had); got != had {
		t.Errorf("no request: %+v", got)
	}
	want := Caps{MaxConnectionsPerSecond: 5, MaxFlows: 10}
	if got := (&CapsRequest{MaxFlows: &ten, MaxBitsPerSecond: &none}).Over(had); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
