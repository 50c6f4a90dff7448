package plan

import "testing"

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
	low, high := uint16(65535), uint16(0)
	for i := range uint32(200_000) {
		p := SNATPort(0x0a000105, 0x0a000106, uint16(i), 443, 6, i>>16, 1+i%8)
		low, high = min(low, p), max(high, p)
	}
	if low < 1024 || low > 1100 || high < 65400 {
		t.Errorf("ports %d to %d, want nearly 1024 to 65535", low, high)
	}
}
