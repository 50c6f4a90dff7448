package wire

import (
	"maps"
	"strings"
	"testing"
)

func FuzzPathMTUs(f *testing.F) {
	key := strings.Repeat("ab", KeyLen)
	good := "version=7\npublic_key=" + key + "\nmtu=1328\nfuture=x\npublic_key=" + strings.Repeat("cd", KeyLen) + "\nmtu=1200\n"
	p, err := parsePathMTUs(good)
	want := map[PublicKey]int{PublicKey(k32(0xab)): 1328, PublicKey(k32(0xcd)): 1200}
	if err != nil || p.Version != 7 || !maps.Equal(p.MTU, want) {
		f.Fatalf("%q is read as %v, %v", good, p, err)
	}
	for _, bad := range []string{"mtu=1328\n", "public_key=" + key + "\nmtu=0\n", "public_key=" + key + "\nmtu=70000\n", "version=x\n",
		"public_key=ab\n"} {
		if p, err := parsePathMTUs(bad); err == nil {
			f.Fatalf("%q is read as %v", bad, p)
		}
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePathMTUs(text)
		for key, mtu := range p.MTU {
			if err == nil && (key.IsZero() || mtu <= 0 || mtu > 65535) {
				t.Errorf("MTU %d of %s", mtu, key)
			}
		}
	})
}

func k32(b byte) (k [KeyLen]byte) {
	for i := range k {
		k[i] = b
	}
	return k
}
