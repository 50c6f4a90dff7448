package client

import (
	"strings"
	"testing"
)

// FuzzTokenPin: a pin is the third of three parts; a client either pins it whole or is not made.
func FuzzTokenPin(f *testing.F) {
	f.Add("token-00000000000000000.secret." + strings.Repeat("ab", 32))
	f.Add("a.b")
	f.Add("..")
	f.Add("a.b.c.d")
	f.Fuzz(func(t *testing.T, token string) {
		pin := TokenPin(token)
		if pin != "" && (strings.Count(token, ".") != 2 || !strings.HasSuffix(token, "."+pin)) {
			t.Errorf("the pin of %q is %q", token, pin)
		}
		c, err := New(Config{Address: "https://192.0.2.1:7443", CAPin: pin})
		if err == nil {
			c.Close()
			if len(pin) != 64 || strings.Trim(strings.ToLower(pin), "0123456789abcdef") != "" {
				t.Errorf("a client trusts whatever matches %q", pin)
			}
		}
	})
}
