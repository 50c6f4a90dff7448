package tunnel

import (
	"bytes"
	"net/netip"
	"testing"
)

// FuzzProbe: whatever a peer sends is a probe that could have been written here, or none.
func FuzzProbe(f *testing.F) {
	from, to := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	for _, p := range []probe{
		{from: from, to: to, kind: probeAsk, size: 1420, seq: 7}, {from: from, to: to, kind: probeAnswer, size: 1420, seq: 7},
		{from: from, to: to, kind: probeAsk, size: helloSize, seq: 1}, {from: to, to: from, kind: probeAsk, size: 8920, seq: 1 << 31},
		{from: from, to: to, kind: probeStone, seq: 9}, {from: to, to: from, kind: probeRoom, seq: 9, room: 1 << 40},
	} {
		b := make([]byte, 9000)
		n := p.put(b)
		if got, ok := parseProbe(b[:n]); !ok || got != p {
			f.Fatalf("%v is read as %v", p, got)
		}
		if _, ok := parseProbe(b[:n-1]); ok {
			f.Fatalf("%v without its last byte is a probe", p)
		}
		f.Add(b[:n])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseProbe(b)
		if !ok {
			return
		}
		again := make([]byte, len(b))
		n := p.put(again)
		if q, ok := parseProbe(again[:n]); !ok || q != p {
			t.Errorf("%v from %x is written as %x", p, b, again[:n])
		}
		if bytes.Equal(b, again) && n != len(b) {
			t.Errorf("%d of %d bytes", n, len(b))
		}
	})
}
