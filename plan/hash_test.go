package plan

import (
	"slices"
	"testing"
)

// The values come from a third implementation, itself checked against a published vector of MurmurHash3
// (murmur3_32("test", 0) = 0xba6bd213). The C twin is held to the same ones.
func TestHash(t *testing.T) {
	tests := []struct {
		saddr, daddr uint32
		sport, dport uint16
		protocol     uint8
		vpc, salt    uint32
		want         uint32
	}{
		{0x0a000105, 0x0a000106, 40000, 443, 6, 1, 0, 0x15dbc887},
		{0x0a000105, 0x0a000106, 40000, 443, 6, 1, 1, 0x3c876415},
		{0, 0, 0, 0, 0, 0, 0, 0xee9d294a},
		{0xffffffff, 0xffffffff, 0xffff, 0xffff, 255, 0xffffffff, 0xffffffff, 0x0fc446b8},
	}
	for _, tt := range tests {
		if got := Hash(tt.saddr, tt.daddr, tt.sport, tt.dport, tt.protocol, tt.vpc, tt.salt); got != tt.want {
			t.Errorf("Hash(%+v) = %#x, want %#x", tt, got, tt.want)
		}
	}
}

func TestSNATPortRange(t *testing.T) {
	for _, c := range []struct {
		try       uint32
		low, high uint16
	}{{1, PortOpen, 65535}, {PortTries, PortOpen, 65535}, {PortTries + 1, PortSpare, PortOpen - 1},
		{PortTries + SpareTries, PortSpare, PortOpen - 1}} {
		low, high := uint16(65535), uint16(0)
		for i := range uint32(200_000) {
			p := SNATPort(0x0a000105, 0x0a000106, uint16(i), 443, 6, i>>16, 7, c.try)
			low, high = min(low, p), max(high, p)
		}
		if low < c.low || low > c.low+100 || high > c.high || high < c.high-100 {
			t.Errorf("try %d: ports %d to %d, want nearly %d to %d", c.try, low, high, c.low, c.high)
		}
	}
}

// A thousand flows of equal addresses and ports, one after another: of a thousand VPCs, and of one VPC by a thousand endpoints
// or listeners. Almost every one finds a port at the first try after the client's own.
func TestSNATPortsOfAlikeFlows(t *testing.T) {
	const alike = 1_000
	for name, of := range map[string]func(n uint32) (vpc uint32, tag uint16){
		"of VPCs": func(n uint32) (uint32, uint16) { return n + 1, 7 },
		"of tags": func(n uint32) (uint32, uint16) { return 1, uint16(n + 1) },
	} {
		taken := map[uint16]bool{40_000: true}
		tries := make([]int, 0, alike)
		for n := range uint32(alike) {
			vpc, tag := of(n)
			for try := uint32(1); ; try++ {
				if port := SNATPort(0x0a000105, 0x0a000106, 40_000, 443, 6, vpc, tag, try); !taken[port] {
					taken[port] = true
					tries = append(tries, int(try))
					break
				}
				if try > PortTries {
					t.Fatalf("%s: flow %d found no port", name, n)
				}
			}
		}
		slices.Sort(tries)
		sum := 0
		for _, n := range tries {
			sum += n
		}
		t.Logf("%s: %.3f tries in the mean, %d at most", name, float64(sum)/alike, tries[alike-1])
		if tries[alike*95/100] != 1 || tries[alike-1] > 4 {
			t.Errorf("%s: 95 %% within %d tries, %d at most; want 1, and 4 at most", name, tries[alike*95/100], tries[alike-1])
		}
	}
}
