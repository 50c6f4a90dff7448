package wire

import (
	"encoding/base64"
	"testing"
)

// Whatever the file holds, a key that is taken is one that stands there and has a public half.
func FuzzPrivateKey(f *testing.F) {
	f.Add("")
	f.Add(base64.StdEncoding.EncodeToString(make([]byte, KeyLen)))
	f.Add("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := parsePrivateKey(text)
		if err != nil {
			return
		}
		if k.IsZero() || k.Public().IsZero() {
			t.Errorf("%q gives a key without a public half", text)
		}
		if again, err := parsePrivateKey(base64.StdEncoding.EncodeToString(k[:])); err != nil || !again.Equal(k) {
			t.Errorf("%q: not the same again: %v", text, err)
		}
	})
}
