package wire_test

import (
	"encoding/json"
	"testing"

	"github.com/culvert-net/culvert/agent/wire"
)

// FuzzParsePublicKey: a key has one text, and the zero key none.
func FuzzParsePublicKey(f *testing.F) {
	f.Add("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	f.Add("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyB=")
	f.Add("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := wire.ParsePublicKey(text)
		if err != nil {
			if k != (wire.PublicKey{}) {
				t.Errorf("%q is refused and yet %s", text, k)
			}
			return
		}
		if k.String() != text || k.IsZero() {
			t.Errorf("%q is %s", text, k)
		}
		var again wire.PublicKey
		if b, err := json.Marshal(k); err != nil || json.Unmarshal(b, &again) != nil || again != k {
			t.Errorf("%s, as JSON %s: %s (%v)", k, b, again, err)
		}
	})
}
