package api

import (
	"encoding/json"
	"testing"
)

func TestICMPNumber(t *testing.T) {
	for text, want := range map[string]ICMPNumber{"-1": 0, "0": ICMPOf(0), "8": ICMPOf(8), "255": ICMPOf(255)} {
		var n ICMPNumber
		if err := json.Unmarshal([]byte(text), &n); err != nil || n != want {
			t.Errorf("%s is %v (%v), want %v", text, n, err, want)
		}
		if b, err := json.Marshal(n); err != nil || string(b) != text {
			t.Errorf("%v is written %s (%v), want %s", n, b, err, text)
		}
	}
	for _, text := range []string{"-2", "256", "1.5", `"8"`, "{}"} {
		var n ICMPNumber
		if err := json.Unmarshal([]byte(text), &n); err == nil {
			t.Errorf("%s is read as %v", text, n)
		}
	}
	if any := ICMPOf(-1); !any.Matches(0) || !any.Matches(255) || any != ICMPOf(256) {
		t.Errorf("any does not match, or 256 is a number")
	}
	if echo := ICMPOf(8); !echo.Matches(8) || echo.Matches(9) || echo.Matches(7) {
		t.Errorf("8 matches something else, or not 8")
	}
	// Records of before have rules without types, which match all.
	var r Rule
	if err := json.Unmarshal([]byte(`{"protocol":"icmp"}`), &r); err != nil || r.ICMPType != 0 || r.ICMPCode != 0 {
		t.Errorf("%+v (%v)", r, err)
	}
}
