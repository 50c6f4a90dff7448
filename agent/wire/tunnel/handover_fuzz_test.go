package tunnel

import (
	"reflect"
	"testing"
)

// FuzzParseHandover: descriptors that are read are written and read the same, and none of those that must be there is missing.
func FuzzParseHandover(f *testing.F) {
	f.Add("tun=3 listener=4 lock=5 state=6")
	f.Add("tun=3 listener=4 lock=5")
	f.Add("tun=-1 listener=4 lock=5 state=6")
	f.Add("tun=3 tun=4 listener=4 lock=5 state=6 other=7")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parseHandover(text)
		if err != nil {
			return
		}
		if len(h.tun) == 0 || h.listener < 0 || h.lock < 0 || h.state < 0 {
			t.Errorf("%q: %+v", text, h)
		}
		if again, err := parseHandover(h.String()); err != nil || !reflect.DeepEqual(again, h) {
			t.Errorf("%q: %+v, written anew %+v (%v)", text, h, again, err)
		}
	})
}
